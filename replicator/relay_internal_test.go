package replicator

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// still is a region's Kafka and its way to others, with nothing in it.
type still struct{}

func (still) Append(context.Context, im.Partition, []im.Entry) (int64, error) { return 0, nil }

func (still) Read(context.Context, im.Partition, int64, int) ([]im.Entry, error) { return nil, nil }

func (still) ReadEach(context.Context, map[im.Partition]int64, int) map[im.Partition][]im.Entry {
	return nil
}

func (still) Bounds(context.Context, []im.Partition) (map[im.Partition]im.Bounds, error) {
	return nil, nil
}

func (still) Link(context.Context, im.Region) (wire.LinkReceiver, error) {
	return nil, errors.New("nobody is there")
}

// between is the replicator of us, which has eu's log and gives it to ap.
func between(t *testing.T) (*Replicator, *receiving) {
	r, err := New(
		Config{Region: "us", Origin: "us", Partitions: 1, Peers: []Peer{{"eu", "eu"}, {"ap", "ap"}}, NotifyAge: time.Hour, StatusInterval: time.Millisecond},
		Deps{Log: still{}, NewReader: func(map[im.Partition]int64) Reader { return nil }, Dialer: still{}})
	if err != nil {
		t.Fatal(err)
	}
	return r, r.peer("eu").in
}

// interrupted is a reader whose caller is called away while it answers.
type interrupted struct {
	Reader
	answers  []im.Batch
	callAway context.CancelFunc
}

func (r *interrupted) Poll(context.Context) ([]im.Batch, error) {
	b := r.answers[:1]
	r.answers = r.answers[1:]
	r.callAway()
	return b, nil
}

// TestNothingIsShippedPastWhatParted: when the copy gets to the receiver's last record and has another there, nothing behind it is
// shipped, also if the reader is called away just then.
func TestNothingIsShippedPastWhatParted(t *testing.T) {
	r, c := between(t)
	p := c.parts[0].p
	s := newCopyLog(r, c)
	s.checks[p] = lastSeen{offset: 0, checksum: 1}
	entry := func(offset int64) im.Entry {
		e := wire.AsCopy(im.Entry{Value: []byte("x")}, offset, linkGeneration)
		e.Partition, e.Offset = p, offset
		return e
	}
	var away bool
	reader := &copyReader{log: s, follows: map[im.Partition]*following{p: {}}, inner: &interrupted{
		answers:  []im.Batch{{Partition: p, Entries: []im.Entry{entry(0)}}, {Partition: p, Entries: []im.Entry{entry(1)}}},
		callAway: func() { away = true },
	}}
	for range 2 {
		batches, err := reader.Poll(t.Context())
		if len(batches) > 0 || s.readable(t.Context(), nil, err) == nil {
			t.Fatalf("%d batches, error %v; want none, and an error that ends the link", len(batches), err)
		}
	}
	if !away {
		t.Fatal("nothing was read")
	}
}

// TestRelayedWhileALinkIsOpen: what a region holds of a copy is told while any of its links is open, and only what was compared.
func TestRelayedWhileALinkIsOpen(t *testing.T) {
	r, c := between(t)
	p, behind := c.parts[0], c.parts[1]
	p.sentHeld, behind.sentHeld = 20, 20
	told := func() map[im.Partition]int64 {
		all := map[im.Partition]int64{}
		for _, m := range c.tellRelayed() {
			if m.Region != "ap" {
				t.Fatalf("%s takes no log from the copy", m.Region)
			}
			for _, o := range m.Offsets {
				all[c.parts[o.Partition].p] = o.Offset
			}
		}
		return all
	}
	first, second := newCopyLog(r, c), newCopyLog(r, c)
	first.holds("ap", map[im.Partition]int64{p.p: 10})
	first.linked("ap", +1)
	second.checks[behind.p] = lastSeen{offset: 14}
	second.holds("ap", map[im.Partition]int64{p.p: 10, behind.p: 15}) // it opens while the other closes
	first.linked("ap", -1)
	second.linked("ap", +1)
	if all := told(); all[p.p] != 10 || all[behind.p] != 0 {
		t.Errorf("told %v; the one is held up to 10, the other is not compared yet", all)
	}
	if err := second.compared(behind.p, &im.Entry{}, 14); err != nil {
		t.Fatal(err)
	}
	if all := told(); all[behind.p] != 15 {
		t.Errorf("told %v; both are compared", all)
	}
	second.linked("ap", -1)
	if all := c.tellRelayed(); len(all) > 0 {
		t.Errorf("told %v; no link is open", all)
	}
}

// talkative is a link on which more notifies wait after each, for two regions in turn, until a status was sent.
type talkative struct {
	wire.LinkSender
	l      *sending
	turn   int
	gaveUp time.Time
}

var errEnough = errors.New("enough")

func (s *talkative) Send(m *wire.LinkResponse) error {
	switch m.Kind.(type) {
	case *wire.LinkResponseStatus:
		return errEnough
	case *wire.LinkResponseNotify:
		if time.Now().After(s.gaveUp) {
			return errors.New("no status goes")
		}
	}
	for ; len(s.l.notifies) < 8; s.turn++ {
		if err := s.l.notify([]im.Region{"eu", "ap"}[s.turn%2], []im.Delivery{{Service: "im"}}); err != nil {
			return err
		}
	}
	return nil
}

// TestStatusesGoBesideNotifies: however many notifies wait for a region and those behind it, statuses go.
func TestStatusesGoBesideNotifies(t *testing.T) {
	r, _ := between(t)
	l := &sending{
		r: r, peer: "eu", source: ownLog{r}, batches: make(chan outgoing), notifies: make(chan notify, 16), throttle: &throttle{now: time.Now},
		status: time.NewTimer(0),
	}
	l.stream = &talkative{l: l, gaveUp: time.Now().Add(time.Minute)}
	if err := l.write(t.Context()); !errors.Is(err, errEnough) {
		t.Error(err)
	}
}
