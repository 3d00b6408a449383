package router

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxAppend bounds the claims of one append.
const maxAppend = 1024

// pending is a claim on its way into the log.
type pending struct {
	gateway im.Gateway
	claim   im.Claim
	done    func(error)
}

// waiting is a claim in the log that the view has not applied yet.
type waiting struct {
	offset  int64
	expires time.Time
	gateway im.Gateway
	done    func(error)
}

// appender appends the claims of one partition, in the order they came, one append at a time: what comes while one is
// under way makes the next batch.
type appender struct {
	router *Router
	number int
	wake   chan struct{} // holds at most one

	mu      sync.Mutex
	queue   []pending
	closed  error     // why nothing is taken any more
	applied int64     // the view's next origin offset
	waiting []waiting // by offset
}

func newAppender(r *Router, number int) *appender {
	return &appender{router: r, number: number, wake: make(chan struct{}, 1)}
}

func (a *appender) add(p pending) {
	a.mu.Lock()
	refused := a.closed
	switch {
	case refused != nil:
	case len(a.queue) >= a.router.cfg.ClaimQueue:
		refused = im.Errorf(im.CodeOverloaded, "%d claims wait for partition %d of the route log", len(a.queue), a.number)
	default:
		a.queue = append(a.queue, p)
	}
	a.mu.Unlock()
	if refused != nil {
		a.router.meter.claim(refused, 1)
		p.done(refused)
		return
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *appender) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		for ctx.Err() == nil {
			batch := a.next()
			if len(batch) == 0 {
				break
			}
			a.append(ctx, batch)
		}
	}
}

func (a *appender) next() []pending {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.queue), maxAppend)
	batch := append([]pending(nil), a.queue[:n]...)
	if a.queue = a.queue[n:]; len(a.queue) == 0 {
		a.queue = nil // let the burst's memory go
	}
	return batch
}

func (a *appender) append(ctx context.Context, batch []pending) {
	r := a.router
	now := time.Now()
	entries := make([]im.Entry, len(batch))
	for i := range batch {
		c := &batch[i].claim
		kind := im.KindClaim
		if c.Release {
			kind = im.KindRelease
		}
		entries[i] = wire.EncodeRoute(kind, im.Route{
			UID: c.UID, Device: c.Device, Platform: c.Platform, Gateway: batch[i].gateway, Conn: c.Conn, Login: c.Login,
			Claimed: im.StampAt(now), Offline: c.Offline,
		}, r.cfg.Origin)
	}
	bounded, cancel := context.WithTimeout(ctx, r.cfg.ClaimTimeout)
	first, err := r.deps.Log.Append(bounded, r.ownLog(a.number), entries)
	cancel()
	if err != nil {
		if im.CodeOf(err) == im.CodeInternal { // a bare error, a deadline among them: the append may have landed
			err = im.Errorf(im.CodeUnavailable, "append to the route log: %v", err)
		}
		r.meter.claim(err, len(batch))
		for i := range batch {
			batch[i].done(err)
		}
		return
	}
	expires := now.Add(r.cfg.ClaimTimeout)
	a.mu.Lock()
	for i := range batch {
		a.waiting = append(a.waiting, waiting{first + int64(i), expires, batch[i].gateway, batch[i].done})
	}
	ready := a.pop()
	a.mu.Unlock()
	a.answer(ready)
}

// advance tells that the view has applied everything below next.
func (a *appender) advance(next int64) {
	a.mu.Lock()
	a.applied = max(a.applied, next)
	ready := a.pop()
	a.mu.Unlock()
	a.answer(ready)
}

// pop takes off what the view has applied. The lock is held.
func (a *appender) pop() []waiting {
	n := 0
	for n < len(a.waiting) && a.waiting[n].offset < a.applied {
		n++
	}
	ready := a.waiting[:n:n]
	if a.waiting = a.waiting[n:]; len(a.waiting) == 0 {
		a.waiting = nil
	}
	return ready
}

func (a *appender) answer(ready []waiting) {
	r := a.router
	ok := 0
	for i := range ready {
		if gw := ready[i].gateway; r.table.Fence(a.number, gw.ID) >= gw.Epoch {
			err := errFenced(gw)
			r.meter.claim(err, 1)
			ready[i].done(err)
			continue
		}
		ok++
		ready[i].done(nil)
	}
	r.meter.claim(nil, ok)
}

// expire answers claims that the view has not applied in time. They are in the log, and may yet be.
func (a *appender) expire(now time.Time) {
	a.mu.Lock()
	n := 0
	for n < len(a.waiting) && a.waiting[n].expires.Before(now) {
		n++
	}
	late := a.waiting[:n:n]
	a.waiting = a.waiting[n:]
	a.mu.Unlock()
	err := im.Errorf(im.CodeUnavailable, "the router is behind its own route log")
	a.router.meter.claim(err, len(late))
	for i := range late {
		late[i].done(err)
	}
}

// close answers everything with err, now and from now on.
func (a *appender) close(err error) {
	a.mu.Lock()
	a.closed = err
	queue, left := a.queue, a.waiting
	a.queue, a.waiting = nil, nil
	a.mu.Unlock()
	for i := range queue {
		queue[i].done(err)
	}
	for i := range left {
		left[i].done(err)
	}
}
