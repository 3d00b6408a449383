package im_test

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

// FuzzClock looks for times and stamps seen that TestStampsGrow does not think of.
func FuzzClock(f *testing.F) {
	seed(f)
	f.Fuzz(rapid.MakeFuzz(stampsGrow))
}

// FuzzCursor looks for cursors that are not the sets they stand for.
func FuzzCursor(f *testing.F) {
	seed(f)
	f.Fuzz(rapid.MakeFuzz(cursorIsASetOfRecords))
}

// FuzzPlace holds places to a total order (I3): of any three, each two compare in one way, and a place before a second that
// is before a third is before that too.
func FuzzPlace(f *testing.F) {
	f.Add(uint64(1), "eu", uint64(1), uint64(1), "eu.2", uint64(1), uint64(1), "us", uint64(1))
	f.Add(uint64(1), "eu", uint64(2), uint64(1), "eu", uint64(1), uint64(2), "ap", uint64(1))
	f.Add(^uint64(0), "", uint64(0), uint64(0), "", ^uint64(0), uint64(0), "", uint64(0))
	f.Fuzz(func(t *testing.T, s1 uint64, o1 string, n1, s2 uint64, o2 string, n2, s3 uint64, o3 string, n3 uint64) {
		places := []im.Place{
			{Stamp: im.Stamp(s1), Origin: im.Origin(o1), Seq: n1},
			{Stamp: im.Stamp(s2), Origin: im.Origin(o2), Seq: n2},
			{Stamp: im.Stamp(s3), Origin: im.Origin(o3), Seq: n3},
		}
		for _, p := range places {
			for _, q := range places {
				if p.Compare(q) != -q.Compare(p) || (p.Compare(q) == 0) != (p == q) || p.Before(q) != (p.Compare(q) < 0) {
					t.Errorf("%v to %v is %d, the other way %d", p, q, p.Compare(q), q.Compare(p))
				}
				for _, r := range places {
					if p.Before(q) && q.Before(r) && !p.Before(r) {
						t.Errorf("%v is before %v, that before %v, and the first not before the last", p, q, r)
					}
				}
			}
		}
	})
}

// seed adds a few inputs, long enough that the property draws all it wants from them.
func seed(f *testing.F) {
	for n := range byte(4) {
		b := make([]byte, 64<<10)
		rand.NewChaCha8([32]byte{n}).Read(b) // never fails
		f.Add(b)
	}
}
