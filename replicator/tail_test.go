package replicator

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// TestTail: from the end of a copy alone, however its writers repeated themselves, the tail found is never past the true
// one (which would skip records) nor below what a view has applied; and it is the true one if the record before it was
// read, no view says otherwise, and the origin was never declared lost.
func TestTail(t *testing.T) {
	name := im.LogName{Origin: "eu", ID: im.UUID{1}}
	rapid.Check(t, func(t *rapid.T) {
		var log []im.Entry
		add := func(e im.Entry) {
			e.Offset = int64(len(log))
			log = append(log, e)
		}
		next, generation := int64(0), uint32(0)
		for range rapid.IntRange(1, 40).Draw(t, "writes") {
			switch rapid.IntRange(0, 12).Draw(t, "what") {
			case 0:
				generation++
				add(wire.EncodeHold("eu", generation, 1))
			case 1:
				if generation > 0 { // a paused replicator wakes up
					add(wire.AsCopy(wire.EncodeLogName(im.KindHeartbeat, name, 1), rapid.Int64Range(0, next).Draw(t, "stale"), generation-1))
				}
			default:
				first := rapid.Int64Range(0, next).Draw(t, "first")
				for o := first; o <= min(next, first+rapid.Int64Range(0, 5).Draw(t, "count")); o++ {
					add(wire.AsCopy(wire.EncodeLogName(im.KindHeartbeat, name, im.Stamp(o)), o, generation))
					next = max(next, o+1)
				}
			}
		}
		if len(log) == 0 {
			return
		}
		from := rapid.IntRange(0, len(log)-1).Draw(t, "from")
		window := log[from:]
		inside, current := false, false
		for i := range window {
			h := wire.DecodeShipHead(&window[i])
			current = current || h.Generation == generation
			inside = inside || generation == 0 && h.OriginOffset == next-1
		}
		if !current { // nothing tells that the generation was raised: such a copy is sealed, and not located by its end
			return
		}
		applied := int64(0)
		if rapid.Bool().Draw(t, "view answers") {
			applied = rapid.Int64Range(0, next).Draw(t, "applied")
		}
		to := tail(window, from == 0, applied)
		if to.follower.Next > next {
			t.Fatalf("found %d past the tail %d", to.follower.Next, next)
		}
		// With a view's word it may be lower: a record that the view needs and that is not in the window may be a gap.
		if (inside || from == 0) && applied == 0 && to.follower.Next != next {
			t.Fatalf("found %d, the tail is %d and its record was read", to.follower.Next, next)
		}
		if to.follower.Next < applied {
			t.Fatalf("found %d below what is applied, %d", to.follower.Next, applied)
		}
		if to.last.known && (to.last.offset != to.follower.Next-1 || to.last.stamp > im.Stamp(next)) {
			t.Fatalf("the last record is %+v, the tail %d", to.last, to.follower.Next)
		}
		if to.last.known && to.name != name {
			t.Fatalf("the name is %v", to.name)
		}
	})
}

// TestTailWithGap: a copy that lost acknowledged records is asked for again from where a view stands.
func TestTailWithGap(t *testing.T) {
	var log []im.Entry
	for o := int64(0); o < 100; o++ {
		if o >= 60 && o < 70 {
			continue
		}
		e := wire.AsCopy(wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu"}, 1), o, 0)
		e.Offset = int64(len(log))
		log = append(log, e)
	}
	if to := tail(log, true, 0); to.follower.Next != 60 {
		t.Errorf("the whole copy: %d", to.follower.Next)
	}
	if to := tail(log[50:], false, 60); to.follower.Next != 60 {
		t.Errorf("its end, with a view at the gap: %d", to.follower.Next)
	}
	if to := tail(log[50:], false, 55); to.follower.Next != 60 {
		t.Errorf("its end, with a view before the gap: %d", to.follower.Next)
	}
	if to := tail(log[50:], false, 200); to.follower.Next != 200 || to.last.known {
		t.Errorf("a view ahead of the copy: %+v", to)
	}
}

func TestSampled(t *testing.T) {
	for flags, want := range map[string]bool{"00": false, "01": true, "02": false, "03": true, "0a": false, "0b": true, "ff": true} {
		if got := wire.Sampled("00-0123456789abcdef0123456789abcdef-0123456789abcdef-" + flags); got != want {
			t.Errorf("flags %s: %v", flags, got)
		}
	}
	if wire.Sampled("") || wire.Sampled("01") {
		t.Error("a text that is no traceparent is sampled")
	}
}
