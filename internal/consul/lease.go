package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// lease keeps one instance registered.
type lease struct {
	c     *Consul
	id    string // of this registration
	name  string // of the instance on the agent; never changes
	since time.Time
	stop  context.CancelFunc
	done  chan struct{} // closed when nothing is renewed any more
	lost  chan struct{} // closed when a later registration took its place

	calls    sync.Mutex // one call to the agent at a time, so that an update is not undone by a renewal's registration
	mu       sync.Mutex
	instance im.Instance
	over     bool // closed, abandoned or lost
}

// Register implements registry.Registry. It returns when the catalogue shows the instance.
func (c *Consul) Register(ctx context.Context, i im.Instance) (registry.Lease, error) {
	if i.Service == "" || i.ID == "" || i.Region == "" {
		return nil, fmt.Errorf("consul: instance %q of service %q in region %q: all three must be set", i.ID, i.Service, i.Region)
	}
	if i.Region != c.cfg.Region {
		return nil, fmt.Errorf("consul: instance %s/%s is of region %s: the agent at %s registers for %s only", i.Service, i.ID, i.Region, c.cfg.Address, c.cfg.Region)
	}
	now := time.Now()
	l := &lease{c: c, id: im.NewUUID(now).String(), since: now, name: c.serviceID(&i), instance: i, done: make(chan struct{}), lost: make(chan struct{})}
	if err := l.register(ctx); err != nil {
		return nil, c.fail(fmt.Sprintf("register %s %s", i.Service, i.ID), err)
	}
	if err := l.awaitListing(ctx); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = l.deregister(undo) // else it expires
		return nil, c.fail(fmt.Sprintf("register %s %s", i.Service, i.ID), err)
	}
	renewing, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.renew(renewing)
	return l, nil
}

// awaitListing waits until the catalogue shows this registration: the agent tells the servers in its own time.
func (l *lease) awaitListing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var last error
	for {
		list, err := l.c.read(ctx, l.instance.Service, l.instance.Region)
		for _, e := range list {
			if e.lease == l.id {
				return nil
			}
		}
		if err != nil {
			last = err
		}
		if !pause(ctx, 5*time.Millisecond+rand.N(5*time.Millisecond)) {
			if last != nil {
				return last
			}
			return errUnlisted
		}
	}
}

// register tells the agent of the instance as it is now.
func (l *lease) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l.mu.Lock()
	i := l.instance
	l.mu.Unlock()
	return l.c.client.Agent().ServiceRegisterOpts(l.c.registration(&i, l.id, l.since),
		api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
}

func (l *lease) deregister(ctx context.Context) error {
	q := (&api.QueryOptions{}).WithContext(ctx)
	return l.c.client.Agent().ServiceDeregisterOpts(l.name, q)
}

// renew renews every third of the time to live, sooner after a failure, and registers again what the agent forgot.
func (l *lease) renew(ctx context.Context) {
	defer close(l.done)
	what := "the registration " + l.name
	defer l.c.standing.works(what)
	third := l.c.cfg.TTL / 3
	failures := 0
	for beats := 1; ; beats++ {
		next := third*9/10 + rand.N(third/10)
		if failures > 0 {
			next = min(next, backOff(failures-1))
		}
		if !pause(ctx, next) {
			return
		}
		l.calls.Lock()
		err := l.beat(ctx)
		if err == nil && beats%lookEvery == 0 {
			err = l.look(ctx)
		}
		l.calls.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err == registry.ErrLeaseLost:
			l.lose()
			return
		case err != nil:
			l.c.missed(l.c.cfg.Region)
			failures++
			l.c.complain(what, "it is not renewed, and others will take this instance for gone", l.c.cfg.Region, err)
		case failures > 0:
			l.c.standing.works(what)
			l.c.log.Info("the registration is renewed again", "backend", "consul", "address", l.c.cfg.Address, "failures", failures)
			failures = 0
		}
	}
}

// lookEvery is how many beats go by until the catalogue is asked whether another node lists a later registration.
const lookEvery = 3

// look returns registry.ErrLeaseLost if the catalogue lists a later registration in place of this one: a process on another
// node has the same name, and its agent knows nothing of this one's.
func (l *lease) look(ctx context.Context) error {
	l.mu.Lock()
	i := l.instance
	l.mu.Unlock()
	list, err := l.c.read(ctx, i.Service, i.Region)
	if err != nil {
		return nil // whoever watches it complains
	}
	for _, e := range list {
		if e.ID == i.ID && e.lease != l.id && !e.before(l) {
			return registry.ErrLeaseLost
		}
	}
	return nil
}

// before tells whether an entry was registered before a lease was.
func (e *entry) before(l *lease) bool { return e.since < l.since.UnixMilli() }

// lose ends the lease for good.
func (l *lease) lose() {
	if l.end() {
		l.stop()
		close(l.lost)
	}
}

// Lost implements registry.Lease.
func (l *lease) Lost() <-chan struct{} { return l.lost }

// beat renews once. It returns registry.ErrLeaseLost if a later lease holds the instance. l.calls is held.
//
// An earlier one may hold it too: its renewal waited in an agent that hung, and came after this one's registration. Were the
// earlier one to stay, each of two processes could lose to the other.
func (l *lease) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(l.c.cfg.TTL/3, 300*time.Millisecond))
	defer cancel()
	q := (&api.QueryOptions{}).WithContext(ctx)
	err := l.c.client.Agent().UpdateTTLOpts(checkID(l.name, l.id), "", api.HealthPassing, q)
	if err == nil || !unknown(err) {
		return err
	}
	held, err := l.holder(ctx)
	switch {
	case err != nil:
		return err
	case held.lease != "" && held.lease != l.id && !held.before(l):
		return registry.ErrLeaseLost
	}
	if err := l.register(ctx); err != nil {
		return err
	}
	l.c.log.Warn("the agent had forgotten this instance: it is registered again",
		"registration", l.name, "found", held.lease, "backend", "consul", "address", l.c.cfg.Address)
	return nil
}

// holder returns the lease that the agent knows the instance by, and when it was registered; empty for none.
func (l *lease) holder(ctx context.Context) (held entry, err error) {
	s, _, err := l.c.client.Agent().Service(l.name, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		if unknown(err) {
			return held, nil
		}
		return held, err
	}
	held.lease = s.Meta[metaLease]
	held.since, _ = strconv.ParseInt(s.Meta[metaSince], 10, 64)
	return held, nil
}

// end tells whether the lease was not over yet; it is now.
func (l *lease) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.over
	l.over = true
	return !was
}

// Update implements registry.Lease.
func (l *lease) Update(i im.Instance) error {
	if l.c.serviceID(&i) != l.name {
		return fmt.Errorf("consul: update of %s names %s", l.name, l.c.serviceID(&i))
	}
	l.calls.Lock()
	defer l.calls.Unlock()
	l.mu.Lock()
	over, before := l.over, l.instance
	l.mu.Unlock()
	if over {
		return registry.ErrLeaseLost
	}
	err := l.beat(context.Background()) // tells whether the lease still holds the instance
	if err == nil {
		l.set(i)
		if err = l.register(context.Background()); err != nil {
			l.set(before)
		}
	}
	if err == registry.ErrLeaseLost {
		l.lose()
		return err
	}
	return l.c.fail(fmt.Sprintf("update %s %s", i.Service, i.ID), err)
}

func (l *lease) set(i im.Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instance = i
}

// Close implements registry.Lease. What cannot be taken out for Consul's silence expires.
func (l *lease) Close() error {
	if !l.end() {
		return nil
	}
	l.stop()
	<-l.done
	l.calls.Lock()
	defer l.calls.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	held, err := l.holder(ctx)
	if err == nil && held.lease == l.id {
		err = l.deregister(ctx)
	}
	if err != nil && !unknown(err) {
		return l.c.fail(fmt.Sprintf("deregister %s", l.name), err)
	}
	return nil
}

// Abandon implements registry.Lease.
func (l *lease) Abandon() {
	if l.end() {
		l.stop()
		<-l.done
	}
}
