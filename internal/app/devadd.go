package app

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/antipode-im/antipode/im"
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
	if err := r.start(ctx); err != nil {
		return err
	}
	operator, err := d.Operator(regions[0].site.Region)
	if err != nil {
		return err
	}
	return operator.Add(ctx, im.Member{Region: name, Origins: []im.Origin{origin}, Replicator: d.ports.region(index, portRPC)}, d.cfg.Progress)
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
