package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/geo"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/ownership"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/ipconf"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/router"
	"github.com/antipode-im/antipode/wire"
)

// The wiring of a region. Arrows are calls; pushes, kicks and held offsets return on the streams that callers opened.
//
//	clients ──▶ ipconf ──load──▶ gateway ──call──▶ imserver ──append, read──▶ kafka
//	   │                          ▲   │               │  ▲───────apply──────▶ postgres
//	   └────────── ws ────────────┘   └──attach──▶ router ◀──deliver──┘
//	                                                │  ▲──append, read──▶ kafka, redis
//	                                         notify │  │ notify
//	                                                ▼  │
//	                              peers ◀══link══▶ replicator ──append, read──▶ kafka

// IMServer builds an imserver.
func IMServer(ctx context.Context, site Site, env Env, b Binding) (Service, *imserver.Server, error) {
	p, err := begin(site, env, ServiceIMServer, b)
	if err != nil {
		return nil, nil, err
	}
	s, err := p.imserver(ctx)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, s, nil
}

func (p *process) imserver(ctx context.Context) (*imserver.Server, error) {
	if err := p.sentence(ctx); err != nil {
		return nil, err
	}
	p.learn(ctx)
	log, err := p.log(ctx, im.FamilyMsg, im.FamilyRead)
	if err != nil {
		return nil, err
	}
	store, err := p.timelines(ctx)
	if err != nil {
		return nil, err
	}
	replicators := p.conns(ServiceReplicator, p.site.Region)
	replicator := rpc.NewAny(replicators, p.live(ServiceReplicator))
	held := rpc.NewHeld(replicator)
	p.push("held", held.Run)
	off := &skew{path: p.site.ClockFile, log: p.tel.Log}
	p.push("clock_file", off.run)
	clock, err := p.clock(rpc.NewReplicator(replicator, p.site.Region), off)
	if err != nil {
		return nil, err
	}

	cfg := p.site.IMServer
	cfg.Region, cfg.Origin, cfg.Origins, cfg.Partitions = p.site.Region, p.site.Origin, p.members().origins, p.site.Partitions
	cfg.Databases = store.Databases()
	s, err := imserver.New(cfg, imserver.Deps{
		Log:       log,
		NewReader: func(from map[im.Partition]int64) imserver.Reader { return log.NewReader(from) },
		Store:     store, Snapshots: store, Deliver: p.routers(), Held: held,
		Ownership: p.owners(ServiceIMServer, p.binding.ID), Now: off.now, Trust: clock.trust,
		Logger: p.tel.Log, Tracer: p.tel.Tracer, Meter: p.tel.Meter,
	})
	if err != nil {
		return nil, err
	}
	server, err := p.serve()
	if err != nil {
		return nil, err
	}
	p.tel.Ready("imserver", func(context.Context) error { return s.Ready() })
	rpc.RegisterBackend(server, s)
	rpc.RegisterView(server, s)
	p.push("rpc", server.Run)
	p.push("imserver", s.Run)
	p.followMembers(log, func(m *membership) error { return s.Follow(m.origins, m.live()) })
	self := p.instance(server.Addr())
	self.Serves = []string{wire.ServiceIM}
	_, err = p.listWhile(ctx, self, tenure{begun: s.Begun()})
	return s, err
}

// clock makes an imserver unready whose clock is off.
func (p *process) clock(replicator *rpc.Replicator, off *skew) (*clock, error) {
	c := newClock(off.ahead(replicator.Clock), cmp.Or(p.site.IMServer.MaxSkew, im.MaxSkew)/2, off.now)
	unobserve, err := c.observe(p.tel.Meter)
	if err != nil {
		return nil, err
	}
	p.onClose(func() { _ = unobserve() })
	p.push("clock", c.run)
	p.tel.Ready("clock", c.ready)
	return c, nil
}

// Router builds a router.
func Router(ctx context.Context, site Site, env Env, b Binding) (Service, *router.Router, error) {
	p, err := begin(site, env, ServiceRouter, b)
	if err != nil {
		return nil, nil, err
	}
	r, err := p.router(ctx)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, r, nil
}

func (p *process) router(ctx context.Context) (*router.Router, error) {
	if err := p.sentence(ctx); err != nil {
		return nil, err
	}
	p.learn(ctx)
	log, err := p.log(ctx, im.FamilyRoute)
	if err != nil {
		return nil, err
	}
	store, err := p.redis(ctx)
	if err != nil {
		return nil, err
	}
	cfg := p.site.Router
	cfg.Region, cfg.Origin, cfg.Origins, cfg.Partitions = p.site.Region, p.site.Origin, p.members().live(), p.site.Partitions
	var snapshots router.Snapshots
	if p.site.RouteSnapshot != "" {
		snapshots = snapshotFile{p.site.RouteSnapshot}
	}
	r, err := router.New(cfg, router.Deps{
		Log:        log,
		NewReader:  func(from map[im.Partition]int64) router.Reader { return log.NewReader(from) },
		OutOfRange: outOfRange,
		Store:      redis.NewRoutes(store, p.site.RedisPrefix),
		Peers: rpc.NewReplicator(
			rpc.NewAny(p.conns(ServiceReplicator, p.site.Region), p.live(ServiceReplicator)), p.site.Region),
		Alive:     alive{p.env.Discovery, p.site.Region},
		Ownership: p.owners(ServiceRouter, p.binding.ID), Snapshots: snapshots,
		Logger: p.tel.Log, Tracer: p.tel.Tracer, Meter: p.tel.Meter,
	})
	if err != nil {
		return nil, err
	}
	p.tel.Ready("routes", func(context.Context) error { return r.Ready() })
	p.tel.Handle("GET "+RoutesPath, tellRoutes(p.site.Region, r))
	server, err := p.serve()
	if err != nil {
		return nil, err
	}
	streams, stop := context.WithCancel(context.Background())
	rpc.RegisterRouter(streams, server, routerService{r})
	p.push("rpc", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, stop)()
		return server.Run(ctx)
	})
	p.push("router", r.Run)
	p.followMembers(log, func(m *membership) error { return r.Follow(m.live()) })
	_, err = p.list(ctx, p.instance(server.Addr()))
	return r, err
}

// routerService gives the router's attachments the type that package rpc knows.
type routerService struct{ *router.Router }

// Attach takes a gateway's stream.
func (s routerService) Attach(gw im.Gateway, out rpc.Outbox) (rpc.Attachment, error) {
	return s.Router.Attach(gw, out)
}

// alive asks discovery whether a gateway lives.
type alive struct {
	discovery Discovery
	region    im.Region
}

// Alive tells what discovery says; known is false when it says nothing.
func (a alive) Alive(gw im.Gateway) (alive, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	gateways, err := a.discovery.Instances(ctx, ServiceGateway, a.region)
	if err != nil {
		return false, false
	}
	for _, g := range gateways {
		if g.ID == gw.ID && g.Epoch == gw.Epoch {
			return true, true
		}
	}
	return false, true
}

func outOfRange(err error) (im.Partition, im.Bounds, bool) {
	if e, ok := errors.AsType[*kafka.RangeError](err); ok {
		return e.Partition, e.Bounds, true
	}
	return im.Partition{}, im.Bounds{}, false
}

// Replicator builds a replicator.
func Replicator(ctx context.Context, site Site, env Env, b Binding) (Service, *replicator.Replicator, error) {
	p, err := begin(site, env, ServiceReplicator, b)
	if err != nil {
		return nil, nil, err
	}
	r, err := p.replicator(ctx)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, r, nil
}

func (p *process) replicator(ctx context.Context) (*replicator.Replicator, error) {
	if err := p.sentence(ctx); err != nil {
		return nil, err
	}
	p.learn(ctx)
	log, err := p.log(ctx, im.FamilyMsg, im.FamilyRead, im.FamilyRoute)
	if err != nil {
		return nil, err
	}
	cfg := p.site.Replicator
	cfg.Region, cfg.Origin, cfg.Partitions = p.site.Region, p.site.Origin, p.site.Partitions
	cfg.Peers, cfg.Sealed = peersOf(p.members(), p.site.Region), p.members().sealed()
	links := rpc.NewLinks(func(peer im.Region) (rpc.LinkTarget, error) {
		addr, ok := p.members().addrs[peer]
		if !ok {
			return rpc.LinkTarget{}, fmt.Errorf("no address of region %s is configured, or told by discovery", peer)
		}
		return rpc.LinkTarget{Addr: addr, TLS: p.identity.Client(ServiceReplicator, peer)}, nil
	})
	views := rpc.NewView(rpc.NewAny(p.conns(ServiceIMServer, p.site.Region), p.live(ServiceIMServer)))
	r, err := replicator.New(cfg, replicator.Deps{
		Log: log, Keeper: log,
		NewReader: func(from map[im.Partition]int64) replicator.Reader { return log.NewReader(from) },
		Packing:   packing{log},
		Dialer:    links, Copies: links, Applied: []replicator.Applied{views}, Snapshots: views, Notifier: p.routers(),
		Logger: p.tel.Log, Tracer: p.tel.Tracer, Meter: p.tel.Meter,
	})
	if err != nil {
		return nil, err
	}
	server, err := p.serveAll()
	if err != nil {
		return nil, err
	}
	rpc.RegisterReplicator(server, r, rpc.ReplicatorAccess{Region: p.site.Region, Identify: certs.Identify})
	p.push("rpc", server.Run)
	p.push("replicator", p.confess(r.Run))
	p.followMembers(log, func(m *membership) error { return r.Follow(peersOf(m, p.site.Region), m.sealed()) })
	if err := p.join(ctx, r, views); err != nil {
		return nil, err
	}
	_, err = p.list(ctx, p.instance(server.Addr()))
	return r, err
}

// peersOf are those that links are kept open to. Former epochs are sealed: nothing comes of them any more.
func peersOf(m *membership, own im.Region) []replicator.Peer {
	var peers []replicator.Peer
	for _, o := range m.linked(own) {
		peers = append(peers, replicator.Peer{Region: o.Region(), Origin: o})
	}
	return peers
}

// packing gives the log's readers the type that the replicator knows.
type packing struct{ *kafka.Cluster }

// NewPacker returns a reader whose batches are packed.
func (p packing) NewPacker(from map[im.Partition]int64) replicator.Reader {
	return p.Cluster.NewPacker(from)
}

// NewHeadReader returns a reader whose batches are heads.
func (p packing) NewHeadReader(from map[im.Partition]int64) replicator.Reader {
	return p.Cluster.NewHeadReader(from)
}

// Unpack decodes what is packed.
func (packing) Unpack(p *im.Packed) ([]im.Entry, error) { return kafka.Unpack(p) }

// Gateway builds a gateway.
func Gateway(ctx context.Context, site Site, env Env, b Binding) (Service, *gateway.Gateway, error) {
	p, err := begin(site, env, ServiceGateway, b)
	if err != nil {
		return nil, nil, err
	}
	g, err := p.gateway(ctx)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, g, nil
}

func (p *process) gateway(ctx context.Context) (*gateway.Gateway, error) {
	if err := p.sentence(ctx); err != nil {
		return nil, err
	}
	p.learn(ctx)
	tokens, err := auth.NewVerifier(p.site.Tokens)
	if err != nil {
		return nil, &ConfigError{err}
	}
	backends := rpc.NewBackendPool(
		rpc.BackendPoolConfig{Region: p.site.Region, Partitions: p.site.Partitions},
		rpc.BackendPoolDeps{
			Watch: p.watch(""), Owner: ownership.Pick, Conns: p.conns(ServiceIMServer, p.site.Region),
		})
	p.push("backends", backends.Run)
	routers := rpc.NewRouters(rpc.RoutersConfig{Partitions: p.site.Partitions}, rpc.RoutersDeps{
		Conns: p.conns(ServiceRouter, p.site.Region), Watch: p.watch(ServiceRouter), Owner: ownership.Pick, Logger: p.tel.Log,
	})

	neighbours := rpc.NewNeighbours(rpc.NeighboursConfig{}, rpc.NeighboursDeps{
		Conns: p.conns(ServiceGateway, p.site.Region), Watch: p.watch(ServiceGateway), Logger: p.tel.Log,
	})
	p.push("neighbours", neighbours.Run)

	cfg := p.site.Gateway
	cfg.Gateway = im.Gateway{ID: p.binding.ID, Epoch: uint64(time.Now().UnixMilli())}
	cfg.Region, cfg.Origin, cfg.Listen = p.site.Region, p.site.Origin, p.binding.Public
	pair, err := p.certificate()
	if err != nil {
		return nil, err
	}
	if pair != nil {
		cfg.Certificate = pair.Certificate
	}
	var listed *listing // set before Run, which alone can be fenced
	g, err := gateway.New(cfg, gateway.Deps{
		Backend: backends, Routers: routers, Tokens: tokens, Neighbours: neighbours,
		NextEpoch: func(context.Context) (uint64, error) {
			epoch := max(listed.self.Epoch+1, uint64(time.Now().UnixMilli()))
			return epoch, listed.set(epoch)
		},
		Alternatives: p.alternatives,
		Log:          p.tel.Log, Tracer: p.tel.Tracer, Meter: p.tel.Meter,
	})
	if err != nil {
		return nil, err
	}
	p.tel.Ready("backends", func(context.Context) error {
		if len(backends.Services()) == 0 {
			return errors.New("no service to forward calls to is known yet")
		}
		return nil
	})
	server, err := p.serve()
	if err != nil {
		return nil, err
	}
	streams, stop := context.WithCancel(context.Background())
	rpc.RegisterGateway(streams, server, g, rpc.GatewayAccess{Region: p.site.Region, Identify: certs.Identify})
	p.push("rpc", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, stop)()
		return server.Run(ctx)
	})
	p.push("gateway", g.Run)
	p.evacuate(g)
	if err := p.joinFirst(ctx); err != nil {
		return nil, err
	}
	self := p.instance(server.Addr())
	self.Epoch, self.URL, self.WebTransport = g.Gateway().Epoch, g.URL(), g.WebTransportURL() // those of the process before, if there is one to take over from
	listed, err = p.listWhile(ctx, self, tenure{begun: g.Begun(), over: g.Over(), ended: g.GaveOver})
	return g, err
}

// alternatives lists where a draining gateway sends its clients: the other gateways of the region.
func (p *process) alternatives() []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	gateways, err := p.env.Discovery.Instances(ctx, ServiceGateway, p.site.Region)
	if err != nil {
		return nil // clients ask ipconf
	}
	var urls []string
	for _, g := range gateways {
		if g.ID != p.binding.ID && !g.Draining {
			urls = append(urls, wire.WebSocketURL(g.URL))
		}
	}
	return urls
}

// IPConf builds an ipconf.
func IPConf(ctx context.Context, site Site, env Env, b Binding) (Service, *ipconf.IPConf, error) {
	p, err := begin(site, env, ServiceIPConf, b)
	if err != nil {
		return nil, nil, err
	}
	s, err := p.ipconf(ctx)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return p, s, nil
}

func (p *process) ipconf(ctx context.Context) (*ipconf.IPConf, error) {
	p.learn(ctx)
	cfg := p.site.IPConf
	cfg.Region, cfg.Regions, cfg.Listen = p.site.Region, p.members().regions(), p.binding.Public
	states := newRegionStates()
	p.push("region states", func(ctx context.Context) error {
		err := p.env.Discovery.WatchRegionStates(ctx, states.set)
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	places, err := p.geo()
	if err != nil {
		return nil, err
	}
	s, err := ipconf.New(cfg, ipconf.Deps{
		Geo:       places,
		Discovery: p.env.Discovery,
		Gateways:  rpc.NewGatewayLoads(p.conns(ServiceGateway, p.site.Region)),
		Peers:     rpc.NewIPConfPeers(func(r im.Region) rpc.Conns { return p.conns(ServiceIPConf, r) }),
		States:    states,
		Logger:    p.tel.Log, Meter: p.tel.Meter,
	})
	if err != nil {
		return nil, err
	}
	server, err := p.serveAll()
	if err != nil {
		return nil, err
	}
	rpc.RegisterIPConf(server, s, p.site.Region)
	p.tel.Handle("GET "+ExplainPath, s.Explain())
	p.push("rpc", server.Run)
	p.push("ipconf", s.Run)
	p.followMembers(nil, func(m *membership) error { return s.Follow(m.regions()) })
	self := p.instance(server.Addr())
	self.URL = cmp.Or(p.site.PublicURL, "http://"+s.Addr())
	_, err = p.list(ctx, self)
	return s, err
}

// ExplainPath is where an ipconf's admin server tells why it ranks as it does.
const ExplainPath = "/ipconf/explain"

// IPConfExplanation is what it tells there.
type IPConfExplanation = ipconf.Explanation

// geo opens the databases that tell where addresses are; nil if none is configured.
func (p *process) geo() (ipconf.Geo, error) {
	cfg := p.site.Geo
	if cfg.City == "" && cfg.ASN == "" {
		return nil, nil
	}
	cfg.Logger = p.tel.Log
	d, err := geo.Open(cfg)
	if err != nil {
		return nil, &ConfigError{err}
	}
	p.push("geo", d.Run)
	return d, nil
}
