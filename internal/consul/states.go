package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// stateValue is what a key holds.
type stateValue struct {
	State im.State `json:"state"`
	Stamp im.Stamp `json:"stamp"`
}

func (c *Consul) statesPath() string { return c.cfg.Prefix + "/regions/" }

// SetRegionState implements registry.States: it tells every datacenter that can be reached. It fails if none can; one that
// could not be reached is logged, and told by the watches of others when it is back.
func (c *Consul) SetRegionState(ctx context.Context, s im.RegionState) error {
	if _, err := im.ParseState(string(s.State)); err != nil {
		return err
	}
	if _, err := im.ParseRegion(string(s.Region)); err != nil {
		return err
	}
	errs := c.each(func(r im.Region) error {
		if err := c.put(ctx, r, s); err != nil {
			return c.miss(ctx, r, fmt.Sprintf("set the state of %s in datacenter %s", s.Region, r), err)
		}
		c.heard(r)
		return nil
	})
	if len(errs) == len(c.cfg.Regions) {
		return errors.Join(slices.Collect(maps.Values(errs))...)
	}
	for r, err := range errs {
		c.log.Warn("a datacenter was not told the state of a region; it will be when it is back", "state", s.State, "of", s.Region, "datacenter", r, "error", err)
	}
	return nil
}

// each calls do for every region at once and returns the errors.
func (c *Consul) each(do func(im.Region) error) map[im.Region]error {
	var (
		mu   sync.Mutex
		errs = map[im.Region]error{}
		wg   sync.WaitGroup
	)
	for _, r := range c.cfg.Regions {
		wg.Go(func() {
			if err := do(r); err != nil {
				mu.Lock()
				errs[r] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errs
}

// putTries bounds how often a check-and-set that lost is tried again.
const putTries = 10

// put writes a state into one datacenter's KV unless what stands there is higher.
func (c *Consul) put(ctx context.Context, r im.Region, s im.RegionState) error {
	value, err := json.Marshal(stateValue{s.State, s.Stamp})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout(r))
	defer cancel()
	q, done := c.query(ctx, r, c.timeout(r))
	defer done()
	q.RequireConsistent = true
	w := (&api.WriteOptions{Datacenter: q.Datacenter}).WithContext(ctx)
	key := c.statesPath() + string(s.Region)
	for range putTries {
		pair, _, err := c.client.KV().Get(key, q)
		if err != nil {
			return err
		}
		next := &api.KVPair{Key: key, Value: value} // index 0: only if there is none
		if pair != nil {
			stands, ok := parseState(pair)
			if ok && s.Compare(stands) <= 0 {
				return nil
			}
			next.ModifyIndex = pair.ModifyIndex
		}
		won, _, err := c.client.KV().CAS(next, w)
		if err != nil || won {
			return err
		}
		if !pause(ctx, time.Millisecond+rand.N(20*time.Millisecond)) {
			return ctx.Err()
		}
	}
	return errors.New("others write the same state all the time")
}

// parseState reads a key; one that cannot be read counts for nothing.
func parseState(p *api.KVPair) (im.RegionState, bool) {
	region, err := im.ParseRegion(p.Key[strings.LastIndexByte(p.Key, '/')+1:])
	if err != nil {
		return im.RegionState{}, false
	}
	var v stateValue
	if err := json.Unmarshal(p.Value, &v); err != nil {
		return im.RegionState{}, false
	}
	if _, err := im.ParseState(string(v.State)); err != nil {
		return im.RegionState{}, false
	}
	return im.RegionState{Region: region, State: v.State, Stamp: v.Stamp}, true
}

// RegionStates implements registry.States: the highest of what all datacenters say; of one that does not answer, of what
// it said last.
func (c *Consul) RegionStates(ctx context.Context) ([]im.RegionState, error) {
	errs := c.each(func(r im.Region) error {
		q, done := c.query(ctx, r, c.timeout(r))
		defer done()
		pairs, _, err := c.client.KV().List(c.statesPath(), q)
		if err != nil {
			return c.miss(ctx, r, "states in datacenter "+string(r), err)
		}
		c.heard(r)
		c.keepStates(r, pairs)
		return nil
	})
	if len(errs) == len(c.cfg.Regions) {
		return nil, errors.Join(slices.Collect(maps.Values(errs))...)
	}
	return c.merged(), nil
}

// keepStates takes what a datacenter's KV says. It forgets nothing: a KV that lost its memory takes no region's state away.
func (c *Consul) keepStates(r im.Region, pairs api.KVPairs) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.states[r] == nil {
		c.states[r] = map[im.Region]im.RegionState{}
	}
	for _, p := range pairs {
		s, ok := parseState(p)
		if stands, has := c.states[r][s.Region]; ok && (!has || s.Compare(stands) > 0) {
			c.states[r][s.Region] = s
		}
	}
}

// merged is the highest of what all datacenters said of each region, by name.
func (c *Consul) merged() []im.RegionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[im.Region]im.RegionState{}
	for _, said := range c.states {
		for region, s := range said {
			if stands, has := all[region]; !has || s.Compare(stands) > 0 {
				all[region] = s
			}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b im.RegionState) int { return cmp.Compare(a.Region, b.Region) })
}

// WatchRegionStates implements registry.States. It begins with the own datacenter's answer; the others add to it. A state
// that another datacenter has, and the own one lacks, is written into the own one's KV.
func (c *Consul) WatchRegionStates(ctx context.Context, fn func([]im.RegionState)) error {
	var (
		mu      sync.Mutex
		told    []im.RegionState
		first   = true
		watches sync.WaitGroup
	)
	tell := func(r im.Region) {
		mu.Lock()
		defer mu.Unlock()
		if first && r != c.cfg.Region {
			return
		}
		if all := c.merged(); first || !slices.Equal(all, told) {
			fn(slices.Clone(all))
			told, first = all, false
		}
	}
	watch := func(r im.Region) error {
		return follow(ctx, c, r, "states", func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
			return c.client.KV().List(c.statesPath(), q)
		}, func(pairs api.KVPairs, _ bool) time.Duration {
			c.keepStates(r, pairs)
			tell(r)
			if r == c.cfg.Region {
				c.bringHome(ctx, pairs)
			}
			return 0
		})
	}
	defer watches.Wait()
	for _, r := range c.cfg.Regions {
		if r != c.cfg.Region {
			watches.Go(func() { _ = watch(r) }) // it ends with ctx only
		}
	}
	return watch(c.cfg.Region)
}

// bringHome writes into the own datacenter's KV what it lacks of what is known.
func (c *Consul) bringHome(ctx context.Context, pairs api.KVPairs) {
	has := map[im.Region]im.RegionState{}
	for _, p := range pairs {
		if s, ok := parseState(p); ok {
			has[s.Region] = s
		}
	}
	for _, s := range c.merged() {
		if stands, ok := has[s.Region]; ok && s.Compare(stands) <= 0 {
			continue
		}
		if err := c.put(ctx, c.cfg.Region, s); err != nil && ctx.Err() == nil {
			c.log.Warn("the own datacenter lacks the state of a region that others have, and cannot be told",
				"of", s.Region, "state", s.State, "address", c.cfg.Address, "error", err)
		}
	}
}

var (
	_ registry.Registry = (*Consul)(nil)
	_ registry.States   = (*Consul)(nil)
)
