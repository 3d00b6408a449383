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

// TestEveryFormOfI7AndI8 breaks them in each way in which pulls and views could, in a history that is good otherwise: one violation, of
// that invariant, which says where.
func TestEveryFormOfI7AndI8(t *testing.T) {
	type breakIt func(*checker.History)
	page := func(region, n int, change func(*checker.Page)) breakIt {
		return func(h *checker.History) { change(&h.Timelines[region].Pages[n]) }
	}
	behind := func(b ...checker.Behind) breakIt { return func(h *checker.History) { h.Behind = b } }
	direct, read := im.Partition{Topic: "msg.eu.direct", Number: 1}, im.Partition{Topic: "read.eu", Number: 0}
	for _, c := range []struct {
		name      string
		breakIt   breakIt
		invariant string
		want      []string // a detail each
	}{
		{"a cursor loses an origin", page(1, 1, func(p *checker.Page) { p.Returned = im.Cursor{"us": 1} }), "I7", []string{
			"region us was asked for d:ann:bob from the cursor eu=1 and returned us=1, which is behind it",
			"at 20/eu/2 with the cursor us=1",
		}},
		{"a cursor falls back in one origin and grows in another", page(1, 1, func(p *checker.Page) {
			p.Asked, p.Returned, p.Records = im.Cursor{"eu": 2}, im.Cursor{"eu": 1, "us": 1}, p.Records[1:]
		}), "I7", []string{"from the cursor eu=2 and returned eu=1,us=1, which is behind it"}},
		{"an empty page has a cursor behind it", page(0, 1, func(p *checker.Page) { p.Returned, p.Records = im.Cursor{}, nil }), "I7", []string{
			"region eu was asked for d:ann:bob from the cursor eu=1 and returned , which is behind it",
		}},
		{"a covered record of an origin comes among others", page(0, 1, func(p *checker.Page) { p.Asked = im.Cursor{"eu": 1, "us": 1} }), "I7", []string{
			"region eu returned message " + id(2).ClientID.String() + " of ann in d:ann:bob at 30/us/1, which the cursor eu=1,us=1 covers",
		}},
		{"all of a page is covered", page(0, 1, func(p *checker.Page) { p.Asked = im.Cursor{"eu": 2, "us": 1} }), "I7", []string{
			"at 20/eu/2, which the cursor eu=2,us=1 covers", "at 30/us/1, which the cursor eu=2,us=1 covers",
		}},
		{"a record is beyond the page's cursor", page(0, 0, func(p *checker.Page) { p.Returned = im.Cursor{} }), "I7", []string{
			"at 10/eu/1 with the cursor , which does not cover it",
		}},
		{"the last cursor brings more", func(h *checker.History) { h.Timelines[1].Unfinished = true }, "I7", []string{
			"region us returned records of d:ann:bob for the cursor that covers them all",
		}},
		{"no page has the last record that its cursor covers", page(1, 1, func(p *checker.Page) { p.Records = p.Records[:1] }), "I7", []string{
			"region us covers us of d:ann:bob with the cursor eu=2,us=1, but no pull returned seq 1",
		}},
		{"a cursor covers what is nowhere", page(0, 1, func(p *checker.Page) { p.Returned = im.Cursor{"ap": 7, "eu": 2, "us": 3} }), "I7", []string{
			"region eu covers ap of d:ann:bob with the cursor ap=7,eu=2,us=3, but no pull returned seq 1", "but no pull returned seq 2",
		}},

		{"one record is not applied", behind(checker.Behind{Region: "us", Partition: direct, Next: 3, End: 4}), "I8", []string{
			"region us applied msg.eu.direct/1 up to 3; the log ends at 4",
		}},
		{"a log is not applied at all, nor the reads", behind(
			checker.Behind{Region: "us", Partition: direct, Next: 0, End: 4}, checker.Behind{Region: "eu", Partition: read, Next: 1, End: 2},
		), "I8", []string{"region us applied msg.eu.direct/1 up to 0", "region eu applied read.eu/0 up to 1"}},
		{"a record is applied twice", func(h *checker.History) {
			h.Timelines[0].Records = append(h.Timelines[0].Records, checker.Sighting{ID: id(2), Place: place(20, "eu", 3)})
		}, "I8", []string{"region eu applied message " + id(2).ClientID.String() + " of ann in d:ann:bob 2 times, stamped 1970-01-01T00:00:00.000Z+20 by eu; the log has it 1 times"}},
		{"every region skips a record alike", func(h *checker.History) {
			for i := range h.Timelines {
				h.Timelines[i].Records = h.Timelines[i].Records[:2]
			}
		}, "I8", []string{"region eu skipped message " + id(2).ClientID.String(), "region us skipped message " + id(2).ClientID.String()}},
		{"a record is applied that its log does not have", func(h *checker.History) {
			h.Timelines[1].Records = append(h.Timelines[1].Records, checker.Sighting{ID: id(3), Place: place(40, "us", 2)})
		}, "I8", []string{"region us applied message " + id(3).ClientID.String() + " of ann in d:ann:bob 1 times"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := good()
			c.breakIt(h)
			var got []string
			for _, v := range checker.Check(h) {
				if v.Invariant == c.invariant {
					got = append(got, v.Detail)
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("want %d violations of %s, got %q", len(c.want), c.invariant, got)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q, want %q", got[i], want)
				}
			}
		})
	}
}

// One bug breaks an invariant a thousand times: five are told, and how many more there are.
func TestManyViolationsAreCounted(t *testing.T) {
	h := good()
	for n := range 12 {
		h.Behind = append(h.Behind, checker.Behind{Region: "us", Partition: im.Partition{Topic: "msg.eu.direct", Number: n}, Next: 3, End: 4})
	}
	v := checker.Check(h)
	if len(v) != 6 || v[5].String() != "I8: and 7 more" {
		t.Errorf("got %v", v)
	}
}
