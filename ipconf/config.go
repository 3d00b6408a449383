package ipconf

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Config says where an ipconf runs and how it behaves. Zero durations and numbers take the defaults in brackets.
type Config struct {
	Region  im.Region
	Regions []im.Region // all regions, own included
	Listen  string      // host:port of the public HTTP server; ":0" picks a port
	Origins []string    // browser origins allowed by CORS; empty: any (answers hold no secrets and take no credentials)

	Policy wire.Policy   // served to clients; zero fields take wire.DefaultPolicy
	TTL    time.Duration // of a list [60 s]

	PollInterval time.Duration // of loads, own region and exchange [2 s]
	PollTimeout  time.Duration // of one load call [1 s]
	DeadAfter    time.Duration // a gateway whose load was not heard for so long is left out [5 s]
	ConfirmAfter time.Duration // when a held-back catalogue update gets its second look [2 s]
	DrainTimeout time.Duration // of requests under way when Run's context ends [5 s]
	MaxAnswer    int           // gateways in an answer, about [32]
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
	if !slices.Contains(c.Regions, c.Region) {
		c.Regions = append(slices.Clone(c.Regions), c.Region)
	}
	positive := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	positive(&c.TTL, time.Minute)
	positive(&c.PollInterval, 2*time.Second)
	positive(&c.PollTimeout, time.Second)
	positive(&c.DeadAfter, 5*time.Second)
	positive(&c.ConfirmAfter, 2*time.Second)
	positive(&c.DrainTimeout, 5*time.Second)
	if c.MaxAnswer <= 0 {
		c.MaxAnswer = 32
	}
	if c.DeadAfter <= c.PollInterval {
		return c, fmt.Errorf("ipconf: dead_after: must be more than poll_interval (%v), is %v", c.PollInterval, c.DeadAfter)
	}
	c.Policy = c.Policy.Within()
	return c, nil
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

// State is what operators made of a region.
type State = im.State

// States tells the regions' states ("" for one that nothing was said of: active). It is asked at every answer and must
// not block.
type States interface {
	State(r im.Region) State
}

// Deps are what an ipconf needs. Discovery, Gateways and Peers must be set.
type Deps struct {
	Discovery Discovery
	Gateways  Gateways
	Peers     Peers
	States    States // nil: every region is active
	Logger    *slog.Logger
	Meter     metric.Meter
}
