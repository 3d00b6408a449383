// Package consul is registry.Registry and registry.States over Consul: a datacenter for each region, of the same name,
// federated over the WAN.
//
//	instances   services <prefix>-<service> of the agent beside the process, each with a TTL check; what Consul has no field
//	            for is service meta. Passing is alive; critical is gone.
//	states      KV <prefix>/regions/<region> in every datacenter, written by check-and-set; the highest stamp wins
//	members     KV <prefix>/members/<region> likewise
//
// What is read of another region goes through the own agent with ?dc=, from any of its servers (stale): who reads across
// the WAN is late anyway, and a datacenter without a leader still answers.
//
// Consul's silence changes nothing: watches wait, and readers keep what they heard. Nor is everything true that Consul says
// right after a silence. An agent that was down or hung finds all its TTL checks expired; one that lost its memory knows
// nobody. Every living instance renews, or registers anew, within a time to live; until then a watch goes on naming those
// it knew (see settle.go).
package consul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// Config says which Consul, and how it is used.
type Config struct {
	Address string        // host:port of the agent's HTTP API
	TLS     *tls.Config   // how it is reached by HTTPS; nil: by HTTP
	Token   string        // ACL token; empty: the agent's own
	Region  im.Region     // the own region: the agent's datacenter
	Regions []im.Region   // all regions, own included: whose datacenters hold states and members; empty: the own
	Prefix  string        // of service names and KV paths, where clusters share a Consul; "antipode"
	TTL     time.Duration // after which an instance that stopped renewing is gone; registry.DefaultTTL
}

// Deps are what a Consul needs from its process.
type Deps struct {
	Log   *slog.Logger // nil discards
	Meter metric.Meter // nil measures nothing
}

// How long calls may take. Federated reads pass the WAN twice.
const (
	callTimeout = 2 * time.Second
	farTimeout  = 5 * time.Second
	wait        = 10 * time.Second // of a blocking query: also how old an answer is at most while Consul is well
	dialTimeout = time.Second
	maxLag      = 10 * time.Second // of a server behind its leader: what one further behind says is no answer
)

// Consul is a region's view of all regions' catalogues. It is safe for concurrent use.
type Consul struct {
	cfg    Config
	log    *slog.Logger
	client *api.Client
	http   *http.Transport
	failed metric.Int64Counter
	unhook func() error

	states   *board[im.RegionState]
	members  *board[im.Member]
	standing standing

	mu       sync.Mutex
	answered map[im.Region]time.Time // last answer of a region's catalogue or KV
	trouble  map[im.Region]time.Time // since when its answers are not to be believed: see settle
}

// New returns a Consul. It makes no call: Check tells whether the agent is the right one.
func New(cfg Config, deps Deps) (*Consul, error) {
	cfg.Prefix, cfg.TTL = cmp.Or(cfg.Prefix, "antipode"), cmp.Or(cfg.TTL, registry.DefaultTTL)
	if len(cfg.Regions) == 0 {
		cfg.Regions = []im.Region{cfg.Region}
	}
	if cfg.Address == "" || cfg.Region == "" {
		return nil, errors.New("consul: the agent's address and the region must be given")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
		TLSClientConfig: cfg.TLS, TLSHandshakeTimeout: callTimeout,
	}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	client, err := api.NewClient(&api.Config{
		Address: cfg.Address, Scheme: scheme, Token: cfg.Token, HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	c := &Consul{
		cfg: cfg, log: deps.Log, client: client, http: transport,
		answered: map[im.Region]time.Time{}, trouble: map[im.Region]time.Time{},
		standing: standing{failing: map[string]*failure{}},
	}
	c.states, c.members = newStates(c), newMembers(c)
	if deps.Meter != nil {
		if err := c.measure(deps.Meter); err != nil {
			return nil, fmt.Errorf("consul: metrics: %w", err)
		}
	}
	return c, nil
}

// Close lets go of connections and metrics. Watches and leases are ended before.
func (c *Consul) Close() {
	c.http.CloseIdleConnections()
	if c.unhook != nil {
		_ = c.unhook()
	}
}

func (c *Consul) measure(m metric.Meter) (err error) {
	if c.failed, err = m.Int64Counter("antipode.discovery.failures",
		metric.WithDescription("Calls to Consul that brought no answer, by the region asked about."), metric.WithUnit("{call}")); err != nil {
		return err
	}
	age, err := m.Float64ObservableGauge("antipode.discovery.age",
		metric.WithDescription("Time since a region's catalogue last answered: the age of what is known of the region."), metric.WithUnit("s"))
	if err != nil {
		return err
	}
	hook, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for r, at := range c.answered {
			o.ObserveFloat64(age, time.Since(at).Seconds(), metric.WithAttributes(attribute.String("peer", string(r))))
		}
		return nil
	}, age)
	if err == nil {
		c.unhook = hook.Unregister
	}
	return err
}

// Check tells whether the agent answers, is of the region's datacenter, takes the token, and has a leader to write to.
func (c *Consul) Check(ctx context.Context) error {
	q, done := c.query(ctx, c.cfg.Region, callTimeout)
	defer done()
	var self struct {
		Config struct{ Datacenter, Version string }
	}
	_, err := c.client.Raw().Query("/v1/agent/self", &self, q)
	switch {
	case err != nil && !denied(err): // to read the agent's configuration is a right of its own, which nothing else needs
		return c.fail("", err)
	case err == nil && tooOld(self.Config.Version):
		return c.fail("", &VersionError{Has: self.Config.Version})
	case err == nil && self.Config.Datacenter != string(c.cfg.Region):
		return c.fail("", &DatacenterError{Agent: self.Config.Datacenter, Region: c.cfg.Region})
	}
	return c.leader(ctx)
}

// leader tells whether the agent answers and its datacenter has a leader. Neither needs a right.
func (c *Consul) leader(ctx context.Context) error {
	q, done := c.query(ctx, c.cfg.Region, callTimeout)
	defer done()
	leader, err := c.client.Status().LeaderWithQueryOptions(q)
	if err == nil && leader == "" {
		err = errNoLeader
	}
	return c.fail("", err)
}

// query returns the options of a call about a region, and what ends it.
func (c *Consul) query(ctx context.Context, r im.Region, timeout time.Duration) (*api.QueryOptions, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	q := &api.QueryOptions{}
	if r != c.cfg.Region {
		q.Datacenter = string(r)
	}
	return q.WithContext(ctx), cancel
}

// timeout bounds a call about a region that does not wait for changes.
func (c *Consul) timeout(r im.Region) time.Duration {
	if r == c.cfg.Region {
		return callTimeout
	}
	return farTimeout
}

// heard notes that a region's datacenter answered.
func (c *Consul) heard(r im.Region) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered[r] = time.Now()
}

// missed notes that one did not: what it says next is not to be believed at once.
func (c *Consul) missed(r im.Region) {
	c.mu.Lock()
	c.trouble[r] = time.Now()
	c.mu.Unlock()
	if c.failed != nil {
		c.failed.Add(context.Background(), 1, metric.WithAttributes(attribute.String("peer", string(r))))
	}
}

// troubled tells when a region's datacenter last did not answer.
func (c *Consul) troubled(r im.Region) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble[r]
}

// backOff returns how long to wait after a number of failures in a row: 100 ms doubling to 3 s, of which a random half to
// the whole.
func backOff(failures int) time.Duration {
	d := min(100*time.Millisecond<<min(failures, 8), 3*time.Second)
	return d/2 + rand.N(d/2)
}

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
