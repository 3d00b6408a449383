package imserver

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

// maxHandOver bounds the bodies of one call to the routers, in bytes.
const maxHandOver = 1 << 20

// handOver gives deliveries to the routers, in order, in pieces that one call can carry. Routers that do not take them in
// time are given up on: clients find what they miss when they pull, and the log must not wait for them.
func (s *Server) handOver(ctx context.Context, deliveries []im.Delivery) {
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
			s.deps.Logger.Warn("routers do not take deliveries: clients will pull them", "deliveries", len(deliveries), "error", err)
			return
		}
		deliveries = deliveries[n:]
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
			s.meter.delivered(ctx, len(deliveries), pushes)
			return nil
		}
		sleep(ctx, wait.NextBackOff())
		if ctx.Err() != nil {
			return err
		}
	}
}
