package replicator

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/antipode-im/antipode/im"
)

// Replicator is one region's end of all its links.
type Replicator struct {
	cfg     Config
	deps    Deps
	own     []im.Partition // of the own log
	log     *slog.Logger
	tracer  trace.Tracer
	metrics *metrics
	codec   *codec
	held    *held
	ends    ends
	clocks  clocks
	peers   atomic.Pointer[[]*peer] // replaced under mu

	inherited inheritances
	scanning  chan struct{} // capacity 1: taken while tails of copies are read

	receiving sync.WaitGroup // links from peers; entered under mu
	linger    sync.WaitGroup // goroutines that outlive a call of Link by a moment

	// mu guards what follows. It is held for a moment only and taken before no other lock but that of
	// inherited.
	mu       sync.Mutex
	ctx      context.Context // of Run; nil before, ended after
	end      context.CancelCauseFunc
	links    sync.WaitGroup // calls of Link; entered under mu
	sendings map[endpoint][]openSending
}

type openSending struct {
	*sending
	cancel context.CancelCauseFunc
}

// outCounts are the counters of the links to one peer.
type outCounts struct {
	records, bytes, dropped atomic.Uint64
	since                   time.Time // guarded by Replicator.mu
}

// New checks the configuration and returns a replicator; nothing runs before Run.
func New(cfg Config, deps Deps) (*Replicator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := deps.check(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Tracer == nil {
		deps.Tracer = noop.NewTracerProvider().Tracer("replicator")
	}
	codec, err := newCodec(cfg.CompressAbove)
	if err != nil {
		return nil, err
	}
	r := &Replicator{
		cfg: cfg, deps: deps, own: cfg.partitions(cfg.Origin),
		log: deps.Logger, tracer: deps.Tracer, codec: codec, held: newHeld(),
		ends:      ends{names: map[im.Partition]im.LogName{}},
		sendings:  map[endpoint][]openSending{},
		inherited: inheritances{of: map[im.Origin]*inheritance{}},
		scanning:  make(chan struct{}, 1),
	}
	peers := make([]*peer, len(cfg.Peers))
	for i, p := range cfg.Peers {
		peers[i] = r.newPeer(p)
	}
	r.peers.Store(&peers)
	r.inherit(cfg.Sealed)
	if r.metrics, err = newMetrics(deps.Meter, cfg.Peers, r.Status); err != nil {
		return nil, err
	}
	return r, nil
}

// Run keeps a link open to every peer until ctx ends, and serves Link meanwhile. It runs once. There is nothing to
// drain: whatever was under way is asked for again by whoever comes next. It ends by itself, with an *im.LostError, when a
// peer says that the own origin was declared lost.
func (r *Replicator) Run(ctx context.Context) error {
	r.mu.Lock()
	if r.ctx != nil {
		r.mu.Unlock()
		return errors.New("replicator: Run was called twice")
	}
	ctx, r.end = context.WithCancelCause(ctx)
	r.ctx = ctx
	for _, p := range r.all() {
		r.start(p)
	}
	r.inherit(r.inherited.all())
	r.mu.Unlock()
	defer r.end(nil)
	defer r.metrics.close()

	r.receiving.Go(func() { r.watchEnds(ctx) })
	<-ctx.Done()
	r.mu.Lock()   // a Link or a peer that is entering now is counted before the waits below; none enters after
	r.mu.Unlock() //nolint:staticcheck // nothing is to be done in between
	r.receiving.Wait()
	r.links.Wait()
	r.linger.Wait()
	if lost, ok := errors.AsType[*im.LostError](context.Cause(ctx)); ok {
		return lost
	}
	return nil
}

// enter counts a call of Link in, unless the replicator does not run.
func (r *Replicator) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return false
	}
	r.links.Add(1)
	return true
}

func (r *Replicator) leave() { r.links.Done() }

func (r *Replicator) running() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ctx
}

// Held calls send with what peers hold of the own log: everything first, then changes, until ctx ends, the replicator
// stops or send fails. A send that blocks is left behind: it must fail soon after Held returned, as a stream's does.
func (r *Replicator) Held(ctx context.Context, send func(im.Held) error) error {
	if !r.enter() {
		return im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	defer r.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	followed := make(chan error, 1)
	r.linger.Go(func() { followed <- r.held.follow(ctx, send) })
	select {
	case err := <-followed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.running().Done():
		return im.Errorf(im.CodeUnavailable, "the replicator of %s is stopping", r.cfg.Region)
	}
}

func (r *Replicator) now() time.Time { return r.deps.Now() }

func (r *Replicator) bounds(ctx context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	return r.deps.Log.Bounds(ctx, ps)
}

func (r *Replicator) read(ctx context.Context, p im.Partition, from int64, maxBytes int) ([]im.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	return r.deps.Log.Read(ctx, p, from, maxBytes)
}

// backoff returns jittered, growing waits.
func (r *Replicator) backoff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: r.cfg.BackoffBase, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: r.cfg.BackoffMax,
	}
}

// pause waits; false if ctx ended first.
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

// wake makes the reader of a channel of capacity 1 look again.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
