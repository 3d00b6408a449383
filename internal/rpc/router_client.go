package rpc

import (
	"context"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
)

// Conns opens connections to instances, once per address.
type Conns interface {
	Conn(addr string) (grpc.ClientConnInterface, error)
}

// RouterPool calls some live router of the region: the imserver's Deliver and the replicator's Notify.
type RouterPool struct{}

// NewRouterPool returns a pool over the routers that live lists.
func NewRouterPool(conns Conns, live func() []im.Instance) *RouterPool { return &RouterPool{} }

// Deliver hands deliveries to routers: those of one key always to the same one while it lives, in order.
func (p *RouterPool) Deliver(ctx context.Context, deliveries []im.Delivery) (pushes int, err error) {
	return 0, nil
}

// Notify hands deliveries that came over a link from another region to routers.
func (p *RouterPool) Notify(ctx context.Context, from im.Region, deliveries []im.Delivery) error {
	return nil
}

// Positions asks the router at addr how far its view is in an origin's route log (all origins for "").
func (p *RouterPool) Positions(ctx context.Context, addr string, origin im.Origin) ([]im.Position, error) {
	return nil, nil
}

// Digest asks the router at addr for the digest of live routes.
func (p *RouterPool) Digest(ctx context.Context, addr string) (map[string]string, error) {
	return nil, nil
}
