package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// ClusterConfig says how regions of real servers and processes run on this machine.
type ClusterConfig struct {
	File     cluster.File              // what runs; cluster.ReadFile reads one
	Fresh    bool                      // forget what the data folder holds
	Binary   string                    // the antipode that services run; empty: this program
	Progress func(string)              // told one line at a time what is going on; may be nil
	Show     func(member, line string) // told each line that a member writes, from several goroutines; may be nil
	Log      *slog.Logger              // of what is ordered; may be nil
}

// Cluster is antipode cluster: whole regions on this machine, each backend and service a process of its own. It embeds
// who can be asked (ClusterView) and who takes orders about members and links (cluster.Supervisor).
type Cluster struct {
	*ClusterView
	*cluster.Supervisor
	cfg     ClusterConfig
	watcher *clusterWatcher
	spans   *telemetry.SpanStore
	pages   atomic.Pointer[http.Handler] // of the regions that there are now
	down    chan struct{}                // closed when somebody ordered the cluster down
	closers []func()
}

// StartCluster starts a cluster and returns when all of it is ready. After an error nothing of it runs.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	c, err := NewCluster(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.Up(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// NewCluster prepares and locks the data folder, and serves pages, console and orders. Up starts the members; Close ends
// everything, also after a failed Up.
func NewCluster(cfg ClusterConfig) (_ *Cluster, err error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{cfg: cfg, spans: telemetry.NewSpanStore(0, 0), down: make(chan struct{})}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	c.Supervisor, err = cluster.New(cluster.Config{
		File: cfg.File, Fresh: cfg.Fresh, Binary: cfg.Binary, Progress: cfg.Progress, Show: cfg.Show,
		Keys: func(dir string, regions []im.Region) error { return TrialKeys{dir}.Make(regions) },
	})
	if err != nil {
		return nil, err
	}
	c.ClusterView = NewClusterView(c.Plan())
	c.onClose(c.ClusterView.Close)
	c.watcher = newClusterWatcher(c)
	if traces := c.Plan().File.Traces; traces != "" {
		r, err := telemetry.Receive(traces, c.spans)
		if err != nil {
			return nil, fmt.Errorf("%w: stop what uses it (antipode dev?), or name another address (traces)", err)
		}
		c.onClose(r.Close)
	}
	return c, c.serve()
}

func (c *Cluster) onClose(f func()) { c.closers = append(c.closers, f) }

// serve serves pages, console and orders, from before the members start until they have stopped.
func (c *Cluster) serve() error {
	plan := c.Plan()
	listener, err := net.Listen("tcp", plan.File.Listen)
	if err != nil {
		return fmt.Errorf("pages and control: %w: stop what uses it (antipode dev?), or name another address (listen)", err)
	}
	if err := c.show(); err != nil {
		listener.Close()
		return err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*c.pages.Load()).ServeHTTP(w, r) })
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	c.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		<-served
	})
	return nil
}

// show has pages, orders and who looks from outside know the regions that there are now.
func (c *Cluster) show() error {
	plan := c.Plan()
	c.follow(plan)
	var endpoints []console.Endpoint
	var connect []string
	for i := range plan.Regions {
		r := &plan.Regions[i]
		endpoints = append(endpoints, console.Endpoint{Region: r.Name, IPConf: r.IPConf()})
		connect = append(connect, "http://"+r.Host+":*", "ws://"+r.Host+":*")
	}
	orders := cluster.Handler(c.Supervisor, c, c.orderDown)
	host, _, _ := net.SplitHostPort(plan.File.Listen)
	handler, err := console.New(console.Config{
		Endpoints: endpoints, Hosts: []string{host}, Connect: connect,
		Also: map[string]http.Handler{"GET /cluster/": orders, "POST /cluster/": orders},
	}, console.Deps{
		Watcher: c.watcher, Links: clusterLinks{c.Supervisor}, Switch: clusterSwitch{c}, Tokens: c.Token,
		Traces: traces{c.spans}, Log: c.cfg.Log,
	})
	if err == nil {
		c.pages.Store(&handler)
	}
	return err
}

func (c *Cluster) orderDown() {
	select {
	case <-c.down:
	default:
		close(c.down)
	}
}

// Down is closed when somebody ordered the cluster down.
func (c *Cluster) Down() <-chan struct{} { return c.down }

// URL is the base URL of pages, console and control.
func (c *Cluster) URL() string { return c.Plan().URL() }

// Up starts everything and returns when all of it is ready: every member, every link, and every ipconf hands out every
// gateway.
func (c *Cluster) Up(ctx context.Context) error {
	late := time.Now().Add(c.Plan().File.StartIn)
	if err := c.Supervisor.Up(ctx); err != nil {
		return err
	}
	if soonest := time.Now().Add(time.Minute); late.Before(soonest) { // links back off while their other end starts
		late = soonest
	}
	ctx, cancel := context.WithDeadlineCause(ctx, late, fmt.Errorf("not ready after %v (start_in)", c.Plan().File.StartIn))
	defer cancel()
	return c.WaitReady(ctx)
}

// WaitReady waits until all that is not down by order, or cut, does what it is for: members are ready, links are open, and
// every ipconf hands out every gateway that is up. Those of a region that somebody keeps from taking clients it does not wait for.
func (c *Cluster) WaitReady(ctx context.Context) error {
	if err := c.Supervisor.WaitReady(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	told := time.Now()
	var closed map[im.Region]im.State
	for {
		missing := c.missing(ctx, closed)
		if missing == "" {
			for _, r := range slices.Sorted(maps.Keys(closed)) {
				c.cfg.Progress(fmt.Sprintf("region %s is %s: it takes no clients until antipode region activate or undrain", r, closed[r]))
			}
			return nil
		}
		if time.Since(told) > 3*time.Second {
			if closed = c.closed(ctx); len(closed) == 0 {
				c.cfg.Progress("waiting: " + missing)
			}
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s: %w", missing, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// closed are the regions that take no clients before somebody says so; none where that is not known.
func (c *Cluster) closed(ctx context.Context) map[im.Region]im.State {
	operator, err := c.operator(ctx, "")
	if err != nil {
		return nil
	}
	defer operator.Close()
	states, err := operator.states(ctx)
	if err != nil {
		return nil
	}
	return closed(states)
}

func closed(states map[im.Region]im.RegionState) map[im.Region]im.State {
	closed := map[im.Region]im.State{}
	for r, said := range states {
		if said.Stamp > stampJoined && said.State != im.StateActive { // a new region, which speaks for itself, will take them by itself
			closed[r] = said.State
		}
	}
	return closed
}

// missing names the first thing that is not as it should be, of regions that are not closed.
func (c *Cluster) missing(ctx context.Context, closed map[im.Region]im.State) string {
	gateways, up := 0, map[string]bool{}
	for _, s := range c.Status() {
		switch {
		case s.State == cluster.StateDown:
		case !s.Ready:
			return s.Name + ": " + s.Why
		default:
			up[s.Name] = true
			if _, none := closed[im.Region(s.Region)]; s.Kind == ServiceGateway && !none {
				gateways++
			}
		}
	}
	some := func(region im.Region, kind string) string {
		r, _ := c.Plan().Region(region)
		for _, m := range r.Of(kind) {
			if up[m.Name] {
				return m.Name
			}
		}
		return ""
	}
	open := c.watcher.openLinks(ctx)
	for _, l := range c.Links() {
		if !l.Cut && some(l.From, ServiceReplicator) != "" && some(l.To, ServiceReplicator) != "" && !open[linkName{l.From, l.To}] {
			return fmt.Sprintf("link %s → %s is not open", l.From, l.To)
		}
	}
	for _, r := range c.Regions() {
		if some(r, ServiceIPConf) == "" {
			continue
		}
		n, err := countGateways(ctx, c.IPConf(r))
		if err != nil {
			return fmt.Sprintf("ipconf of %s: %v", r, err)
		}
		if n < gateways {
			return fmt.Sprintf("ipconf of %s hands out %d of %d gateways", r, n, gateways)
		}
	}
	return ""
}

// KillGateway ends a gateway as kill -9 does.
func (c *Cluster) KillGateway(ctx context.Context, r im.Region, id string) error {
	return c.Kill(ctx, string(r)+"/"+id)
}

// RestartGateway starts it again.
func (c *Cluster) RestartGateway(ctx context.Context, r im.Region, id string) error {
	return c.Start(ctx, string(r)+"/"+id)
}

// Close stops everything that was started, in reverse order. The data stays.
func (c *Cluster) Close() error {
	var err error
	if c.Supervisor != nil {
		err = c.Supervisor.Close()
	}
	for _, f := range slices.Backward(c.closers) {
		f()
	}
	c.closers = nil
	return err
}

// Spans returns the spans of one trace, by its id in hex.
func (c *Cluster) Spans(ctx context.Context, trace string) ([]console.Span, error) {
	return traces{c.spans}.Spans(ctx, trace)
}

// clusterLinks gives orders of the console about links.
type clusterLinks struct{ sup *cluster.Supervisor }

func (l clusterLinks) Cut(ctx context.Context, from, to im.Region) error {
	return known(l.sup.Cut(ctx, from, to))
}

func (l clusterLinks) Heal(ctx context.Context, from, to im.Region) error {
	return known(l.sup.Heal(ctx, from, to))
}

func (l clusterLinks) Delay(ctx context.Context, from, to im.Region, d time.Duration) error {
	return known(l.sup.Delay(ctx, from, to, d))
}

// known gives an error about what does not exist the form that the console answers 404 to.
func known(err error) error {
	if errors.Is(err, cluster.ErrUnknown) {
		return unknownError{err}
	}
	return err
}

type unknownError struct{ error }

// Is makes it the console's.
func (unknownError) Is(target error) bool { return target == console.ErrUnknown }

// clusterSwitch gives orders of the console about gateways and regions.
type clusterSwitch struct{ c *Cluster }

func (s clusterSwitch) Kill(ctx context.Context, t console.Target) error {
	return known(s.c.Kill(ctx, nameOf(t)))
}

// Restart begins to start what is down: how it goes on shows in the state.
func (s clusterSwitch) Restart(ctx context.Context, t console.Target) error {
	if len(s.c.Plan().Match(nameOf(t))) == 0 {
		return fmt.Errorf("%s: %w", nameOf(t), console.ErrUnknown)
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.c.Plan().File.StartIn)
		defer cancel()
		if err := s.c.Start(ctx, nameOf(t)); err != nil {
			s.c.cfg.Progress("restart: " + strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}()
	return nil
}

func nameOf(t console.Target) string {
	if t.Gateway == "" {
		return string(t.Region)
	}
	return string(t.Region) + "/" + t.Gateway
}
