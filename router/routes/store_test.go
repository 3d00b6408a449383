package routes

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// TestStore holds the store to a map, with names of all sizes and users that come and go.
func TestStore(t *testing.T) {
	type key struct {
		uid    im.UID
		device im.DeviceID
	}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		s := newStore()
		model := make(map[key]im.Platform)
		find := func(k key) (int, ref) {
			dev := pack(k.device)
			slot, r, _ := s.find(k.uid, s.hash(k.uid))
			for r != 0 && !s.at(r).isDevice(&dev) {
				r = s.at(r).next()
			}
			return slot, r
		}
		most := 0
		for range 6000 {
			k := key{im.UID(fmt.Sprint("u", rng.IntN(300))), im.DeviceID(strings.Repeat("d", 1+rng.IntN(3)))}
			if rng.IntN(20) == 0 {
				k.uid = im.UID(strings.Repeat("n", 1+rng.IntN(maxName)))
			}
			switch rng.IntN(3) {
			case 0:
				k.device = im.DeviceID(fmt.Sprintf("%08x-0000-4000-8000-00000000000a", rng.IntN(2)))
			case 1: // nearly a UUID: kept as it is
				k.device = im.DeviceID(fmt.Sprintf("%08X-0000-4000-8000-00000000000A", rng.IntN(2)))
			}
			platform := im.Platform(fmt.Sprint("p", rng.IntN(200)))
			slot, r := find(k)
			_, known := model[k]
			switch {
			case known != (r != 0):
				t.Fatalf("seed %d: %v is there: %v, want %v", seed, k, r != 0, known)
			case known && rng.IntN(3) > 0:
				s.unlink(slot, r)
				delete(model, k)
			case !known:
				dev := pack(k.device)
				s.insert(k.uid, &dev, platform)
				model[k] = platform
			}
			if rng.IntN(1500) == 0 { // a gateway dies
				parity := rng.IntN(2)
				gone := s.remove(func(r row) bool { return len(r.uid())%2 == parity }, func(row) {})
				for k := range model {
					if len(k.uid)%2 == parity {
						delete(model, k)
						gone--
					}
				}
				if gone != 0 {
					t.Fatalf("seed %d: %d rows too many were removed", seed, gone)
				}
			}
			most = max(most, len(model))
		}
		seen := 0
		s.each(func(r row) {
			seen++
			k := key{im.UID(r.uid()), r.device()}
			if p, ok := model[k]; !ok || s.platformOf(r) != p {
				t.Fatalf("seed %d: row %v with platform %q, want %q, %v", seed, k, s.platformOf(r), p, ok)
			}
		})
		if seen != len(model) {
			t.Fatalf("seed %d: %d rows, want %d", seed, seen, len(model))
		}
		if got := len(s.chunks) * chunkBytes; got > 4*most*200+chunkBytes {
			t.Fatalf("seed %d: %d bytes for at most %d rows: what is freed is not used again", seed, got, most)
		}
	}
}

// TestLookupAllocatesNothing: a delivery looks up every recipient.
func TestLookupAllocatesNothing(t *testing.T) {
	table, err := New("eu", []im.Origin{"eu"}, 4, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := im.Partition{Topic: "route.eu", Number: table.Number("ann")}
	table.Expect(p, 0)
	e := Entry{}
	e.Kind, e.Route = im.KindClaim, im.Route{UID: "ann", Device: "phone", Gateway: im.Gateway{ID: "g", Epoch: 1}, Login: 1}
	table.Apply(p, []Entry{e}, 0)
	var found []Target
	if n := testing.AllocsPerRun(100, func() { found = table.Targets(found[:0], "ann", 0) }); n != 0 || len(found) != 1 {
		t.Fatalf("%v allocations for %d targets", n, len(found))
	}
}
