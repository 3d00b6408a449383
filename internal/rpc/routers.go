package rpc

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// RoutersConfig is how a gateway keeps its streams to the region's routers. Zero durations take the defaults in the
// comments.
type RoutersConfig struct {
	Partitions   int           // of the route log
	Heartbeat    time.Duration // 1 s
	ClaimTimeout time.Duration // 5 s: for one call of Claim, over all attempts
	Renew        time.Duration // 1 h: every live claim is claimed anew once in it, spread
	BackoffMax   time.Duration // 2 s: between attempts to reach a router
}

// RoutersDeps is what it works with.
type RoutersDeps struct {
	Conns Conns
	// Watch calls fn with the region's live routers, at once and at each change, until ctx ends.
	Watch func(ctx context.Context, fn func([]im.Instance)) error
	// Owner picks the instance that owns a partition: ownership.Pick, so that callers and owners agree.
	Owner  func(partition int, live []im.Instance) (im.Instance, bool)
	Logger *slog.Logger // may be nil
}

// RoutersHandler is the gateway. It is an alias, so that the gateway can name the same interface without importing this
// package.
type RoutersHandler = interface {
	// Push, Kick and Fenced are called in the order in which one router sent them; several routers call at once. They
	// must not block for long: a router's stream waits for them.
	Push([]im.Push)
	Kick(im.Kick)
	Fenced(epoch uint64)
	// Claims returns every live claim. A conn must have left it before its release is passed to Routers.Claim, or it
	// might be claimed again after that. It must not call Routers, nor wait for who does.
	Claims() []im.Claim
}

// Routers keeps a gateway attached to every live router of its region, and sends each claim to the router that owns the
// uid's partition.
type Routers struct {
	cfg  RoutersConfig
	deps RoutersDeps
	log  *slog.Logger

	mu      sync.Mutex
	live    []im.Instance            // the last list that was not empty
	streams map[string]*routerStream // connected ones, by instance id
	failed  map[routeKey]struct{}    // claims anew that failed: tried again soon
	changed chan struct{}            // closed and replaced when streams or live change
}

type routeKey struct {
	conn, login uint64
}

// renewSlots is over how many steps the claims anew are spread.
const renewSlots = 64

// NewRouters returns Routers that know no router yet; Attach makes them work.
func NewRouters(cfg RoutersConfig, deps RoutersDeps) *Routers {
	cfg.Partitions = max(cfg.Partitions, 1)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, time.Second)
	cfg.ClaimTimeout = cmp.Or(cfg.ClaimTimeout, 5*time.Second)
	cfg.Renew = cmp.Or(cfg.Renew, time.Hour)
	cfg.BackoffMax = cmp.Or(cfg.BackoffMax, 2*time.Second)
	log := deps.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Routers{
		cfg: cfg, deps: deps, log: log, streams: make(map[string]*routerStream),
		failed: make(map[routeKey]struct{}), changed: make(chan struct{}),
	}
}

// attach is one call of Attach.
type attach struct {
	routers *Routers
	gateway im.Gateway
	handler RoutersHandler
	cancel  context.CancelCauseFunc
	fence   sync.Once
	running sync.WaitGroup
}

// Attach keeps a stream to every live router until ctx ends (nil) or a router says that the gateway's epoch was declared
// down: then, after h.Fenced, it returns CodeGatewayFenced, and is to be called again with the next epoch. One call at a
// time.
func (r *Routers) Attach(ctx context.Context, gw im.Gateway, h RoutersHandler) error {
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &attach{routers: r, gateway: gw, handler: h, cancel: cancel}
	a.running.Go(func() { a.watch(run) })
	a.running.Go(func() { a.renew(run) })
	<-run.Done()
	a.running.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(run)
}

// fenced ends the attach, once.
func (a *attach) fenced(epoch uint64) {
	a.fence.Do(func() {
		a.handler.Fenced(epoch)
		a.cancel(im.Errorf(im.CodeGatewayFenced, "epoch %d of gateway %s was declared down: take a new one", a.gateway.Epoch, a.gateway.ID))
	})
}

// watch starts a stream for each router that appears and ends it when the router is gone. An empty list is not believed:
// a catalogue that lost its memory answers so.
func (a *attach) watch(ctx context.Context) {
	type running struct {
		addr string
		end  context.CancelFunc
	}
	streams := make(map[string]running)
	for attempt := 0; ctx.Err() == nil; attempt++ {
		err := a.routers.deps.Watch(ctx, func(live []im.Instance) {
			if len(live) == 0 || ctx.Err() != nil {
				return
			}
			here := make(map[string]string, len(live))
			for _, i := range live {
				here[i.ID] = i.Addr
			}
			for id, s := range streams {
				if here[id] != s.addr {
					s.end()
					delete(streams, id)
				}
			}
			for id, addr := range here {
				if _, ok := streams[id]; !ok {
					own, end := context.WithCancel(ctx)
					streams[id] = running{addr, end}
					a.running.Go(func() { a.keep(own, id, addr) })
				}
			}
			a.setLive(live)
		})
		if ctx.Err() == nil {
			a.routers.log.Warn("the list of routers cannot be watched; trying on", "error", err)
			a.routers.backoff(ctx, attempt)
		}
	}
	for _, s := range streams {
		s.end()
	}
}

// setLive takes a new list: claims whose owner changed go to the new one.
func (a *attach) setLive(live []im.Instance) {
	r := a.routers
	r.mu.Lock()
	before := r.live
	r.live = live
	connected := maps.Clone(r.streams)
	r.signal()
	r.mu.Unlock()
	if before == nil {
		return // streams claim when they connect
	}
	for id, s := range connected {
		s.reclaim(a, func(c *im.Claim) bool {
			return r.owner(c.UID, live) == id && r.owner(c.UID, before) != id
		})
	}
}

// owner is the id of the router that owns a user's partition, "" for none.
func (r *Routers) owner(uid im.UID, live []im.Instance) string {
	i, _ := r.deps.Owner(wire.Partition(string(uid), r.cfg.Partitions), live)
	return i.ID
}

// signal wakes those who wait for a stream. The lock is held.
func (r *Routers) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// backoff waits before another attempt: half fixed, half random, doubling from 50 ms.
func (r *Routers) backoff(ctx context.Context, attempt int) {
	d := min(50*time.Millisecond<<min(attempt, 10), r.cfg.BackoffMax)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// pauseFor waits, and tells whether ctx still runs.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// renew claims every live claim anew once in the configured time, a slot of conns at a time, and those that failed
// before with each slot.
func (a *attach) renew(ctx context.Context) {
	r := a.routers
	tick := time.NewTicker(max(r.cfg.Renew/renewSlots, time.Millisecond))
	defer tick.Stop()
	for slot := uint64(0); ; slot++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		live, connected, failed := r.live, maps.Clone(r.streams), r.failed
		r.failed = make(map[routeKey]struct{})
		r.mu.Unlock()
		for id, s := range connected {
			s.reclaim(a, func(c *im.Claim) bool {
				_, again := failed[routeKey{c.Conn, c.Login}]
				return (again || c.Conn%renewSlots == slot%renewSlots) && r.owner(c.UID, live) == id
			})
		}
	}
}

// Claim sends each claim to the owner of its uid's partition and returns, per claim, when it is in the log and in that
// router's view. While the owner is away any other router serves. What may succeed at another attempt is tried again
// until ctx or the claim timeout ends, and with it what follows of the same device: claims are idempotent, in their order.
// So one that failed has those behind it fail, too.
func (r *Routers) Claim(ctx context.Context, claims []im.Claim) (errs []error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ClaimTimeout)
	defer cancel()
	defer func() { failBehind(claims, errs) }()
	errs = make([]error, len(claims))
	open := make([]int, len(claims)) // places in claims without a final answer
	for i := range claims {
		open[i] = i
		errs[i] = &im.Error{Code: im.CodeUnavailable, Detail: "no router is attached", RetryAfter: retryAfter}
	}
	type answer struct {
		i   int
		err error
	}
	for attempt := 0; len(open) > 0; attempt++ {
		groups, changed := r.group(claims, open)
		if len(groups) == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return errs
			}
		}
		answers := make(chan answer, len(open)) // never blocks whoever answers late
		for s, places := range groups {
			batch := make([]im.Claim, len(places))
			for k, i := range places {
				batch[k] = claims[i]
			}
			s.send(batch, func(k int, err error) { answers <- answer{places[k], err} })
		}
		asked := time.Duration(0)
		for range open {
			select {
			case got := <-answers:
				errs[got.i] = got.err
				if e, ok := errors.AsType[*im.Error](got.err); ok && elsewhere(got.err) {
					asked = max(asked, e.RetryAfter)
				}
			case <-ctx.Done():
				return errs
			}
		}
		failBehind(claims, errs)
		open = slices.DeleteFunc(open, func(i int) bool { return !elsewhere(errs[i]) })
		if len(open) > 0 {
			if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= asked {
				return errs // whoever claims is told when to come back
			}
			r.backoff(ctx, attempt)
			if !pauseFor(ctx, asked) {
				return errs
			}
		}
	}
	return errs
}

// failBehind has what was taken behind a failed claim of the same device fail like that one, where that may be tried again:
// the release of a session must not be in the log ahead of its claim.
func failBehind(claims []im.Claim, errs []error) {
	type device struct {
		uid im.UID
		id  im.DeviceID
	}
	var failed map[device]error
	for i, c := range claims {
		d := device{c.UID, c.Device}
		switch {
		case errs[i] == nil && failed[d] != nil:
			errs[i] = failed[d]
		case elsewhere(errs[i]):
			if failed == nil {
				failed = make(map[device]error)
			}
			failed[d] = errs[i]
		}
	}
}

// group says which stream each open claim goes to: the owner's, else any.
func (r *Routers) group(claims []im.Claim, open []int) (groups map[*routerStream][]int, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.streams) == 0 {
		return nil, r.changed
	}
	var other *routerStream
	for _, s := range r.streams {
		other = s
		break
	}
	groups = make(map[*routerStream][]int)
	for _, i := range open {
		s, ok := r.streams[r.owner(claims[i].UID, r.live)]
		if !ok {
			s = other
		}
		groups[s] = append(groups[s], i)
	}
	return groups, r.changed
}
