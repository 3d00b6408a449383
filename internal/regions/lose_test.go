package regions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

// world is some regions with copies of the log of eu, and links that go on writing to them. It fails where the test says.
type world struct {
	mu      sync.Mutex
	log     map[im.Partition]int64 // end of eu's own
	regions map[im.Region]*copies
	fail    func() (before, after bool)
}

// copies is one region's.
type copies struct {
	w    *world
	name im.Region
	of   map[im.Partition][]entry
	held map[im.Partition]int64 // told to eu: this acks global
	logs map[im.Partition]im.UUID
}

type entry struct {
	offset     int64
	generation uint32
	marker     bool
}

var errFault = errors.New("the network is down")

func newWorld(ends map[im.Partition]int64, names ...im.Region) *world {
	w := &world{log: ends, regions: map[im.Region]*copies{}, fail: func() (bool, bool) { return false, false }}
	for _, n := range names {
		w.regions[n] = &copies{w: w, name: n, of: map[im.Partition][]entry{}, held: map[im.Partition]int64{}, logs: map[im.Partition]im.UUID{}}
	}
	return w
}

func (w *world) peers(names ...im.Region) map[im.Region]Peer {
	peers := map[im.Region]Peer{}
	for _, n := range names {
		peers[n] = w.regions[n]
	}
	return peers
}

func (c *copies) follower(p im.Partition) (f im.Follower) {
	for _, e := range c.of[p] {
		f.See(e.offset, e.generation, e.marker)
	}
	return f
}

// link appends what a link brings, and reads it back.
func (c *copies) link(p im.Partition, first, count int64) {
	for o := first; o < min(first+count, c.w.log[p]); o++ {
		c.of[p] = append(c.of[p], entry{offset: o})
	}
	if f := c.follower(p); f.Generation == 0 {
		c.held[p] = f.Next
	}
}

func (c *copies) states() (all []im.CopyState) {
	for p := range c.w.log {
		f := c.follower(p)
		all = append(all, im.CopyState{
			Partition: p, Next: f.Next, Generation: f.Generation, Log: c.logs[p], Held: 7,
			Checksum: uint64(f.Next) * 31, Checked: f.Next > 0,
		})
	}
	return all
}

// do runs a call of which any part may fail: before it, after it, or in the middle of its partitions.
func (c *copies) do(work func(im.Partition) error) ([]im.CopyState, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for p := range c.w.log {
		before, after := c.w.fail()
		if before {
			return nil, errFault
		}
		if err := work(p); err != nil {
			return nil, err
		}
		if after {
			return nil, errFault
		}
	}
	return c.states(), nil
}

func (c *copies) Hold(_ context.Context, _ im.Origin, generation uint32) ([]im.CopyState, error) {
	return c.do(func(p im.Partition) error {
		f := c.follower(p)
		switch {
		case generation == 0 || f.Sealed():
			return nil
		case f.Generation >= generation:
			return fmt.Errorf("held under %d", f.Generation)
		}
		c.of[p] = append(c.of[p], entry{im.HoldOffset, generation, true})
		return nil
	})
}

func (c *copies) Fill(_ context.Context, _ im.Origin, generation uint32, fills []im.CopyFill) ([]im.CopyState, error) {
	return c.do(func(p im.Partition) error {
		for _, f := range fills {
			if f.Partition != p {
				continue
			}
			if have := c.w.regions[f.From].follower(p).Next; have < f.To {
				return fmt.Errorf("%s has %v up to %d, not %d", f.From, p, have, f.To)
			}
			for at := c.follower(p); at.Next < f.To; at = c.follower(p) {
				if at.Generation != generation {
					return fmt.Errorf("stands under %d", at.Generation)
				}
				c.of[p] = append(c.of[p], entry{at.Next, generation, false})
				if before, _ := c.w.fail(); before {
					return errFault
				}
			}
		}
		return nil
	})
}

func (c *copies) Seal(_ context.Context, _ im.Origin, generation uint32, seals []im.CopyFill) ([]im.CopyState, error) {
	return c.do(func(p im.Partition) error {
		for _, s := range seals {
			if s.Partition != p {
				continue
			}
			f := c.follower(p)
			switch {
			case f.Sealed() && f.Next == s.To:
				return nil
			case f.Generation != generation || f.Next != s.To:
				return fmt.Errorf("%v stands at %d@%d, not at %d@%d", p, f.Next, f.Generation, s.To, generation)
			}
			c.of[p] = append(c.of[p], entry{im.SealOffset(s.To), generation, true})
			return nil
		}
		return fmt.Errorf("no seal for %v", p)
	})
}

var (
	direct = im.Partition{Topic: "msg.eu.direct", Number: 0}
	route  = im.Partition{Topic: "route.eu", Number: 1}
)

// TestLoseUnderFaults: links write on, calls fail at any moment, and the command is run again until it says that it is
// done. Then every region holds the same, everything that acked global is among it, and what is added later counts
// nowhere.
func TestLoseUnderFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []im.Region{"ap", "sa", "us"}[:rapid.IntRange(1, 3).Draw(t, "regions")]
		w := newWorld(map[im.Partition]int64{direct: rapid.Int64Range(0, 9).Draw(t, "log"), route: rapid.Int64Range(0, 4).Draw(t, "routes")}, names...)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)) // peers are called from several goroutines
		ship := func() {
			c := w.regions[names[rng.IntN(len(names))]]
			p := []im.Partition{direct, route}[rng.IntN(2)]
			c.link(p, rng.Int64N(c.follower(p).Next+1), 1+rng.Int64N(5))
		}
		for range rapid.IntRange(0, 10).Draw(t, "shipped before") {
			ship()
		}
		faults := rapid.IntRange(0, 12).Draw(t, "faults")
		w.fail = func() (bool, bool) {
			if rng.IntN(6) == 0 {
				ship()
			}
			if faults == 0 {
				return false, false
			}
			switch rng.IntN(5) {
			case 0:
				faults--
				return true, false
			case 1:
				faults--
				return false, true
			}
			return false, false
		}
		var done Settled
		for tries := 0; ; tries++ {
			if tries > 40 {
				t.Fatal("it does not end")
			}
			var err error
			if done, err = Lose(context.Background(), Loss{Origin: "eu", Peers: w.peers(names...)}); err == nil {
				break
			}
		}
		for range 6 {
			ship()
		}
		for p := range w.log {
			for _, n := range names {
				f := w.regions[n].follower(p)
				if !f.Sealed() || f.Next != done.Seals[p] {
					t.Fatalf("%s holds %v up to %d@%d, the seal is %d", n, p, f.Next, f.Generation, done.Seals[p])
				}
				if held := w.regions[n].held[p]; held > done.Seals[p] {
					t.Fatalf("%s told eu that it holds %v up to %d: that acked global, and the seal is %d", n, p, held, done.Seals[p])
				}
			}
		}
		faults = 0
		again, err := Lose(context.Background(), Loss{Origin: "eu", Peers: w.peers(names...)})
		if err != nil || !again.Already {
			t.Fatalf("run once more: %+v, %v", again, err)
		}
	})
}

// TestLoseChangesNothingUnlessAllAnswer: a peer that does not answer blocks the loss, before anything is held.
func TestLoseChangesNothingUnlessAllAnswer(t *testing.T) {
	w := newWorld(map[im.Partition]int64{direct: 5}, "us", "ap")
	w.regions["us"].link(direct, 0, 5)
	w.fail = func() (bool, bool) { return true, false }
	if _, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us", "ap")}); !errors.Is(err, errFault) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Fatal(err)
	}
	if f := w.regions["us"].follower(direct); f.Generation != 0 {
		t.Fatalf("us stands under generation %d", f.Generation)
	}
	if _, err := Lose(t.Context(), Loss{Origin: "eu"}); err == nil {
		t.Fatal("a log of which nobody has a copy was sealed")
	}
}

// TestRegionIsAddedWhileAnotherIsLost (I1): one that became a peer after the others were asked may hold what was acknowledged as global.
// Nothing is sealed below that: the loss ends, and the next one asks it too.
func TestRegionIsAddedWhileAnotherIsLost(t *testing.T) {
	w := newWorld(map[im.Partition]int64{direct: 9}, "us", "ap", "sa")
	w.regions["us"].link(direct, 0, 5)
	w.regions["ap"].link(direct, 0, 4)
	came := func(context.Context) error {
		w.regions["sa"].link(direct, 0, 8)
		return errors.New("region sa was added meanwhile")
	}
	if _, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us", "ap"), Stands: came}); err == nil || !strings.Contains(err.Error(), "sa was added") {
		t.Fatal(err)
	}
	if us := w.regions["us"].follower(direct); us.Sealed() || us.Generation == 0 {
		t.Fatalf("us is not held, or sealed: %+v", us)
	}
	stands := func(context.Context) error { return nil }
	s, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us", "ap", "sa"), Stands: stands})
	if acked := w.regions["sa"].held[direct]; err != nil || s.Seals[direct] < acked {
		t.Fatalf("sealed at %d, acknowledged as global up to %d: %v", s.Seals[direct], acked, err)
	}
}

// TestLoseRefusesDifferentLogs: copies of two logs, and copies that differ, have no common seal.
func TestLoseRefusesDifferentLogs(t *testing.T) {
	w := newWorld(map[im.Partition]int64{direct: 5}, "us", "ap")
	w.regions["us"].logs[direct], w.regions["ap"].logs[direct] = im.UUID{1}, im.UUID{2}
	if _, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us", "ap")}); err == nil || !strings.Contains(err.Error(), "repair one of them first") {
		t.Fatal(err)
	}
}

// TestAcceptedLossHoldsMore: whose loss was accepted and comes back with more than the seal, must be declared lost too.
func TestAcceptedLossHoldsMore(t *testing.T) {
	w := newWorld(map[im.Partition]int64{direct: 9}, "us", "ap")
	w.regions["us"].link(direct, 0, 4)
	w.regions["ap"].link(direct, 0, 6)
	if s, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us")}); err != nil || s.Seals[direct] != 4 {
		t.Fatal(s, err)
	}
	if _, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us", "ap")}); err == nil || !strings.Contains(err.Error(), "declare it lost too") {
		t.Fatal(err)
	}
	w = newWorld(map[im.Partition]int64{direct: 9}, "us", "ap")
	w.regions["us"].link(direct, 0, 4)
	w.regions["ap"].link(direct, 0, 2)
	if _, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us")}); err != nil {
		t.Fatal(err)
	}
	s, err := Lose(t.Context(), Loss{Origin: "eu", Peers: w.peers("us", "ap")}) // it held less: it is brought there
	if err != nil || s.Seals[direct] != 4 || s.Shipped != 2 || w.regions["ap"].follower(direct).Next != 4 {
		t.Fatal(s, err)
	}
}
