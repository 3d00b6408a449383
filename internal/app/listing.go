package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// tenure is when a process serves under its name, where it may have that from another process, and give it to a third.
type tenure struct {
	begun <-chan struct{} // closed when it does
	over  <-chan struct{} // closed when another one does in its place; nil: never
	ended func() bool     // the same, once it is decided; nil: never
}

// listing keeps a process in discovery while its part of the stack runs.
type listing struct {
	p *process
	tenure

	mu    sync.Mutex
	self  im.Instance
	lease registry.Lease // nil until it is registered
}

// list makes the process known to discovery. It is known from now on, and until its part of the stack stops.
func (p *process) list(ctx context.Context, self im.Instance) (*listing, error) {
	now := make(chan struct{})
	close(now)
	return p.listWhile(ctx, self, tenure{begun: now})
}

// listWhile makes the process known for its tenure. Until it begins, discovery tells of the one before; should it never
// begin, it goes on doing so.
func (p *process) listWhile(ctx context.Context, self im.Instance, during tenure) (*listing, error) {
	l := &listing{p: p, tenure: during, self: self}
	select {
	case <-l.begun:
		if err := l.first(ctx); err != nil {
			return nil, err
		}
	default:
		if l.over == nil {
			p.tel.Ready("listing", l.listed)
		}
	}
	p.push("listing", l.run)
	return l, nil
}

// listed tells whether others find the process: who restarts one after the other is to wait for that.
func (l *listing) listed(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == nil {
		return errNotListed
	}
	return nil
}

// first registers the process as part of its start, which waits for discovery as for any backend, and fails without it.
func (l *listing) first(ctx context.Context) error {
	at := l.p.env.DiscoveryAt
	if at == nil {
		return l.register(ctx)
	}
	return l.p.reach(ctx, *at, l.register)
}

func (l *listing) register(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease != nil {
		return nil
	}
	lease, err := l.p.env.Discovery.Register(ctx, l.self)
	if err != nil {
		return fmt.Errorf("%s: register in discovery: %w", l.p.name, err)
	}
	l.lease = lease
	l.p.tel.Log.Info("registered: others find this instance now", "rpc", l.self.Addr, "url", l.self.URL, "epoch", l.self.Epoch)
	return nil
}

// run registers the process if it was not yet, and takes it out at the end. It returns an error when another process
// registers under the same name: this one would go on unlisted, and own the partitions that the other one owns.
func (l *listing) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.begun:
	}
	if l.over == nil { // there is no process before it whose clients it has: it is still starting
		if err := l.first(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 2*time.Second
	for failures := 0; ; failures++ {
		err := l.register(ctx)
		if err == nil {
			break
		}
		if failures == 0 && ctx.Err() == nil {
			l.p.tel.Log.Warn("this instance serves and is not listed yet: trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.over:
			return nil
		case <-time.After(wait.NextBackOff()):
		}
	}
	select {
	case <-ctx.Done():
	case <-l.over:
	case <-l.lease.Lost():
	}
	switch {
	case l.ended != nil && l.ended(): // the next one is listed, or will be at once: nobody is to see it gone in between
		l.lease.Abandon()
		<-ctx.Done()
		return nil
	case ctx.Err() == nil:
		return fmt.Errorf("another process registered as %s %s of region %s and took this one's place: give each its own instance",
			l.self.Service, l.self.ID, l.self.Region)
	case errors.Is(context.Cause(ctx), im.ErrKilled):
		l.lease.Abandon()
		return nil
	}
	if err := l.lease.Close(); err != nil { // then it expires
		l.p.tel.Log.Warn("discovery was not told of the end", "error", err)
	}
	return nil
}

// errNotListed says that others do not find the process yet.
var errNotListed = errors.New("this instance is not registered yet")

// set changes the gateway epoch.
func (l *listing) set(epoch uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == nil {
		return errNotListed
	}
	changed := l.self
	changed.Epoch = epoch
	if err := l.lease.Update(changed); err != nil {
		return err
	}
	l.self = changed
	return nil
}
