package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/antipode-im/antipode/im"
)

// Reader follows partitions. Poll is for one goroutine; Seek, Drop and Close may be called from any.
//
// All partitions of one leader go into one fetch, which the broker holds until one of them has something. A partition
// that is sought while a fetch is held gets a fetch of its own, timed to end with the one that is held, so that from
// then on they share one again:
//
//	         seek q
//	p  ├────────┼──────────┤├──── p and q ────
//	q           ├──────────┤
//
// The next fetch of a partition begins when Poll is called again, so at most one answer per leader is held in memory. While
// records keep coming, fetches begin at least FetchPace apart: a broker answers as soon as it has one record, and a
// fetch of many partitions for each record costs both ends more than all else.
type Reader struct {
	c      *Cluster
	ctx    context.Context // ends with Close or the cluster's
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1

	form form

	mu      sync.Mutex
	parts   map[im.Partition]*follow
	answers []*held
	flights map[*held]struct{}
	errs    []error
	// The session with each broker; one that is in a flight is that flight's alone.
	sessions map[int32]*session
}

// follow is where the reader is in one partition.
type follow struct {
	next    int64
	epoch   int32     // of the leader that appended what stands before next; -1 is unknown
	flight  *held     // the fetch it is in; nil when it may go into one
	notYet  time.Time // when it may go into the next fetch: later after a failure, and a little after records came
	tries   int
	failing time.Time // since when it fails; zero when it does not
	told    time.Time // when Poll last returned that

	at     *layout // of which are
	leader int32   // who leads the partition,
	leads  int32   // in which epoch; -1 is unknown,
	lost   error   // or why nobody does
}

// held is one fetch.
type held struct {
	leader int32
	began  time.Time
	until  time.Time // when the broker answers at the latest, if it is in time
	wants  []want
	found  []*got // by index in wants; nil: it had nothing
	err    error
	// What the broker knows already. A second fetch beside one that is held does without.
	session *session
	shared  bool // session is in sessions
}

// mergeWindow is how short before the end of a held fetch a new one waits to share the next with it.
const mergeWindow = 10 * time.Millisecond

// NewReader returns a reader that follows partitions from local offsets on.
func (c *Cluster) NewReader(from map[im.Partition]int64) *Reader {
	r := &Reader{
		c: c, wake: make(chan struct{}, 1),
		parts: make(map[im.Partition]*follow, len(from)), flights: make(map[*held]struct{}), sessions: make(map[int32]*session),
	}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	for p, offset := range from {
		r.parts[p] = &follow{next: offset, epoch: -1}
	}
	return r
}

// NewPacker returns a reader whose batches are packed: their records are not decoded, but copied once, with the headers of
// a copy added.
func (c *Cluster) NewPacker(from map[im.Partition]int64) *Reader {
	r := c.NewReader(from)
	r.form = asPacked
	return r
}

// NewHeadReader returns a reader of copies whose batches are heads.
func (c *Cluster) NewHeadReader(from map[im.Partition]int64) *Reader {
	r := c.NewReader(from)
	r.form = asHeads
	return r
}

// Seek adds a partition, or moves it to another local offset. What Poll returns from then on is from there.
func (r *Reader) Seek(p im.Partition, offset int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts[p] = &follow{next: offset, epoch: -1} // an answer to a fetch of the former is not taken
	r.poke()
}

// Drop stops following a partition.
func (r *Reader) Drop(p im.Partition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.parts, p)
}

// Close ends a running Poll, and the reader.
func (r *Reader) Close() {
	r.cancel()
}

func (r *Reader) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Poll returns the next entries of the partitions followed. It blocks until there are some, or ctx or the reader ends.
//
// Errors: a *RangeError for a partition that does not hold the offset wanted: it is dropped, the others go on; Seek adds
// it again. CodeUnavailable when a partition could not be read for AppendTimeout: it is tried again by the next Poll.
// ErrClosed, or the error of ctx. All but ErrClosed leave the reader usable.
func (r *Reader) Poll(ctx context.Context) ([]im.Batch, error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.ctx.Err() != nil {
			return nil, ErrClosed
		}
		batches, next, err := r.step(time.Now())
		if len(batches) > 0 || err != nil {
			return batches, err
		}
		if next.IsZero() {
			next = time.Now().Add(time.Hour)
		}
		timer.Reset(time.Until(next))
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
		case <-r.ctx.Done():
		}
	}
}

// step takes the answers that came and starts the fetches that may start. It returns when to look again at the latest.
func (r *Reader) step(now time.Time) (batches []im.Batch, next time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.answers {
		batches = append(batches, r.take(h, now)...)
	}
	r.answers = nil
	if len(batches) > 0 {
		return batches, now, nil
	}
	if len(r.errs) > 0 {
		err = r.errs[0]
		r.errs = r.errs[1:]
		return nil, now, err
	}
	return nil, r.start(now), nil
}

// take moves the partitions of an answer on, and returns what it brought.
func (r *Reader) take(h *held, now time.Time) (batches []im.Batch) {
	delete(r.flights, h)
	for i := range h.wants {
		w := &h.wants[i]
		f := w.of
		if r.parts[w.partition] != f {
			continue // sought or dropped meanwhile
		}
		f.flight = nil
		g, err := (*got)(nil), h.err
		if err == nil {
			if g = h.found[i]; g != nil {
				err = g.err
			}
		}
		if g != nil && (len(g.batch.Entries) > 0 || len(g.batch.Packed) > 0 || len(g.batch.Heads) > 0) { // even beside an error: what was decoded before it is good
			batches = append(batches, g.batch)
			f.next, f.epoch = g.next, g.epoch
		} else if g != nil && err == nil {
			f.next, f.epoch = g.next, g.epoch
		}
		switch ranged := (*RangeError)(nil); {
		case err == nil:
			f.tries, f.failing, f.told = 0, time.Time{}, time.Time{}
			f.notYet = h.began.Add(r.c.cfg.FetchPace) // long past if the broker held the fetch
		case errors.As(err, &ranged):
			delete(r.parts, w.partition)
			r.errs = append(r.errs, ranged)
		default:
			r.failed(w.partition, f, err, now)
		}
	}
	return batches
}

// failed puts a partition off, and has Poll return why once it has failed for long.
func (r *Reader) failed(p im.Partition, f *follow, err error, now time.Time) {
	f.notYet = now.Add(backoff(f.tries))
	f.tries++
	r.c.lay.refresh()
	if f.failing.IsZero() {
		f.failing, f.told = now, now
	}
	if now.Sub(f.told) >= r.c.cfg.AppendTimeout {
		f.told = now
		r.errs = append(r.errs, &unavailable{im.Errorf(im.CodeUnavailable, "kafka: read %v from %d: fails since %v: %v: %s",
			p, f.next, now.Sub(f.failing).Round(time.Second), err, remedy(err)), err})
	}
}

// start puts every partition that is in no fetch into one.
func (r *Reader) start(now time.Time) (next time.Time) {
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	var groups map[int32][]want
	lay := r.c.lay.layout()
	for p, f := range r.parts {
		if f.flight != nil {
			continue
		}
		if now.Before(f.notYet) {
			earliest(f.notYet)
			continue
		}
		if f.at != lay {
			f.at, f.leads = lay, lay.epochs[p]
			f.leader, f.lost = lay.leader(p)
		}
		leader, err := f.leader, f.lost
		if err == nil && f.leads >= 0 && f.leads < f.epoch { // it led before what was read was written
			err = fmt.Errorf("%s is the leader of a former epoch (%d, read was %d): %w", lay.broker(leader), f.leads, f.epoch, kafkago.UnknownLeaderEpoch)
		}
		if err != nil {
			r.failed(p, f, err, now)
			earliest(f.notYet)
			continue
		}
		if groups == nil {
			groups = make(map[int32][]want)
		}
		if groups[leader] == nil {
			groups[leader] = make([]want, 0, len(r.parts))
		}
		groups[leader] = append(groups[leader], want{p, f.next, f.leads, f.epoch, f})
	}
	for leader, wants := range groups {
		until := now.Add(r.c.cfg.FetchWait)
		merge := false
		for h := range r.flights { // share the end of one that is held already
			if h.leader != leader || h.until.Add(mergeWindow).Before(now) {
				continue
			}
			if h.until.Sub(now) < mergeWindow {
				merge = true
				earliest(h.until.Add(mergeWindow))
				break
			}
			if h.until.Before(until) {
				until = h.until
			}
		}
		if merge {
			continue
		}
		h := &held{leader: leader, began: now, until: until, wants: wants}
		r.join(h)
		r.flights[h] = struct{}{}
		for i := range wants {
			wants[i].of.flight = h
		}
		r.c.spawn(func() { r.fetch(h, until.Sub(now), lay) })
	}
	if len(r.errs) > 0 {
		earliest(now)
	}
	return next
}

// join gives a fetch the session with its broker, if no other has it.
func (r *Reader) join(h *held) {
	for other := range r.flights {
		if other.leader == h.leader && other.shared {
			h.session = newSession(-1)
			return
		}
	}
	h.shared = true
	h.session = r.sessions[h.leader]
	if h.session == nil {
		h.session = newSession(0)
		r.sessions[h.leader] = h.session
	}
}

// fetch gets one answer.
func (r *Reader) fetch(h *held, wait time.Duration, lay *layout) {
	h.found, h.err = r.c.fetch(r.ctx, h.leader, h.session, h.wants, wait, r.c.cfg.PartitionFetchBytes, r.form)
	if h.err != nil {
		h.err = fmt.Errorf("%s: %w", lay.broker(h.leader), h.err)
	}
	for i, g := range h.found {
		if g != nil && errors.Is(g.err, kafkago.OffsetOutOfRange) {
			g.err = r.c.outOfRange(r.ctx, h.wants[i].partition, h.wants[i].from)
		}
	}
	r.mu.Lock()
	r.answers = append(r.answers, h)
	r.mu.Unlock()
	r.poke()
}
