package imserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

var errDown = errors.New("down")

// fakeLog is a region's Kafka in memory: local offsets are places in slices.
type fakeLog struct {
	mu      sync.Mutex
	entries map[im.Partition][]im.Entry
	starts  map[im.Partition]int64 // what retention left
	grown   chan struct{}          // closed at the next append
	fail    error                  // of Append
}

func newFakeLog() *fakeLog {
	return &fakeLog{entries: map[im.Partition][]im.Entry{}, starts: map[im.Partition]int64{}, grown: make(chan struct{})}
}

func logID(o im.Origin) im.UUID { return im.UUID{o[0], 6: 0x70, 8: 0x80} }

// create makes the topics of an origin, as a migration would.
func (l *fakeLog) create(o im.Origin, partitions int) {
	for _, topic := range im.Topics(o) {
		for n := range partitions {
			e := wire.EncodeLogName(im.KindLog, im.LogName{Origin: o, ID: logID(o)}, 0)
			l.put(im.Partition{Topic: topic, Number: n}, e)
		}
	}
}

func (l *fakeLog) put(p im.Partition, entries ...im.Entry) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := int64(len(l.entries[p]))
	for i, e := range entries {
		e.Partition, e.Offset = p, first+int64(i)
		l.entries[p] = append(l.entries[p], e)
	}
	close(l.grown)
	l.grown = make(chan struct{})
	return first
}

// all is a copy of a partition.
func (l *fakeLog) all(p im.Partition) []im.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries[p])
}

func (l *fakeLog) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	l.mu.Lock()
	fail := l.fail
	l.mu.Unlock()
	if err := errors.Join(ctx.Err(), fail); err != nil {
		return 0, err
	}
	return l.put(p, entries...), nil
}

func (l *fakeLog) Bounds(_ context.Context, partitions []im.Partition) (map[im.Partition]im.Bounds, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bounds := map[im.Partition]im.Bounds{}
	for _, p := range partitions {
		bounds[p] = im.Bounds{Start: l.starts[p], End: int64(len(l.entries[p]))}
	}
	return bounds, nil
}

func (l *fakeLog) Read(_ context.Context, p im.Partition, from int64, _ int) ([]im.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.entries[p]
	if from < l.starts[p] || from > int64(len(all)) {
		return nil, fmt.Errorf("%v: offset %d out of range", p, from)
	}
	return slices.Clone(all[from:min(len(all), int(from)+5)]), nil
}

// fakeReader follows a fakeLog, a few entries at a time.
type fakeReader struct {
	log *fakeLog
	mu  sync.Mutex
	at  map[im.Partition]int64
}

func (l *fakeLog) newReader(from map[im.Partition]int64) Reader {
	return &fakeReader{log: l, at: maps.Clone(from)}
}

func (r *fakeReader) Poll(ctx context.Context) ([]im.Batch, error) {
	for {
		r.log.mu.Lock()
		grown := r.log.grown
		r.log.mu.Unlock()
		r.mu.Lock()
		var batches []im.Batch
		var ranged error
		for p, at := range r.at {
			bounds, _ := r.log.Bounds(ctx, []im.Partition{p})
			if b := bounds[p]; at < b.Start || at > b.End {
				delete(r.at, p)
				ranged = fmt.Errorf("%v: offset %d is outside %d..%d", p, at, b.Start, b.End)
				continue
			}
			entries, err := r.log.Read(ctx, p, at, 0)
			if err == nil && len(entries) > 0 {
				r.at[p] += int64(len(entries))
				batches = append(batches, im.Batch{Partition: p, Entries: entries})
			}
		}
		r.mu.Unlock()
		if ranged != nil {
			return batches, ranged
		}
		if len(batches) > 0 {
			return batches, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-grown:
		}
	}
}

func (r *fakeReader) Seek(p im.Partition, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at[p] = offset
}

func (r *fakeReader) Drop(p im.Partition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.at, p)
}

func (r *fakeReader) Close() {}

// fakeStore is the specification as a store. step is called before and after every operation and may fail it.
type fakeStore struct {
	mu   sync.Mutex
	view *view.View
	sent map[im.Partition]im.Position
	step func(ctx context.Context, what string) error
}

func newFakeStore(partitions int) *fakeStore {
	return &fakeStore{view: view.NewView(partitions), sent: map[im.Partition]im.Position{}, step: func(context.Context, string) error { return nil }}
}

// do runs an operation between two steps. An error of the second step is an answer that was lost.
func (s *fakeStore) do(ctx context.Context, what string, op func() error) error {
	if err := s.step(ctx, "before "+what); err != nil {
		return err
	}
	s.mu.Lock()
	err := op()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.step(ctx, "after "+what)
}

func (s *fakeStore) Positions(ctx context.Context, numbers ...int) (positions []view.Position, err error) {
	err = s.do(ctx, "positions", func() error {
		positions = slices.DeleteFunc(s.view.Positions(), func(p view.Position) bool {
			return len(numbers) > 0 && !slices.Contains(numbers, p.Partition.Number)
		})
		return nil
	})
	return positions, err
}

func (s *fakeStore) Apply(ctx context.Context, parts []view.Part) error {
	return s.do(ctx, "apply", func() error { return s.view.Apply(parts) })
}

func (s *fakeStore) Known(ctx context.Context, ask view.Ask) (facts view.Facts, err error) {
	err = s.do(ctx, "known", func() error {
		facts = view.Facts{Heads: map[view.HeadKey]uint64{}, Groups: map[im.Conversation]*view.Group{}, Next: map[im.Partition]int64{}}
		for _, k := range ask.Heads {
			facts.Heads[k] = s.view.Last(k)
		}
		for _, c := range ask.Groups {
			if g := s.view.Group(c); g != nil {
				facts.Groups[c] = g.Clone()
			}
		}
		for _, p := range ask.Partitions {
			facts.Next[p] = s.view.Position(p).Next
		}
		return nil
	})
	return facts, err
}

func (s *fakeStore) Sent(ctx context.Context, numbers ...int) (sent []im.Position, err error) {
	err = s.do(ctx, "sent", func() error {
		sent = slices.SortedFunc(maps.Values(s.sent), func(a, b im.Position) int { return a.Partition.Compare(b.Partition) })
		sent = slices.DeleteFunc(sent, func(p im.Position) bool { return len(numbers) > 0 && !slices.Contains(numbers, p.Partition.Number) })
		return nil
	})
	return sent, err
}

func (s *fakeStore) SaveSent(ctx context.Context, sent []im.Position) error {
	return s.do(ctx, "save sent", func() error {
		for _, p := range sent {
			if known, ok := s.sent[p.Partition]; !ok || p.Next > known.Next {
				s.sent[p.Partition] = p
			}
		}
		return nil
	})
}

func (s *fakeStore) Find(ctx context.Context, id im.ID) (found view.Found, ok bool, err error) {
	err = s.do(ctx, "find", func() error { found, ok = s.view.Find(id); return nil })
	return found, ok, err
}

func (s *fakeStore) Pull(ctx context.Context, q view.PullQuery) (page view.Page, err error) {
	err = s.do(ctx, "pull", func() error { page = s.view.Pull(q); return nil })
	return page, err
}

func (s *fakeStore) List(ctx context.Context, q view.ListQuery) (page view.ListPage, err error) {
	err = s.do(ctx, "list", func() error { page = s.view.List(q); return nil })
	return page, err
}

func (s *fakeStore) Receipts(ctx context.Context, c im.Conversation, users []im.UID) (receipts []view.Receipt, err error) {
	err = s.do(ctx, "receipts", func() error { receipts = s.view.Receipts(c, users); return nil })
	return receipts, err
}

func (s *fakeStore) Digest(ctx context.Context) (digest map[string]string, err error) {
	err = s.do(ctx, "digest", func() error { digest = s.view.Digest(); return nil })
	return digest, err
}

// fakeRouter takes deliveries.
type fakeRouter struct {
	mu         sync.Mutex
	deliveries []im.Delivery
	step       func(ctx context.Context) error
	interest   bool
}

func (r *fakeRouter) Deliver(ctx context.Context, deliveries []im.Delivery) (int, error) {
	if r.step != nil {
		if err := r.step(ctx); err != nil {
			return 0, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, deliveries...)
	return len(deliveries), nil
}

func (r *fakeRouter) Interest() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.interest
}

func (r *fakeRouter) take() []im.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.deliveries
	r.deliveries = nil
	return taken
}

// fakeHolder holds everything, or nothing while no peer is there.
type fakeHolder struct {
	mu   sync.Mutex
	held bool
}

func (h *fakeHolder) set(held bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = held
}

func (h *fakeHolder) Wait(ctx context.Context, _ im.Partition, _ int64) error {
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	if held {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// fakeOwnership says who owns what.
type fakeOwnership struct {
	mu      sync.Mutex
	numbers []int
	changed chan struct{}
}

func newFakeOwnership(numbers ...int) *fakeOwnership {
	return &fakeOwnership{numbers: numbers, changed: make(chan struct{})}
}

func (o *fakeOwnership) Owned() ([]int, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.numbers), o.changed
}

func (o *fakeOwnership) set(numbers ...int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.numbers = numbers
	close(o.changed)
	o.changed = make(chan struct{})
}

// testLogger shows what is logged when a test fails.
func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}
