package rpc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// Conns opens connections to instances, once per address.
type Conns interface {
	Conn(addr string) (grpc.ClientConnInterface, error)
}

// Bounds of one call to a router.
const (
	maxDeliverBytes = 2 << 20
	maxDeliverItems = 2048
	deliverTimeout  = 2 * time.Second
)

// RouterPool calls the live routers of the region: for the imserver's Deliver and the replicator's Notify. Any router
// can deliver to anybody.
type RouterPool struct {
	conns Conns
	live  func() []im.Instance

	mu       sync.Mutex
	interest map[string]bool // by address: what a router said last
}

// NewRouterPool returns a pool over the routers that live lists.
func NewRouterPool(conns Conns, live func() []im.Instance) *RouterPool {
	return &RouterPool{conns: conns, live: live, interest: map[string]bool{}}
}

// Deliver hands deliveries to routers: those of one key always to the same one while the list stays, in order. A router
// that is away or unready is passed over. After an error some deliveries may have gone out: hand them all in again,
// clients drop what they have.
func (p *RouterPool) Deliver(ctx context.Context, deliveries []im.Delivery) (pushes int, err error) {
	var mu sync.Mutex
	err = p.spread(deliveries, func(addr string, c antipodev1.RouterClient, batch []*antipodev1.Delivery) error {
		bounded, cancel := context.WithTimeout(ctx, deliverTimeout)
		defer cancel()
		response, err := c.Deliver(bounded, &antipodev1.DeliverRequest{Deliveries: batch})
		if err == nil {
			mu.Lock()
			pushes += int(response.Pushes)
			mu.Unlock()
			p.said(addr, response.Interest)
		}
		return err
	})
	return pushes, err
}

// said notes whether a router's gateways all look who is in a large group. Routers of before, or with such a gateway, say no.
func (p *RouterPool) said(addr string, interest bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.interest[addr] = interest
}

// Interest tells whether a delivery may be to those interested in a group: no live router said last that a gateway would not
// know what to do with it, and one at least said that all do.
func (p *RouterPool) Interest() bool {
	live := p.live()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.interest) > len(live) { // some are gone
		maps.DeleteFunc(p.interest, func(addr string, _ bool) bool {
			return !slices.ContainsFunc(live, func(i im.Instance) bool { return i.Addr == addr })
		})
	}
	some := false
	for _, i := range live {
		interest, known := p.interest[i.Addr]
		if known && !interest {
			return false
		}
		some = some || interest
	}
	return some
}

// Notify hands deliveries that came over a link from another region to routers.
func (p *RouterPool) Notify(ctx context.Context, from im.Region, deliveries []im.Delivery) error {
	return p.spread(deliveries, func(_ string, c antipodev1.RouterClient, batch []*antipodev1.Delivery) error {
		bounded, cancel := context.WithTimeout(ctx, deliverTimeout)
		defer cancel()
		_, err := c.Notify(bounded, &antipodev1.NotifyRequest{From: string(from), Deliveries: batch})
		return err
	})
}

// spread splits deliveries by key over the live routers and calls each with its own, all at once; a router's batches go
// one after the other. What one cannot take the next tries.
func (p *RouterPool) spread(deliveries []im.Delivery, call func(string, antipodev1.RouterClient, []*antipodev1.Delivery) error) error {
	if len(deliveries) == 0 {
		return nil
	}
	live := slices.Clone(p.live())
	if len(live) == 0 {
		return &im.Error{Code: im.CodeUnavailable, Detail: "no router is up", RetryAfter: retryAfter}
	}
	slices.SortFunc(live, func(a, b im.Instance) int { return strings.Compare(a.ID, b.ID) })
	groups := make([][]*antipodev1.Delivery, len(live))
	for i := range deliveries {
		n := wire.Partition(deliveries[i].Key, len(live))
		groups[n] = append(groups[n], wire.DeliveryMessage(&deliveries[i]))
	}
	errs := make([]error, len(groups))
	var calls sync.WaitGroup
	for n, group := range groups {
		if len(group) == 0 {
			continue
		}
		calls.Go(func() {
			for _, batch := range cut(group) {
				for try := range live {
					if errs[n] = p.call(live[(n+try)%len(live)].Addr, batch, call); !elsewhere(errs[n]) {
						break
					}
				}
				if errs[n] != nil {
					return
				}
			}
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

func (p *RouterPool) call(addr string, batch []*antipodev1.Delivery, call func(string, antipodev1.RouterClient, []*antipodev1.Delivery) error) error {
	c, err := p.client(addr)
	if err != nil {
		return err
	}
	return call(addr, c, batch)
}

func (p *RouterPool) client(addr string) (antipodev1.RouterClient, error) {
	cc, err := p.conns.Conn(addr)
	if err != nil {
		return nil, &im.Error{Code: im.CodeUnavailable, Detail: err.Error(), RetryAfter: retryAfter}
	}
	return antipodev1.NewRouterClient(cc), nil
}

// elsewhere tells whether another router may do better.
func elsewhere(err error) bool {
	switch im.CodeOf(err) {
	case im.CodeUnavailable, im.CodeUnready, im.CodeDraining, im.CodeOverloaded:
		return true
	}
	return false
}

// cut bounds batches by number and bytes.
func cut(all []*antipodev1.Delivery) [][]*antipodev1.Delivery {
	var batches [][]*antipodev1.Delivery
	first, bytes := 0, 0
	for i, d := range all {
		size := len(d.Body) + 32*len(d.Recipients) + 256
		if i > first && (bytes+size > maxDeliverBytes || i-first >= maxDeliverItems) {
			batches = append(batches, all[first:i])
			first, bytes = i, 0
		}
		bytes += size
	}
	return append(batches, all[first:])
}

// Positions asks the router at addr how far its view is in an origin's route log (all origins for ""). Local offsets are
// not told.
func (p *RouterPool) Positions(ctx context.Context, addr string, origin im.Origin) ([]im.Position, error) {
	c, err := p.client(addr)
	if err != nil {
		return nil, err
	}
	r, err := c.Positions(ctx, &antipodev1.PositionsRequest{Origin: string(origin)})
	if err != nil {
		return nil, err
	}
	positions := make([]im.Position, len(r.Positions))
	for i, pos := range r.Positions {
		positions[i] = im.Position{Partition: im.Partition{Topic: pos.Topic, Number: int(pos.Partition)}, Next: pos.Next}
	}
	return positions, nil
}

// Digest asks the router at addr for the digest of live routes, under the name "routes".
func (p *RouterPool) Digest(ctx context.Context, addr string) (map[string]string, error) {
	c, err := p.client(addr)
	if err != nil {
		return nil, err
	}
	r, err := c.Digest(ctx, &antipodev1.DigestRequest{})
	if err != nil {
		return nil, err
	}
	return r.Digests, nil
}
