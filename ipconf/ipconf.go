package ipconf

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Config says where an ipconf runs and how it behaves. Zero durations take the defaults in brackets.
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
	MaxAnswer    int           // gateways in an answer at most [32]
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

// Peers asks ipconfs of other regions for their gateways' loads; age is how old the answer was when it was sent.
type Peers interface {
	Loads(ctx context.Context, ipconf im.Instance) (loads []im.Load, age time.Duration, err error)
}

// State is what operators made of a region.
type State string

// The states. A region that no state is known of is active.
const (
	StateActive   State = "active"
	StateDraining State = "draining" // takes no newcomers
	StateDead     State = "dead"     // not handed out at all
)

// States tells the regions' states; it is asked at every answer and must not block.
type States interface {
	State(r im.Region) State
}

// Deps are what an ipconf needs.
type Deps struct {
	Discovery Discovery
	Gateways  Gateways
	Peers     Peers
	States    States // nil: every region is active
	Logger    *slog.Logger
	Meter     metric.Meter
}

// IPConf is the service.
type IPConf struct {
	cfg  Config
	deps Deps
}

// New binds the listener.
func New(cfg Config, deps Deps) (*IPConf, error) { return &IPConf{cfg: cfg, deps: deps}, nil }

// Addr is the host:port that it listens on.
func (s *IPConf) Addr() string { return "" }

// Run serves until ctx ends.
func (s *IPConf) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Loads returns the loads of the own region's gateways as last polled, and how old the oldest of them is: what peers ask
// for.
func (s *IPConf) Loads(ctx context.Context) (loads []im.Load, age time.Duration, err error) {
	return nil, 0, nil
}

// Handler serves GET /v1/endpoints (it is what Run serves, for embedding).
func (s *IPConf) Handler() http.Handler { return http.NotFoundHandler() }

// Explain serves the current ranking with its reasons, for operators: mount it on the admin port only.
func (s *IPConf) Explain() http.Handler { return http.NotFoundHandler() }
