package rank

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// FuzzEveryAnswer looks for fleets and clients that TestEveryAnswer does not think of.
func FuzzEveryAnswer(f *testing.F) {
	seed(f)
	f.Fuzz(rapid.MakeFuzz(everyAnswer))
}

// seed adds a few inputs, long enough that the property draws all it wants from them.
func seed(f *testing.F) {
	for n := range byte(4) {
		b := make([]byte, 64<<10)
		rand.NewChaCha8([32]byte{n}).Read(b) // never fails
		f.Add(b)
	}
}
