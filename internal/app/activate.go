package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
)

// activateEvery is how often it is looked whether a region has caught up.
const activateEvery = time.Second

// Activate marks the own region active once it has what the others have: its copies hold, of every origin, what any other
// region held when it was asked, and its timelines have applied all of it. It returns when that is so.
func (o *Operator) Activate(ctx context.Context, progress func(string)) error {
	want, err := o.heldElsewhere(ctx, progress)
	if err != nil {
		return err
	}
	tick := time.NewTicker(activateEvery)
	defer tick.Stop()
	told, began, first := time.Time{}, time.Now(), int64(-1)
	for {
		missing, err := o.missing(ctx, want)
		switch {
		case err == nil && missing == 0:
			state := im.RegionState{Region: o.site.Region, State: im.StateActive, Stamp: im.StampAt(time.Now())}
			return o.env.Discovery.SetRegionState(ctx, state)
		case err != nil && time.Since(told) > 5*time.Second:
			progress(fmt.Sprintf("waiting: %v", err))
			told = time.Now()
		case err == nil && time.Since(told) > 5*time.Second:
			if first < 0 {
				first, began = missing, time.Now()
			}
			progress(fmt.Sprintf("%d records are not applied yet%s", missing, regions.ETA(first, missing, time.Since(began))))
			told = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("region %s has not caught up and stays as it is", o.site.Region), context.Cause(ctx), err)
		}
	}
}

// heldElsewhere is, for each partition that timelines are derived from, the most that another region holds: in a copy, or in its
// own log. A region that does not answer is not waited for, unless none does: what it alone has comes when its link opens.
func (o *Operator) heldElsewhere(ctx context.Context, progress func(string)) (map[im.Partition]int64, error) {
	others := slices.DeleteFunc(slices.Clone(o.site.Regions), func(r im.Region) bool { return r == o.site.Region })
	copies, done, err := o.peers(others)
	if err != nil {
		return nil, err
	}
	defer done()
	want := map[im.Partition]int64{}
	var silent []error
	for _, region := range others {
		held, err := o.heldBy(ctx, region, copies[region])
		if err != nil {
			silent = append(silent, err)
			progress(fmt.Sprintf("%v: what it alone has is not waited for", err))
			continue
		}
		for p, next := range held {
			want[p] = max(want[p], next)
		}
	}
	if len(silent) > 0 && len(silent) == len(others) {
		return nil, errors.Join(silent...)
	}
	return want, nil
}

// heldBy is what one region holds of all origins.
func (o *Operator) heldBy(ctx context.Context, region im.Region, copies *rpc.Copies) (map[im.Partition]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	held := map[im.Partition]int64{}
	own, _ := o.site.newest(region)
	for _, origin := range o.site.Origins {
		if origin.Region() == region && origin != own {
			continue
		}
		states, err := copies.Hold(ctx, origin, 0) // of the own log: where it ends
		if err != nil {
			return nil, fmt.Errorf("how far region %s has the log of %s is not known: %w", region, origin, err)
		}
		for _, s := range states {
			if family, _, _ := im.ParseTopic(s.Partition.Topic); family != im.FamilyRoute {
				held[s.Partition] = s.Next
			}
		}
	}
	return held, nil
}

// missing counts the records that the own timelines have not applied of what is wanted.
func (o *Operator) missing(ctx context.Context, want map[im.Partition]int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	instances, err := o.env.Discovery.Instances(ctx, ServiceIMServer, o.site.Region)
	if err != nil {
		return 0, err
	}
	if len(instances) == 0 {
		return 0, fmt.Errorf("no imserver of %s runs", o.site.Region)
	}
	identity, err := o.env.Identity(ServiceReplicator)
	if err != nil {
		return 0, err
	}
	links := rpc.NewLinks(func(im.Region) (rpc.LinkTarget, error) {
		return rpc.LinkTarget{Addr: instances[0].Addr, TLS: identity.Client(ServiceIMServer, o.site.Region)}, nil
	})
	conn, err := links.Dial(o.site.Region)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	positions, err := rpc.NewView(conn).Positions(ctx, "")
	if err != nil {
		return 0, err
	}
	applied := make(map[im.Partition]int64, len(positions))
	for _, p := range positions {
		applied[p.Partition] = p.Next
	}
	missing := int64(0)
	for p, next := range want {
		missing += max(0, next-applied[p])
	}
	return missing, nil
}
