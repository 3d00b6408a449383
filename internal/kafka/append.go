package kafka

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"

	"github.com/antipode-im/antipode/im"
)

// Append appends entries to a partition, all or none of them at consecutive offsets, and returns the first when all
// in-sync replicas have them. Calls that begin after another returned are after it in the log. The entries' partitions
// and offsets are ignored. The entries may be changed once Append has returned.
//
// Errors: CodeOverloaded when QueueBytes are waiting already (nothing was appended), CodeUnavailable when the broker
// did not acknowledge within AppendTimeout or the context (it may have landed; a repeat is safe where ids make it so),
// others when a repeat would fail as well.
func (c *Cluster) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	if len(entries) == 0 {
		return 0, fmt.Errorf("kafka: append to %v: no entries", p)
	}
	size := 0
	for i := range entries {
		size += boundEntry(&entries[i])
	}
	if batchHead+size > c.cfg.BatchBytes {
		return 0, im.Errorf(im.CodeBadRequest, "kafka: append to %v: %d entries may take %d bytes, more than the %d of one batch: append fewer at a time",
			p, len(entries), batchHead+size, c.cfg.BatchBytes)
	}
	if err := ctx.Err(); err != nil {
		return 0, &unavailable{im.Errorf(im.CodeUnavailable, "kafka: append to %v: %v", p, err), err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AppendTimeout)
	defer cancel()
	type end struct {
		first int64
		err   error
	}
	done := make(chan end, 1)
	w := &call{partition: p, entries: entries, size: size, count: len(entries), then: func(first int64, err error) { done <- end{first, err} }}
	w.deadline, _ = ctx.Deadline()
	c.app.enqueue([]*call{w})
	select {
	case e := <-done:
		return e.first, e.err
	case <-ctx.Done():
	}
	c.app.leave(w, ctx.Err())
	e := <-done
	return e.first, e.err
}

// call is one append that is to be done. It ends once: then is called, and nil from then on.
type call struct {
	partition im.Partition
	entries   []im.Entry // nil once encoded
	packed    *im.Packed // instead of entries: a batch of its own
	count     int        // records
	size      int        // bound of the encoded size
	deadline  time.Time
	stay      func() bool // ends the watch over its context; nil: there is none

	// Under appender.mu.
	queue *queue // nil before it is in one
	batch *batch // nil while it is in the queue
	then  func(first int64, err error)
	first int64 // what it is called with
	err   error
}

// batch is what one request appends to one partition.
type batch struct {
	queue    *queue
	calls    []*call
	count    int    // records
	size     int    // bound of the encoded size
	encoded  []byte // once sent; a repeat sends the same records
	more     []byte // the rest of encoded, where the records came packed
	deadline time.Time
	retryAt  time.Time
	attempts int
	last     error // why the last attempt failed
}

// queue is one partition's appends, in order.
type queue struct {
	partition im.Partition
	head      *batch // sent, or to be sent again: nothing overtakes it
	flying    bool   // head is in a request
	waiting   []*call
	since     time.Time // when the first of waiting came
	listed    bool      // is in appender.active
	producer  producer
}

// flight is what is under way to one leader.
type flight struct{ requests int }

// Bounds of the dispatcher.
const (
	maxFlights      = 4       // requests under way to one leader
	maxRequestBytes = 8 << 20 // of one request, beyond its first batch
)

// appender sends queues' batches: one goroutine decides what goes together, and one per request waits for its answer.
type appender struct {
	c     *Cluster
	wake  chan struct{}
	table *crc32.Table

	mu      sync.Mutex
	closed  bool
	queues  map[im.Partition]*queue
	active  []*queue // those with something to send or in flight
	bytes   int      // of all calls that are not done
	ended   []ending // that are to be told: see unlock
	flights map[int32]*flight
	stats   AppendStats
}

// ending is a call that ended.
type ending struct {
	call *call
	then func(first int64, err error)
}

// unlock gives mu up, and tells the calls that ended meanwhile: they may begin others.
func (a *appender) unlock() {
	ended := a.ended
	a.ended = nil
	a.mu.Unlock()
	for _, e := range ended {
		if e.call.stay != nil {
			e.call.stay()
		}
		e.then(e.call.first, e.call.err)
	}
}

// end notes what became of a call, unless its caller left. Under mu.
func (a *appender) end(w *call, first int64, err error) {
	if w.then != nil {
		w.first, w.err = first, err
		a.ended = append(a.ended, ending{w, w.then})
		w.then = nil
	}
}

// AppendStats counts what the appender did since Open.
type AppendStats struct {
	Requests int64 // sent, repeats included
	Batches  int64 // acknowledged
	Records  int64 // acknowledged
	Repeats  int64 // batches that were sent again
	GivenUp  int64 // batches that failed
	Queued   int   // bytes that wait for their acknowledgement now
}

// AppendStats returns what was counted.
func (c *Cluster) AppendStats() AppendStats {
	a := &c.app
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Queued = a.bytes
	return s
}

func (a *appender) init(c *Cluster) {
	a.c = c
	a.wake = make(chan struct{}, 1)
	a.table = crc32.MakeTable(crc32.Castagnoli)
	a.queues = make(map[im.Partition]*queue)
	a.flights = make(map[int32]*flight)
}

// enqueue takes calls, or ends those that cannot be taken. The dispatcher sees all of them at once.
func (a *appender) enqueue(calls []*call) {
	a.mu.Lock()
	defer a.unlock()
	now := time.Now()
	for _, w := range calls {
		if w.then == nil { // its context ended
			continue
		}
		p := w.partition
		if a.closed {
			a.end(w, 0, &unavailable{im.Errorf(im.CodeUnavailable, "kafka: append to %v: closed", p), ErrClosed})
			continue
		}
		if a.bytes+w.size > a.c.cfg.QueueBytes {
			e := im.Errorf(im.CodeOverloaded, "kafka: append to %v: %d bytes wait already, of %d at most", p, a.bytes, a.c.cfg.QueueBytes)
			e.RetryAfter = 200 * time.Millisecond
			a.end(w, 0, e)
			continue
		}
		q := a.queues[p]
		if q == nil {
			q = &queue{partition: p, producer: producer{id: -1}}
			a.queues[p] = q
		}
		a.bytes += w.size
		w.queue = q
		if len(q.waiting) == 0 {
			q.since = now
		}
		q.waiting = append(q.waiting, w)
		if !q.listed {
			q.listed = true
			a.active = append(a.active, q)
		}
	}
	a.poke()
}

// poke has the dispatcher look again.
func (a *appender) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// leave ends a call whose caller does not wait any longer. It is taken out of its queue, if it was not sent.
func (a *appender) leave(w *call, why error) {
	a.mu.Lock()
	defer a.unlock()
	p := w.partition
	switch {
	case w.then == nil: // it has ended
		return
	case w.batch != nil && w.batch.encoded != nil:
		a.end(w, 0, &unavailable{im.Errorf(im.CodeUnavailable, "kafka: append to %v: %v while waiting for the broker%s: it may have landed", p, why, w.batch.why()), why})
		return
	case w.batch != nil: // the first to go, once there is a leader: nobody looks at the entries from here on
		b := w.batch
		i := slices.Index(b.calls, w)
		b.calls = slices.Delete(b.calls, i, i+1)
		b.size -= w.size
		b.count -= w.count
		a.bytes -= w.size
		a.poke()
	case w.queue != nil:
		i := slices.Index(w.queue.waiting, w)
		w.queue.waiting = slices.Delete(w.queue.waiting, i, i+1)
		a.bytes -= w.size
	}
	a.end(w, 0, &unavailable{im.Errorf(im.CodeUnavailable, "kafka: append to %v: %v before it was sent: nothing was appended", p, why), why})
}

// why tells how the last attempt to send a batch failed, if one did.
func (b *batch) why() string {
	if b.last == nil {
		return ""
	}
	return fmt.Sprintf(" (attempt %d: %v: %s)", b.attempts, b.last, remedy(b.last))
}

// run decides what to send until the cluster is closed.
func (a *appender) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := a.dispatch(time.Now())
		if next.IsZero() {
			next = time.Now().Add(time.Hour)
		}
		timer.Reset(time.Until(next))
		select {
		case <-a.wake:
		case <-timer.C:
		case <-a.c.ctx.Done():
			a.close()
			return
		}
	}
}

// dispatch sends what may be sent and returns when to look again at the latest.
//
// A leader with nothing under way is sent to at once, or after Gather; while a request is under way, appends gather for
// Linger. Batches grow with the load by themselves, and a lone append waits for nothing else.
func (a *appender) dispatch(now time.Time) (next time.Time) {
	lay := a.c.lay.layout()
	var (
		failed   []*batch
		sends    map[int32][]*queue
		oldest   map[int32]time.Time
		earliest = func(t time.Time) {
			if next.IsZero() || t.Before(next) {
				next = t
			}
		}
	)
	a.mu.Lock()
	kept := a.active[:0]
	for _, q := range a.active {
		if q.head == nil && len(q.waiting) > 0 {
			a.form(q)
		}
		if q.head == nil {
			q.listed = false
			continue
		}
		kept = append(kept, q)
		if q.flying {
			continue
		}
		if !now.Before(q.head.deadline) || q.head.abandoned() {
			failed = append(failed, q.head)
			continue
		}
		if now.Before(q.head.retryAt) {
			earliest(q.head.retryAt)
			earliest(q.head.deadline)
			continue
		}
		leader, err := lay.leader(q.partition)
		if err != nil {
			a.postpone(q.head, now, err)
			earliest(q.head.retryAt)
			continue
		}
		if sends == nil {
			sends, oldest = make(map[int32][]*queue), make(map[int32]time.Time)
		}
		sends[leader] = append(sends[leader], q)
		if t := oldest[leader]; t.IsZero() || q.since.Before(t) {
			oldest[leader] = q.since
		}
	}
	clear(a.active[len(kept):])
	a.active = kept
	for _, b := range failed {
		a.giveUp(b)
	}
	for leader, queues := range sends {
		f := a.flights[leader]
		if f == nil {
			f = &flight{}
			a.flights[leader] = f
		}
		wait := a.c.cfg.Gather
		if f.requests > 0 {
			wait = max(wait, a.c.cfg.Linger)
		}
		if due := oldest[leader].Add(wait); f.requests >= maxFlights || now.Before(due) {
			if f.requests < maxFlights {
				earliest(due)
			}
			continue // the end of a request wakes the dispatcher too
		}
		a.launch(leader, f, queues, lay.broker(leader))
	}
	a.unlock()
	if len(failed) > 0 { // what was behind them may go now
		return now
	}
	return next
}

// form makes the head of a queue from what waits.
func (a *appender) form(q *queue) {
	b := &batch{queue: q, size: batchHead}
	for _, w := range q.waiting {
		if len(b.calls) > 0 && (b.size+w.size > a.c.cfg.BatchBytes || w.packed != nil || b.calls[0].packed != nil) {
			break
		}
		b.calls = append(b.calls, w)
		b.size += w.size
		b.count += w.count
		if w.deadline.After(b.deadline) {
			b.deadline = w.deadline
		}
		w.batch = b
	}
	n := len(b.calls)
	clear(q.waiting[:n])
	q.waiting = q.waiting[n:]
	q.head = b
}

// abandoned tells whether all its callers left.
func (b *batch) abandoned() bool {
	for _, w := range b.calls {
		if w.then != nil {
			return false
		}
	}
	return true
}

// postpone has a batch sent again later. Under mu.
func (a *appender) postpone(b *batch, now time.Time, why error) {
	b.last = why
	b.retryAt = now.Add(backoff(b.attempts))
	b.attempts++
	a.c.lay.refresh()
}

// giveUp fails a batch's calls. Under mu.
func (a *appender) giveUp(b *batch) {
	a.stats.GivenUp++
	why := b.last
	if why == nil {
		why = context.DeadlineExceeded
	}
	a.finish(b, 0, &unavailable{im.Errorf(im.CodeUnavailable, "kafka: append to %v: not acknowledged after %d attempts: %v: %s (it may have landed)",
		b.queue.partition, b.attempts, why, remedy(why)), why})
	if b.encoded != nil {
		b.queue.producer.abandon()
	}
}

// finish ends a batch's calls, with the error or with the offsets from first on. Under mu.
func (a *appender) finish(b *batch, first int64, err error) {
	b.queue.head, b.queue.flying = nil, false
	for _, w := range b.calls {
		a.bytes -= w.size
		w.entries, w.packed = nil, nil
		a.end(w, first, err)
		first += int64(w.count)
	}
	if len(b.queue.waiting) > 0 {
		b.queue.since = time.Now()
	}
}

// launch sends the heads of queues in one request. Under mu.
func (a *appender) launch(leader int32, f *flight, queues []*queue, broker string) {
	batches := make([]*batch, 0, len(queues))
	total := 0
	for _, q := range queues {
		if len(batches) > 0 && total+q.head.size > maxRequestBytes {
			break // sent by the next look
		}
		total += q.head.size
		q.flying = true
		if q.head.encoded == nil {
			q.head.encode()
		} else {
			a.stats.Repeats++
		}
		batches = append(batches, q.head)
	}
	f.requests++
	a.stats.Requests++
	started := a.c.spawn(func() {
		res, err := a.send(batches, leader, broker)
		a.settle(f, batches, broker, res, err)
		a.poke()
	})
	if !started { // closed: the dispatcher is about to fail them all
		for _, b := range batches {
			b.queue.flying = false
		}
	}
}

// encode fixes the batch's bytes. After it the callers' entries are not looked at again.
func (b *batch) encode() {
	if p := b.calls[0].packed; p != nil {
		b.encoded, b.more = headPacked(p, time.Now().UnixMilli()), p.Bytes
		return
	}
	b.encoded = encodeBatch(b.calls, b.count, b.size, time.Now().UnixMilli())
}

// producerIDRequest is initproducerid.Request without its routing: kafka-go would look up the coordinator of the empty
// transaction first, which makes brokers create the topic of transactions. Any broker gives producer ids.
type producerIDRequest initproducerid.Request

func (*producerIDRequest) ApiKey() protocol.ApiKey { return protocol.InitProducerId }

func (a *appender) newProducer() (producer, error) {
	res, err := a.c.roundTrip(a.c.ctx, 0, &producerIDRequest{TransactionTimeoutMs: 60_000, ProducerID: -1, ProducerEpoch: -1})
	if err != nil {
		return producer{}, err
	}
	r := res.(*initproducerid.Response)
	if err := codeError(r.ErrorCode, ""); err != nil {
		return producer{}, err
	}
	return producer{id: r.ProducerID, epoch: r.ProducerEpoch}, nil
}

// send sends one request. Its queues' heads and producers are its own until settle, because they are flying.
func (a *appender) send(batches []*batch, leader int32, broker string) (*appendResponse, error) {
	now := time.Now()
	latest := now
	for _, b := range batches {
		q := b.queue
		if q.producer.id < 0 {
			p, err := a.newProducer()
			if err != nil {
				return nil, fmt.Errorf("%s: get a producer id: %w", broker, err)
			}
			q.producer = p
		}
		sealBatch(b.encoded, b.more, q.producer, a.table)
		if b.deadline.After(latest) {
			latest = b.deadline
		}
	}
	// The broker is told as long as we wait, less what its answer needs to come back.
	timeout := min(latest.Sub(now), a.c.cfg.RequestTimeout)
	req := &appendRequest{
		clientID: a.c.cfg.ClientID, batches: batches, buffers: &a.c.buffers,
		millis: int32(max(1, (timeout - timeout/10).Milliseconds())),
	}
	ps := func(yield func(im.Partition) bool) {
		for _, b := range batches {
			if !yield(b.queue.partition) {
				return
			}
		}
	}
	res, err := a.c.askLeader(a.c.ctx, 0, timeout, leader, ps, req.prepare())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", broker, err)
	}
	return res.(*appendResponse), nil
}

// settle finishes, repeats or fails each batch of a request by its answer.
func (a *appender) settle(f *flight, batches []*batch, broker string, res *appendResponse, failure error) {
	now := time.Now()
	a.mu.Lock()
	defer a.unlock()
	f.requests--
	for i, b := range batches {
		q := b.queue
		q.flying = false
		var end appendEnd
		err := failure
		if err == nil {
			if end = res.ends[i]; !end.told {
				end.err = errors.New("the broker's answer leaves the partition out")
			}
			err = end.err
		}
		switch {
		case err == nil:
			q.producer.advance(b.count)
			a.stats.Batches++
			a.stats.Records += int64(b.count)
			a.finish(b, end.first, nil)
		case errors.Is(err, ErrClosed):
			b.last = err
			a.giveUp(b)
		case final(err):
			a.stats.GivenUp++
			a.finish(b, 0, fmt.Errorf("kafka: append to %v: %w: %s", q.partition, err, remedy(err)))
			q.producer.abandon()
		default:
			// The broker forgot what it knew of this producer, or knows better. Nothing but this batch is in flight, so that
			// a producer that starts over cannot overtake, nor leave out, what went before.
			switch {
			case errors.Is(err, kafkago.OutOfOrderSequenceNumber):
				a.c.log.Warn("kafka: the broker does not know the batch before: it may have lost acknowledged records", "partition", q.partition.String(), "broker", broker, "error", err)
				q.producer.abandon()
			case errors.Is(err, kafkago.UnknownProducerId), errors.Is(err, kafkago.InvalidProducerEpoch), errors.Is(err, kafkago.InvalidProducerIDMapping):
				a.c.log.Warn("kafka: the broker does not know the producer: another goes on", "partition", q.partition.String(), "broker", broker, "error", err)
				q.producer.forget()
			}
			a.postpone(b, now, err)
		}
		if a.closed {
			a.fail(q)
		}
	}
}

// close fails everything that waits, and has what is in flight failed or finished by its request.
func (a *appender) close() {
	a.mu.Lock()
	defer a.unlock()
	a.closed = true
	for _, q := range a.active {
		if !q.flying {
			a.fail(q)
		}
	}
}

// fail fails all of a queue. Under mu.
func (a *appender) fail(q *queue) {
	for q.head != nil || len(q.waiting) > 0 {
		if q.head == nil {
			a.form(q)
		}
		q.head.last = ErrClosed
		a.giveUp(q.head)
	}
}
