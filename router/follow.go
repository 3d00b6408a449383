package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/wire"
)

// retry is the wait between attempts at what must come back by itself: Kafka, Redis.
func retry() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.RandomizationFactor = 50*time.Millisecond, 2*time.Second, 0.5
	return b
}

// pause waits, and tells whether ctx still runs.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// follow reads every partition of every origin into memory, from the start of what the logs hold or from a snapshot on.
func (r *Router) follow(ctx context.Context) {
	from, ok := r.startFollow(ctx)
	if !ok {
		return
	}
	reader := r.deps.NewReader(from)
	defer reader.Close()
	wait := retry()
	for {
		batches, err := r.poll(ctx, reader)
		if ctx.Err() == nil && errors.Is(err, context.Canceled) { // others are to be followed
			err = nil
		}
		r.beginFresh(ctx, reader)
		for i := range batches {
			if why := r.prove(&batches[i]); why != "" {
				r.jump(reader, batches[i].Partition, r.restart(batches[i].Partition), why)
				continue
			}
			r.apply(&batches[i])
		}
		switch p, bounds, ranged := r.outOfRange(err); {
		case ctx.Err() != nil:
			return
		case ranged:
			r.restart(p)
			r.jump(reader, p, bounds.Start, fmt.Sprintf("the log holds %d to %d", bounds.Start, bounds.End))
			r.table.Expect(p, bounds.End)
		case err != nil:
			r.log.Warn("the route logs cannot be read; trying on", "error", err)
			if !pause(ctx, wait.NextBackOff()) {
				return
			}
		default:
			wait.Reset()
		}
		for _, g := range r.table.Gaps(im.StampAt(time.Now()), r.cfg.GapPatience) {
			r.jump(reader, g.Partition, g.Local, fmt.Sprintf("origin offset %d has been missing for %v", g.Next, r.cfg.GapPatience))
		}
	}
}

func (r *Router) outOfRange(err error) (im.Partition, im.Bounds, bool) {
	if err == nil {
		return im.Partition{}, im.Bounds{}, false
	}
	return r.deps.OutOfRange(err)
}

// startFollow learns what the logs hold: where to begin, and the end up to which they must be read before they count.
func (r *Router) startFollow(ctx context.Context) (from map[im.Partition]int64, ok bool) {
	var all []im.Partition
	for _, o := range r.table.Origins() {
		all = append(all, r.table.Partitions(o)...)
	}
	wait := retry()
	for {
		bounds, err := r.deps.Log.Bounds(ctx, all)
		if err == nil {
			marks := r.load()
			from = make(map[im.Partition]int64, len(all))
			for _, p := range all {
				b := bounds[p]
				if mark, ok := marks[p]; ok && mark.Local >= b.Start && mark.Local < b.End {
					r.unproven[p] = proof{mark, b}
					from[p] = mark.Local
					continue
				}
				from[p] = b.Start
				r.unname(p)
				r.table.Jump(p, b.Start)
				r.table.Expect(p, b.End)
			}
			return from, true
		}
		if ctx.Err() != nil {
			return nil, false
		}
		r.log.Warn("the bounds of the route logs cannot be read; trying on", "error", err)
		if !pause(ctx, wait.NextBackOff()) {
			return nil, false
		}
	}
}

// jump drops an origin's rows of a partition, because a part of its log is gone. Only routes may: they are claimed anew
// every hour.
func (r *Router) jump(reader Reader, p im.Partition, local int64, why string) {
	r.log.Error("routes are dropped and their log is jumped over: devices are found again as they claim anew",
		"partition", p.String(), "to", local, "why", why)
	r.meter.jump(p.Origin())
	r.table.Jump(p, local)
	reader.Seek(p, local)
}

// apply takes a batch into memory and does what follows from it.
func (r *Router) apply(b *im.Batch) {
	own := b.Partition.Origin() == r.cfg.Origin
	entries := make([]routes.Entry, len(b.Entries))
	for i := range b.Entries {
		entries[i] = r.decode(&b.Entries[i], b.Partition)
	}
	if n := len(entries); n > 0 && r.deps.Snapshots != nil {
		entries[n-1].Checksum = wire.Checksum(&b.Entries[n-1])
	}
	res := r.table.Apply(b.Partition, entries, im.StampAt(time.Now()))
	r.meter.applied(b, &res)
	for _, gw := range res.Down {
		for _, a := range r.hub.fence(gw) {
			if err := a.out.Fenced(a.gateway.Epoch); err != nil {
				r.log.Warn("a fenced gateway could not be told", "gateway", gw.ID, "epoch", gw.Epoch, "error", err)
			}
		}
	}
	// Gateways claim at whom they take for the owner, which may not know yet that it is.
	if n := b.Partition.Number; len(res.Kicks) > 0 && (r.ownsNow(n) || own && r.appenders[n].appended(entries)) {
		for _, k := range res.Kicks {
			r.kick(k)
		}
	}
	if own {
		r.appenders[b.Partition.Number].advance(res.Position.Next)
	}
}

// kick closes a conn that lost its route. One that is lost on the way is decided again when either side claims anew.
func (r *Router) kick(k routes.Kick) {
	a := r.hub.of(k.Gateway)
	if a == nil {
		return // dead, or attached to other routers only: it claims again when it attaches here
	}
	if err := a.out.Kick(k.Kick); err != nil {
		r.log.Warn("a kick was lost", "gateway", k.Gateway.ID, "conn", k.Conn, "error", err)
		return
	}
	r.meter.kick(k.Code)
}

// decode reads an entry. What cannot be read, and what a newer version wrote, moves the position only.
func (r *Router) decode(e *im.Entry, p im.Partition) routes.Entry {
	h := wire.DecodeHead(e)
	out := routes.Entry{Local: e.Offset, Generation: h.Generation}
	out.Kind = h.Kind
	out.Route = im.Route{Region: p.Origin().Region(), Offset: h.OriginOffset, Claimed: h.Stamp}
	switch h.Kind {
	case im.KindClaim, im.KindRelease, im.KindGatewayDown:
		rec, err := wire.DecodeRouteRecord(e, h)
		route := &rec.Route
		bad := err != nil || h.Version > im.CurrentVersion || route.Gateway.ID == "" ||
			h.Kind != im.KindGatewayDown && (route.UID == "" || route.Device == "")
		if bad {
			r.log.Error("a record of a route log cannot be read and is passed over", "partition", p.String(),
				"offset", e.Offset, "kind", string(h.Kind), "version", h.Version, "error", err)
			out.Kind = ""
			break
		}
		route.Region = out.Route.Region // the log's, whatever the record says
		out.Route, out.Since = *route, rec.Since
	case im.KindLog, im.KindHeartbeat:
		if p.Origin() == r.cfg.Origin {
			if name, err := wire.DecodeLogName(e); err == nil {
				r.names.set(p.Number, name)
			}
		}
	}
	return out
}

// names remembers what the own log's partitions are called: heartbeats repeat it.
type names struct {
	mu sync.Mutex
	of []im.LogName
}

func newNames(partitions int) *names { return &names{of: make([]im.LogName, partitions)} }

func (n *names) set(number int, name im.LogName) {
	n.mu.Lock()
	n.of[number] = name
	n.mu.Unlock()
}

func (n *names) get(number int) im.LogName {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.of[number]
}
