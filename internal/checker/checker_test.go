package checker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
)

const conversation = im.Conversation("d:ann:bob")

var epoch = time.UnixMilli(1_700_000_000_000)

func id(n int) im.ID {
	u := im.NewUUID(epoch)
	copy(u[6:], make([]byte, 10))
	u[15] = byte(n)
	return im.ID{Conversation: conversation, Sender: "ann", ClientID: u}
}

func place(stamp int, o im.Origin, seq int) im.Place {
	return im.Place{Stamp: im.Stamp(stamp), Origin: o, Seq: uint64(seq)}
}

// good is a history without a fault: two messages from eu, the second retried into us.
func good() *checker.History {
	records := []checker.Sighting{{id(1), place(10, "eu", 1)}, {id(2), place(20, "eu", 2)}, {id(2), place(30, "us", 1)}}
	shown := []checker.Sighting{records[0], records[1]}
	h := &checker.History{
		Submits: []checker.Submit{
			{ID: id(1), Conn: "a", Acked: true, Ack: im.Ack{ID: id(1), Stamp: 10, Origin: "eu", Global: true}},
			{ID: id(2), Conn: "a", Seen: 10, Acked: true, Ack: im.Ack{ID: id(2), Stamp: 30, Origin: "us"}},
			{ID: id(3), Conn: "a"},
		},
		Logs: []checker.Logged{
			{"eu", id(1), 10, "eu"},
			{"eu", id(2), 20, "eu"},
			{"us", id(2), 30, "us"},
			{"eu", id(1), 10, "us"},
			{"eu", id(2), 20, "us"},
			{"us", id(2), 30, "eu"},
		},
		Receivers: []checker.Receiver{
			{Name: "bob", Conversation: conversation, Emitted: []im.ID{id(1), id(2)}, Shown: slices.Clone(shown)},
		},
		Digests: map[im.Region]map[string]string{},
	}
	for _, region := range []im.Region{"eu", "us"} {
		h.Timelines = append(h.Timelines, checker.Timeline{
			Region: region, Conversation: conversation, Records: slices.Clone(records), Shown: slices.Clone(shown),
			Pages: []checker.Page{
				{Asked: im.Cursor{}, Returned: im.Cursor{"eu": 1}, Records: slices.Clone(records[:1])},
				{Asked: im.Cursor{"eu": 1}, Returned: im.Cursor{"eu": 2, "us": 1}, Records: slices.Clone(records[1:])},
			},
		})
		h.Digests[region] = map[string]string{"timelines": "a", "routes": "b"}
	}
	return h
}

func TestGoodHistoryHasNoViolation(t *testing.T) {
	h := good()
	if v := checker.Check(h); len(v) > 0 {
		t.Fatal(v)
	}
	want := checker.Summary{Sent: 3, Acked: 2, ReceivedOnce: 2, Regions: 2, Digests: 2}
	if got := checker.Summarize(h); got != want {
		t.Fatalf("summary %+v, want %+v", got, want)
	}
}

// What a lost origin acked is looked for in the copies that are left.
func TestOnlyCopiesAreLeft(t *testing.T) {
	h := good()
	h.Logs = slices.DeleteFunc(h.Logs, func(l checker.Logged) bool { return l.In == "eu" })
	if v := checker.Check(h); len(v) > 0 {
		t.Fatal(v)
	}
}

// TestEachFaultIsNamed breaks the good history in one way at a time.
func TestEachFaultIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, invariant string
		breakIt         func(*checker.History)
	}{
		{"acked record missing from its log", "I1", func(h *checker.History) { h.Logs = h.Logs[1:] }},
		{"acked as global, in no copy", "I1", func(h *checker.History) { h.Logs = slices.Delete(h.Logs, 3, 4) }},
		{"acked by an origin that is lost, in no copy", "I1", func(h *checker.History) {
			h.Logs = slices.DeleteFunc(h.Logs, func(l checker.Logged) bool { return l.In == "eu" || l.ID == id(2) && l.Origin == "us" })
		}},
		{"acked message shown nowhere in a region", "I1", func(h *checker.History) {
			h.Timelines[1].Shown = h.Timelines[1].Shown[1:]
		}},
		{"a seq is missing", "I2", func(h *checker.History) { h.Timelines[0].Records = h.Timelines[0].Records[1:] }},
		{"a region holds less", "I2", func(h *checker.History) { h.Timelines[0].Records = h.Timelines[0].Records[:2] }},
		{"two regions disagree on order", "I3", func(h *checker.History) {
			slices.Reverse(h.Timelines[1].Shown)
		}},
		{"a client misses the last message", "I3", func(h *checker.History) {
			h.Receivers[0].Shown = h.Receivers[0].Shown[:1]
		}},
		{"stamp not after what was seen", "I4", func(h *checker.History) { h.Submits[1].Seen = 30 }},
		{"stamp not after the earlier submit", "I4", func(h *checker.History) {
			h.Submits[0].Ack.Stamp, h.Logs[0].Stamp = 30, 30
		}},
		{"a place changed", "I5", func(h *checker.History) { h.Receivers[0].Shown[0].Place.Stamp = 9 }},
		{"shown twice", "I6", func(h *checker.History) {
			h.Timelines[0].Shown = append(h.Timelines[0].Shown, h.Timelines[0].Records[2])
		}},
		{"emitted twice", "I6", func(h *checker.History) {
			h.Receivers[0].Emitted = append(h.Receivers[0].Emitted, id(1))
		}},
		{"shown, never emitted", "I6", func(h *checker.History) { h.Receivers[0].Emitted = h.Receivers[0].Emitted[:1] }},
		{"a cursor shrinks", "I7", func(h *checker.History) { h.Timelines[1].Pages[1].Returned = im.Cursor{"us": 1} }},
		{"a pull returns what is covered", "I7", func(h *checker.History) { h.Timelines[1].Pages[1].Asked = im.Cursor{"eu": 2} }},
		{"a cursor does not cover its page", "I7", func(h *checker.History) { h.Timelines[1].Pages[1].Returned = im.Cursor{"eu": 2} }},
		{"pull never ends", "I7", func(h *checker.History) { h.Timelines[0].Unfinished = true }},
		{"a view is behind its log", "I8", func(h *checker.History) {
			h.Behind = []checker.Behind{{"us", im.Partition{Topic: "msg.eu.direct", Number: 1}, 3, 4}}
		}},
		{"digests differ", "I9", func(h *checker.History) { h.Digests["us"]["routes"] = "c" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := good()
			c.breakIt(h)
			v := checker.Check(h)
			if !slices.ContainsFunc(v, func(v checker.Violation) bool { return strings.HasPrefix(v.String(), c.invariant+": ") }) {
				t.Fatalf("want a violation of %s, got %v", c.invariant, v)
			}
		})
	}
}
