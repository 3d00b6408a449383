package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver"
	"github.com/antipode-im/antipode/internal/embedded"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/ipconf"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/router"
)

// devRegion is one region of antipode dev: an embedded Kafka and Redis, and the services over them, each as a unit.
type devRegion struct {
	site    Site
	env     Env
	address string // of its replicator, for others; of one that was added

	kafka, redis *Unit
	services     []*Unit // in the order in which they start
	gateways     map[string]*Unit

	broker atomic.Pointer[embedded.Kafka] // the last one that was started

	// What runs now; nil while it is down.
	ipconf     atomic.Pointer[ipconf.IPConf]
	gateway    map[string]*atomic.Pointer[gateway.Gateway]
	router     atomic.Pointer[router.Router]
	imserver   atomic.Pointer[imserver.Server]
	replicator atomic.Pointer[replicator.Replicator]

	switching sync.Mutex // one kill or start at a time
}

func newDevRegion(index int, site Site, env Env, network *embedded.Network, ports ports, data string, log *slog.Logger) *devRegion {
	r := &devRegion{site: site, env: env, gateways: map[string]*Unit{}, gateway: map[string]*atomic.Pointer[gateway.Gateway]{}}
	name := func(part string) string { return string(site.Region) + "/" + part }
	r.kafka = NewUnit(name("kafka"), log, func(ctx context.Context) (Service, error) {
		k, err := embedded.StartKafka(ctx, embedded.KafkaConfig{
			Addr: ports.region(index, portKafka), Dir: filepath.Join(data, string(site.Region), "kafka"), Log: log, Network: network,
		})
		if err != nil {
			return nil, err
		}
		r.broker.Store(k)
		return embeddedPart{k}, nil
	})
	r.redis = NewUnit(name("redis"), log, func(context.Context) (Service, error) {
		s, err := embedded.StartRedis(ports.region(index, portRedis))
		if err != nil {
			return nil, err
		}
		return embeddedPart{s}, nil
	})
	n := 0
	bind := func(id string, public int) Binding {
		b := Binding{ID: id, RPC: ports.region(index, portRPC+n), Admin: ports.region(index, portAdmin+n)}
		if public >= 0 {
			b.Public = ports.region(index, public)
		}
		n++
		return b
	}
	add := func(b Binding, build func(context.Context, Binding) (Service, error)) *Unit {
		u := NewUnit(name(b.ID), log, func(ctx context.Context) (Service, error) { return build(ctx, b) })
		r.services = append(r.services, u)
		return u
	}
	add(bind("replicator", -1), func(ctx context.Context, b Binding) (Service, error) {
		return keep(&r.replicator)(Replicator(ctx, r.site, r.env, b))
	})
	add(bind("router", -1), func(ctx context.Context, b Binding) (Service, error) {
		return keep(&r.router)(Router(ctx, r.site, r.env, b))
	})
	add(bind("imserver", -1), func(ctx context.Context, b Binding) (Service, error) {
		return keep(&r.imserver)(IMServer(ctx, r.site, r.env, b))
	})
	for i, public := range []int{portGateway1, portGateway2} {
		id := fmt.Sprintf("gateway-%d", i+1)
		handle := new(atomic.Pointer[gateway.Gateway])
		r.gateway[id] = handle
		r.gateways[id] = add(bind(id, public), func(ctx context.Context, b Binding) (Service, error) {
			return keep(handle)(Gateway(ctx, r.site, r.env, b))
		})
	}
	add(bind("ipconf", portIPConf), func(ctx context.Context, b Binding) (Service, error) {
		return keep(&r.ipconf)(IPConf(ctx, r.site, r.env, b))
	})
	return r
}

// keep stores what a builder built, for as long as it runs.
func keep[T any](handle *atomic.Pointer[T]) func(Service, *T, error) (Service, error) {
	return func(svc Service, built *T, err error) (Service, error) {
		if err != nil {
			return nil, err
		}
		return serviceFunc(func(ctx context.Context) error {
			handle.Store(built)
			defer handle.Store(nil)
			return svc.Run(ctx)
		}), nil
	}
}

type serviceFunc func(context.Context) error

func (f serviceFunc) Run(ctx context.Context) error { return f(ctx) }

// embeddedPart runs something that was started already.
type embeddedPart struct {
	part interface {
		Close() error
		Kill() error
	}
}

func (e embeddedPart) Run(ctx context.Context) error {
	<-ctx.Done()
	if errors.Is(context.Cause(ctx), im.ErrKilled) {
		return e.part.Kill()
	}
	return e.part.Close()
}

// start brings up what is down, backends first.
func (r *devRegion) start(ctx context.Context) error {
	r.switching.Lock()
	defer r.switching.Unlock()
	if err := r.ready(ctx); err != nil {
		return err
	}
	for _, u := range r.services {
		if err := u.Start(); err != nil {
			return err
		}
	}
	return nil
}

// ready brings up the backends, and what services need in them.
func (r *devRegion) ready(ctx context.Context) error {
	if err := r.kafka.Start(); err != nil {
		return err
	}
	if err := r.redis.Start(); err != nil {
		return err
	}
	log, err := kafka.Open(ctx, r.site.Kafka, kafka.Deps{})
	if err != nil {
		return err
	}
	err = Migrate(ctx, log, r.site)
	log.Close()
	if err != nil {
		return fmt.Errorf("region %s: %w", r.site.Region, err)
	}
	return nil
}

// kill drops everything at once.
func (r *devRegion) kill() {
	r.switching.Lock()
	defer r.switching.Unlock()
	var wg sync.WaitGroup
	for _, u := range r.services {
		wg.Go(u.Kill)
	}
	wg.Wait()
	r.redis.Kill()
	r.kafka.Kill()
}

// stop drains: ipconf and gateways first, backends last.
func (r *devRegion) stop() {
	r.switching.Lock()
	defer r.switching.Unlock()
	for i := len(r.services) - 1; i >= 0; i-- {
		r.services[i].Stop()
	}
	r.redis.Stop()
	r.kafka.Stop()
}

// units are all of it, in the order in which they start.
func (r *devRegion) units() []*Unit { return append([]*Unit{r.kafka, r.redis}, r.services...) }

// state sums up the units: the region is up while everything else that it needs and any of its gateways is.
func (r *devRegion) state() (UnitState, error) {
	var needed, gateways []*Unit
	for _, u := range r.units() {
		if slices.Contains(slices.Collect(maps.Values(r.gateways)), u) {
			gateways = append(gateways, u)
		} else {
			needed = append(needed, u)
		}
	}
	if state, why := worst(needed); state != UnitUp {
		return state, why
	}
	for _, u := range gateways {
		if s, _ := u.State(); s == UnitUp {
			return UnitUp, nil // clients of the others move to it
		}
	}
	return worst(gateways)
}

// worst is the state of units that are all needed.
func worst(units []*Unit) (UnitState, error) {
	state, why := UnitUp, error(nil)
	for _, u := range units {
		switch s, err := u.State(); s {
		case UnitDown:
			return UnitDown, err
		case UnitStarting:
			state, why = UnitStarting, err
		}
	}
	return state, why
}

// truth asks the services that run.
func (r *devRegion) truth() truthRegion {
	down := fmt.Errorf("region %s is down", r.site.Region)
	return truthRegion{
		site: r.site,
		positions: func(ctx context.Context) ([]im.Position, error) {
			if s := r.imserver.Load(); s != nil {
				return s.Positions(ctx, "")
			}
			return nil, down
		},
		timelines: func(ctx context.Context) (map[string]string, error) {
			if s := r.imserver.Load(); s != nil {
				return s.Digest(ctx)
			}
			return nil, down
		},
		routes: func(ctx context.Context) (map[string]string, error) {
			if rt := r.router.Load(); rt != nil {
				return rt.Digest(ctx)
			}
			return nil, down
		},
	}
}
