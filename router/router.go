package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
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
	ClaimQueue       int           // 16384 claims waiting per partition, for the log or the view; more are refused with overloaded
	SnapshotEvery    time.Duration // 5 min; one is taken at the end, too
	NotifyQueue      int           // 1024 deliveries waiting per peer region; more are dropped

	// DeviceLimits is how many devices of a platform a user may have connected; without an entry, any number. It must be the
	// same in every region.
	DeviceLimits map[im.Platform]int
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

// Snapshots keeps one snapshot of the table between two lives of a router.
type Snapshots interface {
	// Save replaces the snapshot by what write writes, or leaves it.
	Save(write func(io.Writer) error) error
	// Load hands the snapshot to read; where there is none it returns fs.ErrNotExist.
	Load(read func(io.Reader) error) error
}

// Ownership tells the partition numbers that this router owns; changed is closed at the next change.
type Ownership interface {
	Owned() (partitions []int, changed <-chan struct{})
}

// Deps is what a router works with. Store, Peers, Alive, Ownership and Snapshots may be nil: then Redis is not written, no
// other region is told, heartbeats alone decide about gateways, every partition is owned, and a start reads all that the
// logs hold. The telemetry may be nil too.
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
	Snapshots  Snapshots

	Logger *slog.Logger
	Tracer trace.Tracer
	Meter  metric.Meter
}

// Router is one region's router: one of several, each holding all routes.
//
// Locks are leaves: none is held while another is taken or while a dependency is called.
type Router struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	meter *instruments

	table     *routes.Table
	hub       *hub
	appenders []*appender // by partition number of the own route log
	following following
	names     *names
	owned     atomic.Pointer[[]int]  // partition numbers, ascending
	unproven  map[im.Partition]proof // loaded from a snapshot, and not looked for in the log yet; of follow alone
	settled   atomic.Bool            // the gateways known from the log attached, or had their chance to
	started   atomic.Bool
}

// New checks the config and returns a router that has not read anything yet.
func New(cfg Config, deps Deps) (*Router, error) {
	cfg.HeartbeatTimeout = cmp.Or(cfg.HeartbeatTimeout, 3*time.Second)
	cfg.AttachGrace = cmp.Or(cfg.AttachGrace, 10*time.Second)
	cfg.LogHeartbeat = cmp.Or(cfg.LogHeartbeat, 5*time.Second)
	cfg.Silence = cmp.Or(cfg.Silence, 30*time.Second)
	cfg.GapPatience = cmp.Or(cfg.GapPatience, 30*time.Second)
	cfg.ClaimTimeout = cmp.Or(cfg.ClaimTimeout, 5*time.Second)
	cfg.StoreTimeout = cmp.Or(cfg.StoreTimeout, 2*time.Second)
	cfg.NotifyTimeout = cmp.Or(cfg.NotifyTimeout, time.Second)
	cfg.SnapshotEvery = cmp.Or(cfg.SnapshotEvery, 5*time.Minute)
	cfg.ClaimQueue = cmp.Or(cfg.ClaimQueue, 1<<14)
	cfg.NotifyQueue = cmp.Or(cfg.NotifyQueue, 1024)
	switch {
	case deps.Log == nil || deps.NewReader == nil || deps.OutOfRange == nil:
		return nil, errors.New("router: Log, NewReader and OutOfRange are needed")
	case cfg.Origin.Region() != cfg.Region:
		return nil, fmt.Errorf("router: the own origin %q is not of region %q", cfg.Origin, cfg.Region)
	case !slices.Contains(routes.Current(cfg.Origins), cfg.Origin):
		return nil, fmt.Errorf("router: the own origin %q is not the latest of its region among %v", cfg.Origin, cfg.Origins)
	}
	table, err := routes.New(cfg.Region, cfg.Origins, cfg.Partitions, cfg.Silence)
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	table.Limit(cfg.DeviceLimits)
	r := &Router{
		cfg: cfg, deps: deps, log: deps.Logger, table: table, hub: newHub(),
		names: newNames(cfg.Partitions), unproven: make(map[im.Partition]proof),
		following: newFollowing(),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.meter, err = newInstruments(deps.Meter, deps.Tracer); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	for n := range cfg.Partitions {
		r.appenders = append(r.appenders, newAppender(r, n))
	}
	r.following.notify(r, table.Origins())
	r.owned.Store(new([]int))
	return r, nil
}

// Run follows the logs, answers claims and watches gateways until ctx ends. There is nothing to drain: a claim that was
// not answered is claimed again with another router. Run may be called once.
func (r *Router) Run(ctx context.Context) error {
	if r.started.Swap(true) {
		return errors.New("router: Run was called twice")
	}
	unobserve, err := r.meter.observe(r)
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	defer unobserve()
	r.takeOwned()

	var running sync.WaitGroup
	running.Go(func() { r.followOwnership(ctx) })
	running.Go(func() { r.follow(ctx) })
	running.Go(func() { r.watch(ctx) })
	running.Go(func() { r.beat(ctx) })
	for _, a := range r.appenders {
		running.Go(func() { a.run(ctx) })
	}
	running.Go(func() { r.following.run(ctx) })
	if r.deps.Snapshots != nil {
		running.Go(func() { r.snapshots(ctx) })
	}
	if r.deps.Store != nil {
		running.Go(func() { r.mirror(ctx) })
	}
	running.Wait()
	for _, a := range r.appenders {
		a.close(im.Errorf(im.CodeUnavailable, "the router stopped: claim with another"))
	}
	return nil
}

// takeOwned reads which partitions are owned now and returns what tells of the next change.
func (r *Router) takeOwned() (changed <-chan struct{}) {
	if r.deps.Ownership == nil {
		all := make([]int, r.cfg.Partitions)
		for n := range all {
			all[n] = n
		}
		r.owned.Store(&all)
		return nil
	}
	owned, changed := r.deps.Ownership.Owned()
	r.owned.Store(&owned)
	return changed
}

func (r *Router) followOwnership(ctx context.Context) {
	for {
		before := *r.owned.Load()
		changed := r.takeOwned()
		r.kickLost(before)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// kickLost kicks what lost in partitions that were not owned here before: as nobody may have owned them for a moment, it may
// not have been told. What is applied from now on is kicked as it is.
func (r *Router) kickLost(before []int) {
	now := im.StampAt(time.Now())
	for _, n := range *r.owned.Load() {
		if _, had := slices.BinarySearch(before, n); had {
			continue
		}
		for _, k := range r.table.Lost(n, now) {
			r.kick(k)
		}
	}
}

// ownsNow tells whether this router owns a partition number.
func (r *Router) ownsNow(number int) bool {
	_, ok := slices.BinarySearch(*r.owned.Load(), number)
	return ok
}

// ownLog is a partition of the own origin's route log.
func (r *Router) ownLog(number int) im.Partition {
	return im.Partition{Topic: im.RouteTopic(r.cfg.Origin), Number: number}
}

// Ready tells whether deliveries are taken: nil, or CodeUnready with what is missing. A router is ready once it has read
// its own region's routes up to the end seen at start, and the gateways they name have attached or had time to.
func (r *Router) Ready() error {
	if !r.table.Ready(r.cfg.Origin) {
		return im.Errorf(im.CodeUnready, "the router is reading the routes of %s", r.cfg.Origin)
	}
	if !r.settled.Load() {
		return im.Errorf(im.CodeUnready, "the router waits for the gateways of %s to attach", r.cfg.Region)
	}
	return nil
}

// Positions tells how far the memory is in an origin's route log, or in all of them for "".
func (r *Router) Positions(_ context.Context, origin im.Origin) ([]im.Position, error) {
	var all []im.Position
	for _, o := range r.table.Origins() {
		if origin != "" && o != origin {
			continue
		}
		for _, p := range r.table.Partitions(o) {
			if pos, ok := r.table.Position(p); ok {
				all = append(all, im.Position{Partition: p, Next: pos.Next, Local: pos.Local})
			}
		}
	}
	return all, nil
}

// Digest returns the digest of the live routes under the name "routes". Routers that applied the same records return
// the same, in every region.
func (r *Router) Digest(context.Context) (map[string]string, error) {
	return map[string]string{"routes": r.table.Digest(im.StampAt(time.Now()))}, nil
}

// Routes returns the route of each device of a user, and the regions whose routes cannot be counted on now.
func (r *Router) Routes(uid im.UID) (live []im.Route, unknown []im.Region) {
	now := im.StampAt(time.Now())
	return r.table.Lookup(nil, uid, now), r.table.Unknown(r.table.Number(uid), now)
}

// Holds tells whether any route of a user is held, whether it counts or not.
func (r *Router) Holds(uid im.UID) bool { return r.table.Holds(uid) }
