package router_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router"
	"github.com/antipode-im/antipode/wire"
)

// kafka is one region's logs and copies in memory.
type kafka struct {
	mu      sync.Mutex
	parts   map[im.Partition][]im.Entry
	start   map[im.Partition]int64
	changed chan struct{}
	broken  error // what every call answers, if set
}

func newKafka() *kafka {
	return &kafka{parts: make(map[im.Partition][]im.Entry), start: make(map[im.Partition]int64), changed: make(chan struct{})}
}

func (k *kafka) breakWith(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = err
	k.signal()
}

func (k *kafka) signal() {
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *kafka) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return 0, k.broken
	}
	first := k.start[p] + int64(len(k.parts[p]))
	for i, e := range entries {
		e.Partition, e.Offset = p, first+int64(i)
		k.parts[p] = append(k.parts[p], e)
	}
	k.signal()
	return first, nil
}

func (k *kafka) Bounds(_ context.Context, all []im.Partition) (map[im.Partition]im.Bounds, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return nil, k.broken
	}
	bounds := make(map[im.Partition]im.Bounds)
	for _, p := range all {
		bounds[p] = im.Bounds{Start: k.start[p], End: k.start[p] + int64(len(k.parts[p]))}
	}
	return bounds, nil
}

func (k *kafka) entries(p im.Partition) []im.Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]im.Entry(nil), k.parts[p]...)
}

// create makes a log anew, empty.
func (k *kafka) create(p im.Partition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.parts, p)
	k.signal()
}

// rangeError is what the reader answers for an offset that the log has not.
type rangeError struct {
	p im.Partition
	b im.Bounds
}

func (e *rangeError) Error() string { return fmt.Sprintf("%v: out of range", e.p) }

func outOfRange(err error) (im.Partition, im.Bounds, bool) {
	if e, ok := errors.AsType[*rangeError](err); ok {
		return e.p, e.b, true
	}
	return im.Partition{}, im.Bounds{}, false
}

type reader struct {
	k    *kafka
	mu   sync.Mutex
	from map[im.Partition]int64
}

func (k *kafka) NewReader(from map[im.Partition]int64) router.Reader {
	return &reader{k: k, from: maps.Clone(from)}
}

func (r *reader) Poll(ctx context.Context) ([]im.Batch, error) {
	for {
		r.k.mu.Lock()
		changed, broken := r.k.changed, r.k.broken
		var batches []im.Batch
		if broken == nil {
			r.mu.Lock()
			for p, from := range r.from {
				start, end := r.k.start[p], r.k.start[p]+int64(len(r.k.parts[p]))
				if from < start || from > end {
					delete(r.from, p)
					r.mu.Unlock()
					r.k.mu.Unlock()
					return batches, &rangeError{p, im.Bounds{Start: start, End: end}}
				}
				if from < end {
					to := min(end, from+1000)
					batches = append(batches, im.Batch{Partition: p, Entries: r.k.parts[p][from-start : to-start : to-start], End: end})
					r.from[p] = to
				}
			}
			r.mu.Unlock()
		}
		r.k.mu.Unlock()
		if broken != nil {
			return nil, broken
		}
		if len(batches) > 0 {
			return batches, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *reader) Seek(p im.Partition, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from[p] = offset
}

func (r *reader) Close() {}

// outbox records what a gateway is sent.
type outbox struct {
	mu     sync.Mutex
	pushes []im.Push
	kicks  []im.Kick
	fenced []uint64
	full   bool
}

func (o *outbox) Push(p []im.Push) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return im.Errorf(im.CodeOverloaded, "full")
	}
	o.pushes = append(o.pushes, p...)
	return nil
}

func (o *outbox) Kick(k im.Kick) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kicks = append(o.kicks, k)
	return nil
}

func (o *outbox) Fenced(epoch uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fenced = append(o.fenced, epoch)
	return nil
}

func (o *outbox) got() (pushes []im.Push, kicks []im.Kick, fenced []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]im.Push(nil), o.pushes...), append([]im.Kick(nil), o.kicks...), append([]uint64(nil), o.fenced...)
}

// peers records notifies.
type peers struct {
	mu   sync.Mutex
	sent map[im.Region][]im.Delivery
}

func (p *peers) Notify(_ context.Context, to im.Region, ds []im.Delivery) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == nil {
		p.sent = make(map[im.Region][]im.Delivery)
	}
	p.sent[to] = append(p.sent[to], ds...)
	return nil
}

func (p *peers) to(r im.Region) []im.Delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[r]
}

// alive is discovery's opinion.
type alive struct {
	mu    sync.Mutex
	gws   map[im.Gateway]bool
	known bool
}

func (a *alive) set(gw im.Gateway, is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gws == nil {
		a.gws = make(map[im.Gateway]bool)
	}
	a.gws[gw], a.known = is, true
}

func (a *alive) Alive(gw im.Gateway) (bool, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gws[gw], a.known
}

const partitions = 4

var origins = []im.Origin{"eu", "us"}

// region is one region under test.
type region struct {
	name  im.Region
	kafka *kafka
	peers *peers
	alive *alive
}

// newRegion creates the logs of a region: record 0 of its own names them, copies are empty.
func newRegion(t testing.TB, name im.Region) *region {
	r := &region{name: name, kafka: newKafka(), peers: &peers{}, alive: &alive{}}
	for n := range partitions {
		id := im.LogName{Origin: im.Origin(name), ID: im.NewUUID(time.Now())}
		p := im.Partition{Topic: im.RouteTopic(im.Origin(name)), Number: n}
		if _, err := r.kafka.Append(t.Context(), p, []im.Entry{wire.EncodeLogName(im.KindLog, id, im.StampAt(time.Now()))}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *region) config() router.Config {
	return router.Config{Region: r.name, Origin: im.Origin(r.name), Origins: origins, Partitions: partitions}
}

func (r *region) deps() router.Deps {
	return router.Deps{Log: r.kafka, NewReader: r.kafka.NewReader, OutOfRange: outOfRange, Peers: r.peers, Alive: r.alive}
}

// run runs a router; stop ends it and waits.
func run(t testing.TB, cfg router.Config, deps router.Deps) (r *router.Router, stop func()) {
	t.Helper()
	r, err := router.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return r, stop
}

// ship appends to a copy what it lacks of another region's log, as the replicator does.
func ship(t testing.TB, from, to *region) {
	t.Helper()
	for n := range partitions {
		p := im.Partition{Topic: im.RouteTopic(im.Origin(from.name)), Number: n}
		all := from.kafka.entries(p)
		have := len(to.kafka.entries(p))
		var copies []im.Entry
		for _, e := range all[min(have, len(all)):] {
			copies = append(copies, wire.AsCopy(e, e.Offset, 1))
		}
		if len(copies) > 0 {
			if _, err := to.kafka.Append(t.Context(), p, copies); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// pass lets time go by on the fake clock of synctest, on which every test runs that waits for a time: it takes none.
func pass(d time.Duration) { time.Sleep(d) }

// wait polls for a state.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

func attach(t testing.TB, r *router.Router, gw im.Gateway) (*router.Attachment, *outbox) {
	t.Helper()
	out := &outbox{}
	a, err := r.Attach(gw, out)
	if err != nil {
		t.Fatal(err)
	}
	return a, out
}

func claim(t testing.TB, a *router.Attachment, claims ...im.Claim) {
	t.Helper()
	for i, err := range a.Claim(t.Context(), claims) {
		if err != nil {
			t.Fatalf("claim %d: %v", i, err)
		}
	}
}

func ready(t testing.TB, r *router.Router) {
	t.Helper()
	wait(t, "the router is ready", func() bool { return r.Ready() == nil })
}

// owner is an ownership that a test sets.
type owner struct {
	mu      sync.Mutex
	owned   []int
	changed chan struct{}
	asked   int // since it changed
}

func newOwner(owned ...int) *owner { return &owner{owned: owned, changed: make(chan struct{})} }

func (o *owner) set(owned ...int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owned, o.asked = owned, 0
	close(o.changed)
	o.changed = make(chan struct{})
}

// heard tells whether all of a router that asks for it knows what is owned now: what declares gateways down, and what
// writes Redis.
func (o *owner) heard() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked == 2
}

func (o *owner) Owned() ([]int, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	return o.owned, o.changed
}
