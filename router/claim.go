package router

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/wire"
)

// maxAppend bounds the claims of one append.
const maxAppend = 1024

// fresh is how old a route may be for a claim anew of it to be answered without a record. The next claim anew comes within
// the hour, so a route is at most an hour and a half old when it is written again, and dies of age after two.
const fresh = routes.MaxAge / 4

// pending is a claim on its way into the log.
type pending struct {
	gateway im.Gateway
	claim   im.Claim
	queued  time.Time
	done    func(error)
}

// device names whose order in the log matters.
type device struct {
	uid    im.UID
	device im.DeviceID
}

func (p *pending) device() device { return device{p.claim.UID, p.claim.Device} }

// same tells whether both are of one socket's login.
func (p *pending) same(q *pending) bool {
	return p.gateway == q.gateway && p.claim.Conn == q.claim.Conn && p.claim.Login == q.claim.Login
}

// waiting is a claim in the log that the view has not applied yet.
type waiting struct {
	offset  int64
	expires time.Time
	gateway im.Gateway
	device  device
	done    func(error)
}

// appender appends the claims of one partition, in the order they came, one append at a time: what comes while one is
// under way makes the next batch. What would change nothing is not appended (spare). What waits is bounded: the queue
// together with what is in the log and not in the view yet.
type appender struct {
	router *Router
	number int
	wake   chan struct{} // holds at most one

	mu      sync.Mutex
	queue   []pending
	taken   int            // off the queue, and neither answered nor waiting yet
	closed  error          // why nothing is taken any more
	applied int64          // the view's next origin offset
	waiting []waiting      // by offset
	flying  map[device]int // records of a device that are being appended, or are in the log and not in the view
	rate    float64        // claims answered in a second, lately
}

func newAppender(r *Router, number int) *appender {
	return &appender{router: r, number: number, wake: make(chan struct{}, 1), flying: make(map[device]int)}
}

func (a *appender) add(p pending) {
	p.queued = time.Now()
	a.mu.Lock()
	refused := a.closed
	switch depth := a.depth(); {
	case refused != nil:
	case depth >= a.router.cfg.ClaimQueue:
		refused = &im.Error{
			Code: im.CodeOverloaded, Detail: "the router has more claims than it can write: claim again later",
			RetryAfter: a.relief(depth),
		}
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

// relief is when half of what waits will have been written, and a random time more, so that those who were refused together
// do not come back together. The lock is held.
func (a *appender) relief(depth int) time.Duration {
	wait := time.Second
	if a.rate > 0 {
		wait = time.Duration(float64(depth) / 2 / a.rate * float64(time.Second))
	}
	wait = min(max(wait, 50*time.Millisecond), a.router.cfg.ClaimTimeout/2)
	return wait + rand.N(wait)
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
			if records := a.spare(batch); len(records) > 0 {
				a.append(ctx, records)
			}
			a.mu.Lock()
			a.taken = 0
			a.mu.Unlock()
		}
	}
}

func (a *appender) next() []pending {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.queue), maxAppend)
	batch := append([]pending(nil), a.queue[:n]...)
	a.taken = n
	if a.queue = a.queue[n:]; len(a.queue) == 0 {
		a.queue = nil // let the burst's memory go
	}
	return batch
}

// record is a claim to be appended, and those that it answers too.
type record struct {
	pending
	first bool     // nothing of its device stands before it in the batch
	since im.Stamp // of a claim anew: when its login began
	also  []func(error)
}

func (r *record) answer(err error) {
	r.done(err)
	for _, done := range r.also {
		done(err)
	}
}

// spare leaves out what need not be written, and answers it:
//
//   - a claim anew of a route that is in the view as it is, and young: a gateway that came to another router claims
//     everything anew;
//   - of several claims, or several releases, of one login, all but the last;
//   - a claim and its release, of a device that has no other route anywhere: nobody would be kicked;
//   - what has waited for so long that whoever claimed has given up.
//
// It looks at what is behind one another of one device, and only where no record of the device is on its way.
func (a *appender) spare(batch []pending) []record {
	r := a.router
	now := time.Now()
	out := make([]record, 0, len(batch))
	last := make(map[device]int, len(batch)) // the place of a device's last record in out
	absorbed, merged, late := 0, 0, 0
	for i := range batch {
		p := &batch[i]
		if now.Sub(p.queued) > r.cfg.ClaimTimeout {
			late++
			p.done(errLate)
			continue
		}
		key := p.device()
		if before, ok := last[key]; ok {
			q := &out[before]
			switch {
			case !q.same(p):
			case q.claim.Release == p.claim.Release:
				q.claim, q.also = p.claim, append(q.also, p.done)
				merged++
				continue
			case p.claim.Release && q.first && !a.flies(key) && !r.table.Has(key.uid, key.device):
				q.answer(nil) // its place stays empty
				p.done(nil)
				merged += 2 + len(q.also)
				q.done = nil
				delete(last, key)
				continue
			}
			last[key] = len(out)
			out = append(out, record{pending: *p})
			continue
		}
		rec := record{pending: *p, first: true}
		if !p.claim.Release {
			held, ok := r.table.Own(key.uid, key.device, im.StampAt(now))
			if ok && held.Gateway == p.gateway && held.Conn == p.claim.Conn && held.Login == p.claim.Login {
				if held.Stands && held.Offline == p.claim.Offline && held.Platform == p.claim.Platform &&
					now.Sub(held.Claimed.Time()) < fresh && !a.flies(key) {
					absorbed++
					p.done(nil)
					continue
				}
				rec.since = held.Since
			}
		}
		last[key] = len(out)
		out = append(out, rec)
	}
	records := out[:0]
	for i := range out {
		if out[i].done != nil {
			records = append(records, out[i])
		}
	}
	r.meter.spared("known", absorbed)
	r.meter.spared("merged", merged)
	r.meter.claim(nil, absorbed+merged)
	r.meter.claim(errLate, late)
	return records
}

var errLate = im.Errorf(im.CodeUnavailable, "the claim waited for too long to be written: claim again")

// flies tells whether a record of a device is on its way into the view.
func (a *appender) flies(d device) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flying[d] > 0
}

// appended tells whether some of these records are of devices with a record on its way.
func (a *appender) appended(entries []routes.Entry) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(entries, func(e routes.Entry) bool { return a.flying[device{e.Route.UID, e.Route.Device}] > 0 })
}

func (a *appender) append(ctx context.Context, batch []record) {
	r := a.router
	now := time.Now()
	entries := make([]im.Entry, len(batch))
	a.mu.Lock()
	for i := range batch {
		a.flying[batch[i].device()]++
	}
	a.mu.Unlock()
	for i := range batch {
		c := &batch[i].claim
		rec := im.RouteRecord{Kind: im.KindClaim, Since: batch[i].since, Route: im.Route{
			UID: c.UID, Device: c.Device, Platform: c.Platform, Gateway: batch[i].gateway, Conn: c.Conn, Login: c.Login,
			Claimed: im.StampAt(now), Offline: c.Offline,
		}}
		switch {
		case c.Release:
			rec.Kind = im.KindRelease
		case rec.Since == 0:
			rec.Since = rec.Route.Claimed
		}
		entries[i] = wire.EncodeRouteRecord(rec, r.cfg.Origin)
	}
	bounded, cancel := context.WithTimeout(ctx, r.cfg.ClaimTimeout)
	first, err := r.deps.Log.Append(bounded, r.ownLog(a.number), entries)
	cancel()
	if err != nil {
		if im.CodeOf(err) == im.CodeInternal { // a bare error, a deadline among them: the append may have landed
			err = im.Errorf(im.CodeUnavailable, "append to the route log: %v", err)
		}
		a.mu.Lock()
		for i := range batch {
			a.land(batch[i].device())
		}
		a.mu.Unlock()
		for i := range batch {
			r.meter.claim(err, 1+len(batch[i].also))
			batch[i].answer(err)
		}
		return
	}
	expires := now.Add(r.cfg.ClaimTimeout)
	a.mu.Lock()
	for i := range batch {
		done := batch[i].done
		if len(batch[i].also) > 0 {
			done = batch[i].answer
		}
		a.waiting = append(a.waiting, waiting{first + int64(i), expires, batch[i].gateway, batch[i].device(), done})
	}
	a.taken = 0
	a.rate = 0.8*a.rate + 0.2*float64(len(batch))/max(time.Since(now), time.Microsecond).Seconds()
	ready := a.pop()
	a.mu.Unlock()
	a.answer(ready)
}

// land takes a record of a device off those on their way. The lock is held.
func (a *appender) land(d device) {
	if a.flying[d]--; a.flying[d] <= 0 {
		delete(a.flying, d)
	}
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
	return a.cut(n)
}

// cut takes the first n off those that wait. The lock is held.
func (a *appender) cut(n int) []waiting {
	head := a.waiting[:n:n]
	if a.waiting = a.waiting[n:]; len(a.waiting) == 0 {
		a.waiting = nil
	}
	for i := range head {
		a.land(head[i].device)
	}
	return head
}

func (a *appender) answer(ready []waiting) {
	r := a.router
	ok, now := 0, im.StampAt(time.Now())
	for i := range ready {
		if gw := ready[i].gateway; r.table.Fenced(a.number, gw, now) {
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
	late := a.cut(n)
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

// depth is how many claims wait. The lock is held.
func (a *appender) depth() int { return len(a.queue) + a.taken + len(a.waiting) }
