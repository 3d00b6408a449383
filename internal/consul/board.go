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
)

// board is what is said of regions, one key each, in every datacenter's KV: the highest of what is said holds. A board that
// lost its memory takes nothing away from who knows it, and is told again.
type board[T any] struct {
	c     *Consul
	path  string // <prefix>/<what>/
	what  string // for people
	of    func(T) im.Region
	order func(a, b T) int // of one region
	value func(T) any      // what a key holds, as JSON
	parse func(r im.Region, value []byte) (T, error)

	said map[im.Region]map[im.Region]T // by datacenter: what its KV said last; guarded by Consul.mu
}

// set tells every datacenter that can be reached. It fails if none can; one that could not be reached is logged, and told
// by the watches of others when it is back.
func (b *board[T]) set(ctx context.Context, v T) error {
	of := b.of(v)
	errs := b.c.each(func(r im.Region) error {
		if err := b.put(ctx, r, v); err != nil {
			return b.c.miss(ctx, r, fmt.Sprintf("set %s of %s in datacenter %s", b.what, of, r), err)
		}
		b.c.heard(r)
		return nil
	})
	if len(errs) == len(b.c.cfg.Regions) {
		return errors.Join(slices.Collect(maps.Values(errs))...)
	}
	for r, err := range errs {
		b.c.log.Warn("a datacenter was not told what is said of a region; it will be when it is back", "what", b.what, "of", of, "datacenter", r, "error", err)
	}
	return nil
}

// putTries bounds how often a check-and-set that lost is tried again.
const putTries = 10

// put writes into one datacenter's KV unless what stands there is higher.
func (b *board[T]) put(ctx context.Context, r im.Region, v T) error {
	value, err := json.Marshal(b.value(v))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.c.timeout(r))
	defer cancel()
	q, done := b.c.query(ctx, r, b.c.timeout(r))
	defer done()
	q.RequireConsistent = true
	w := (&api.WriteOptions{Datacenter: q.Datacenter}).WithContext(ctx)
	key := b.path + string(b.of(v))
	for range putTries {
		pair, _, err := b.c.client.KV().Get(key, q)
		if err != nil {
			return err
		}
		next := &api.KVPair{Key: key, Value: value} // index 0: only if there is none
		if pair != nil {
			stands, ok := b.read(pair)
			if ok && b.order(v, stands) <= 0 {
				return nil
			}
			next.ModifyIndex = pair.ModifyIndex
		}
		won, _, err := b.c.client.KV().CAS(next, w)
		if err != nil || won {
			return err
		}
		if !pause(ctx, time.Millisecond+rand.N(20*time.Millisecond)) {
			return ctx.Err()
		}
	}
	return errors.New("others write the same key all the time")
}

// read parses a key; one that cannot be read counts for nothing.
func (b *board[T]) read(p *api.KVPair) (T, bool) {
	var none T
	region, err := im.ParseRegion(p.Key[strings.LastIndexByte(p.Key, '/')+1:])
	if err != nil {
		return none, false
	}
	v, err := b.parse(region, p.Value)
	return v, err == nil
}

// list is the highest of what all datacenters say; of one that does not answer, of what it said last.
func (b *board[T]) list(ctx context.Context) ([]T, error) {
	errs := b.c.each(func(r im.Region) error {
		q, done := b.c.query(ctx, r, b.c.timeout(r))
		defer done()
		pairs, _, err := b.c.client.KV().List(b.path, q)
		if err != nil {
			return b.c.miss(ctx, r, b.what+" in datacenter "+string(r), err)
		}
		b.c.heard(r)
		b.keep(r, pairs)
		return nil
	})
	if len(errs) == len(b.c.cfg.Regions) {
		return nil, errors.Join(slices.Collect(maps.Values(errs))...)
	}
	return b.merged(), nil
}

// keep takes what a datacenter's KV says. It forgets nothing.
func (b *board[T]) keep(r im.Region, pairs api.KVPairs) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.said[r] == nil {
		b.said[r] = map[im.Region]T{}
	}
	for _, p := range pairs {
		v, ok := b.read(p)
		if !ok {
			continue
		}
		if stands, has := b.said[r][b.of(v)]; !has || b.order(v, stands) > 0 {
			b.said[r][b.of(v)] = v
		}
	}
}

// merged is the highest of what all datacenters said of each region, by name.
func (b *board[T]) merged() []T {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	all := map[im.Region]T{}
	for _, said := range b.said {
		for region, v := range said {
			if stands, has := all[region]; !has || b.order(v, stands) > 0 {
				all[region] = v
			}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(x, y T) int { return cmp.Compare(b.of(x), b.of(y)) })
}

// same tells whether two lists say the same.
func (b *board[T]) same(x, y []T) bool {
	return slices.EqualFunc(x, y, func(x, y T) bool { return b.of(x) == b.of(y) && b.order(x, y) == 0 })
}

// watch begins with the own datacenter's answer; the others add to it. What another datacenter has, and the own one lacks, is
// written into the own one's KV.
func (b *board[T]) watch(ctx context.Context, fn func([]T)) error {
	var (
		mu      sync.Mutex
		told    []T
		first   = true
		watches sync.WaitGroup
	)
	tell := func(r im.Region) {
		mu.Lock()
		defer mu.Unlock()
		if first && r != b.c.cfg.Region {
			return
		}
		if all := b.merged(); first || !b.same(all, told) {
			fn(slices.Clone(all))
			told, first = all, false
		}
	}
	watch := func(r im.Region) error {
		return follow(ctx, b.c, r, b.what, func(q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
			return b.c.client.KV().List(b.path, q)
		}, func(pairs api.KVPairs, _ bool) time.Duration {
			b.keep(r, pairs)
			tell(r)
			if r == b.c.cfg.Region {
				b.bringHome(ctx, pairs)
			}
			return 0
		})
	}
	defer watches.Wait()
	for _, r := range b.c.cfg.Regions {
		if r != b.c.cfg.Region {
			watches.Go(func() { _ = watch(r) }) // it ends with ctx only
		}
	}
	return watch(b.c.cfg.Region)
}

// bringHome writes into the own datacenter's KV what it lacks of what is known.
func (b *board[T]) bringHome(ctx context.Context, pairs api.KVPairs) {
	has := map[im.Region]T{}
	for _, p := range pairs {
		if v, ok := b.read(p); ok {
			has[b.of(v)] = v
		}
	}
	for _, v := range b.merged() {
		if stands, ok := has[b.of(v)]; ok && b.order(v, stands) <= 0 {
			continue
		}
		if err := b.put(ctx, b.c.cfg.Region, v); err != nil && ctx.Err() == nil {
			b.c.log.Warn("the own datacenter lacks what others say of a region, and cannot be told",
				"what", b.what, "of", b.of(v), "address", b.c.cfg.Address, "error", err)
		}
	}
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
