package router

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// following is what changes in a running router when regions come and go.
type following struct {
	mu        sync.Mutex
	fresh     []im.Origin // not read yet
	interrupt context.CancelFunc
	changed   chan struct{} // closed and replaced at every change
	notifiers map[im.Region]*notifier
	ctx       context.Context // of run; nil before and after
	running   sync.WaitGroup  // entered under mu
}

func newFollowing() following {
	return following{changed: make(chan struct{}), notifiers: map[im.Region]*notifier{}}
}

// Follow makes the origins that are followed the latest of each region among those that are named, which have to be with the
// own one. Routes of others are dropped. It may be called at any time.
func (r *Router) Follow(origins []im.Origin) error {
	if !slices.Contains(routes.Current(origins), r.cfg.Origin) {
		return fmt.Errorf("router: the own origin %q is not the latest of its region among %v", r.cfg.Origin, origins)
	}
	f := &r.following
	f.mu.Lock()
	defer f.mu.Unlock()
	was := r.table.Origins()
	fresh, err := r.table.Follow(origins)
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	now := r.table.Origins()
	if slices.Equal(was, now) {
		return nil
	}
	r.log.Info("following other regions' routes", "origins", fmt.Sprint(now), "before", fmt.Sprint(was))
	f.fresh = append(f.fresh, fresh...)
	for _, o := range fresh {
		r.meter.begin(o, r.cfg.Region)
	}
	f.notifyLocked(r, now)
	if f.interrupt != nil {
		f.interrupt()
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// notify makes sure that each region can be told of deliveries.
func (f *following) notify(r *Router, origins []im.Origin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notifyLocked(r, origins)
}

func (f *following) notifyLocked(r *Router, origins []im.Origin) {
	for _, o := range origins {
		if o.Region() == r.cfg.Region || r.deps.Peers == nil || f.notifiers[o.Region()] != nil {
			continue
		}
		n := newNotifier(r, o.Region())
		f.notifiers[o.Region()] = n
		if f.ctx != nil {
			f.running.Go(func() { n.run(f.ctx) })
		}
	}
}

// notifier tells a region of deliveries; nil if there is no such region.
func (f *following) notifier(region im.Region) *notifier {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.notifiers[region]
}

// run runs the notifiers until ctx ends.
func (f *following) run(ctx context.Context) {
	f.mu.Lock()
	f.ctx = ctx
	for n := range maps.Values(f.notifiers) {
		f.running.Go(func() { n.run(ctx) })
	}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.ctx = nil // nobody starts one any more
	f.mu.Unlock()
	f.running.Wait()
}

// moved is closed at the next change.
func (f *following) moved() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// freshRetry is how soon it is tried again to learn what new logs hold.
const freshRetry = time.Second

// poll is the reader's, until there are new origins to be read.
func (r *Router) poll(ctx context.Context, reader Reader) ([]im.Batch, error) {
	f := &r.following
	f.mu.Lock()
	waiting := len(f.fresh) > 0
	ctx, cancel := context.WithCancel(ctx)
	f.interrupt = cancel
	f.mu.Unlock()
	defer cancel()
	if waiting {
		defer time.AfterFunc(freshRetry, cancel).Stop()
	}
	return reader.Poll(ctx)
}

// beginFresh reads new origins from the start of what their logs hold.
func (r *Router) beginFresh(ctx context.Context, reader Reader) {
	f := &r.following
	f.mu.Lock()
	fresh := f.fresh
	f.fresh = nil
	f.mu.Unlock()
	var all []im.Partition
	for _, o := range fresh {
		all = append(all, r.table.Partitions(o)...)
	}
	if len(all) == 0 {
		return
	}
	bounds, err := r.deps.Log.Bounds(ctx, all)
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn("the bounds of new route logs cannot be read; trying on", "origins", fmt.Sprint(fresh), "error", err)
		}
		f.mu.Lock()
		f.fresh = append(fresh, f.fresh...)
		f.mu.Unlock()
		return
	}
	for _, p := range all {
		b := bounds[p]
		r.unname(p)
		r.table.Jump(p, b.Start)
		r.table.Expect(p, b.End)
		reader.Seek(p, b.Start)
	}
}
