package router

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// pruneEvery is how often rows that have been dead for long are forgotten.
const pruneEvery = 10 * time.Minute

// watch looks after gateways: one whose heartbeats stopped and that discovery does not call alive is declared down, in
// every partition owned here. Other owners do the same for theirs.
func (r *Router) watch(ctx context.Context) {
	every := r.cfg.HeartbeatTimeout / 6
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, pruned := time.Now(), time.Now()
	var ready time.Time // since when the own log is read
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		for _, a := range r.appenders {
			a.expire(now)
		}
		if now.Sub(pruned) > pruneEvery {
			r.table.Prune()
			pruned = now
		}
		if now.Sub(last) > r.cfg.HeartbeatTimeout/2 {
			// This process was stopped, not the gateways: heartbeats wait unread.
			r.log.Warn("the router was held up; gateways get their time anew", "for", now.Sub(last))
			r.hub.forgive(now)
		}
		last = now
		if !r.table.Ready(r.cfg.Origin) {
			continue
		}
		if ready.IsZero() {
			ready = now
		}
		r.notice(now)
		r.declare(ctx, now)
		if !r.settled.Load() && (now.Sub(ready) > r.cfg.AttachGrace || r.allAttached()) {
			r.settled.Store(true)
		}
		last = time.Now() // appends are our own delay: heartbeats were heard meanwhile
	}
}

// forgive makes every life count as heard of now.
func (h *hub) forgive(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.lives {
		l.heard = now
	}
}

// notice begins to watch gateways that are known only by their rows in owned partitions: those of a life of this router
// before, or of a partition that it took over.
func (r *Router) notice(now time.Time) {
	for _, n := range *r.owned.Load() {
		for _, gw := range r.table.Lives(n) {
			r.hub.mu.Lock()
			if _, known := r.hub.lives[gw]; !known {
				r.hub.lives[gw] = &lifeState{heard: now}
			}
			r.hub.mu.Unlock()
		}
	}
}

// allAttached tells whether every gateway that has routes is or was attached here.
func (r *Router) allAttached() bool {
	for n := range r.cfg.Partitions {
		for _, gw := range r.table.Lives(n) {
			r.hub.mu.Lock()
			l, known := r.hub.lives[gw]
			attached := known && l.attached
			r.hub.mu.Unlock()
			if !attached {
				return false
			}
		}
	}
	return true
}

// suspect is a life that its heartbeats do not speak for.
type suspect struct {
	gateway    im.Gateway
	superseded bool // a later life of it attached: no need to ask anybody
	attached   bool
	silent     time.Duration
}

func (h *hub) suspects(now time.Time, timeout time.Duration) []suspect {
	h.mu.Lock()
	defer h.mu.Unlock()
	latest := make(map[string]uint64)
	for gw, l := range h.lives {
		if l.attached {
			latest[gw.ID] = max(latest[gw.ID], gw.Epoch)
		}
	}
	var all []suspect
	for gw, l := range h.lives {
		s := suspect{gw, gw.Epoch < latest[gw.ID], l.attached, now.Sub(l.heard)}
		if s.superseded || s.silent > timeout {
			all = append(all, s)
		}
	}
	return all
}

// declare appends gateway_down for gateways that are gone.
func (r *Router) declare(ctx context.Context, now time.Time) {
	var appends sync.WaitGroup
	silent := r.deps.Alive == nil // discovery, which may take its time for each question
	for _, s := range r.hub.suspects(now, r.cfg.HeartbeatTimeout) {
		if !s.superseded {
			alive, known := false, false
			if !silent {
				alive, known = r.deps.Alive.Alive(s.gateway)
				silent = !known
			}
			if known && alive {
				continue
			}
			// Gateways need a moment to find a router that just started; only discovery may cut it short.
			if !known && !s.attached && s.silent <= r.cfg.AttachGrace {
				continue
			}
		}
		for _, n := range r.undeclared(s.gateway, now) {
			r.log.Warn("a gateway is declared down", "gateway", s.gateway.ID, "epoch", s.gateway.Epoch, "partition", n,
				"silent", s.silent, "superseded", s.superseded)
			appends.Go(func() { r.appendDown(ctx, s.gateway, n, now) })
		}
	}
	appends.Wait()
}

// undeclared returns the owned partitions that lack the gateway's gateway_down, and forgets a life that none lacks.
func (r *Router) undeclared(gw im.Gateway, now time.Time) []int {
	var lacking []int
	pending := false
	for _, n := range *r.owned.Load() {
		if r.table.Fenced(n, gw, im.StampAt(now)) {
			continue
		}
		pending = true
		r.hub.mu.Lock()
		l := r.hub.lives[gw]
		if l != nil && now.Sub(l.written[n]) > r.cfg.ClaimTimeout { // else it is on its way back to us
			lacking = append(lacking, n)
		}
		r.hub.mu.Unlock()
	}
	if !pending {
		r.hub.mu.Lock()
		delete(r.hub.lives, gw)
		r.hub.mu.Unlock()
	}
	return lacking
}

func (r *Router) appendDown(ctx context.Context, gw im.Gateway, number int, now time.Time) {
	bounded, cancel := context.WithTimeout(ctx, r.cfg.ClaimTimeout)
	defer cancel()
	entry := wire.EncodeRoute(im.KindGatewayDown, im.Route{Gateway: gw, Claimed: im.StampAt(now)}, r.cfg.Origin)
	if _, err := r.deps.Log.Append(bounded, r.ownLog(number), []im.Entry{entry}); err != nil {
		r.log.Warn("gateway_down could not be appended; trying again", "gateway", gw.ID, "partition", number, "error", err)
		return
	}
	r.meter.down()
	r.hub.mu.Lock()
	if l := r.hub.lives[gw]; l != nil {
		if l.written == nil {
			l.written = make(map[int]time.Time)
		}
		l.written[number] = now
	}
	r.hub.mu.Unlock()
}

// beat appends a heartbeat to each owned partition of the own log: the watermark by which others know that they have
// heard of this region lately.
func (r *Router) beat(ctx context.Context) {
	tick := time.NewTicker(r.cfg.LogHeartbeat)
	defer tick.Stop()
	failed := make(map[int]bool)
	var mu sync.Mutex
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var appends sync.WaitGroup
		before := maps.Clone(failed)
		for _, n := range *r.owned.Load() {
			name := r.names.get(n)
			if name.IsZero() {
				continue // nothing of the partition was read yet
			}
			appends.Go(func() {
				bounded, cancel := context.WithTimeout(ctx, r.cfg.LogHeartbeat)
				defer cancel()
				entry := wire.EncodeLogName(im.KindHeartbeat, name, im.StampAt(time.Now()))
				_, err := r.deps.Log.Append(bounded, r.ownLog(n), []im.Entry{entry})
				if err != nil && !before[n] && ctx.Err() == nil {
					r.log.Warn("a heartbeat could not be appended", "partition", n, "error", err)
				}
				mu.Lock()
				failed[n] = err != nil
				mu.Unlock()
			})
		}
		appends.Wait()
	}
}
