package replicator

import (
	"context"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Replicator is one region's end of all its links.
type Replicator struct {
	cfg  Config
	deps Deps
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
	return &Replicator{cfg: cfg, deps: deps}, nil
}

// Run keeps a link open to every peer until ctx ends, and serves Link meanwhile.
func (r *Replicator) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Link serves a peer's link to the own log until ctx ends or the link fails. From is the peer's region as its
// certificate says, or empty where links are not authenticated.
func (r *Replicator) Link(ctx context.Context, from im.Region, s wire.LinkSender) error {
	return im.Errorf(im.CodeUnready, "the replicator is not running")
}

// Notify puts deliveries on the link to a peer. It never blocks; when the link is closed or its queue is full, they are
// dropped, counted, and the error says so.
func (r *Replicator) Notify(ctx context.Context, to im.Region, ds []im.Delivery) error {
	return im.Errorf(im.CodeUnavailable, "no link to %s", to)
}

// Held calls send with what peers hold of the own log: everything first, then changes, until ctx ends or send fails.
func (r *Replicator) Held(ctx context.Context, send func(im.Held) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// Status is a snapshot of all links.
func (r *Replicator) Status() Status { return Status{Region: r.cfg.Region} }

// ClockOffsets tells how far the clocks of peers are ahead of the own, to half a round trip; peers whose link was never
// open are missing.
func (r *Replicator) ClockOffsets() map[im.Region]time.Duration { return nil }
