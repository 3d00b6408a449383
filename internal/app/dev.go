package app

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/embedded"
	"github.com/antipode-im/antipode/internal/faultnet"
	proc "github.com/antipode-im/antipode/internal/process"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// DevConfig says how antipode dev runs.
type DevConfig struct {
	Regions  []string      // names, 1 to 8
	Delay    time.Duration // one way, between any two regions
	Listen   string        // host:port of the pages; every other port is counted from it. Port 0 finds a free range
	Data     string        // folder of everything that lasts
	Fresh    bool          // forget what the folder holds
	LogLevel slog.Level
	Sample   float64      // part of the traces begun by servers; clients decide about their own submits
	Progress func(string) // told one line at a time what takes long; may be nil
	Pages    bool         // serve chat, console and their API

	WebTransport bool // gateways serve it, with a certificate that the chat page is told of

	// Configure changes the configuration of each region before it is built; may be nil.
	Configure func(*config.Config)

	Epochs map[im.Region]uint32 // of the origins of regions that were lost and came back; 1 where nothing is said
}

// Dev is antipode dev: regions in one process, over embedded parts, linked through faultnet.
type Dev struct {
	cfg      DevConfig
	ports    ports
	listener net.Listener // of the pages; it also keeps the ports
	postgres *embedded.Postgres
	brief    *tls.Certificate // of WebTransport; nil: there is none
	hash     string           // of that, in base64
	region1  func(index int, name im.Region, origins []im.Origin) (*devRegion, error)

	mu      sync.Mutex
	regions []*devRegion          // replaced, not changed; guarded by mu
	links   map[linkName]*devLink // likewise

	issuer  *issue.Issuer
	spans   *telemetry.SpanStore
	log     *slog.Logger
	watcher *watcher
	closers []func()
	pages   *http.Server
	served  chan error
}

type linkName struct{ from, to im.Region }

// devLink is the proxy that a link passes.
type devLink struct {
	proxy *faultnet.Proxy
	delay atomic.Int64 // one way, ns
	cut   atomic.Bool
}

// NewDev prepares the data folder and binds what has no dependencies. Start starts the regions; Close ends everything,
// also after a failed Start.
func NewDev(cfg DevConfig) (_ *Dev, err error) {
	names, err := parseRegions(cfg.Regions)
	if err != nil {
		return nil, &ConfigError{err}
	}
	if cfg.Delay < 0 || cfg.Delay > console.MaxDelay {
		return nil, &ConfigError{fmt.Errorf("--delay %v: want 0s to %v", cfg.Delay, console.MaxDelay)}
	}
	if !(cfg.Sample >= 0 && cfg.Sample <= 1) { // NaN is neither
		return nil, &ConfigError{fmt.Errorf("--sample %v: want 0 to 1", cfg.Sample)}
	}
	ports, err := parseListen(cfg.Listen)
	if err != nil {
		return nil, &ConfigError{err}
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	ports, pages, err := ports.claim()
	if err != nil {
		return nil, err
	}
	d := &Dev{cfg: cfg, ports: ports, listener: pages, links: map[linkName]*devLink{}, spans: telemetry.NewSpanStore(0, 0)}
	d.onClose(func() { pages.Close() })
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if cfg.WebTransport {
		cert, hash, err := certs.Brief(time.Now(), net.ParseIP(ports.host))
		if err != nil {
			return nil, err
		}
		d.brief, d.hash = cert, base64.StdEncoding.EncodeToString(hash[:])
	}
	if err := d.openData(); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(d.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	d.onClose(func() { logFile.Close() })
	d.log = slog.New(slog.NewJSONHandler(logFile, &slog.HandlerOptions{Level: cfg.LogLevel}))
	if err := d.build(names, logFile); err != nil {
		return nil, err
	}
	return d, nil
}

// marker is the file by which dev knows a data folder of its own: --fresh deletes nothing else.
const marker = "antipode-dev"

// lockName is the file in it that a running dev holds.
const lockName = "lock"

func (d *Dev) openData() error {
	dir := d.cfg.Data
	mark := filepath.Join(dir, marker)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == lockName })
	if _, err := os.Stat(mark); err != nil && len(entries) > 0 {
		return fmt.Errorf("data folder %s: it holds files that are not of antipode dev: name another with --data", dir)
	}
	lock, err := proc.Lock(filepath.Join(dir, lockName)) // before anything in it is touched: another dev may run on it
	if err != nil {
		return fmt.Errorf("data folder %s: another antipode dev runs on it (%w): end that, or name another folder with --data", dir, err)
	}
	d.onClose(func() { lock.Close() })
	if d.cfg.Fresh {
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("--fresh: %w", err)
			}
		}
	}
	was, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data folder: %w", err)
	}
	now := "regions " + strings.Join(d.cfg.Regions, ",") + "\n"
	if err == nil && string(was) != now {
		return fmt.Errorf("data folder %s: it was made for %s, not %s: name those, or another folder with --data, or forget it with --fresh",
			dir, strings.TrimSpace(string(was)), strings.TrimSpace(now))
	}
	if err := os.WriteFile(mark, []byte(now), 0o644); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

// LogFile is where services log.
func (d *Dev) LogFile() string { return filepath.Join(d.cfg.Data, "antipode.log") }

// URL is the base URL of the pages.
func (d *Dev) URL() string { return "http://" + d.ports.at(0) }

// Regions lists the regions.
func (d *Dev) Regions() []im.Region {
	var names []im.Region
	for _, r := range d.all() {
		names = append(names, r.site.Region)
	}
	return names
}

// IPConf is the base URL of a region's ipconf.
func (d *Dev) IPConf(region im.Region) string {
	for i, r := range d.all() {
		if r.site.Region == region {
			return "http://" + d.ports.region(i, portIPConf)
		}
	}
	return ""
}

// Token issues a token for a user.
func (d *Dev) Token(uid im.UID) (token string, expires time.Time, err error) {
	expires = time.Now().Add(24 * time.Hour)
	token, err = d.issuer.Token(uid, expires)
	return token, expires, err
}

func (d *Dev) onClose(f func()) { d.closers = append(d.closers, f) }

func (d *Dev) build(names []im.Region, logTo io.Writer) error {
	authority, err := certs.Open(filepath.Join(d.cfg.Data, "certs"))
	if err != nil {
		return err
	}
	seed, err := tokenSeed(filepath.Join(d.cfg.Data, "token-key"))
	if err != nil {
		return err
	}
	if d.issuer, err = issue.New("dev", seed); err != nil {
		return err
	}
	discovery, network := registry.NewMemory(registryTTL), new(embedded.Network)
	var origins []im.Origin
	for _, r := range names {
		for epoch := uint32(1); epoch <= max(d.cfg.Epochs[r], 1); epoch++ {
			origins = append(origins, im.NewOrigin(r, epoch))
		}
	}
	d.region1 = func(i int, name im.Region, origins []im.Origin) (*devRegion, error) {
		site, err := d.site(i, name, origins)
		if err != nil {
			return nil, err
		}
		env := Env{
			Discovery: discovery,
			Identity:  func(service string) (*certs.Identity, error) { return authority.Identity(service, name) },
			Telemetry: func(service, instance, admin string) (*telemetry.Telemetry, error) {
				t, err := telemetry.New(telemetry.Config{
					Service: service, Region: string(name), Instance: instance,
					LogWriter: logTo, LogLevel: d.cfg.LogLevel, Admin: admin,
					SampleRatio: d.cfg.Sample, Spans: d.spans,
				})
				if err == nil {
					d.watcher.watch(name, service, instance, t)
				}
				return t, err
			},
			StartWait: devStartWait,
			Network:   network,
		}
		r := newDevRegion(i, site, env, network, d.ports, d.cfg.Data, d.log)
		for _, u := range r.units() {
			u.Told = d.cfg.Progress
		}
		return r, nil
	}
	for i, name := range names {
		r, err := d.region1(i, name, origins)
		if err != nil {
			return err
		}
		d.regions = append(d.regions, r)
	}
	d.watcher = newWatcher(d)
	for i, from := range names {
		for j, to := range names {
			if from == to {
				continue
			}
			l, err := d.proxy(i, j)
			if err != nil {
				return fmt.Errorf("link %s → %s: %w", from, to, err)
			}
			d.links[linkName{from, to}] = l
		}
	}
	return nil
}

// proxy is what a link passes, by the indexes of regions.
func (d *Dev) proxy(from, to int) (*devLink, error) {
	proxy, err := faultnet.Listen(d.ports.link(from, to), d.ports.region(from, portRPC)) // the replicator's, which is the first service
	if err != nil {
		return nil, err
	}
	d.onClose(func() { proxy.Close() })
	proxy.Delay(d.cfg.Delay)
	l := &devLink{proxy: proxy}
	l.delay.Store(int64(d.cfg.Delay))
	return l, nil
}

// site configures a region as an operator would: a config.Config, turned into a Site like any other.
func (d *Dev) site(index int, name im.Region, origins []im.Origin) (Site, error) {
	key := d.issuer.Key()
	c := config.Defaults()
	c.Region, c.Origins, c.Partitions = name, origins, devPartitions
	c.OriginEpoch = max(d.cfg.Epochs[name], 1)
	c.Discovery = config.Discovery{Kind: "memory", TTL: registryTTL}
	c.Log.Brokers, c.Log.Replication, c.Log.MinInSync = []string{d.ports.region(index, portKafka)}, 1, 1
	c.Routes.Addrs = []string{d.ports.region(index, portRedis)}
	c.Auth.Keys = []config.AuthKey{{ID: key.ID, Alg: key.Algorithm, Key: config.Secret(key.Public)}}
	c.Gateway.WebOrigins = []string{d.URL(), "http://localhost:" + portOf(d.ports.at(0))}
	c.Drain = drainTimeout
	c.IMServer.Rate, c.IMServer.Burst = 1000, 1000 // a few users play many
	c.Gateway.Rate, c.Gateway.Burst = 2000, 4000
	c.Replicator.Peers = map[im.Region]string{}
	for j, peer := range c.Regions() {
		if j != index {
			c.Replicator.Peers[peer] = d.ports.link(j, index) // the link that brings that region's log here
		}
	}
	c.IPConf.Policy.WebTransport = d.brief != nil
	if d.cfg.Configure != nil {
		d.cfg.Configure(c)
	}
	site, err := SiteOf(c)
	if err != nil {
		return Site{}, fmt.Errorf("region %s: %w", name, err)
	}
	if d.brief != nil {
		site.Gateway.QUIC = net.JoinHostPort(d.ports.host, "0")
		site.Gateway.QUICCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.brief, nil }
	}
	site.Kafka.Embedded = true
	// Some twenty readers and three brokers share this machine, and each fetch costs both ends.
	site.Kafka.FetchPace, site.LinkPace, site.ApplyPace = 10*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	site.IMServer.BatchWait, site.IMServer.CommitPace = 8*time.Millisecond, 20*time.Millisecond
	site.Replicator.HeldLinger = 40 * time.Millisecond
	return site, nil
}

const (
	devPartitions = 4
	registryTTL   = 3 * time.Second
	// devStartWait is for a machine that is busy, or slow to read kept data: the backends are there, and answer late.
	devStartWait = 30 * time.Second
)

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// Start starts PostgreSQL, then the regions beside each other, and returns when they serve.
func (d *Dev) Start(ctx context.Context) error {
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir: filepath.Join(d.cfg.Data, "postgres"), Host: d.ports.host, Port: d.ports.base + portPostgres,
		Progress: d.cfg.Progress,
		Derived:  true, // from the regions' logs; its flushes would hold up their appends on the same disk
	})
	if err != nil {
		return err
	}
	d.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := pg.Stop(ctx); err != nil {
			d.log.Warn("postgres did not stop in time", "error", err)
		}
	})
	d.postgres = pg
	for _, r := range d.all() {
		if err := d.database(ctx, r); err != nil {
			return err
		}
	}
	d.onClose(d.stopRegions)
	errs := make([]error, len(d.all()))
	var wg sync.WaitGroup
	for i, r := range d.all() {
		wg.Go(func() { errs[i] = r.start(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { d.watcher.run(watching) })
	watch.Go(func() { d.mournPostgres(watching) })
	d.onClose(func() { stop(); watch.Wait() })
	if err := d.ready(ctx); err != nil {
		return err
	}
	if d.cfg.Pages {
		return d.servePages()
	}
	return nil
}

// database makes a region's.
func (d *Dev) database(ctx context.Context, r *devRegion) error {
	database := "antipode_" + strings.ReplaceAll(string(r.site.Region), "-", "_")
	if err := d.postgres.CreateDatabase(ctx, database); err != nil {
		return err
	}
	r.site.Timelines.URLs = []string{d.postgres.URL(database)}
	return nil
}

func (d *Dev) stopRegions() {
	var wg sync.WaitGroup
	for _, r := range d.all() {
		wg.Go(r.stop)
	}
	wg.Wait()
}

// ready waits until every region hands out every gateway and every link is open.
func (d *Dev) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	told := time.Now()
	for {
		missing := d.missing(ctx)
		if missing == "" {
			return nil
		}
		if time.Since(told) > 2*time.Second {
			d.cfg.Progress("waiting: " + missing)
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after 30 s: %s; see %s", missing, d.LogFile())
		case <-tick.C:
		}
	}
}

// missing names the first thing that is not as it should be.
func (d *Dev) missing(ctx context.Context) string {
	for _, r := range d.all() {
		if state, err := r.state(); state != UnitUp {
			return fmt.Sprintf("region %s is %s: %v", r.site.Region, state, err)
		}
		for id, u := range r.gateways {
			if state, err := u.State(); state != UnitUp {
				return fmt.Sprintf("%s of %s is %s: %v", id, r.site.Region, state, err)
			}
		}
		repl := r.replicator.Load()
		if repl == nil {
			return fmt.Sprintf("replicator of %s is not running", r.site.Region)
		}
		for _, in := range repl.Status().In {
			if !in.Open {
				return fmt.Sprintf("link %s → %s: %s", in.Peer, r.site.Region, in.Error)
			}
		}
		n, err := countGateways(ctx, d.IPConf(r.site.Region))
		if err != nil {
			return fmt.Sprintf("ipconf of %s: %v", r.site.Region, err)
		}
		if want := len(d.all()) * len(r.gateways); n < want {
			return fmt.Sprintf("ipconf of %s hands out %d of %d gateways", r.site.Region, n, want)
		}
	}
	return d.watcher.unready(ctx)
}

func (d *Dev) servePages() error {
	var endpoints []console.Endpoint
	for _, r := range d.all() {
		endpoints = append(endpoints, console.Endpoint{Region: r.site.Region, IPConf: d.IPConf(r.site.Region), Certificate: d.hash})
	}
	cfg := console.Config{Endpoints: endpoints, Hosts: []string{d.ports.host}}
	if d.brief != nil {
		cfg.Connect = []string{"https://127.0.0.1:*", "https://localhost:*"}
	}
	handler, err := console.New(cfg, console.Deps{
		Watcher: d.watcher, Links: d, Switch: d, Tokens: d.Token, Traces: traces{d.spans}, Log: d.log,
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", d.readyz)
	mux.Handle("/", handler)
	d.pages = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	d.served = make(chan error, 1)
	go func() { d.served <- d.pages.Serve(d.listener) }()
	d.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if d.pages.Shutdown(ctx) != nil {
			d.pages.Close()
		}
		<-d.served
	})
	return nil
}

// Close drains the regions and stops everything. The data stays.
func (d *Dev) Close() {
	for _, f := range slices.Backward(d.closers) {
		f()
	}
	d.closers = nil
}

func (d *Dev) region(name im.Region) (*devRegion, error) {
	for _, r := range d.all() {
		if r.site.Region == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("region %s: %w", name, console.ErrUnknown)
}

func (d *Dev) link(from, to im.Region) (*devLink, error) {
	l := d.wires()[linkName{from, to}]
	if l == nil {
		return nil, fmt.Errorf("link %s → %s: %w", from, to, console.ErrUnknown)
	}
	return l, nil
}

// Cut stops a link: what is under way is lost, and nothing passes until Heal.
func (d *Dev) Cut(_ context.Context, from, to im.Region) error {
	l, err := d.link(from, to)
	if err == nil {
		l.cut.Store(true)
		l.proxy.Cut()
	}
	return err
}

// Heal lets the link carry again.
func (d *Dev) Heal(_ context.Context, from, to im.Region) error {
	l, err := d.link(from, to)
	if err == nil {
		l.cut.Store(false)
		l.proxy.Heal()
	}
	return err
}

// Delay sets the one-way delay of a link.
func (d *Dev) Delay(_ context.Context, from, to im.Region, delay time.Duration) error {
	l, err := d.link(from, to)
	if err == nil {
		l.delay.Store(int64(delay))
		l.proxy.Delay(delay)
	}
	return err
}

// Kill stops a gateway, or a whole region, like a crash.
func (d *Dev) Kill(_ context.Context, t console.Target) error {
	r, err := d.region(t.Region)
	if err != nil {
		return err
	}
	if t.Gateway == "" {
		r.kill()
		return nil
	}
	u := r.gateways[t.Gateway]
	if u == nil {
		return fmt.Errorf("gateway %s of %s: %w", t.Gateway, t.Region, console.ErrUnknown)
	}
	u.Kill()
	return nil
}

// Restart starts what was killed, with its data.
func (d *Dev) Restart(ctx context.Context, t console.Target) error {
	r, err := d.region(t.Region)
	if err != nil {
		return err
	}
	if t.Gateway == "" {
		return r.start(ctx)
	}
	u := r.gateways[t.Gateway]
	if u == nil {
		return fmt.Errorf("gateway %s of %s: %w", t.Gateway, t.Region, console.ErrUnknown)
	}
	return u.Start()
}

// KillGateway stops a gateway like a crash.
func (d *Dev) KillGateway(ctx context.Context, r im.Region, id string) error {
	return d.Kill(ctx, console.Target{Region: r, Gateway: id})
}

// RestartGateway starts it again.
func (d *Dev) RestartGateway(ctx context.Context, r im.Region, id string) error {
	return d.Restart(ctx, console.Target{Region: r, Gateway: id})
}

// Logged reads every origin's own message log from its start.
func (d *Dev) Logged(ctx context.Context) ([]checker.Logged, error) { return d.truth().Logged(ctx) }

// Behind lists the partitions of which a region's timelines lack what is in the origin's log now.
func (d *Dev) Behind(ctx context.Context) ([]checker.Behind, error) { return d.truth().Behind(ctx) }

// Digests returns the digests of the views of all regions.
func (d *Dev) Digests(ctx context.Context) (map[im.Region]map[string]string, error) {
	return d.truth().Digests(ctx)
}

func (d *Dev) truth() truth {
	var t truth
	for _, r := range d.all() {
		t = append(t, r.truth())
	}
	return t
}
