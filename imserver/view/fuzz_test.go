package view

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/antipode-im/antipode/imserver/view/viewtest"
)

// choices are the fuzzer's bytes, and when they are used up a fixed sequence: reading has to come to its end.
type choices struct {
	bytes []byte
	rest  *rand.PCG
}

func (c *choices) Uint64() uint64 {
	if len(c.bytes) < 8 {
		return c.rest.Uint64()
	}
	n := binary.LittleEndian.Uint64(c.bytes)
	c.bytes = c.bytes[8:]
	return n
}

// FuzzConvergence lets the bytes choose the records, repeats of an id among them, and the order in which two regions read
// them: their views are equal, and what the definitions say (I2, I3, I6).
func FuzzConvergence(f *testing.F) {
	for n := range byte(4) {
		b := make([]byte, 4<<10)
		rand.NewChaCha8([32]byte{n}).Read(b) // never fails
		f.Add(b[:2<<10], b[2<<10:])
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, records, order []byte) {
		logs := viewtest.MakeFrom(rand.New(&choices{records, rand.NewPCG(0, 1)}), 40)
		rng := rand.New(&choices{order, rand.NewPCG(0, 2)})
		eu := derive(t, logs, "eu", rng, trueRules())
		us := derive(t, logs, "us", rng, trueRules())
		if why := same(logs, eu, us, rng, false); why != "" {
			t.Fatal(why)
		}
		if why := checkDefinitions(logs, eu.view); why != "" {
			t.Fatal(why)
		}
	})
}
