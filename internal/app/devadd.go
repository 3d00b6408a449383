package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/postgres"
)

// all are the regions.
func (d *Dev) all() []*devRegion {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.regions
}

// wires are the links.
func (d *Dev) wires() map[linkName]*devLink {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.links
}

// AddRegion starts a region beside those that run, which hear of it by an order of one of them and by nothing else. Their
// links to it are real ones and pass no proxy; those from them to it can be cut as any.
func (d *Dev) AddRegion(ctx context.Context, name im.Region) error {
	return d.addRegion(ctx, name, func(*devRegion) error { return nil })
}

// AddSeeded is AddRegion for one that is to be seeded, once the others follow it and before its services start.
func (d *Dev) AddSeeded(ctx context.Context, name im.Region, seed func(*Operator) error) error {
	return d.addRegion(ctx, name, func(r *devRegion) error {
		if err := r.ready(ctx); err != nil {
			return err
		}
		if err := d.announce(ctx, r); err != nil {
			return err
		}
		operator, err := NewOperator(r.site, r.env)
		if err != nil {
			return err
		}
		return seed(operator)
	})
}

// addRegion starts a region, and does something before.
func (d *Dev) addRegion(ctx context.Context, name im.Region, first func(*devRegion) error) error {
	regions, links := d.all(), maps.Clone(d.wires())
	index := len(regions)
	if index == maxRegions {
		return fmt.Errorf("region %s: there are %d already", name, maxRegions)
	}
	origin := im.NewOrigin(name, 1)
	r, err := d.region1(index, name, append(slices.Clone(regions[0].site.Origins), origin))
	if err != nil {
		return err
	}
	for i, from := range regions {
		l, err := d.proxy(i, index)
		if err != nil {
			return fmt.Errorf("link %s → %s: %w", from.site.Region, name, err)
		}
		links[linkName{from.site.Region, name}] = l
	}
	if err := d.database(ctx, r); err != nil {
		return err
	}
	d.mu.Lock()
	d.regions, d.links = append(slices.Clone(regions), r), links
	d.mu.Unlock()
	r.address = d.ports.region(index, portRPC)
	if err := first(r); err != nil {
		return err
	}
	if err := r.start(ctx); err != nil {
		return err
	}
	return d.announce(ctx, r)
}

// announce has the others follow a region, unless they do.
func (d *Dev) announce(ctx context.Context, r *devRegion) error {
	states, err := d.RegionStates(ctx)
	if err != nil {
		return err
	}
	by := slices.IndexFunc(d.all(), func(other *devRegion) bool {
		return !slices.ContainsFunc(states, func(s im.RegionState) bool { return s.Region == other.site.Region && s.State.Gone() })
	})
	operator, err := d.Operator(d.all()[by].site.Region) // there is one: the new region itself is not gone
	if err != nil || slices.Contains(operator.site.Regions, r.site.Region) {
		return err
	}
	return operator.Add(ctx, im.Member{Region: r.site.Region, Origins: []im.Origin{r.site.Origin}, Replicator: r.address}, d.cfg.Progress)
}

// Trim removes from the logs and copies of all regions what everybody has applied, as retention would when it is old enough.
// Nobody may be behind in a partition by more than what comes while it runs.
func (d *Dev) Trim(ctx context.Context) error {
	least := map[im.Partition]int64{} // by the origin's offsets
	local := map[im.Region]map[im.Partition]int64{}
	for _, r := range d.all() {
		positions, err := r.truth().positions(ctx)
		if err != nil {
			return err
		}
		local[r.site.Region] = map[im.Partition]int64{}
		for _, p := range positions {
			local[r.site.Region][p.Partition] = p.Local
			if has, ok := least[p.Partition]; !ok || p.Next < has {
				least[p.Partition] = p.Next
			}
		}
	}
	for _, r := range d.all() {
		for p, below := range least {
			if p.Origin() != r.site.Origin {
				below = local[r.site.Region][p]
			}
			if below < 2 {
				continue
			}
			if err := r.broker.Load().Trim(ctx, p.Topic, p.Number, below-1); err != nil { // never all: heartbeats come all the time
				return err
			}
		}
	}
	return nil
}

// TrimApplied removes from a region's Kafka what its views have applied of an origin's log, or copy, as retention does that asks nobody
// whether it is needed elsewhere. Of the region's own log it returns when a heartbeat says again what the log is named.
func (d *Dev) TrimApplied(ctx context.Context, region im.Region, o im.Origin) error {
	r, err := d.region(region)
	if err != nil {
		return err
	}
	positions, err := r.truth().positions(ctx)
	if err != nil {
		return err
	}
	waits := map[im.Partition]int64{}
	for _, p := range positions {
		if p.Partition.Origin() != o || p.Local < 2 {
			continue
		}
		if err := r.broker.Load().Trim(ctx, p.Partition.Topic, p.Partition.Number, p.Local-1); err != nil { // as Trim does
			return err
		}
		if o == r.site.Origin {
			waits[p.Partition] = p.Next
		}
	}
	for len(waits) > 0 {
		if positions, err = r.truth().positions(ctx); err != nil {
			return err
		}
		for _, p := range positions {
			if p.Next > waits[p.Partition] {
				delete(waits, p.Partition)
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// EmptyTimelines takes away what a region's databases hold, whose imserver does not run.
func (d *Dev) EmptyTimelines(ctx context.Context, region im.Region) error {
	r, err := d.region(region)
	if err != nil {
		return err
	}
	return postgres.Clear(ctx, r.site.databases())
}

// Running are the services that run, by region and instance: each start makes another.
func (d *Dev) Running() map[string]any {
	all := map[string]any{}
	for _, r := range d.all() {
		name := func(part string) string { return string(r.site.Region) + "/" + part }
		all[name("replicator")], all[name("router")] = r.replicator.Load(), r.router.Load()
		all[name("imserver")], all[name("ipconf")] = r.imserver.Load(), r.ipconf.Load()
		for id, g := range r.gateway {
			all[name(id)] = g.Load()
		}
	}
	return all
}

// Linked lists the regions whose logs a region's replicator asks for.
func (d *Dev) Linked(region im.Region) ([]im.Region, error) {
	r, err := d.region(region)
	if err != nil {
		return nil, err
	}
	repl := r.replicator.Load()
	if repl == nil {
		return nil, fmt.Errorf("replicator of %s is not running", region)
	}
	var linked []im.Region
	for _, in := range repl.Status().In {
		linked = append(linked, in.Peer)
	}
	return linked, nil
}

// KillIMServer stops the imserver of a region like a crash: nothing is applied, accepted or pulled there until it is started again.
func (d *Dev) KillIMServer(region im.Region) error {
	return d.ofService(region, ServiceIMServer, func(u *Unit) error { u.Kill(); return nil })
}

// StartIMServer starts it again.
func (d *Dev) StartIMServer(region im.Region) error {
	return d.ofService(region, ServiceIMServer, (*Unit).Start)
}

// RestartReplicator stops the replicator of a region like a crash, and starts it again.
func (d *Dev) RestartReplicator(region im.Region) error {
	return d.ofService(region, ServiceReplicator, func(u *Unit) error { u.Kill(); return u.Start() })
}

func (d *Dev) ofService(region im.Region, service string, do func(*Unit) error) error {
	r, err := d.region(region)
	if err != nil {
		return err
	}
	r.switching.Lock()
	defer r.switching.Unlock()
	return do(r.services[slices.IndexFunc(r.services, func(u *Unit) bool { return u.Name == string(region)+"/"+service })])
}
