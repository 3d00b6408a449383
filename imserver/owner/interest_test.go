package owner_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/owner"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

const crowd = im.Conversation("s:eu:0199a2c4-7f3e-7d11-8a52-3b6f0c9d1e24")

// group is the shard of a super group that ann made, with users added, some hundred at a time.
type group struct {
	shard *owner.Shard
	seq   uint64
	batch uint64
}

func newGroup(tb testing.TB, members int) *group {
	tb.Helper()
	g := &group{shard: owner.New(0, 100)}
	g.take(tb, "ann", im.KindCreate, &wire.Create{Title: "crowd"})
	for n := 0; n < members; n += 500 {
		var add []string
		for m := n; m < min(n+500, members); m++ {
			add = append(add, fmt.Sprintf("user-%08d", m))
		}
		g.take(tb, "ann", im.KindMember, &wire.Member{Add: add})
	}
	return g
}

// part is the record that comes next, as apply reads it.
func (g *group) part(tb testing.TB, sender im.UID, kind im.Kind, body proto.Message) view.Part {
	tb.Helper()
	b, err := wire.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	g.seq++
	r := view.Record{Record: im.Record{
		ID:   im.ID{Conversation: crowd, Sender: sender, ClientID: im.UUID{15: byte(g.seq), 14: byte(g.seq >> 8)}},
		Kind: kind, Version: 1, Body: b, Place: im.Place{Stamp: im.Stamp(g.seq), Origin: "eu"},
	}, Shown: true, Offset: int64(g.seq)}
	return view.Part{Partition: im.Partition{Topic: "msg.eu.super"}, Records: []view.Record{r}}
}

func (g *group) take(tb testing.TB, sender im.UID, kind im.Kind, body proto.Message) []im.Delivery {
	tb.Helper()
	parts := []view.Part{g.part(tb, sender, kind, body)}
	g.batch++
	if ask := g.shard.Missing(parts, g.batch); len(ask.Groups)+len(ask.Heads) > 0 {
		g.shard.Remember(ask, view.Facts{})
	}
	deliveries := g.shard.Take(parts, "eu", true)
	g.shard.Committed(g.batch)
	return deliveries
}

// TestCrowd: a message to 10,000 members is one delivery to one recipient, with what gateways need to tell whom of the group
// it is for. A change is that too, and goes to those whom it adds or removes by their uids.
func TestCrowd(t *testing.T) {
	g := newGroup(t, 10_000)
	interest := []im.UID{im.InterestIn(crowd)}
	check := func(what string, got im.Delivery, recipients, join []im.UID, in *im.Interest) {
		t.Helper()
		if !slices.Equal(got.Recipients, recipients) || !slices.Equal(got.Join, join) || !got.Notify {
			t.Errorf("%s: to %d recipients (%.40q), join %v, notify %t", what, len(got.Recipients), got.Recipients, got.Join, got.Notify)
		}
		switch {
		case (in == nil) != (got.Interest == nil):
			t.Errorf("%s: interest %+v", what, got.Interest)
		case in != nil && (got.Interest.Changes.String() != in.Changes.String() || got.Interest.Before.String() != in.Before.String() ||
			!slices.Equal(got.Interest.Changed, in.Changed) || got.Interest.Place.Seq != g.seq):
			t.Errorf("%s: interest %+v, want %+v", what, got.Interest, in)
		}
	}
	known := im.Cursor{"eu": g.seq}
	d := g.take(t, "ann", im.KindMessage, &wire.Text{Text: "hello"})
	if len(d) != 1 {
		t.Fatalf("%d deliveries of a message", len(d))
	}
	check("a message", d[0], interest, nil, &im.Interest{Changes: known})

	d = g.take(t, "ann", im.KindMember, &wire.Member{Add: []string{"bob", "user-00000001"}, Remove: []string{"user-00000002"}})
	if len(d) != 3 {
		t.Fatalf("%d deliveries of a change", len(d))
	}
	check("those added", d[0], []im.UID{"bob"}, interest, nil)
	check("those removed", d[1], []im.UID{"user-00000002"}, nil, nil)
	check("all", d[2], interest, nil, &im.Interest{
		Changes: im.Cursor{"eu": g.seq}, Before: known, Changed: []im.UID{"bob", "user-00000001", "user-00000002"},
	})
	known = im.Cursor{"eu": g.seq}

	d = g.take(t, "ann", im.KindSettings, &wire.Settings{Title: "people"})
	if len(d) != 1 {
		t.Fatalf("%d deliveries of a title", len(d))
	}
	check("a title changes no membership", d[0], interest, nil, &im.Interest{Changes: known})

	d = g.take(t, "ann", im.KindMember, &wire.Member{Add: make100()})
	if len(d) != 2 {
		t.Fatalf("%d deliveries of a large change", len(d))
	}
	check("a change that names many", d[1], interest, nil, &im.Interest{Changes: im.Cursor{"eu": g.seq}})
}

func make100() (names []string) {
	for n := range 100 {
		names = append(names, fmt.Sprintf("more-%02d", n))
	}
	return names
}

// BenchmarkCrowd is what a message to a super group costs an owner, and what goes to each router and over each link for it:
// by uids, and by interest.
func BenchmarkCrowd(b *testing.B) {
	for _, members := range []int{500, 10_000} {
		for _, interest := range []bool{false, true} {
			b.Run(fmt.Sprintf("members=%d/interest=%t", members, interest), func(b *testing.B) {
				g := newGroup(b, members)
				parts := []view.Part{g.part(b, "ann", im.KindMessage, &wire.Text{Text: "hello, everybody in the crowd"})}
				g.shard.Missing(parts, 1)
				var encoded []byte
				b.ReportAllocs()
				for b.Loop() {
					deliveries := g.shard.Take(parts, "eu", interest)
					var err error
					if encoded, err = wire.Marshal(wire.NotifyOf("eu", "us", deliveries)); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(encoded)), "wire-B/op")
			})
		}
	}
}
