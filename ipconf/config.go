package ipconf

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
	"github.com/antipode-im/antipode/wire"
)

// Config says where an ipconf runs and how it behaves. Zero durations and numbers take the defaults in brackets.
type Config struct {
	Region  im.Region
	Regions []im.Region // all regions, own included; at most rank.MaxRegions
	Listen  string      // host:port of the public HTTP server; ":0" picks a port
	Origins []string    // browser origins allowed by CORS; empty: any (answers hold no secrets and take no credentials)

	Policy wire.Policy   // served to clients; zero fields take wire.DefaultPolicy
	TTL    time.Duration // of a list [60 s]

	TrustedProxies []netip.Prefix // whose X-Forwarded-For, and PROXY header, tells the client's address
	ProxyProtocol  bool           // trusted proxies send the PROXY protocol, version 1 or 2, before HTTP
	BatchFrom      []netip.Prefix // addresses that may ask for other clients' answers; none: nobody may
	Location       Location
	Canary         Canary
	Versions       map[string]float64 // weights of gateway versions; 1 if it is not named, 0 or less takes nobody

	DrainOver    time.Duration // in which a draining region's share steps down to nothing [1 min]
	ReturnOver   time.Duration // in which a region that is back takes up its share [1 min]
	AddressRate  float64       // requests a second of one public address, of IPv6 one /64; ten seconds' worth may come at once [100]
	GatewayRate  float64       // newcomers a second and gateway that all ipconfs together send at most [2,000]
	Reserve      float64       // the part of all capacity below which some newcomers are told to wait [0.05]
	Signing      *Signing      // of the catalogue; nil: none is served
	CatalogueTTL time.Duration // how long a signed catalogue is good; it is signed anew at half of it [7 days]

	PollInterval time.Duration // of loads, own region and exchange [2 s]
	PollTimeout  time.Duration // of one load call [1 s]
	DeadAfter    time.Duration // a gateway whose load was not heard for so long is left out [5 s]
	ConfirmAfter time.Duration // when a held-back catalogue update gets its second look [2 s]
	ViewInterval time.Duration // between two looks at the fleet; answers in between use the last [100 ms]
	DrainTimeout time.Duration // of requests under way when Run's context ends [5 s]
	MaxAnswer    int           // gateways in an answer, about [32]
}

// Location says how clients are brought to regions.
type Location struct {
	Regions   map[im.Region]im.Location  // where the regions are, for distances
	Overrides map[netip.Prefix]im.Region // networks that are sent to a region, whatever else is known; the longest prefix counts
	Networks  map[uint32]im.Region       // autonomous systems that are near a region
	Residency []Residency
}

// Residency forbids regions to some clients: those to which any of its conditions applies.
type Residency struct {
	Countries []string       // of the client's address
	Networks  []netip.Prefix // of the client's address
	Homes     []im.Region    // of the user
	Regions   []im.Region    // the only ones allowed
}

// Canary sends a part of the users to gateways of a version, and nobody else.
type Canary struct {
	Version string
	Percent float64 // of the users, by a hash of the uid; the same users as long as the version is the same
}

// Signing signs catalogues.
type Signing struct {
	ID  string // of the key, by which clients know it
	Key ed25519.PrivateKey
}

func (c Config) withDefaults() (Config, error) {
	if _, err := im.ParseRegion(string(c.Region)); err != nil {
		return c, fmt.Errorf("ipconf: %w", err)
	}
	for _, r := range c.Regions {
		if _, err := im.ParseRegion(string(r)); err != nil {
			return c, fmt.Errorf("ipconf: regions: %w", err)
		}
	}
	c.Regions = slices.Clone(c.Regions)
	if !slices.Contains(c.Regions, c.Region) {
		c.Regions = append(c.Regions, c.Region)
	}
	slices.Sort(c.Regions)
	c.Regions = slices.Compact(c.Regions)
	if len(c.Regions) > rank.MaxRegions {
		return c, fmt.Errorf("ipconf: regions: %d are more than %d", len(c.Regions), rank.MaxRegions)
	}
	positive := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	positive(&c.TTL, time.Minute)
	positive(&c.DrainOver, time.Minute)
	positive(&c.ReturnOver, time.Minute)
	positive(&c.CatalogueTTL, 7*24*time.Hour)
	positive(&c.PollInterval, 2*time.Second)
	positive(&c.PollTimeout, time.Second)
	positive(&c.DeadAfter, 5*time.Second)
	positive(&c.ConfirmAfter, 2*time.Second)
	positive(&c.ViewInterval, 100*time.Millisecond)
	positive(&c.DrainTimeout, 5*time.Second)
	if c.MaxAnswer <= 0 {
		c.MaxAnswer = 32
	}
	if c.GatewayRate <= 0 {
		c.GatewayRate = 2000
	}
	if c.AddressRate <= 0 {
		c.AddressRate = 100
	}
	if c.Reserve <= 0 {
		c.Reserve = 0.05
	}
	if c.DeadAfter <= c.PollInterval {
		return c, fmt.Errorf("ipconf: dead_after: must be more than poll_interval (%v), is %v", c.PollInterval, c.DeadAfter)
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		return c, fmt.Errorf("ipconf: proxy_protocol: nobody is trusted to send it: set trusted_proxies")
	}
	if c.Signing != nil && (c.Signing.ID == "" || len(c.Signing.Key) != ed25519.PrivateKeySize) {
		return c, fmt.Errorf("ipconf: signing: want an id and an Ed25519 private key")
	}
	if err := c.Location.check(c.Regions); err != nil {
		return c, err
	}
	c.Policy = c.Policy.Within()
	return c, nil
}

func (l *Location) check(regions []im.Region) error {
	known := func(key string, r im.Region) error {
		if slices.Contains(regions, r) {
			return nil
		}
		return fmt.Errorf("ipconf: %s: %q is none of the regions %v", key, r, regions)
	}
	for p, r := range l.Overrides {
		if err := known("overrides: "+p.String(), r); err != nil {
			return err
		}
	}
	for asn, r := range l.Networks {
		if err := known(fmt.Sprintf("networks: AS%d", asn), r); err != nil {
			return err
		}
	}
	for r := range l.Regions {
		if err := known("places", r); err != nil {
			return err
		}
	}
	for i, rule := range l.Residency {
		if len(rule.Regions) == 0 {
			return fmt.Errorf("ipconf: residency[%d]: regions: name at least one that is allowed", i)
		}
		for _, r := range rule.Regions {
			if err := known(fmt.Sprintf("residency[%d]", i), r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Discovery knows which instances exist.
type Discovery interface {
	// Instances reads the catalogue once.
	Instances(ctx context.Context, service string, r im.Region) ([]im.Instance, error)
	// Watch blocks and calls fn at once and at each change.
	Watch(ctx context.Context, service string, r im.Region, fn func([]im.Instance)) error
}

// Gateways asks gateways of the own region for their load.
type Gateways interface {
	Load(ctx context.Context, gateway im.Instance) (im.Load, error)
}

// Peers asks ipconfs of other regions for their gateways' loads; age is how old the oldest of them was when it was sent.
type Peers interface {
	Loads(ctx context.Context, ipconf im.Instance) (loads []im.Load, age time.Duration, err error)
}

// Geo tells where an address is. It is asked at every answer and must not block.
type Geo interface {
	Find(ip netip.Addr) im.Location
}

// Deps are what an ipconf needs. Discovery, Gateways and Peers must be set.
type Deps struct {
	Discovery Discovery
	Gateways  Gateways
	Peers     Peers
	States    States // nil: every region is active
	Geo       Geo    // nil: nothing is known of addresses
	Logger    *slog.Logger
	Meter     metric.Meter
}
