package replicator

import (
	"context"
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

	mu sync.Mutex

	// The copy as read back. Readers of these hold mu; only the read-back writes them.
	located  bool
	follower im.Follower // Next never exceeds what the copy holds without a gap
	local    int64       // the copy was read up to here, by its own offsets, exclusive
	last     lastRecord  // the last record taken
	name     im.LogName  // of the log that the copy is of, zero until a record told
	marked   int64       // local offset of the last marker that raised the generation; -1 if none was read
	held     im.Stamp    // of the last marker

	// Appending. Reset asks the appender to start over from the copy.
	next     int64 // the next origin offset to append; everything below was acknowledged by the own Kafka
	landed   int64 // local end of what was acknowledged
	reset    bool
	running  bool   // an appender is at work
	refused  string // why the partition is not shipped
	end      int64  // of the origin's log, as last told
	sentHeld int64  // as last told to the sender

	// What came over the link and waits to be appended.
	expect  int64     // the next origin offset to receive; -1 while what comes is to be dropped
	seeking time.Time // when the link was asked to go on from expect, until it does; zero otherwise
	queue   []received
	ready   chan struct{} // capacity 1: look at queue and reset
}

// lastRecord is what a link needs to know of the last record of a copy.
type lastRecord struct {
	offset   int64 // the origin's; meaningless if not known
	checksum uint64
	stamp    im.Stamp
	known    bool
}

func lastOf(e *im.Entry, h *wire.ShipHead) lastRecord {
	return lastRecord{offset: h.OriginOffset, checksum: wire.Checksum(e), stamp: h.Stamp, known: true}
}

// linkGeneration is what links append under, always: a copy whose generation was raised is held, and what a link adds to
// it, however late it wakes up, is ignored.
const linkGeneration = 0

// received is a batch of the link, decoded.
type received struct {
	entries []im.Entry
	bytes   int // of the window
}

// read takes the entries of the copy that a view would take.
func (p *part) read(entries []im.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var taken, gap *im.Entry
	var takenHead, gapHead wire.ShipHead
	skips := 0
	for i := range entries {
		e := &entries[i]
		if e.Offset < p.local { // read before the read-back was moved
			continue
		}
		p.local = e.Offset + 1
		h := wire.DecodeShipHead(e)
		switch p.follower.See(h.OriginOffset, h.Generation, h.Marker()) {
		case im.Raise, im.Seal:
			p.marked, p.held = e.Offset, max(p.held, h.Stamp)
		case im.Take:
			taken, takenHead = e, h
			if p.name.IsZero() {
				p.name, _ = nameOf(e, &h)
			}
		case im.Skip:
			skips++
		case im.Gap:
			if gap == nil {
				gap, gapHead = e, h
			}
		}
	}
	if taken != nil {
		p.last = lastOf(taken, &takenHead)
	}
	if skips > 0 {
		p.c.r.metrics.skips(p.c.peer.Region, skips)
	}
	if gap != nil {
		p.c.r.metrics.gap(p.c.peer.Region)
		p.c.r.log.Error("a copy has a gap; what is missing is asked for again", "partition", p.p.String(), "local", gap.Offset,
			"next", p.follower.Next, "came", gapHead.OriginOffset)
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

// offer takes a batch that came over the link, and returns how many bytes of the window are free again at once.
func (p *part) offer(b received) (credit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expect < 0 || !p.running || len(b.entries) == 0 {
		return b.bytes
	}
	first := b.entries[0].Offset
	end := first + int64(len(b.entries))
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
		p.c.r.metrics.skips(p.c.peer.Region, len(b.entries))
		return b.bytes
	}
	p.seeking = time.Time{}
	b.entries = b.entries[p.expect-first:]
	p.expect = end
	p.queue = append(p.queue, b)
	wake(p.ready)
	return 0
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
	p.reset = false
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
	first   int64
	bytes   int // of the window, to give back when it is done
}

// pick takes batches from the queue, up to appendBytes, without what another writer appended meanwhile. Reset says to
// start over instead.
func (p *part) pick() (w work, reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reset {
		return work{}, true
	}
	if p.follower.Next > p.next { // another writer to the copy was here
		p.next = p.follower.Next
	}
	size := 0
	for len(p.queue) > 0 {
		b := p.queue[0]
		for len(b.entries) > 0 && b.entries[0].Offset < p.next+int64(len(w.entries)) {
			b.entries = b.entries[1:]
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
			p.queue[0] = received{b.entries[n:], b.bytes}
			break
		}
		w.bytes += b.bytes
		p.queue[0] = received{}
		p.queue = p.queue[1:]
	}
	w.first = p.next
	return w, false
}

// appender appends what comes over the link, one batch at a time, until ctx ends.
func (p *part) appender(ctx context.Context, s *session) {
	wait := p.c.r.backoff()
	for {
		w, reset := p.pick()
		switch {
		case reset:
			if !p.recover(ctx, s, 0, wait) {
				return
			}
			continue
		case len(w.entries) == 0:
			if w.bytes > 0 {
				s.credit(w.bytes)
			}
			select {
			case <-p.ready:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := p.named(w.entries); err != nil {
			s.credit(w.bytes)
			s.refuse(p, err.Error())
			return
		}
		err := p.append(ctx, w)
		s.credit(w.bytes)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.c.r.metrics.appendFailed(p.c.peer.Region)
			p.c.r.log.Warn("append to a copy failed or its outcome is unknown; reading the copy to its end",
				"partition", p.p.String(), "offset", w.first, "records", len(w.entries), "error", err.Error())
			if !p.recover(ctx, s, wait.NextBackOff(), wait) { // not again at once
				return
			}
			continue
		}
		wait.Reset()
	}
}

// append appends entries to the copy.
func (p *part) append(ctx context.Context, w work) error {
	r := p.c.r
	copies := make([]im.Entry, len(w.entries))
	var spans []trace.Span
	for i := range w.entries {
		copies[i] = wire.AsCopy(w.entries[i], w.first+int64(i), linkGeneration)
		spans = r.startShip(spans, &w.entries[i], p.c.peer.Region, false)
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.AppendTimeout)
	defer cancel()
	local, err := r.deps.Log.Append(ctx, p.p, copies)
	endAll(spans, err)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.next = w.first + int64(len(copies))
	p.landed = local + int64(len(copies))
	p.check() // the read-back may have been faster than the answer
	p.mu.Unlock()
	r.metrics.appended(p.c.peer.Region, len(copies))
	p.c.appended.Add(uint64(len(copies)))
	return nil
}

// recover stops the partition on the link, reads the copy to its end and asks the link again from there. Others go on.
// It returns false when ctx ended first.
func (p *part) recover(ctx context.Context, s *session, first time.Duration, wait *backoff.ExponentialBackOff) bool {
	s.seek(p, wire.LinkPause)
	s.credit(p.drop())
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
	p.startOver()
	p.seeking = p.c.r.now()
	next := p.next
	p.mu.Unlock()
	s.seek(p, next)
	return true
}

// named checks that records which name their log name the one that the copy is of.
func (p *part) named(entries []im.Entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range entries {
		h := wire.DecodeShipHead(&entries[i])
		n, ok := nameOf(&entries[i], &h)
		switch {
		case !ok:
			continue
		case n.Origin != p.c.peer.Origin:
			return fmt.Errorf("%v: record %d names the log %s, wanted one of %s", p.p, entries[i].Offset, n, p.c.peer.Origin)
		case p.name.IsZero():
			p.name = n
		case n != p.name:
			return fmt.Errorf("%v: record %d names the log %s, the copy is of %s: it was recreated under an open link", p.p, entries[i].Offset, n, p.name)
		}
	}
	return nil
}
