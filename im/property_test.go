package im_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

// The model of a cursor is the plain set of records it covers.
type record struct {
	origin im.Origin
	seq    uint64
}

func covered(c im.Cursor) map[record]bool {
	set := map[record]bool{}
	for o, n := range c {
		for s := uint64(1); s <= n; s++ {
			set[record{o, s}] = true
		}
	}
	return set
}

var (
	origins = []im.Origin{"ap", "eu", "eu.2", "us"}
	cursors = rapid.Custom(func(t *rapid.T) im.Cursor {
		c := im.Cursor{}
		for _, o := range origins {
			if n := rapid.Uint64Range(0, 5).Draw(t, string(o)); n > 0 || rapid.Bool().Draw(t, "zero") {
				c[o] = n
			}
		}
		return c
	})
)

func TestCursorIsASetOfRecords(t *testing.T) { rapid.Check(t, cursorIsASetOfRecords) }

func cursorIsASetOfRecords(t *rapid.T) {
	a, b, c := cursors.Draw(t, "a"), cursors.Draw(t, "b"), cursors.Draw(t, "c")
	before := a.String() + "|" + b.String()
	union := covered(a)
	maps.Copy(union, covered(b))
	if got := covered(a.Merge(b)); !maps.Equal(got, union) {
		t.Fatalf("merge of %v and %v covers %v", a, b, got)
	}
	both := covered(a)
	maps.DeleteFunc(both, func(r record, _ bool) bool { return !b.Covers(r.origin, r.seq) })
	if got := covered(a.Cut(b)); !maps.Equal(got, both) {
		t.Fatalf("cut of %v to %v covers %v", a, b, got)
	}
	subset := true
	for r := range covered(b) {
		subset = subset && a.Covers(r.origin, r.seq)
	}
	if a.CoversAll(b) != subset {
		t.Fatalf("CoversAll(%v, %v) = %v", a, b, !subset)
	}
	if x, y := a.Merge(b).String(), b.Merge(a).String(); x != y {
		t.Fatalf("merge does not commute: %q, %q", x, y)
	}
	if x, y := a.Merge(b).Merge(c).String(), a.Merge(b.Merge(c)).String(); x != y {
		t.Fatalf("merge does not associate: %q, %q", x, y)
	}
	if x := a.Merge(a).String(); x != a.String() {
		t.Fatalf("merge is not idempotent: %q", x)
	}
	if after := a.String() + "|" + b.String(); after != before {
		t.Fatalf("arguments changed: %s, before %s", after, before)
	}
	back, err := im.ParseCursor(a.String())
	if err != nil || !maps.Equal(covered(back), covered(a)) {
		t.Fatalf("%q reads as %v, %v", a.String(), back, err)
	}
}

func TestStampsGrow(t *testing.T) { rapid.Check(t, stampsGrow) }

func stampsGrow(t *rapid.T) {
	var clock im.Clock
	now := time.UnixMilli(1_700_000_000_000)
	own, latest := im.Stamp(0), now
	calls := rapid.IntRange(1, 50).Draw(t, "calls")
	for range calls {
		now = now.Add(time.Duration(rapid.IntRange(-2000, 2000).Draw(t, "ms")) * time.Millisecond)
		if now.After(latest) {
			latest = now
		}
		seen := im.Stamp(0)
		if rapid.Bool().Draw(t, "saw") {
			seen = im.StampAt(now.Add(time.Duration(rapid.IntRange(-8000, 8000).Draw(t, "ahead")) * time.Millisecond))
		}
		s, err := clock.Next(now, seen, im.MaxSkew)
		if tooFar := seen.Time().Sub(now) > im.MaxSkew; tooFar != (im.CodeOf(err) == im.CodeStampAhead) {
			t.Fatalf("seen %v at %v: %v", seen, now, err)
		}
		if err != nil {
			continue
		}
		if s <= seen { // I4
			t.Fatalf("stamp %v for a sender who saw %v", s, seen)
		}
		if seen == 0 {
			if s <= own || s < im.StampAt(now) {
				t.Fatalf("stamp %v after %v at %v", s, own, now)
			}
			if s > im.StampAt(latest)+im.Stamp(calls) { // a stamp a call, from the latest that the clock has shown
				t.Fatalf("the clock followed what a client claimed: %v, though it never showed more than %v", s, latest)
			}
			own = s
		}
	}
}

// TestFollowersAgree: whatever a copy's writers repeat, a follower takes the origin's log, each record once, in order; and
// one that begins at any place another has reached takes exactly the rest.
func TestFollowersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type entry struct {
			offset     int64
			generation uint32
			hold       bool
		}
		var log []entry // a copy: writers append from at most the tail they see, or repeat what they sent before
		tail, generation := int64(0), uint32(0)
		for range rapid.IntRange(0, 60).Draw(t, "writes") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				generation++
				log = append(log, entry{-1, generation, true})
			case 1: // a replicator that was paused since a lower generation
				if generation > 0 {
					log = append(log, entry{rapid.Int64Range(0, tail+3).Draw(t, "stale"), generation - 1, false})
				}
			default:
				first := rapid.Int64Range(0, tail).Draw(t, "first")
				for o := first; o < first+rapid.Int64Range(1, 4).Draw(t, "count"); o++ {
					if o > tail {
						break
					}
					log = append(log, entry{o, generation, false})
					tail = max(tail, o+1)
				}
			}
		}
		var f im.Follower
		states := []im.Follower{f}
		next := int64(0)
		for _, e := range log {
			if f.See(e.offset, e.generation, e.hold) == im.Take {
				if e.offset != next {
					t.Fatalf("took %d, the next was %d", e.offset, next)
				}
				next++
			}
			states = append(states, f)
		}
		if next != tail {
			t.Fatalf("took up to %d, the copy holds up to %d: %v", next, tail, log)
		}
		at := rapid.IntRange(0, len(log)).Draw(t, "restart")
		again := states[at]
		for _, e := range log[at:] {
			again.See(e.offset, e.generation, e.hold)
		}
		if again != f {
			t.Fatalf("restarted at %d: %v, the other %v", at, again, f)
		}
	})
}

func TestUUIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMilli(rapid.Int64Range(0, 1<<48-1).Draw(t, "ms"))
		u := im.NewUUID(at)
		if !u.IsV7() || u.Millis() != at.UnixMilli() {
			t.Fatalf("%v: version 7 %v, ms %d for %d", u, u.IsV7(), u.Millis(), at.UnixMilli())
		}
		if back, err := im.ParseUUID(u.String()); back != u || err != nil {
			t.Fatalf("%v reads as %v, %v", u, back, err)
		}
		if later := im.NewUUID(at.Add(time.Millisecond)); at.UnixMilli() < 1<<48-1 && later.String() <= u.String() {
			t.Fatalf("%v is not after %v", later, u)
		}
	})
}

func TestPlacesAreATotalOrder(t *testing.T) {
	places := rapid.Custom(func(t *rapid.T) im.Place {
		return im.Place{
			Stamp:  im.Stamp(rapid.Uint64Range(0, 3).Draw(t, "stamp")),
			Origin: rapid.SampledFrom(origins).Draw(t, "origin"), Seq: rapid.Uint64Range(1, 3).Draw(t, "seq"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		ps := rapid.SliceOfN(places, 3, 3).Draw(t, "places")
		a, b, c := ps[0], ps[1], ps[2]
		if a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) || a.Before(b) != (a.Compare(b) < 0) {
			t.Fatalf("%v and %v: %d and %d", a, b, a.Compare(b), b.Compare(a))
		}
		if a.Before(b) && b.Before(c) && !a.Before(c) {
			t.Fatalf("%v < %v < %v", a, b, c)
		}
		if back, err := im.ParsePlace(a.String()); back != a || err != nil {
			t.Fatalf("%v reads as %v, %v", a, back, err)
		}
	})
}

func TestTopicsReadBack(t *testing.T) {
	for _, o := range append(origins, "direct", "msg", "us-east-1.77") {
		for i, topic := range im.Topics(o) {
			f, back, err := im.ParseTopic(topic)
			want := im.FamilyMsg
			if i >= len(im.Lanes) {
				want = []im.Family{im.FamilyRead, im.FamilyRoute}[i-len(im.Lanes)]
			}
			if err != nil || back != o || f != want {
				t.Errorf("%s: %s of %s, %v", topic, f, back, err)
			}
			if p := (im.Partition{Topic: topic, Number: 3}); p.Origin() != o {
				t.Errorf("%v is of %s", p, p.Origin())
			}
		}
	}
}

func TestCodes(t *testing.T) {
	closes := map[int]im.Code{}
	all := im.Codes()
	if !slices.IsSorted(all) {
		t.Error("not sorted")
	}
	for _, c := range all {
		s := c.Spec()
		if s.HTTP < 400 || s.HTTP > 599 {
			t.Errorf("%s: HTTP status %d", c, s.HTTP)
		}
		switch s.Action {
		case im.ActionRetry, im.ActionBackOff, im.ActionStop:
		default:
			t.Errorf("%s: action %q", c, s.Action)
		}
		if strings.ToLower(string(c)) != string(c) {
			t.Errorf("%s is not in lower case", c)
		}
		if s.Close == 0 {
			continue
		}
		if s.Close < 4000 || s.Close > 4999 {
			t.Errorf("%s: close code %d is not in the private range", c, s.Close)
		}
		if other, taken := closes[s.Close]; taken {
			t.Errorf("%s and %s share the close code %d", c, other, s.Close)
		}
		closes[s.Close] = c
		if back := im.CodeOfClose(s.Close); back != c {
			t.Errorf("close code %d reads as %s, not %s", s.Close, back, c)
		}
	}
}
