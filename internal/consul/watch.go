package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
)

// read lists a service's live entries in a region, as the datacenter's leader has them.
func (c *Consul) read(ctx context.Context, service string, r im.Region) ([]entry, error) {
	q, done := c.query(ctx, r, c.timeout(r))
	defer done()
	list, meta, err := c.client.Health().Service(c.serviceName(service), "", true, q)
	if err == nil && len(list) == 0 && meta.ResultsFilteredByACLs {
		err = errHidden
	}
	if err != nil {
		return nil, err
	}
	return c.entries(r, list), nil
}

// names lists the services that a region has or had.
func (c *Consul) names(services map[string][]string) []string {
	var names []string
	for name := range services {
		if service, ok := strings.CutPrefix(name, c.cfg.Prefix+"-"); ok {
			names = append(names, service)
		}
	}
	slices.Sort(names)
	return names
}

// Instances implements registry.Registry. It is what the region's leader has at this moment, believable or not.
func (c *Consul) Instances(ctx context.Context, service string, r im.Region) ([]im.Instance, error) {
	services := []string{service}
	if service == "" {
		q, done := c.query(ctx, r, c.timeout(r))
		defer done()
		all, _, err := c.client.Catalog().Services(q)
		if err != nil {
			return nil, c.miss(ctx, r, "list services of "+string(r), err)
		}
		services = c.names(all)
	}
	var list []im.Instance
	for _, s := range services {
		entries, err := c.read(ctx, s, r)
		if err != nil {
			return nil, c.miss(ctx, r, fmt.Sprintf("list %s of %s", s, r), err)
		}
		list = append(list, instances(entries)...)
	}
	c.heard(r)
	return list, nil
}

// miss is fail for a read of a region that brought nothing.
func (c *Consul) miss(ctx context.Context, r im.Region, what string, err error) error {
	if ctx.Err() == nil {
		c.missed(r)
	}
	return c.fail(what, err)
}

// Watch implements registry.Registry.
func (c *Consul) Watch(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error {
	if service != "" {
		return c.watchService(ctx, service, r, fn)
	}
	return c.watchAll(ctx, r, fn)
}

// watchAll watches every service that the region's catalogue names.
func (c *Consul) watchAll(ctx context.Context, r im.Region, fn func([]im.Instance)) error {
	var (
		mu      sync.Mutex
		lists   = map[string][]im.Instance{} // by service
		waiting = map[string]bool{}          // services that have not been heard of
		told    []im.Instance
		first   = true
		watches sync.WaitGroup
	)
	tell := func() { // mu is held
		if len(waiting) > 0 {
			return // what is told is whole
		}
		var all []im.Instance
		for _, list := range lists {
			all = append(all, list...)
		}
		slices.SortFunc(all, compare)
		if first || !slices.EqualFunc(all, told, equal) {
			fn(slices.Clone(all))
			told, first = all, false
		}
	}
	defer watches.Wait()
	return follow(ctx, c, r, "services", c.client.Catalog().Services, func(services map[string][]string, _ bool) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range c.names(services) {
			if _, ok := lists[s]; ok || waiting[s] {
				continue
			}
			waiting[s] = true
			watches.Go(func() {
				_ = c.watchService(ctx, s, r, func(list []im.Instance) { // it ends with ctx only
					mu.Lock()
					defer mu.Unlock()
					delete(waiting, s)
					lists[s] = list
					tell()
				})
			})
		}
		tell()
		return 0
	})
}

func (c *Consul) watchService(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error {
	var (
		told   []im.Instance
		first  = true
		doubts time.Time // since when the answers of this watch are not to be believed
	)
	read := func(q *api.QueryOptions) ([]*api.ServiceEntry, *api.QueryMeta, error) {
		list, meta, err := c.client.Health().Service(c.serviceName(service), "", true, q)
		if err == nil && len(list) == 0 && meta.ResultsFilteredByACLs {
			err = errHidden
		}
		return list, meta, err
	}
	return follow(ctx, c, r, service, read, func(list []*api.ServiceEntry, reset bool) time.Duration {
		now := time.Now()
		answer := instances(c.entries(r, list))
		if reset || len(answer) == 0 && len(told) > 0 && doubts.IsZero() {
			doubts = now
		}
		if len(answer) > 0 && !reset && now.Sub(doubts) > c.settling() {
			doubts = time.Time{}
		}
		settled := latest(doubts, c.troubled(r)).Add(c.settling())
		next, again := settle(told, answer, now, settled)
		if first || !slices.EqualFunc(next, told, equal) {
			fn(slices.Clone(next))
			told, first = next, false
		}
		return again
	})
}

// settling is how long after a trouble every living instance is registered and renewed again.
func (c *Consul) settling() time.Duration { return c.cfg.TTL + c.cfg.TTL/2 }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// follow asks, and asks again whenever the answer may have changed, until ctx ends, whose error it returns. tell is given
// each answer, and whether the index went backwards since the one before: then the servers lost their memory or are others.
// It returns when it wants to be told again at the latest, 0 for whenever something changes.
func follow[T any](
	ctx context.Context, c *Consul, r im.Region, what string,
	read func(*api.QueryOptions) (T, *api.QueryMeta, error), tell func(answer T, reset bool) time.Duration,
) error {
	defer c.standing.works("the watch of " + what) // nobody waits for it any more
	var (
		index    uint64
		failures int
		again    time.Duration
	)
	for ctx.Err() == nil {
		hold := wait
		if again > 0 {
			hold = min(hold, again)
		}
		timeout := c.timeout(r)
		if index > 0 {
			timeout += hold + hold/8 // Consul adds up to a sixteenth
		}
		q, done := c.query(ctx, r, timeout)
		q.WaitIndex, q.WaitTime = index, hold
		q.AllowStale = r != c.cfg.Region
		answer, meta, err := read(q)
		done()
		if err == nil && q.AllowStale && (!meta.KnownLeader || meta.LastContact > maxLag) {
			err = fmt.Errorf("what answers has not heard of a leader for %v", meta.LastContact)
		}
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			failures++
			c.complain("the watch of "+what, "what is known stands", r, err)
			c.missed(r)
			pause(ctx, backOff(failures-1))
			index = 0 // ask without waiting: the answer is wanted at once
			continue
		}
		if failures > 0 {
			c.standing.works("the watch of " + what)
			c.log.Info("Consul answers a watch again", "watched", what, "of", r, "address", c.cfg.Address, "failures", failures)
			failures = 0
		}
		c.heard(r)
		reset := meta.LastIndex < index
		if index = max(meta.LastIndex, 1); reset {
			index = 0
		}
		again = tell(answer, reset)
		pause(ctx, 20*time.Millisecond) // where much changes, it is told in bundles
	}
	return ctx.Err()
}
