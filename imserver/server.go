package imserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/view"
)

// Config is what an imserver is told. Zero values mean the defaults in brackets.
type Config struct {
	Region     im.Region
	Origin     im.Origin   // under which this region accepts
	Origins    []im.Origin // every origin that is applied to begin with, the own included
	Partitions int         // of each lane and of read.<origin>, equal in every region [16]
	Databases  int         // of the timelines: partition p is in number p mod Databases, and each is applied by itself [1]

	MaxText    int // bytes of a text [16 KiB]
	MaxTitle   int // bytes of a title [256]
	MaxMembers int // of a group, and of one record that adds or removes [500]

	Rate  float64 // submits a second and user [20]
	Burst int     // submits at once and user [40]

	AppendTimeout time.Duration // for a submit to reach the log [5 s]
	GlobalTimeout time.Duration // for a peer to hold it, when the sender asked for global [3 s]
	ReadTimeout   time.Duration // for pull, list, receipts, members [5 s]
	Heartbeat     time.Duration // between heartbeats to the owned partitions of the own log [5 s]
	MaxSkew       time.Duration // of stamps and client_ids ahead of this clock [im.MaxSkew]
	MaxAge        time.Duration // of a client_id [24 h]
	CreateWindow  time.Duration // for a group's create, from the time in its id on; equal in every region [2 min]
	MarkInterval  time.Duration // between two cursors records of one user and conversation [1 s]

	BatchRows      int           // of one transaction [2,000]
	BatchWait      time.Duration // for a piece to grow before it is delivered [2 ms]
	CommitPace     time.Duration // between the beginnings of commits, unless a batch is full; 0: as soon as the last one landed
	DeliverTimeout time.Duration // for routers to take a batch; after it the batch is given up and clients pull [5 s]
	JoinGrace      time.Duration // for who had the first that is owned to hear of this instance, and to end their commits: they are fenced else
	InterestAfter  time.Duration // for which all gateways must have taken interest before large groups are delivered so [3 min]
	SentInterval   time.Duration // between saves of what was delivered [1 s]
	Resend         int           // records that a new owner delivers again at most, per partition [2,000]
	DrainTimeout   time.Duration // for what is under way when Run is told to end [5 s]

	CachedConversations int // seqs and groups kept in memory, in all owned partitions [200,000]
	CachedUsers         int // rate limits kept in memory [100,000]
	PageRecords         int // most records of a page [200]
	PageBytes           int // most bytes of bodies in a page, beyond its first record [256 KiB]
	ListRows            int // most rows of a list [500]
}

func (c Config) withDefaults() (Config, error) {
	def(&c.Partitions, 16)
	def(&c.Databases, 1)
	def(&c.MaxText, 16<<10)
	def(&c.MaxTitle, 256)
	def(&c.MaxMembers, 500)
	def(&c.Rate, 20)
	def(&c.Burst, 40)
	def(&c.AppendTimeout, 5*time.Second)
	def(&c.GlobalTimeout, 3*time.Second)
	def(&c.ReadTimeout, 5*time.Second)
	def(&c.Heartbeat, 5*time.Second)
	def(&c.MaxSkew, im.MaxSkew)
	def(&c.MaxAge, 24*time.Hour)
	def(&c.CreateWindow, 2*time.Minute)
	def(&c.MarkInterval, time.Second)
	def(&c.BatchRows, 2000)
	def(&c.BatchWait, 2*time.Millisecond)
	def(&c.DeliverTimeout, 5*time.Second)
	def(&c.InterestAfter, 3*time.Minute)
	def(&c.SentInterval, time.Second)
	def(&c.Resend, 2000)
	def(&c.DrainTimeout, 5*time.Second)
	def(&c.CachedConversations, 200_000)
	def(&c.CachedUsers, 100_000)
	def(&c.PageRecords, 200)
	def(&c.PageBytes, 256<<10)
	def(&c.ListRows, 500)
	if _, err := im.ParseRegion(string(c.Region)); err != nil {
		return c, fmt.Errorf("imserver: %w", err)
	}
	if c.Origin == "" {
		c.Origin = im.NewOrigin(c.Region, 1)
	}
	if c.Origin.Region() != c.Region {
		return c, fmt.Errorf("imserver: origin %q is not of region %q", c.Origin, c.Region)
	}
	own := false
	for _, o := range c.Origins {
		if _, err := im.ParseOrigin(string(o)); err != nil {
			return c, fmt.Errorf("imserver: %w", err)
		}
		own = own || o == c.Origin
	}
	if !own {
		return c, fmt.Errorf("imserver: the origins %v lack the own one, %q", c.Origins, c.Origin)
	}
	if c.Partitions < 0 || c.Partitions > 1<<15 {
		return c, fmt.Errorf("imserver: %d partitions: want 1 to 32768", c.Partitions)
	}
	if c.Databases < 0 || c.Databases > c.Partitions {
		return c, fmt.Errorf("imserver: %d databases for %d partitions: some would stay empty", c.Databases, c.Partitions)
	}
	return c, nil
}

func def[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

// Log is the region's Kafka: the own log to append to, and where logs and copies begin and end.
type Log interface {
	// Append returns when the entries are durable (acks=all), in call order per partition.
	Append(ctx context.Context, p im.Partition, entries []im.Entry) (first int64, err error)
	// Bounds are the local offsets that partitions still hold.
	Bounds(ctx context.Context, partitions []im.Partition) (map[im.Partition]im.Bounds, error)
	// Read returns entries from a local offset on, none at the end.
	Read(ctx context.Context, p im.Partition, from int64, maxBytes int) ([]im.Entry, error)
}

// Reader follows partitions of logs and copies. All offsets are local. Poll blocks until there is something; it is the
// only method that is called from another goroutine than the rest.
type Reader interface {
	Poll(ctx context.Context) ([]im.Batch, error)
	Seek(p im.Partition, offset int64)
	Drop(p im.Partition)
	Close()
}

// Applied is the writing side of the region's timelines.
type Applied interface {
	// Positions are how far the partitions with the given numbers are; all, if none is given.
	Positions(ctx context.Context, numbers ...int) ([]view.Position, error)
	// Apply commits the parts together or not at all. view.ErrFenced: another owner was faster. Numbers of parts of one
	// call are equal modulo Config.Databases.
	Apply(ctx context.Context, parts []view.Part) error
	// Known returns what the store has of what is asked, in one snapshot.
	Known(ctx context.Context, ask view.Ask) (view.Facts, error)
}

// Sent keeps how far partitions were delivered. It is saved once a second: a new owner delivers again from there.
type Sent interface {
	// Sent is of the partitions with the given numbers; of all, if none is given.
	Sent(ctx context.Context, numbers ...int) ([]im.Position, error)
	SaveSent(ctx context.Context, sent []im.Position) error
}

// Served is the reading side of the region's timelines.
type Served interface {
	// Find returns where the record of an id is, at its lowest place; false if the store has none.
	Find(ctx context.Context, id im.ID) (view.Found, bool, error)
	Pull(ctx context.Context, q view.PullQuery) (view.Page, error)
	List(ctx context.Context, q view.ListQuery) (view.ListPage, error)
	Receipts(ctx context.Context, c im.Conversation, users []im.UID) ([]view.Receipt, error)
	Digest(ctx context.Context) (map[string]string, error)
}

// Store is the region's timelines.
type Store interface {
	Applied
	Sent
	Served
}

// Deliverer hands what was applied to the region's routers. It returns when they took it.
type Deliverer interface {
	Deliver(ctx context.Context, deliveries []im.Delivery) (pushes int, err error)
	// Interest tells whether all of the region's gateways take what is delivered to those interested in a group.
	Interest() bool
}

// Holder waits until a peer holds the own log up to and including an offset. It fails when ctx ends, or at once when no
// peer's link is open.
type Holder interface {
	Wait(ctx context.Context, p im.Partition, offset int64) error
}

// Ownership tells which partition numbers this instance owns; changed is closed at the next change.
type Ownership interface {
	Owned() (partitions []int, changed <-chan struct{})
}

// Deps are what an imserver needs. Logger, Tracer, Meter, Now and Trust may be nil.
type Deps struct {
	Log       Log
	NewReader func(from map[im.Partition]int64) Reader
	Store     Store
	Snapshots Snapshots // nil: no other region is seeded from here
	Deliver   Deliverer
	Held      Holder
	Ownership Ownership
	Now       func() time.Time
	Trust     func(now time.Time) error // tells why what Now returned cannot be believed; nothing is accepted then

	Logger *slog.Logger
	Tracer trace.Tracer
	Meter  metric.Meter
}

func (d Deps) withDefaults() (Deps, error) {
	if d.Log == nil || d.NewReader == nil || d.Store == nil || d.Deliver == nil || d.Held == nil || d.Ownership == nil {
		return d, errors.New("imserver: Log, NewReader, Store, Deliver, Held and Ownership are all needed")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Trust == nil {
		d.Trust = func(time.Time) error { return nil }
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Tracer == nil {
		d.Tracer = tracenoop.NewTracerProvider().Tracer("imserver")
	}
	if d.Meter == nil {
		d.Meter = metricnoop.NewMeterProvider().Meter("imserver")
	}
	return d, nil
}

// Server is one imserver.
type Server struct {
	interest  interest // of large groups
	cfg       Config
	deps      Deps
	meter     *meter
	ahead     *ahead // is deps.Log
	shards    shards
	halts     halts
	routers   breaker
	handOvers sync.WaitGroup                    // under way
	limits    *lru.Cache[im.UID, *rate.Limiter] // of submits
	typists   *lru.Cache[im.UID, *rate.Limiter] // of what tells who types
	rules     atomic.Pointer[accept.Rules]
	follow    following
	marks     *accept.Marks
	names     map[im.Partition]im.LogName // of the own log; not written after start
	ready     atomic.Bool                 // calls are answered
	begun     chan struct{}               // closed once they are
	gained    chan struct{}               // partitions were taken over
	snapshots chan struct{}               // a slot for each that is being read

	clockMu sync.Mutex
	clock   im.Clock
}

// New checks the configuration. Nothing runs before Run.
func New(cfg Config, deps Deps) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps, err = deps.withDefaults(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, deps: deps, shards: newShards(cfg.Databases), marks: accept.NewMarks(), names: map[im.Partition]im.LogName{}, gained: make(chan struct{}, 1), begun: make(chan struct{}), snapshots: make(chan struct{}, maxSnapshots)}
	s.ahead = newAhead(deps.Log, cfg.Databases)
	s.deps.Log = s.ahead
	s.rules.Store(&accept.Rules{
		Origin: cfg.Origin, Origins: cfg.Origins, MaxText: cfg.MaxText, MaxTitle: cfg.MaxTitle, MaxMembers: cfg.MaxMembers,
		MaxSkew: cfg.MaxSkew, MaxAge: cfg.MaxAge, CreateWindow: cfg.CreateWindow, AppendTimeout: cfg.AppendTimeout,
	})
	s.follow = following{origins: cfg.Origins, heard: cfg.Origins, changed: make(chan struct{})}
	if s.meter, err = newMeter(deps.Meter); err != nil {
		return nil, fmt.Errorf("imserver: %w", err)
	}
	if s.limits, err = lru.New[im.UID, *rate.Limiter](cfg.CachedUsers); err != nil {
		return nil, fmt.Errorf("imserver: %w", err)
	}
	if s.typists, err = lru.New[im.UID, *rate.Limiter](cfg.CachedUsers); err != nil {
		return nil, fmt.Errorf("imserver: %w", err)
	}
	return s, nil
}

// Run applies, delivers and beats until ctx ends. It fails with a *LogError if the own log is not the one that the timelines
// were derived from, and begins as soon as that can be told. When ctx ends, what is being committed is finished, and held cursors are written, within DrainTimeout;
// when it ends by im.ErrKilled, nothing is.
func (s *Server) Run(ctx context.Context) error {
	if err := s.awaitOwnLog(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		s.deps.Logger.Error("refusing to start", "error", err)
		return err
	}
	unobserve, err := s.meter.observe(s)
	if err != nil {
		return fmt.Errorf("imserver: %w", err)
	}
	defer unobserve()
	hard, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stop := context.AfterFunc(ctx, func() {
		if killed(ctx) {
			end()
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for database := range s.cfg.Databases {
		wg.Go(func() { newApplier(s, database).run(ctx, hard) })
	}
	wg.Go(func() { s.heartbeat(ctx) })
	wg.Go(func() { s.keepMarks(ctx, hard) })
	s.ready.Store(true)
	close(s.begun)
	<-ctx.Done()
	s.ready.Store(false)
	last := time.AfterFunc(s.cfg.DrainTimeout, end)
	defer last.Stop()
	wg.Wait()
	end() // a hand-over that nobody waits for is no reason to stay
	s.handOvers.Wait()
	return nil
}

// awaitOwnLog is checkOwnLog until it can tell.
func (s *Server) awaitOwnLog(ctx context.Context) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 50 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 2 * time.Second}
	for {
		err := s.checkOwnLog(ctx)
		if _, lasting := errors.AsType[*LogError](err); err == nil || lasting || ctx.Err() != nil {
			return err
		}
		s.deps.Logger.Warn("the own log cannot be compared with the timelines yet; trying again", "error", err)
		sleep(ctx, wait.NextBackOff())
	}
}

// Begun is closed when calls are answered: who is listed before is given calls that it refuses.
func (s *Server) Begun() <-chan struct{} { return s.begun }

// Ready tells why nothing is accepted yet, or any more.
func (s *Server) Ready() error {
	if !s.ready.Load() {
		return errors.New("the own log has not been compared with the timelines yet, or it is draining")
	}
	return s.halts.first()
}

// killed tells whether ctx ended like a crash.
func killed(ctx context.Context) bool { return errors.Is(context.Cause(ctx), im.ErrKilled) }
