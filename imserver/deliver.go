package imserver

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

// maxHandOver bounds the bodies of one call to the routers, in bytes.
const maxHandOver = 1 << 20

// handOverGrace is how long a hand-over may hold up a change of owners.
const handOverGrace = time.Second

// breaker is how the routers were seen last. While they are away, hand-overs are given up at once: each that waited for its
// timeout would hold up a batch of rows as long, and with them the pulls, lists and members of the region. One hand-over at
// a time goes on beside the others and tries for as long as a hand-over may; when it gets through, the routers are back.
type breaker struct {
	mu            sync.Mutex
	away, probing bool
}

// pass tells whether a hand-over is to be made, and whether nobody should wait for it.
func (b *breaker) pass() (made, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.away:
		return true, false
	case b.probing:
		return false, false
	}
	b.probing = true
	return true, true
}

// seen notes how a hand-over ended. It tells whether that is news.
func (b *breaker) seen(away bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.away
	b.away = away
	return was != away
}

// seenAway tells whether the routers were away last.
func (b *breaker) seenAway() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away
}

func (b *breaker) probed() {
	b.mu.Lock()
	b.probing = false
	b.mu.Unlock()
}

// handOver gives deliveries to the routers, in order. Routers that do not take them in time are given up on: clients find
// what they miss when they pull, and the log must not wait for them. A hand-over that nobody waits for goes on until hard ends.
func (s *Server) handOver(ctx, hard context.Context, deliveries []im.Delivery) {
	switch made, probe := s.routers.pass(); {
	case !made:
		s.meter.gaveUp(context.WithoutCancel(ctx), len(deliveries))
	case probe:
		s.handOvers.Go(func() {
			defer s.routers.probed()
			s.tryHandOver(hard, deliveries)
		})
	default:
		s.tryHandOver(ctx, deliveries)
	}
}

// tryHandOver makes a hand-over in pieces that one call can carry.
func (s *Server) tryHandOver(ctx context.Context, deliveries []im.Delivery) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DeliverTimeout)
	defer cancel()
	for len(deliveries) > 0 {
		n, bytes := 0, 0
		for n < len(deliveries) && (n == 0 || bytes+len(deliveries[n].Body) <= maxHandOver) {
			bytes += len(deliveries[n].Body)
			n++
		}
		if err := s.handOverPiece(ctx, deliveries[:n]); err != nil {
			s.meter.gaveUp(context.WithoutCancel(ctx), len(deliveries))
			if s.routers.seen(true) {
				s.deps.Logger.Warn("routers do not take deliveries: they are given up at once until one does, and clients will pull them",
					"deliveries", len(deliveries), "error", err)
			}
			return
		}
		deliveries = deliveries[n:]
	}
	if s.routers.seen(false) { // not before, or what follows would overtake the rest of this
		s.deps.Logger.Info("routers take deliveries again")
	}
}

// handOverPiece tries until ctx ends.
func (s *Server) handOverPiece(ctx context.Context, deliveries []im.Delivery) error {
	var spans []trace.Span
	for _, d := range deliveries {
		if parent, ok := sampled(d.Trace); ok {
			_, span := s.deps.Tracer.Start(trace.ContextWithRemoteSpanContext(ctx, parent), "deliver", trace.WithAttributes(s.attributes(d.Key)...))
			spans = append(spans, span)
		}
	}
	defer func() {
		for _, span := range spans {
			span.End()
		}
	}()
	wait := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: time.Second}
	for {
		pushes, err := s.deps.Deliver.Deliver(ctx, deliveries)
		if err == nil {
			s.interest.seen(s.deps.Deliver.Interest(), s.deps.Now(), s.cfg.InterestAfter)
			s.meter.delivered(ctx, len(deliveries), pushes)
			return nil
		}
		sleep(ctx, wait.NextBackOff())
		if ctx.Err() != nil {
			return err
		}
	}
}
