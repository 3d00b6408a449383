package im_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

// copied is an entry of a copy in a model of several regions.
type copied struct {
	offset     int64
	generation uint32
	marker     bool
}

// copyOf is one region's copy of the log of an origin, and what a reader of it says: to the end, and as its replicator
// last read it back, which is what it told the origin that it holds.
type copyOf struct {
	entries []copied
	held    im.Follower
	read    int
}

func (c *copyOf) add(e copied) { c.entries = append(c.entries, e) }

// readBack reads some entries more, as the replicator does; only that acks global.
func (c *copyOf) readBack(n int) {
	for ; n > 0 && c.read < len(c.entries); n-- {
		e := c.entries[c.read]
		c.held.See(e.offset, e.generation, e.marker)
		c.read++
	}
}

func (c *copyOf) follower() im.Follower {
	var f im.Follower
	for _, e := range c.entries {
		f.See(e.offset, e.generation, e.marker)
	}
	return f
}

// TestOriginLost: two regions copy the log of an origin, through writers of which some are paused and wake at any moment.
// Somebody declares the origin lost, dies at any step, and somebody else begins again, any number of times. Then every
// record of which a region had read back that it holds it is in both copies (what acked global survives), both copies
// have the same records, and nothing that is added later is taken. A reader that begins in the middle agrees.
func TestOriginLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		copies := []*copyOf{{}, {}}
		log := rapid.Int64Range(0, 12).Draw(t, "log")
		global := int64(0) // everything below was acked global
		write := func() {  // a link's writers always write under generation 0, from at most the tail they saw
			c := copies[rapid.IntRange(0, 1).Draw(t, "to")]
			first := rapid.Int64Range(0, log).Draw(t, "first")
			if first > c.follower().Next && !c.held.Sealed() && c.follower().Generation == 0 {
				first = c.follower().Next
			}
			for o := first; o < min(log, first+rapid.Int64Range(0, 4).Draw(t, "count")); o++ {
				c.add(copied{o, 0, false})
			}
			if rapid.Bool().Draw(t, "read back") {
				c.readBack(rapid.IntRange(0, 20).Draw(t, "how much"))
			}
			if c.held.Generation == 0 {
				global = max(global, c.held.Next)
			}
		}
		for range rapid.IntRange(0, 12).Draw(t, "writes") {
			write()
		}
		between := func() {
			for range rapid.IntRange(0, 2).Draw(t, "meanwhile") {
				write()
			}
		}
		// lose is what the one who declares the origin lost does; false: it died on the way.
		lose := func(steps int) bool {
			step := func() bool { between(); steps--; return steps >= 0 }
			generation := uint32(0)
			for _, c := range copies {
				if f := c.follower(); !f.Sealed() {
					generation = max(generation, f.Generation)
				}
			}
			generation++
			seal, at := int64(-1), int64(-1)
			for _, c := range copies {
				if !step() {
					return false
				}
				if f := c.follower(); f.Sealed() {
					seal = f.Next
					continue
				}
				c.add(copied{im.HoldOffset, generation, true})
				at = max(at, c.follower().Next)
			}
			if seal < 0 {
				seal = at
			}
			for _, c := range copies {
				for f := c.follower(); f.Next < seal; f = c.follower() {
					if !step() {
						return false
					}
					c.add(copied{f.Next, generation, false})
				}
			}
			for _, c := range copies {
				if !step() {
					return false
				}
				if f := c.follower(); !f.Sealed() {
					c.add(copied{im.SealOffset(seal), generation, true})
				}
			}
			return true
		}
		for range rapid.IntRange(0, 3).Draw(t, "who die") {
			lose(rapid.IntRange(0, 12).Draw(t, "steps"))
			between()
		}
		if !lose(1 << 20) {
			t.Fatal("the last one did not die and did not end")
		}
		sealed := copies[0].follower()
		between()
		between()
		for i, c := range copies {
			f := c.follower()
			if !f.Sealed() || f.Next != sealed.Next {
				t.Fatalf("copy %d is at %d@%d, the other at %d: %v", i, f.Next, f.Generation, sealed.Next, copies)
			}
			if f.Next < global {
				t.Fatalf("record %d was acked global and copy %d ends at %d", global-1, i, f.Next)
			}
			again := copyOf{entries: c.entries, held: c.held, read: c.read}
			again.readBack(len(c.entries))
			if again.held != f {
				t.Fatalf("a reader that went on from %d says %v, one from the start %v", c.read, again.held, f)
			}
		}
	})
}

func TestSealOffsets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seal := rapid.Int64Range(0, 1<<62).Draw(t, "seal")
		n := im.SealOffset(seal)
		if back, final := im.SealAt(n); !final || back != seal || n >= im.HoldOffset {
			t.Fatal(fmt.Sprint(seal, n, back, final))
		}
	})
	if _, final := im.SealAt(im.HoldOffset); final {
		t.Error("a hold marker is final")
	}
}

func TestLostErrorSaysWhatIsKnown(t *testing.T) {
	e := &im.LostError{Origin: "eu", By: "us", Stamp: im.StampAt(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))}
	if got := e.Error(); !strings.Contains(got, "origin eu was declared lost (us says, at 2026-03-01 12:00:00)") {
		t.Error(got)
	}
	e.Stamp = im.LostOnce
	if got := e.Error(); !strings.Contains(got, "origin eu was declared lost (us says): ") {
		t.Error(got)
	}
}
