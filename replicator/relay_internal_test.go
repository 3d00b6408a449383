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
