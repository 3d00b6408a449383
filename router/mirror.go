package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// maxStored bounds the records of one step in Redis: its scripts hold up everybody else.
const maxStored = 256

// errMoved says that the stored position is not the one we left: another owner wrote, or Redis lost its memory.
var errMoved = errors.New("the stored position moved")

// errDisowned ends a pass because ownership changed, or the origins that are followed.
var errDisowned = errors.New("ownership changed")

// mirror keeps Redis at what the owned partitions' logs say. It reads the logs by itself, from the positions in Redis:
// the memory serves on while Redis is slow or gone, and an empty Redis is filled again from what the logs hold.
func (r *Router) mirror(ctx context.Context) {
	wait := retry()
	failing := false
	for {
		began := time.Now()
		owned, changed := *r.owned.Load(), (<-chan struct{})(nil)
		if r.deps.Ownership != nil {
			owned, changed = r.deps.Ownership.Owned()
		}
		moved := r.following.moved()
		pass, cancel := context.WithCancelCause(ctx)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			select {
			case <-changed:
				cancel(errDisowned)
			case <-moved:
				cancel(errDisowned)
			case <-pass.Done():
			}
		}()
		err := r.mirrorPass(pass, owned)
		ended := context.Cause(pass)
		cancel(nil)
		<-stop
		if ctx.Err() != nil {
			return
		}
		if errors.Is(ended, errDisowned) {
			continue
		}
		if time.Since(began) > 10*time.Second {
			wait.Reset()
			failing = false
		}
		r.meter.storeError()
		if !failing {
			r.log.Warn("routes are served from memory and not written to Redis; trying on", "error", err)
		}
		failing = !errors.Is(err, errMoved)
		if !pause(ctx, wait.NextBackOff()) {
			return
		}
	}
}

// stored is one partition of one origin in Redis.
type stored struct {
	tail routes.Tail
	at   *im.RoutePosition // what Redis holds; nil: nothing
}

func (r *Router) mirrorPass(ctx context.Context, owned []int) error {
	if len(owned) == 0 {
		<-ctx.Done()
		return nil
	}
	parts, from, err := r.startMirror(ctx, owned)
	if err != nil {
		return err
	}
	reader := r.deps.NewReader(from)
	defer reader.Close()
	wait := retry()
	for {
		batches, err := reader.Poll(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for i := range batches {
			if err := r.store(ctx, parts[batches[i].Partition], &batches[i]); err != nil {
				return err
			}
		}
		if p, bounds, ranged := r.outOfRange(err); ranged {
			parts[p].tail.Jump(bounds.Start)
			reader.Seek(p, bounds.Start)
		} else if err != nil {
			if !pause(ctx, wait.NextBackOff()) {
				return ctx.Err()
			}
		} else {
			wait.Reset()
		}
		now := im.StampAt(time.Now())
		for p, s := range parts {
			if g, ok := s.tail.Gap(); ok && g.Since.Millis()+r.cfg.GapPatience.Milliseconds() <= now.Millis() {
				s.tail.Jump(g.Local)
				reader.Seek(p, g.Local)
			}
		}
	}
}

// startMirror reads where Redis stands.
func (r *Router) startMirror(ctx context.Context, owned []int) (map[im.Partition]*stored, map[im.Partition]int64, error) {
	var all []im.Partition
	for _, o := range r.table.Origins() {
		for _, n := range owned {
			all = append(all, im.Partition{Topic: im.RouteTopic(o), Number: n})
		}
	}
	positions := make(map[int]map[im.Origin]im.RoutePosition, len(owned))
	for _, n := range owned {
		bounded, cancel := context.WithTimeout(ctx, r.cfg.StoreTimeout)
		stands, err := r.deps.Store.Positions(bounded, n)
		cancel()
		if err != nil {
			return nil, nil, err
		}
		positions[n] = stands
	}
	// After the positions: the owner before may write on, and what it has read is in the log.
	bounds, err := r.deps.Log.Bounds(ctx, all)
	if err != nil {
		return nil, nil, fmt.Errorf("bounds of the route logs: %w", err)
	}
	parts := make(map[im.Partition]*stored, len(all))
	from := make(map[im.Partition]int64, len(all))
	for _, p := range all {
		s := &stored{}
		b := bounds[p]
		pos, ok := positions[p.Number][p.Origin()]
		if ok {
			s.at, s.tail = &pos, routes.NewTail(pos)
		}
		if !ok || pos.Local < b.Start || pos.Local > b.End {
			// Nothing there, or the log no longer holds what comes next, or is another log.
			s.tail.Jump(b.Start)
			from[p] = b.Start
		} else {
			from[p] = pos.Local
		}
		parts[p] = s
	}
	return parts, from, nil
}

// store writes a batch to Redis in steps.
func (r *Router) store(ctx context.Context, s *stored, b *im.Batch) error {
	if s == nil {
		return fmt.Errorf("the reader returned %v, which it was not asked for", b.Partition)
	}
	now := im.StampAt(time.Now())
	var records []im.RouteRecord
	for i := range b.Entries {
		e := r.decode(&b.Entries[i], b.Partition)
		if s.tail.See(&e, now) == im.Take {
			switch e.Kind {
			case im.KindClaim, im.KindRelease, im.KindGatewayDown:
				records = append(records, e.RouteRecord)
			}
		}
		if len(records) < maxStored && i < len(b.Entries)-1 {
			continue
		}
		to, ok := s.tail.Position()
		if !ok || s.at != nil && to == *s.at {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, r.cfg.StoreTimeout)
		done, err := r.deps.Store.Apply(bounded, im.RouteBatch{Partition: b.Partition, From: s.at, To: to, Records: records})
		cancel()
		if err != nil {
			return err
		}
		if !done {
			r.meter.refused()
			return errMoved
		}
		s.at, records = &to, nil
	}
	return nil
}
