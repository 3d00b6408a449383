package app

import (
	"cmp"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/ownership"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// process is a service under construction: a stack with what every service has.
type process struct {
	stack
	site     Site
	env      Env
	service  string
	binding  Binding
	identity *certs.Identity
	tel      *telemetry.Telemetry
	until    time.Time // when a start stops waiting for backends
	dialing  sync.Mutex
	dialers  map[string]*rpc.Dialer // by service and region; guarded by dialing

	membership atomic.Pointer[membership] // what regions there are now
}

// begin starts building a service. Whoever calls it closes the process if it does not get built.
func begin(site Site, env Env, service string, b Binding) (*process, error) {
	identity, err := env.Identity(service)
	if err != nil {
		return nil, err
	}
	tel, err := env.Telemetry(service, b.ID, b.Admin)
	if err != nil {
		return nil, err
	}
	p := &process{
		stack: stack{name: string(site.Region) + "/" + b.ID}, site: site, env: env, service: service, binding: b,
		identity: identity, tel: tel, until: time.Now().Add(env.StartWait), dialers: map[string]*rpc.Dialer{},
	}
	p.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		if err := tel.Close(ctx); err != nil {
			tel.Log.Warn("telemetry was not sent in time", "error", err)
		}
	})
	p.onClose(func() {
		p.dialing.Lock()
		defer p.dialing.Unlock()
		for _, d := range p.dialers {
			d.Close()
		}
	})
	p.push("admin", tel.Run)
	return p, nil
}

// dial is how the process connects; nil: by TCP.
func (e *Env) dial() func(ctx context.Context, addr string) (net.Conn, error) {
	if e.Network == nil {
		return nil
	}
	return e.Network.Dial
}

// conns returns connections to the instances of a service of a region, which must show that service's certificate.
func (p *process) conns(service string, r im.Region) *rpc.Dialer {
	key := service + "." + string(r)
	p.dialing.Lock()
	defer p.dialing.Unlock()
	if d := p.dialers[key]; d != nil {
		return d
	}
	d := rpc.NewDialer(rpc.DialConfig{
		TLS: p.identity.Client(service, r), Log: p.tel.Log, Tracer: p.tel.TracerProvider, Dial: p.env.dial(),
	})
	p.dialers[key] = d
	return d
}

// serve binds the RPC server, which services of the own region may call.
func (p *process) serve() (*rpc.Server, error) {
	return p.serveTo(func() []im.Region { return []im.Region{p.site.Region} })
}

// serveAll is serve for services that those of all other regions may call too.
func (p *process) serveAll() (*rpc.Server, error) {
	return p.serveTo(func() []im.Region { return p.members().regions() })
}

func (p *process) serveTo(callers func() []im.Region) (*rpc.Server, error) {
	listen := p.site.listenShared(p.service)
	if listen == nil && p.env.Network != nil {
		listen = p.env.Network.Listen
	}
	return rpc.NewServer(rpc.ServerConfig{
		Addr: p.binding.RPC, Listen: listen, TLS: p.identity.ServerOf(callers), Drain: drainTimeout,
		Log: p.tel.Log, Tracer: p.tel.TracerProvider,
	})
}

// reach tries to reach a backend for as long as a start may wait.
func (p *process) reach(ctx context.Context, b backend, try func(context.Context) error) error {
	return b.reach(ctx, &p.site, p.until, p.tel.Log, try)
}

// log opens the region's Kafka and verifies the topics of some families, which must be as the invariants need them.
func (p *process) log(ctx context.Context, families ...im.Family) (*kafka.Cluster, error) {
	cfg := p.site.Kafka
	cfg.ClientID = "antipode-" + p.service
	switch {
	case p.service == ServiceReplicator && p.site.LinkPace > 0:
		cfg.FetchPace = p.site.LinkPace
	case p.service == ServiceIMServer && p.site.ApplyPace > 0:
		cfg.FetchPace = p.site.ApplyPace
	}
	at := kafkaAt(&p.site)
	var log *kafka.Cluster
	err := p.reach(ctx, at, func(ctx context.Context) (err error) {
		if log == nil {
			if log, err = kafka.Open(ctx, cfg, kafka.Deps{Log: p.tel.Log, Dial: p.env.dial()}); err != nil {
				return err
			}
			p.onClose(log.Close)
		}
		if err := log.VerifyTopics(ctx, p.site.topics(families...)); err != nil {
			return err
		}
		return p.fresh(ctx, log, p.members())
	})
	if err != nil {
		return nil, err
	}
	p.tel.Ready(at.name, at.check(log.Ping))
	return log, nil
}

// timelines opens the region's PostgreSQL, whose schema must be this build's.
func (p *process) timelines(ctx context.Context) (*postgres.Timelines, error) {
	at := postgresAt(&p.site)
	var store *postgres.Timelines
	err := p.reach(ctx, at, func(ctx context.Context) (err error) {
		store, err = postgres.Open(ctx, p.site.databases(), p.tel.Log)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.onClose(store.Close)
	p.push("timelines", store.Run)
	p.tel.Ready(at.name, at.check(store.Ping))
	return store, nil
}

// owners follows the live instances of a service of the own region, and who of them owns which partition. self is the own
// id, or empty for a mere caller.
func (p *process) owners(service, self string) *ownership.Ownership {
	o := ownership.New(ownership.Config{
		Service: service, Region: p.site.Region, Self: self, Partitions: p.site.Partitions,
	}, p.env.Discovery)
	p.push("owners of "+service, o.Run)
	return o
}

// live returns a function that lists the live instances of a service of the own region.
func (p *process) live(service string) func() []im.Instance {
	o := p.owners(service, "")
	return func() []im.Instance {
		instances, _ := o.Live()
		return instances
	}
}

// routers returns the region's routers as whoever delivers to them sees them.
func (p *process) routers() *rpc.RouterPool {
	return rpc.NewRouterPool(p.conns(ServiceRouter, p.site.Region), p.live(ServiceRouter))
}

// instance is how discovery knows the process. Others call it by the address that it advertises, or else the one it is
// bound to.
func (p *process) instance(bound string) im.Instance {
	return im.Instance{Service: p.service, ID: p.binding.ID, Region: p.site.Region, Addr: cmp.Or(p.binding.Advertise, bound)}
}

// watch returns a function that follows the region's live instances of a service ("" for all).
func (p *process) watch(service string) func(context.Context, func([]im.Instance)) error {
	return func(ctx context.Context, fn func([]im.Instance)) error {
		return p.env.Discovery.Watch(ctx, service, p.site.Region, fn)
	}
}

// redis opens the region's Redis. It must answer at start, when an address or password is likelier to be wrong than a server
// to be down; later, routes are served from memory without it.
func (p *process) redis(ctx context.Context) (goredis.UniversalClient, error) {
	opt := *p.site.Redis
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = time.Second, 2*time.Second, 2*time.Second
	opt.DialerRetries = 1 // commands are tried again, and their error is to be the dial's
	client := goredis.NewUniversalClient(&opt)
	p.onClose(func() { client.Close() })
	at := redisAt(&p.site)
	err := p.reach(ctx, at, func(ctx context.Context) error {
		if err := redis.Check(ctx, client); err != nil {
			return err
		}
		_, err := redis.NewRoutes(client, p.site.RedisPrefix).Lookup(ctx, 0, "nobody") // may this user run scripts on these keys?
		return err
	})
	if err != nil {
		return nil, err
	}
	p.tel.Degraded(at.name, at.check(func(ctx context.Context) error { return client.Ping(ctx).Err() }))
	return client, nil
}
