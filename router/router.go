package router

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

// Config is what a router needs to know. Zero durations and sizes take the defaults in their comments.
type Config struct {
	Region     im.Region
	Origin     im.Origin   // the own origin: whose log this router appends to
	Origins    []im.Origin // every origin that is followed, the own included
	Partitions int         // of every route topic

	HeartbeatTimeout time.Duration // 3 s: a gateway that was silent for it is declared down, unless discovery says it is alive
	AttachGrace      time.Duration // 10 s: how long gateways known only from the log have to attach after a start
	LogHeartbeat     time.Duration // 5 s: between heartbeat records in owned partitions of the own route log
	Silence          time.Duration // 30 s: a region whose watermark is older is unreachable, and its routes do not count
	GapPatience      time.Duration // 30 s: how long a gap in a copy may last before the reader drops that origin's rows and jumps
	ClaimTimeout     time.Duration // 5 s: for a claim to be in the log and in the view
	StoreTimeout     time.Duration // 2 s: for one call to Redis
	NotifyTimeout    time.Duration // 1 s: for one call to the replicator
	ClaimQueue       int           // 65536 claims waiting per partition; more are refused with overloaded
	NotifyQueue      int           // 1024 deliveries waiting per peer region; more are dropped
}

// Log is the own region's Kafka.
type Log interface {
	Append(ctx context.Context, p im.Partition, entries []im.Entry) (first int64, err error)
	Bounds(ctx context.Context, partitions []im.Partition) (map[im.Partition]im.Bounds, error)
}

// Reader follows many partitions at once, at local offsets. A partition whose wanted offset is not in the log is dropped
// from it, and Poll returns an error that Deps.OutOfRange knows.
type Reader interface {
	Poll(ctx context.Context) ([]im.Batch, error)
	Seek(p im.Partition, offset int64)
	Close()
}

// Store is the region's Redis: the rows of one partition number of every origin, and their positions, in one slot.
type Store interface {
	// Positions returns where the rows of a partition stand, by origin; an origin that has none is missing.
	Positions(ctx context.Context, number int) (map[im.Origin]im.RoutePosition, error)
	// Apply applies records and moves the position from batch.From to batch.To in one step. ok is false, and nothing
	// was done, if the stored position is not batch.From.
	Apply(ctx context.Context, batch im.RouteBatch) (ok bool, err error)
}

// Peers is the own region's replicator. Notify may lose what it is given and must not block for long.
type Peers interface {
	Notify(ctx context.Context, to im.Region, deliveries []im.Delivery) error
}

// Alive is discovery's opinion of a gateway's life; known is false when discovery is silent.
type Alive interface {
	Alive(gw im.Gateway) (alive, known bool)
}

// Ownership tells the partition numbers that this router owns; changed is closed at the next change.
type Ownership interface {
	Owned() (partitions []int, changed <-chan struct{})
}

// Deps is what a router works with. Store, Peers and Alive may be nil: then Redis is not written, no other region is
// told, and heartbeats alone decide about gateways. The telemetry may be nil too.
type Deps struct {
	Log       Log
	NewReader func(from map[im.Partition]int64) Reader
	// OutOfRange recognises the error by which a reader drops a partition whose wanted offset the log no longer (or not
	// yet) has, and returns what the log has.
	OutOfRange func(error) (im.Partition, im.Bounds, bool)
	Store      Store
	Peers      Peers
	Alive      Alive
	Ownership  Ownership

	Logger *slog.Logger
	Tracer trace.Tracer
	Meter  metric.Meter
}

// Router is one region's router: one of several, each holding all routes.
type Router struct {
	cfg  Config
	deps Deps
}

// New checks the config and returns a router that has not read anything yet.
func New(cfg Config, deps Deps) (*Router, error) {
	if cfg.Partitions < 1 {
		return nil, fmt.Errorf("router: %d partitions: want at least 1", cfg.Partitions)
	}
	return &Router{cfg: cfg, deps: deps}, nil
}

// Run follows the logs, answers claims and watches gateways until ctx ends.
func (r *Router) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Outbox is a gateway's stream, at the router's end. Its methods never block: an error says that the stream is gone or
// its queue full.
type Outbox interface {
	Push([]im.Push) error
	Kick(im.Kick) error
	Fenced(epoch uint64) error
}

// Attachment is one attached gateway.
type Attachment struct{}

// Attach takes a gateway's stream. A gateway whose epoch was declared down is told so through out.Fenced and refused
// with CodeGatewayFenced: it takes a new epoch and claims again.
func (r *Router) Attach(gw im.Gateway, out Outbox) (*Attachment, error) { return &Attachment{}, nil }

// Claim appends claims and releases, and returns, per claim, when it is in the log and in this router's view.
func (a *Attachment) Claim(ctx context.Context, claims []im.Claim) []error {
	return make([]error, len(claims))
}

// Submit queues claims in the order of calls and returns; done is called once per claim, from another goroutine.
func (a *Attachment) Submit(claims []im.Claim, done func(i int, err error)) {}

// Heartbeat keeps the gateway's epoch alive.
func (a *Attachment) Heartbeat() {}

// Close tells that the stream is gone. The gateway's routes stay until its heartbeats have been missing for long enough.
func (a *Attachment) Close() {}

// Deliver pushes to the sockets that the recipients have in this region, and, for deliveries with Notify, tells the
// regions where they have others. It returns the number of sockets whose gateway's queue took the push.
func (r *Router) Deliver(ctx context.Context, deliveries []im.Delivery) (pushes int, err error) {
	return 0, nil
}

// Notify takes deliveries that came over a link, for sockets in this region only.
func (r *Router) Notify(ctx context.Context, from im.Region, deliveries []im.Delivery) error {
	return nil
}

// Positions tells how far the memory is in an origin's route log, or in all of them for "".
func (r *Router) Positions(ctx context.Context, origin im.Origin) ([]im.Position, error) {
	return nil, nil
}

// Digest returns the digest of the live routes under the name "routes". Routers that applied the same records return
// the same, in every region.
func (r *Router) Digest(ctx context.Context) (map[string]string, error) { return nil, nil }

// Routes returns the route of each device of a user, and the regions whose routes cannot be counted on now.
func (r *Router) Routes(uid im.UID) (live []im.Route, unknown []im.Region) { return nil, nil }

// Ready tells whether deliveries are taken: nil, or what is missing.
func (r *Router) Ready() error { return nil }
