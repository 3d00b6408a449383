package rpc

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// BackendPoolConfig says whose backends.
type BackendPoolConfig struct {
	Region     im.Region
	Partitions int // how many a lane has
}

// BackendPoolDeps is what a BackendPool works with.
type BackendPoolDeps struct {
	// Watch calls fn with all live instances of the region, at once and at each change, until ctx ends.
	Watch func(ctx context.Context, fn func([]im.Instance)) error
	// Owner picks the instance that owns a partition: ownership.Pick, so that callers and owners agree.
	Owner func(partition int, live []im.Instance) (im.Instance, bool)
	Conns interface {
		Conns
		Renew(addr string) // an instance has come to an address
	}
}

// BackendPool forwards a gateway's calls to the services registered in its region, by the name in the call: any service
// that registers itself with a name in Serves is reached without a change to the gateway. A call goes to the owner of
// its key's partition and to nobody else: submits of one conversation keep their order, and find what the owner has in
// memory. While an owner is away its calls fail with unavailable, which clients retry; a second later somebody else owns
// the partition.
type BackendPool struct {
	cfg  BackendPoolConfig
	deps BackendPoolDeps

	mu       sync.Mutex
	byName   map[string][]im.Instance
	present  map[string]presence // by address
	everSeen map[string]bool     // names that were served once: their absence is an outage, not a mistake
}

// presence lasts while discovery lists an instance.
type presence struct {
	ctx context.Context
	end context.CancelFunc
}

// NewBackendPool returns a pool that knows of no service until Run watches.
func NewBackendPool(cfg BackendPoolConfig, deps BackendPoolDeps) *BackendPool {
	return &BackendPool{cfg: cfg, deps: deps, byName: map[string][]im.Instance{}, present: map[string]presence{}, everSeen: map[string]bool{}}
}

// Run watches the region's instances until ctx ends.
func (p *BackendPool) Run(ctx context.Context) error {
	err := p.deps.Watch(ctx, p.set)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// set takes a new list. An empty one is not believed: a catalogue that lost its memory answers so.
func (p *BackendPool) set(live []im.Instance) {
	if len(live) == 0 {
		return
	}
	byName := map[string][]im.Instance{}
	for _, i := range live {
		for _, name := range i.Serves {
			byName[name] = append(byName[name], i)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byName = byName
	listed := map[string]bool{}
	for _, i := range live {
		listed[i.Addr] = true
		if _, known := p.present[i.Addr]; !known {
			ctx, end := context.WithCancel(context.Background())
			p.present[i.Addr] = presence{ctx, end}
			p.deps.Conns.Renew(i.Addr)
		}
	}
	for addr, gone := range p.present {
		if !listed[addr] {
			delete(p.present, addr)
			time.AfterFunc(goneGrace, gone.end)
		}
	}
	for name := range byName {
		p.everSeen[name] = true
	}
}

// Services lists the names that are served now, sorted.
func (p *BackendPool) Services() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Call runs a call at the owner of its key, or of the caller's uid when it has no key. It fails as soon as discovery gives
// the owner up: one that hangs would keep the caller until its deadline, while another owns the partition already.
func (p *BackendPool) Call(ctx context.Context, c im.Call) (im.CallResult, error) {
	owner, here, err := p.owner(c)
	if err != nil {
		return im.CallResult{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(here, cancel)()
	cc, err := p.deps.Conns.Conn(owner.Addr)
	if err != nil {
		return im.CallResult{}, &im.Error{Code: im.CodeUnavailable, Detail: err.Error(), RetryAfter: retryAfter}
	}
	result, err := NewBackend(cc).Call(ctx, c)
	if err != nil && here.Err() != nil {
		return result, &im.Error{Code: im.CodeUnavailable, Detail: "the owner of the conversation is gone; sending again is safe", RetryAfter: retryAfter}
	}
	return result, err
}

const (
	retryAfter = 200 * time.Millisecond
	goneGrace  = 500 * time.Millisecond // for the last answers of an instance that stops in order
)

// owner returns who takes a call, and a context that ends when discovery gives it up.
func (p *BackendPool) owner(c im.Call) (owner im.Instance, here context.Context, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	live := p.byName[c.Service]
	if len(live) == 0 {
		if p.everSeen[c.Service] || len(p.everSeen) == 0 {
			return owner, nil, &im.Error{Code: im.CodeUnavailable, Detail: "no instance of service " + c.Service + " is up", RetryAfter: retryAfter}
		}
		return owner, nil, im.Errorf(im.CodeUnknownService, "nothing here is registered as service %q", c.Service)
	}
	key := c.Key
	if key == "" {
		key = string(c.UID)
	}
	var ok bool
	owner, ok = p.deps.Owner(wire.Partition(key, p.cfg.Partitions), live)
	if !ok {
		return owner, nil, &im.Error{Code: im.CodeUnavailable, Detail: "nobody owns the conversation at the moment", RetryAfter: retryAfter}
	}
	return owner, p.present[owner.Addr].ctx, nil
}
