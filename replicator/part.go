package replicator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// appendBytes bounds one append to a copy, unless one record is larger. Kafka's default limit of a batch is 1 MiB.
const appendBytes = 640 << 10

// part is one partition of a copy: what was read back from it, and what is to be appended.
//
// The copy is the truth about itself. Whatever an append answered, only what the follower took when it was read back
// counts; when everything that was appended has been read and the follower still stands before next, something was lost
// or overruled, and the part starts over from the follower.
type part struct {
	c *receiving
	i int // place in the link's list
	p im.Partition

	topic int // place of its topic among those of the link

	mu sync.Mutex

	// The copy as read back. Readers of these hold mu; only the read-back writes them.
	located  bool
	follower im.Follower   // Next never exceeds what the copy holds without a gap
	local    int64         // the copy was read up to here, by its own offsets, exclusive
	last     lastRecord    // the last record taken
	name     im.LogName    // of the log that the copy is of, zero until a record told
	theirs   im.UUID       // of the origin's log, as its region told when the link opened last; zero if it never did
	marked   int64         // local offset of the last marker that raised the generation; -1 if none was read
	held     im.Stamp      // of the last marker
	delay    time.Duration // that the last heartbeat took from its origin until it was read back
	heard    time.Time     // when that was; zero before the first

	// Appending. Reset asks the appender to start over from the copy.
	next      int64 // the next origin offset to append; everything below was acknowledged by the own Kafka
	landed    int64 // local end of what was acknowledged
	reset     bool
	running   bool // a link appends
	busy      bool // its appender looks, or is at work: what comes meanwhile it finds
	flying    bool // an append that was started is under way; its end starts the next, or wakes the appender
	fresh     bool // a started append succeeded since one failed
	failed    *failure
	refused   string   // why the partition is not shipped
	between   *Refusal // of the region in between, which has no more of it to pass on; nil: there is none
	repaired  bool     // a repair works on it: no link appends meanwhile
	appending bool     // an append of the link is under way
	end       int64    // of the origin's log, as last told
	sentHeld  int64    // as last told to the sender

	// What came over the link and waits to be appended.
	expect  int64     // the next origin offset to receive; -1 while what comes is to be dropped
	seeking time.Time // when the link was asked to go on from expect, until it does; zero otherwise
	queue   []received
	ready   chan struct{} // capacity 1: look at queue and reset
}

// failure is a started append that failed, for the appender to see to.
type failure struct {
	work
	err   error
	fresh bool // another succeeded since the failure before
}

// lastRecord is what a link needs to know of the last record of a copy.
type lastRecord struct {
	offset   int64 // the origin's; meaningless if not known
	local    int64 // in the copy
	checksum uint64
	summed   bool // checksum is known
	stamp    im.Stamp
	known    bool
}

func lastOf(e *im.Entry, h *wire.ShipHead) lastRecord {
	return lastRecord{offset: h.OriginOffset, local: e.Offset, checksum: wire.Checksum(e), summed: true, stamp: h.Stamp, known: true}
}

// linkGeneration is what links append under, always: a copy whose generation was raised is held, and what a link adds to
// it, however late it wakes up, is ignored.
const linkGeneration = 0

// received is a batch of the link: entries, or packed.
type received struct {
	first   int64
	count   int
	entries []im.Entry
	packed  *im.Packed
	bytes   int // of the window
}

// unpack decodes what is packed: it cannot be appended as it is.
func (b *received) unpack(by Packing) error {
	if b.packed == nil {
		return nil
	}
	entries, err := by.Unpack(b.packed)
	if err != nil {
		return err
	}
	b.entries, b.packed = entries, nil
	return nil
}

// from leaves out what comes before an offset; what is packed is unpacked for it.
func (b *received) from(offset int64, by Packing) error {
	skip := offset - b.first
	if skip <= 0 {
		return nil
	}
	if err := b.unpack(by); err != nil {
		return err
	}
	skip = min(skip, int64(len(b.entries)))
	b.entries = b.entries[skip:]
	b.first, b.count = b.first+skip, len(b.entries)
	return nil
}

// headsOf returns what the read-back looks at of entries.
func headsOf(entries []im.Entry) []im.CopyHead {
	all := make([]im.CopyHead, len(entries))
	for i := range entries {
		e := &entries[i]
		h := wire.DecodeShipHead(e)
		all[i] = im.CopyHead{Local: e.Offset, Origin: h.OriginOffset, Generation: h.Generation, Kind: h.Kind, Stamp: h.Stamp}
		if n, ok := nameOf(e, &h); ok {
			all[i].Name = &n
		}
		if i == len(entries)-1 {
			all[i].Checksum, all[i].Summed = wire.Checksum(e), true
		}
	}
	return all
}

// read takes the records of the copy that a view would take.
func (p *part) read(heads []im.CopyHead, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var taken, gap *im.CopyHead
	skips := 0
	for i := range heads {
		h := &heads[i]
		if h.Local < p.local { // read before the read-back was moved
			continue
		}
		p.local = h.Local + 1
		switch see(&p.follower, p.p, h.Origin, h.Generation, h.Kind == im.KindHold && h.Origin < 0) {
		case im.Raise, im.Seal:
			p.marked, p.held = h.Local, max(p.held, h.Stamp)
		case im.Take:
			taken = h
			if p.name.IsZero() && h.Name != nil {
				p.name = *h.Name
			}
			if h.Kind == im.KindHeartbeat {
				p.canary(h.Stamp, now)
			}
		case im.Skip:
			skips++
		case im.Gap:
			if gap == nil {
				gap = h
			}
		}
	}
	if taken != nil {
		p.last = lastRecord{offset: taken.Origin, local: taken.Local, checksum: taken.Checksum, summed: taken.Summed, stamp: taken.Stamp, known: true}
	}
	if skips > 0 {
		p.c.r.metrics.skips(p.c.peer.Region, skips)
	}
	if gap != nil {
		p.c.r.metrics.gap(p.c.peer.Region)
		p.c.r.log.Error("a copy has a gap; what is missing is asked for again", "partition", p.p.String(), "local", gap.Local,
			"next", p.follower.Next, "came", gap.Origin)
	}
	if p.follower.Generation > 0 {
		p.c.raise()
	}
	p.check()
}

// place moves the read-back.
func (p *part) place(to placement) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.located = true
	p.local, p.follower, p.last, p.marked, p.held = to.local, to.follower, to.last, -1, to.held
	if p.follower.Generation > 0 {
		p.c.raise()
	}
	if !to.name.IsZero() {
		p.name = to.name
	}
	if p.running {
		p.reset = true
		wake(p.ready)
	}
}

// check asks the appender to start over if something that was acknowledged is not in the copy. The caller holds mu.
func (p *part) check() {
	if p.running && !p.reset && p.follower.Generation == 0 && p.local >= p.landed && p.follower.Next < p.next {
		p.c.r.log.Error("records that were appended to a copy are not in it", "partition", p.p.String(),
			"next", p.follower.Next, "appended", p.next)
		p.reset = true
		wake(p.ready)
	}
}

// offer takes a batch that came over the link, and returns how many bytes of the window are free again at once. Ok tells that work is to
// be started.
func (p *part) offer(b received) (w work, ok bool, credit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if credit = p.queued(b); credit > 0 || p.busy || p.flying {
		return work{}, false, credit
	}
	if w, ok = p.take(); !ok {
		wake(p.ready)
	}
	return w, ok, 0
}

// queued queues a batch, or returns its bytes. The caller holds mu.
func (p *part) queued(b received) (credit int) {
	if p.expect < 0 || !p.running || b.count == 0 {
		return b.bytes
	}
	first := b.first
	end := first + int64(b.count)
	switch {
	case first > p.expect && !p.seeking.IsZero(): // sent before the link was asked to go on elsewhere
		return b.bytes
	case first > p.expect: // the link skipped something: ask again
		p.c.r.metrics.gap(p.c.peer.Region)
		p.c.r.log.Error("the link skipped records", "partition", p.p.String(), "next", p.expect, "came", first)
		p.expect = -1
		p.reset = true
		wake(p.ready)
		return b.bytes
	case end <= p.expect: // all of it came before
		p.c.r.metrics.skips(p.c.peer.Region, b.count)
		return b.bytes
	}
	if err := b.from(p.expect, p.c.r.deps.Packing); err != nil {
		p.c.r.log.Error("a batch of the link cannot be read", "partition", p.p.String(), "error", err.Error())
		p.expect = -1
		p.reset = true
		wake(p.ready)
		return b.bytes
	}
	p.seeking = time.Time{}
	p.expect = end
	p.queue = append(p.queue, b)
	return 0
}

// take takes the next batch if it can be appended as it came, and notes that it is under way. The caller holds mu, and starts it;
// nothing else is under way.
func (p *part) take() (w work, ok bool) {
	if p.reset || !p.running || p.failed != nil || len(p.queue) == 0 {
		return work{}, false
	}
	p.skip()
	b := &p.queue[0]
	if b.packed == nil || b.first != p.next || p.isNamed(b.packed.Name, b.first) != nil {
		return work{}, false
	}
	w = work{packed: b.packed, first: b.first, bytes: b.bytes}
	*b = received{}
	p.queue = p.queue[1:]
	p.flying, p.appending = true, true
	return w, true
}

// skip leaves out what another writer appended meanwhile. The caller holds mu.
func (p *part) skip() { p.next = max(p.next, p.follower.Next) }

// flight makes work that was taken an append that is to be started.
func (p *part) flight(ctx context.Context, s *session, w work) im.PackedAppend {
	var spans []trace.Span
	for _, t := range w.packed.Traces {
		spans = append(spans, p.c.r.shipSpan(t.Parent, p.p, t.Offset, p.c.peer.Region, false))
	}
	s.flights.Add(1)
	return im.PackedAppend{Packed: w.packed, Then: func(local int64, err error) {
		defer s.flights.Done()
		endAll(spans, err)
		next, ok := p.flown(&w, local, err)
		s.credit(p, w.bytes)
		if ok {
			s.start(ctx, []im.PackedAppend{p.flight(ctx, s, next)})
		}
	}}
}

// start starts appends.
func (s *session) start(ctx context.Context, all []im.PackedAppend) {
	s.c.r.deps.Packing.StartPacked(ctx, s.c.r.cfg.AppendTimeout, all)
}

// flown takes what became of an append that was started, and returns the next that is to be.
func (p *part) flown(w *work, local int64, err error) (next work, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying, p.appending = false, false
	if err != nil {
		p.failed = &failure{*w, err, p.fresh}
		p.fresh = false
		wake(p.ready)
		return work{}, false
	}
	p.fresh = true
	p.land(w, local)
	if next, ok = p.take(); !ok && (p.reset || len(p.queue) > 0) {
		wake(p.ready)
	}
	return next, ok
}

// land counts what was appended. The caller holds mu.
func (p *part) land(w *work, local int64) {
	n := w.count()
	p.next = w.first + int64(n)
	p.landed = local + int64(n)
	p.check() // the read-back may have been faster than the answer
	p.c.r.metrics.appended(p.c.peer.Region, n)
	p.c.appended.Add(uint64(n))
}

// ended takes where the origin's log ends. A seek that the sender seems to have forgotten is repeated.
func (p *part) ended(end int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = max(p.end, end)
	if p.running && !p.seeking.IsZero() && p.end > p.expect && now.Sub(p.seeking) > p.c.r.cfg.LinkTimeout {
		p.reset = true
		wake(p.ready)
	}
}

func (p *part) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	p.queue = nil
	p.expect = -1
}

// startOver sets everything to what the copy says. The caller holds mu.
func (p *part) startOver() {
	p.next, p.expect = p.follower.Next, p.follower.Next
	p.landed = p.local
	p.queue = nil
	p.seeking = time.Time{}
	p.reset, p.failed = false, nil
}

// drop empties the queue and refuses what comes until startOver; it returns the bytes of the window that are free again.
func (p *part) drop() (credit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.queue {
		credit += b.bytes
	}
	p.queue = nil
	p.expect = -1
	return credit
}

// work is what the appender has to do next.
type work struct {
	entries []im.Entry
	packed  *im.Packed // instead of entries
	first   int64
	bytes   int // of the window, to give back when it is done
}

func (w *work) count() int {
	if w.packed != nil {
		return w.packed.Count
	}
	return len(w.entries)
}

// pick takes what the appender has to do next: a failure to see to, a batch to be started as it came, or entries to be appended, up to
// appendBytes; nothing while a started append is under way. Reset says to start over instead.
func (p *part) pick() (w work, failed *failure, reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = true
	if p.flying {
		p.busy = false
		return work{}, nil, false
	}
	if f := p.failed; f != nil {
		p.failed = nil
		return work{}, f, false
	}
	if p.reset {
		return work{}, nil, true
	}
	if w, ok := p.take(); ok {
		p.busy = false
		return w, nil, false
	}
	p.skip()
	size := 0
	for len(p.queue) > 0 {
		b := p.queue[0]
		if b.packed != nil && len(w.entries) > 0 {
			break // it may go as it is the next time
		}
		err := b.from(p.next+int64(len(w.entries)), p.c.r.deps.Packing)
		if err == nil {
			err = b.unpack(p.c.r.deps.Packing)
		}
		if err != nil {
			p.c.r.log.Error("a batch of the link cannot be read", "partition", p.p.String(), "error", err.Error())
			return work{bytes: w.bytes}, nil, true
		}
		n := 0
		for n < len(b.entries) {
			s := wire.LinkEntrySize(&b.entries[n])
			if len(w.entries)+n > 0 && size+s > appendBytes {
				break
			}
			size += s
			n++
		}
		w.entries = append(w.entries, b.entries[:n]...)
		if n < len(b.entries) { // the rest waits; the batch's bytes are given back with it
			p.queue[0] = received{first: b.first + int64(n), count: len(b.entries) - n, entries: b.entries[n:], bytes: b.bytes}
			break
		}
		w.bytes += b.bytes
		p.queue[0] = received{}
		p.queue = p.queue[1:]
	}
	w.first = p.next
	p.busy = len(w.entries) > 0
	return w, nil, false
}

// appender appends what comes over the link until ctx ends, one batch at a time. What can be appended as it came is started where it is received,
// or where the append before it ends; the appender does what takes longer.
func (p *part) appender(ctx context.Context, s *session) {
	wait := p.c.r.backoff()
	for {
		w, failed, reset := p.pick()
		var err error
		switch {
		case reset:
			s.credit(p, w.bytes)
			if !p.recover(ctx, s, 0, wait) {
				return
			}
			continue
		case failed != nil:
			w, err = failed.work, failed.err
			if failed.fresh {
				wait.Reset()
			}
		case w.packed != nil:
			s.start(ctx, []im.PackedAppend{p.flight(ctx, s, w)})
			continue
		case len(w.entries) == 0:
			s.credit(p, w.bytes)
			select {
			case <-p.ready:
				continue
			case <-ctx.Done():
				return
			}
		default:
			if err := p.named(&w); err != nil {
				s.credit(p, w.bytes)
				s.refuse(p, err.Error())
				return
			}
			err = p.append(ctx, &w)
			s.credit(p, w.bytes)
		}
		if ctx.Err() != nil || errors.Is(err, errSuspended) {
			return
		}
		if err != nil {
			p.c.r.metrics.appendFailed(p.c.peer.Region)
			p.c.r.log.Warn("append to a copy failed or its outcome is unknown; reading the copy to its end",
				"partition", p.p.String(), "offset", w.first, "records", w.count(), "error", err.Error())
			if !p.recover(ctx, s, wait.NextBackOff(), wait) { // not again at once
				return
			}
			continue
		}
		wait.Reset()
	}
}

// append appends entries to the copy.
func (p *part) append(ctx context.Context, w *work) error {
	r := p.c.r
	if !p.setAppending(true) {
		return errSuspended
	}
	defer p.setAppending(false)
	var spans []trace.Span
	ctx, cancel := context.WithTimeout(ctx, r.cfg.AppendTimeout)
	defer cancel()
	copies := make([]im.Entry, len(w.entries))
	for i := range w.entries {
		copies[i] = wire.AsCopy(w.entries[i], w.first+int64(i), linkGeneration)
		spans = r.startShip(spans, &w.entries[i], p.c.peer.Region, false)
	}
	local, err := r.deps.Log.Append(ctx, p.p, copies)
	endAll(spans, err)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.land(w, local)
	return nil
}

// errSuspended says that the link may not append at present.
var errSuspended = errors.New("the partition is being repaired")

// setAppending notes whether an append of the link is under way. False says that none may begin.
func (p *part) setAppending(yes bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if yes && p.repaired && !p.running {
		return false
	}
	p.appending = yes
	return true
}

// recover stops the partition on the link, reads the copy to its end and asks the link again from there. Others go on.
// It returns false when ctx ended first.
func (p *part) recover(ctx context.Context, s *session, first time.Duration, wait *backoff.ExponentialBackOff) bool {
	s.seek(p, wire.LinkPause)
	s.credit(p, p.drop())
	if !pause(ctx, first) {
		return false
	}
	for {
		err := p.c.settle(ctx, []*part{p})
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			break
		}
		p.c.r.log.Warn("the copy cannot be read", "partition", p.p.String(), "error", err.Error())
		if !pause(ctx, wait.NextBackOff()) {
			return false
		}
	}
	p.mu.Lock()
	if !p.running { // a repair took the partition from the link meanwhile
		p.mu.Unlock()
		return false
	}
	p.startOver()
	p.seeking = p.c.r.now()
	next := p.next
	p.mu.Unlock()
	s.seek(p, next)
	return true
}

// named checks that records which name their log name the one that the copy is of.
func (p *part) named(w *work) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range w.entries {
		e := &w.entries[i]
		h := wire.DecodeShipHead(e)
		if n, ok := nameOf(e, &h); ok {
			if err := p.isNamed(n, e.Offset); err != nil {
				return err
			}
		}
	}
	return nil
}

// isNamed checks the name that a record at an offset, or one behind it in its batch, gives its log. The caller holds mu.
func (p *part) isNamed(n im.LogName, offset int64) error {
	switch {
	case n.IsZero():
	case n.Origin != p.c.peer.Origin:
		return fmt.Errorf("%v: record %d names the log %s, wanted one of %s", p.p, offset, n, p.c.peer.Origin)
	case p.name.IsZero():
		p.name = n
	case n != p.name:
		return fmt.Errorf("%v: record %d names the log %s, the copy is of %s: it was recreated under an open link", p.p, offset, n, p.name)
	}
	return nil
}

// canary takes a heartbeat: when it was written, by the origin's clock, and when it was read back. The caller holds mu.
func (p *part) canary(written im.Stamp, now time.Time) {
	ahead := p.c.ahead()
	p.delay = max(0, now.Add(ahead).Sub(written.Time()))
	p.heard = now
	p.c.r.metrics.canary(p.c.peer.Region, lane(p.p), p.delay)
}
