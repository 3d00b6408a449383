// Package mirror compares the routes that a region's Redis holds with what the region's route logs spell.
package mirror

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/wire"
)

// Region is where one region's routes are.
type Region struct {
	Origins    []im.Origin // whose logs are followed, all of them whole: none was jumped or cut by retention
	Partitions int
	Log        *kafka.Cluster
	Redis      *redis.Routes
	Prefix     string // of its keys
}

// Differs is nil if every partition's position in Redis is the end of its log, and the rows of every user that either
// names are those that the pure table makes of the log up to there. rows tells how many were compared.
func (r Region) Differs(ctx context.Context) (rows int, err error) {
	table, err := routes.New(r.Origins[0].Region(), r.Origins, r.Partitions, 0)
	if err != nil {
		return 0, err
	}
	store := r.Redis
	before := map[int]map[im.Origin]im.RoutePosition{}
	users := map[im.UID]bool{}
	for n := range r.Partitions {
		if before[n], err = store.Positions(ctx, n); err != nil {
			return 0, err
		}
		if err := r.stored(ctx, n, users); err != nil {
			return 0, err
		}
		for _, o := range r.Origins {
			if err := r.follow(ctx, table, im.Partition{Topic: im.RouteTopic(o), Number: n}, before[n][o], users); err != nil {
				return 0, err
			}
		}
	}
	for uid := range users {
		got, err := store.Lookup(ctx, wire.Partition(string(uid), r.Partitions), uid)
		if err != nil {
			return 0, err
		}
		want := table.Rows(uid, 0) // at time 0: those that are dead of age are in Redis too
		if !slices.Equal(got, want) {
			return 0, fmt.Errorf("routes of %s\nin Redis %+v\nby the logs %+v", uid, got, want)
		}
		rows += len(want)
	}
	for n := range r.Partitions {
		after, err := store.Positions(ctx, n)
		if err != nil {
			return 0, err
		}
		for o, was := range before[n] {
			if after[o] != was {
				return 0, fmt.Errorf("%s/%d moved while it was looked at", im.RouteTopic(o), n)
			}
		}
	}
	return rows, nil
}

// follow applies a partition up to a position, which must be the end of its log.
func (r Region) follow(ctx context.Context, table *routes.Table, p im.Partition, at im.RoutePosition, users map[im.UID]bool) error {
	bounds, err := r.Log.Bounds(ctx, []im.Partition{p})
	if err != nil {
		return err
	}
	if end := bounds[p].End; at.Local != end {
		return fmt.Errorf("in Redis %v stands at %d, the log ends at %d", p, at.Local, end)
	}
	for local := bounds[p].Start; local < at.Local; {
		batch, err := r.Log.Read(ctx, p, local, 1<<20)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			return fmt.Errorf("%v cannot be read at %d", p, local)
		}
		entries := make([]routes.Entry, len(batch))
		for i := range batch {
			head := wire.DecodeHead(&batch[i])
			entries[i] = routes.Entry{Local: batch[i].Offset, Generation: head.Generation}
			e := &entries[i]
			e.Kind = head.Kind
			e.Route = im.Route{Region: p.Origin().Region(), Offset: head.OriginOffset, Claimed: head.Stamp}
			switch head.Kind {
			case im.KindClaim, im.KindRelease, im.KindGatewayDown:
				if e.RouteRecord, err = wire.DecodeRouteRecord(&batch[i], head); err != nil {
					return err
				}
				e.Route.Region = p.Origin().Region()
				if e.Route.UID != "" {
					users[e.Route.UID] = true
				}
			}
			local = batch[i].Offset + 1
		}
		table.Apply(p, entries, 0)
	}
	return nil
}

// stored notes whose rows Redis holds of a partition number.
func (r Region) stored(ctx context.Context, number int, users map[im.UID]bool) error {
	base := fmt.Sprintf("%s{route.%d}:user:", r.Prefix, number)
	keys := r.Redis.Client().Scan(ctx, 0, base+"*", 1000).Iterator()
	for keys.Next(ctx) {
		users[im.UID(strings.TrimPrefix(keys.Val(), base))] = true
	}
	return keys.Err()
}
