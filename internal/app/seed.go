package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/wire"
)

// SeedOrder gives the own region the timelines of another.
type SeedOrder struct {
	From     im.Region
	Rate     int  // bytes a second that come from it; 0: as fast as it goes
	Anew     bool // a seeding that was begun is given up
	Progress func(string)
}

// Seed fills the databases of the own region, which hold no timelines, with what those of another region hold, and has apply
// begin where that ends: logs bring what follows. No imserver of the region may run. Run again, it goes on behind what is
// there; what is complete stays as it is.
//
// A region that is known to take clients is marked as joining first.
func (o *Operator) Seed(ctx context.Context, order SeedOrder) (regions.Planted, error) {
	var none regions.Planted
	if len(o.site.Timelines.URLs) == 0 {
		return none, &ConfigError{errors.New("seeding fills the databases of the region: set timelines.urls")}
	}
	if err := o.known(order.From); err != nil {
		return none, err
	}
	if order.From == o.site.Region || !slices.Contains(o.site.Regions, order.From) {
		return none, &ConfigError{fmt.Errorf("region %s cannot be seeded from %s: name another one of %v", o.site.Region, order.From, o.site.Regions)}
	}
	if err := o.quiet(ctx); err != nil {
		return none, err
	}
	if order.Anew {
		if err := o.uproot(ctx); err != nil {
			return none, err
		}
	}
	seedings, done, err := postgres.OpenSeedings(ctx, o.site.databases(), o.site.Origin)
	if err != nil {
		return none, err
	}
	defer done()
	log, err := kafka.Open(ctx, o.site.Kafka, kafka.Deps{})
	if err != nil {
		return none, err
	}
	defer log.Close()
	copies, closeAll, err := o.peers(slices.DeleteFunc(slices.Clone(o.site.Regions), func(r im.Region) bool { return r == o.site.Region }))
	if err != nil {
		return none, err
	}
	defer closeAll()
	if err := o.join(ctx, order.Progress); err != nil {
		return none, err
	}
	seed := regions.Seed{
		From: order.From, Snapshots: copies[order.From], Rate: order.Rate, Progress: order.Progress,
		Check: func(ctx context.Context, cut []*wire.SnapshotPosition) error {
			return o.follows(ctx, log, copies, order.From, cut, order.Progress)
		},
	}
	for _, s := range seedings {
		seed.Databases = append(seed.Databases, s)
	}
	return seed.Run(ctx)
}

// quiet fails if an imserver of the own region runs, which would apply.
func (o *Operator) quiet(ctx context.Context) error {
	instances, err := o.env.Discovery.Instances(ctx, ServiceIMServer, o.site.Region)
	if err != nil {
		return fmt.Errorf("whether imservers of region %s run is not known: %w", o.site.Region, err)
	}
	if len(instances) > 0 {
		return fmt.Errorf("imserver %s of region %s runs: stop it first", instances[0].ID, o.site.Region)
	}
	return nil
}

// uproot empties databases of which one is half seeded.
func (o *Operator) uproot(ctx context.Context) error {
	seedings, done, err := postgres.OpenSeedings(ctx, o.site.databases(), o.site.Origin)
	if err != nil {
		return err
	}
	defer done()
	for _, s := range seedings {
		has, err := s.Begun(ctx)
		if err != nil {
			return err
		}
		if has.Source != "" && !has.Done {
			return postgres.Clear(ctx, o.site.databases())
		}
	}
	return errors.New("no seeding is under way that could be begun anew: what the databases hold stays")
}

// join marks the own region as joining: its timelines are not what clients expect. Of a new one its replicator will say so, and
// by itself that it has caught up.
func (o *Operator) join(ctx context.Context, progress func(string)) error {
	states, err := o.env.Discovery.RegionStates(ctx)
	if err != nil {
		return fmt.Errorf("the states of regions are not known: %w", err)
	}
	said := im.RegionState{Region: o.site.Region, State: im.StateJoining, Stamp: stampJoining}
	for _, s := range states {
		if s.Region != o.site.Region {
			continue
		}
		switch {
		case s.State.Gone():
			return fmt.Errorf("region %s was declared lost or removed: it comes back by antipode region return", o.site.Region)
		case s.State != im.StateActive:
			return nil
		}
		said.Stamp = im.StampAt(time.Now())
		progress("the region took clients: it is joining from now on, until antipode region activate")
	}
	if err := o.env.Discovery.SetRegionState(ctx, said); err != nil {
		return fmt.Errorf("discovery was not told that region %s is joining: %w", o.site.Region, err)
	}
	return nil
}

// follows fails unless logs bring what follows a cut: each is one that the region follows, and still holds the next record. Of one
// that is sealed no link brings anything: all of it must be below the cut. A region that does not answer is believed.
func (o *Operator) follows(
	ctx context.Context, log *kafka.Cluster, copies map[im.Region]*rpc.Copies, from im.Region, cut []*wire.SnapshotPosition, progress func(string),
) error {
	states, err := o.states(ctx)
	if err != nil {
		return err
	}
	newest := map[im.Region]im.Origin{}
	for _, r := range o.site.Regions {
		newest[r], _ = o.site.newest(r)
	}
	next := map[im.Region]map[im.Partition]int64{}   // of the logs of others
	sealed := map[im.Origin]map[im.Partition]int64{} // of those of which nothing follows
	for _, at := range cut {
		p := im.Partition{Topic: at.Topic, Number: int(at.Partition)}
		origin := p.Origin()
		switch {
		case !slices.Contains(o.site.Origins, origin):
			return fmt.Errorf("the snapshot holds records of %s, whose log region %s does not follow: list it in origins", origin, o.site.Region)
		case at.Generation == im.SealedGeneration: // all of it is in the snapshot, and nothing will follow
		case at.Generation != 0 || newest[origin.Region()] != origin || states[origin.Region()].State.Gone():
			if sealed[origin] == nil {
				sealed[origin] = map[im.Partition]int64{}
			}
			sealed[origin][p] = at.Next
		case origin == o.site.Origin:
			if err := o.ownHolds(ctx, log, p, at.Next); err != nil {
				return err
			}
		default:
			if next[origin.Region()] == nil {
				next[origin.Region()] = map[im.Partition]int64{}
			}
			next[origin.Region()][p] = at.Next
		}
	}
	for origin, next := range sealed {
		if err := allOf(ctx, copies[from], origin, next); err != nil {
			return err
		}
	}
	names := slices.Sorted(maps.Keys(next))
	errs, silent := make([]error, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, r := range names {
		if copies[r] == nil {
			continue
		}
		wg.Go(func() { silent[i], errs[i] = stillHolds(ctx, r, copies[r], next[r]) })
	}
	wg.Wait()
	for _, err := range silent {
		if err != nil {
			progress(fmt.Sprintf("%v: whether its log still has what follows the snapshot is not known", err))
		}
	}
	return errors.Join(errors.Join(errs...), context.Cause(ctx))
}

// allOf fails unless a cut is at the seals of an origin.
func allOf(ctx context.Context, source *rpc.Copies, origin im.Origin, next map[im.Partition]int64) error {
	call, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	states, err := source.Hold(call, origin, 0)
	if err != nil {
		return fmt.Errorf("where the log of %s ends, of which links bring nothing, is not known: %w", origin, err)
	}
	for _, s := range states {
		if family, _, _ := im.ParseTopic(s.Partition.Topic); family == im.FamilyRoute {
			continue
		}
		if !s.Sealed() {
			return fmt.Errorf("links bring nothing of the log of %s, and %v is not sealed yet: declare it lost to its end, and try again later", origin, s.Partition)
		}
		if next[s.Partition] < s.Next {
			return fmt.Errorf("links bring nothing of the log of %s, and the timelines that are taken are at %d of %d in %v: try again later",
				origin, next[s.Partition], s.Next, s.Partition)
		}
	}
	return nil
}

// stillHolds asks a region whether its log holds the next record of each partition. silent is why it does not tell.
func stillHolds(ctx context.Context, r im.Region, source regions.Digester, next map[im.Partition]int64) (silent, err error) {
	for _, p := range slices.SortedFunc(maps.Keys(next), im.Partition.Compare) {
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		d, err := source.Digest(call, p, 0, 0, 1)
		cancel()
		if err != nil {
			return err, nil
		}
		if d.First > next[p] {
			return nil, fmt.Errorf("%v begins at %d in %s: retention has removed what follows the snapshot, which is cut at %d. Begin with another one: --anew",
				p, d.First, r, next[p])
		}
	}
	return nil, nil
}

// ownHolds fails unless the own log goes on where a cut ends.
func (o *Operator) ownHolds(ctx context.Context, log *kafka.Cluster, p im.Partition, next int64) error {
	bounds, err := log.Bounds(ctx, []im.Partition{p})
	if err != nil {
		return err
	}
	b, ok := bounds[p]
	switch {
	case !ok:
		return fmt.Errorf("%v does not exist: run antipode migrate", p)
	case b.End < next:
		return fmt.Errorf("%v ends at %d here, and the other region has %d records of it: the region's own log is lost, and it can only come back "+
			"under its next epoch (antipode region lose, then antipode region return)", p, b.End, next)
	case b.Start > next:
		return fmt.Errorf("%v begins at %d here, and the other region has applied up to %d only: wait until it has caught up", p, b.Start, next)
	}
	return nil
}

// Region is the one whose configuration the operator has.
func (o *Operator) Region() im.Region { return o.site.Region }

// DescribePlanted is what an operator reads after a region was seeded.
func DescribePlanted(r, from im.Region, p regions.Planted) string {
	if p.Before > 0 && p.Bytes == 0 {
		return fmt.Sprintf("region %s was seeded before: nothing is to be done", r)
	}
	text := fmt.Sprintf("region %s is seeded from %s: %d messages, %.1f MB in this run. Start its services", r, from, p.Records, float64(p.Bytes)/1e6)
	if p.Absent > 0 {
		text += fmt.Sprintf("; %d older messages are not in %s any more", p.Absent, from)
	}
	return text
}
