package app

import (
	"context"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Operator gives orders about regions with what a region's replicator is told.
func (d *Dev) Operator(region im.Region) (*Operator, error) {
	r, err := d.region(region)
	if err != nil {
		return nil, err
	}
	return NewOperator(r.site, r.env)
}

// OperatorAt is Operator for a region that is to return under an epoch of its origin. What the region runs stays as it is:
// a dev with that epoch among its Epochs, on the same data, goes on with it.
func (d *Dev) OperatorAt(region im.Region, epoch uint32) (*Operator, error) {
	r, err := d.region(region)
	if err != nil {
		return nil, err
	}
	site := r.site
	site.Origin = im.NewOrigin(region, epoch)
	if !slices.Contains(site.Origins, site.Origin) {
		site.Origins = append(slices.Clone(site.Origins), site.Origin)
	}
	o, err := NewOperator(site, r.env)
	if err == nil {
		o.addr = d.ports.region(slices.Index(d.all(), r), portRPC) // the replicator's, which is the first service
	}
	return o, err
}

// StartBackends starts the Kafka and the Redis of a region that was killed, and no service.
func (d *Dev) StartBackends(region im.Region) error {
	r, err := d.region(region)
	if err != nil {
		return err
	}
	r.switching.Lock()
	defer r.switching.Unlock()
	if err := r.kafka.Start(); err != nil {
		return err
	}
	return r.redis.Start()
}

// Without is the truth as the regions tell it that are not named.
func (d *Dev) Without(regions ...im.Region) DevTruth {
	return DevTruth{slices.DeleteFunc(d.truth(), func(r truthRegion) bool { return slices.Contains(regions, r.site.Region) })}
}

// DevTruth is what some regions of a dev hold.
type DevTruth struct{ truth }

// RegionStates lists what discovery says of regions.
func (d *Dev) RegionStates(ctx context.Context) ([]im.RegionState, error) {
	return d.all()[0].env.Discovery.RegionStates(ctx)
}
