package ipconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/proxied"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// IPConf is the service.
type IPConf struct {
	cfg       Config
	deps      Deps
	listener  net.Listener
	fleet     *fleet
	locator   *locator
	policies  *policies
	weigh     func(version string) (weight float64, canary bool)
	gate      rank.Gate
	addresses *addresses
	metrics   metrics
	work      *sync.Pool // of *work
	current   atomic.Pointer[view]
	changed   chan struct{} // asks for a new view now

	catalogue    atomic.Pointer[signed]
	cacheControl []string

	followed atomic.Pointer[[]im.Region] // a region keeps its place; replaced under mu

	mu      sync.Mutex
	begin   func(im.Region)               // watches a region that is new; nil before Run
	ipconfs map[im.Region][]im.Instance   // an empty reading does not replace a good one
	turns   map[im.Region]int             // whose of them it is to be asked for loads
	mute    map[im.Region]map[string]bool // of them, by id, those that did not answer when they were last asked
	looking map[im.Region]bool            // a second look is under way

	nudge chan struct{} // a gateway is new: ask for its load now
}

// New checks the configuration and binds the listener.
func New(cfg Config, deps Deps) (*IPConf, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps.Discovery == nil || deps.Gateways == nil || deps.Peers == nil {
		return nil, errors.New("ipconf: Discovery, Gateways and Peers must be given")
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Meter == nil {
		deps.Meter = noop.NewMeterProvider().Meter("")
	}
	s := &IPConf{
		cfg: cfg, deps: deps, fleet: newFleet(cfg.Regions, cfg.DeadAfter, cfg.PollInterval*3/2),
		locator: newLocator(&cfg, deps.Geo), weigh: weigh(cfg.Versions, cfg.Canary), work: newWorkPool(),
		addresses: newAddresses(cfg.AddressRate),
		ipconfs:   map[im.Region][]im.Instance{}, looking: map[im.Region]bool{},
		turns: map[im.Region]int{}, mute: map[im.Region]map[string]bool{},
		nudge: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		cacheControl: []string{"private, max-age=" + seconds(cfg.TTL) + ", stale-if-error=" + seconds(staleIfError)},
	}
	if s.policies, err = newPolicies(cfg.Policy); err != nil {
		return nil, fmt.Errorf("ipconf: policy: %w", err)
	}
	if s.metrics, err = newMetrics(deps.Meter, cfg.Regions); err != nil {
		return nil, fmt.Errorf("ipconf: metrics: %w", err)
	}
	if s.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("ipconf: cannot listen: %w", err)
	}
	if cfg.ProxyProtocol {
		s.listener = &proxied.Listener{Listener: s.listener, Within: 5 * time.Second, Trusted: func(peer netip.Addr) bool {
			return contains(cfg.TrustedProxies, peer)
		}}
	}
	s.followed.Store(&cfg.Regions)
	s.current.Store(s.view(time.Now()))
	return s, nil
}

// Addr is the host:port that it listens on.
func (s *IPConf) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends.
func (s *IPConf) Run(ctx context.Context) error {
	stop, err := s.metrics.observe(s)
	if err != nil {
		s.listener.Close()
		return fmt.Errorf("ipconf: metrics: %w", err)
	}
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx)) // answers stay informed while draining
	defer cancel()
	begin := func(r im.Region) {
		wg.Go(func() { s.watch(watching, &wg, "gateway", r) })
		wg.Go(func() { s.watch(watching, &wg, "ipconf", r) })
	}
	s.mu.Lock()
	s.begin = begin
	for _, r := range s.regions() {
		begin(r)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.begin = func(im.Region) {}
		s.mu.Unlock()
	}()
	wg.Go(func() { s.poll(watching) })
	wg.Go(func() { s.refresh(watching) })

	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.deps.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	wg.Go(func() { served <- server.Serve(s.listener) })
	select {
	case err := <-served:
		return fmt.Errorf("ipconf: %w", err)
	case <-ctx.Done():
	}
	if errors.Is(context.Cause(ctx), im.ErrKilled) {
		server.Close()
		return nil
	}
	deadline, done := context.WithTimeout(watching, s.cfg.DrainTimeout)
	defer done()
	if err := server.Shutdown(deadline); err != nil {
		server.Close()
	}
	return nil
}

// watch follows one service's catalogue in one region. Errors change nothing: what is known stays, and grows old.
func (s *IPConf) watch(ctx context.Context, wg *sync.WaitGroup, service string, r im.Region) {
	for failures := 0; ctx.Err() == nil; failures++ {
		err := s.deps.Discovery.Watch(ctx, service, r, func(instances []im.Instance) {
			failures = 0
			if service == "ipconf" {
				s.peersAre(r, instances)
				return
			}
			s.read(ctx, wg, r, instances)
		})
		if ctx.Err() != nil {
			return
		}
		s.deps.Logger.Warn("discovery does not answer; the last known gateways stand", "region", r, "service", service, "error", err)
		pause(ctx, time.Duration(float64(min(100*time.Millisecond<<min(failures, 6), 5*time.Second))*(0.5+rand.Float64()/2)))
	}
}

func (s *IPConf) peersAre(r im.Region, instances []im.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(instances) == 0 {
		return
	}
	s.ipconfs[r] = append([]im.Instance(nil), instances...)
	for id := range s.mute[r] {
		if !slices.ContainsFunc(instances, func(i im.Instance) bool { return i.ID == id }) {
			delete(s.mute[r], id)
		}
	}
}

// read takes a reading of a region's gateways, and arranges the second look if it is held back.
func (s *IPConf) read(ctx context.Context, wg *sync.WaitGroup, r im.Region, instances []im.Instance) {
	held, gone := s.fleet.catalogue(r, instances, false, time.Now())
	if gone > 0 {
		s.deps.Logger.Info("gateways left", "region", r, "count", gone)
	}
	wake(s.nudge)
	wake(s.changed)
	if !held {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking[r] {
		return
	}
	s.looking[r] = true
	s.metrics.heldBack(r)
	s.deps.Logger.Warn("discovery would drop more than half of a region's gateways; looking again before believing it",
		"region", r, "named", len(instances), "after", s.cfg.ConfirmAfter)
	wg.Go(func() { s.look(ctx, r) })
}

// look looks again at a region until nothing is held back.
func (s *IPConf) look(ctx context.Context, r im.Region) {
	defer func() {
		s.mu.Lock()
		s.looking[r] = false
		s.mu.Unlock()
	}()
	for {
		if !pause(ctx, s.cfg.ConfirmAfter) {
			return
		}
		call, cancel := context.WithTimeout(ctx, s.cfg.ConfirmAfter)
		instances, err := s.deps.Discovery.Instances(call, "gateway", r)
		cancel()
		if err != nil {
			continue
		}
		held, gone := s.fleet.catalogue(r, instances, true, time.Now())
		if gone > 0 {
			s.deps.Logger.Warn("the second look says the same: gateways left", "region", r, "count", gone)
		}
		if !held {
			return
		}
	}
}

// maxPolls bounds load calls under way.
const maxPolls = 32

// poll asks for loads, of the own region's gateways and of the other regions, every interval. A round that takes longer
// delays the next.
func (s *IPConf) poll(ctx context.Context) {
	for ctx.Err() == nil {
		s.round(ctx)
		t := time.NewTimer(time.Duration(float64(s.cfg.PollInterval) * (0.9 + 0.2*rand.Float64())))
		select {
		case <-t.C:
		case <-s.nudge:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (s *IPConf) round(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxPolls)
	for _, g := range s.fleet.instances(s.cfg.Region) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			call, cancel := context.WithTimeout(ctx, s.cfg.PollTimeout)
			defer cancel()
			load, err := s.deps.Gateways.Load(call, g)
			if err != nil {
				s.deps.Logger.Debug("a gateway does not tell its load", "gateway", g.ID, "error", err)
				return
			}
			s.fleet.measure(s.cfg.Region, load, time.Now())
		})
	}
	for _, r := range s.regions() {
		if r != s.cfg.Region {
			wg.Go(func() { s.exchange(ctx, r) })
		}
	}
}

// exchange asks a region's ipconfs for its loads: one after another from round to round, and one more if that fails.
func (s *IPConf) exchange(ctx context.Context, r im.Region) {
	s.mu.Lock()
	list, turn := s.ipconfs[r], s.turns[r]
	s.turns[r]++
	s.mu.Unlock()
	for n := range min(2, len(list)) {
		peer := list[(turn+n)%len(list)]
		call, cancel := context.WithTimeout(ctx, s.cfg.PollTimeout)
		loads, age, err := s.deps.Peers.Loads(call, peer)
		cancel()
		if ctx.Err() != nil {
			return
		}
		s.answered(peer, err == nil)
		if err != nil {
			s.deps.Logger.Debug("an ipconf does not tell its loads", "region", r, "ipconf", peer.ID, "error", err)
			continue
		}
		at := time.Now().Add(-age)
		for _, l := range loads {
			s.fleet.measure(r, l, at)
		}
		return
	}
}

// answered notes whether a peer answered when it was last asked.
func (s *IPConf) answered(peer im.Instance, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		delete(s.mute[peer.Region], peer.ID)
		return
	}
	if s.mute[peer.Region] == nil {
		s.mute[peer.Region] = map[string]bool{}
	}
	s.mute[peer.Region][peer.ID] = true
}

// Loads returns the loads of the own region's gateways that were heard of lately, and how old the oldest of them is: what
// peers ask for.
func (s *IPConf) Loads(context.Context) (loads []im.Load, age time.Duration, err error) {
	loads, age = s.fleet.loads(s.cfg.Region, time.Now())
	return loads, age, nil
}

// Ready tells why it should not be asked yet; nil when it may.
func (s *IPConf) Ready() error {
	if _, _, known := s.fleet.age(s.cfg.Region, time.Now()); !known {
		return fmt.Errorf("ipconf: discovery has not told the gateways of %s yet", s.cfg.Region)
	}
	return nil
}

// wake sends to a channel of one, unless something waits there already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
