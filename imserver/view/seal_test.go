package view

import (
	"errors"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// TestTailAtTheSeal: a tail ends at the final marker, and one that goes on from what was stored behind it takes nothing
// more. A view that has records past the seal is told so.
func TestTailAtTheSeal(t *testing.T) {
	p := im.Partition{Topic: im.MsgTopic("eu", im.LaneDirect)}
	for wire.Partition(string(im.Direct("ann", "bob")), 4) != p.Number {
		p.Number++
	}
	local := int64(0)
	at := func(e im.Entry) *im.Entry {
		e.Partition, e.Offset = p, local
		local++
		return &e
	}
	record := func(offset int64, generation uint32) *im.Entry {
		return at(wire.AsCopy(wire.EncodeRecord(&im.Record{
			ID: im.ID{Conversation: im.Direct("ann", "bob"), Sender: "ann"}, Kind: im.KindMessage, Version: 1, Place: im.Place{Stamp: 1, Origin: "eu"},
		}), offset, generation))
	}
	tail := func(from Position) *Tail {
		from.Partition = p
		l, err := NewTail(from, 4)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	take := func(l *Tail, e *im.Entry, want im.Verdict) {
		t.Helper()
		if got, err := l.Take(e); got != want || err != nil {
			t.Fatalf("the verdict is %v, %v; want %v", got, err, want)
		}
	}
	l := tail(Position{})
	take(l, record(0, 0), im.Take)
	take(l, at(wire.EncodeHold("eu", 1, 1)), im.Raise)
	take(l, record(1, 0), im.Skip)
	take(l, record(1, 1), im.Take)
	take(l, at(wire.EncodeSeal("eu", 1, 2, 1)), im.Seal)
	take(l, record(2, 1), im.Skip)
	part := l.Cut()
	if len(part.Records) != 2 || part.To.Next != 2 || part.To.Local != local {
		t.Fatalf("it gathered %d records and is at %+v", len(part.Records), part.To)
	}
	l = tail(part.To) // as another owner goes on
	take(l, record(2, 1), im.Skip)
	take(l, at(wire.EncodeHold("eu", 2, 1)), im.Skip)
	take(l, record(2, 2), im.Skip)

	l = tail(Position{Position: im.Position{Next: 5}})
	if _, err := l.Take(at(wire.EncodeSeal("eu", 1, 2, 1))); !errors.Is(err, ErrPastSeal) {
		t.Fatalf("a view that is past the seal goes on: %v", err)
	}
}
