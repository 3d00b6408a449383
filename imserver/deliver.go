package imserver

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// deliver adds the event of a record for those who may read it. The sender is among them: they have other devices. A
// repeat is delivered like any record, because its seq counts; a client knows the id. Of a kind or version that this build
// does not know, the head is, for the same reason. What did not decode is not: its bytes are anything, and the next pull
// covers it.
func (sh *shard) deliver(to []im.Delivery, r *view.Record, s *Server) []im.Delivery {
	recipients := r.Conversation.Members()
	if recipients == nil {
		g, ok := sh.groups.get(r.Conversation)
		if !ok { // remember put it there
			g = &view.Group{}
			sh.groups.hold(r.Conversation, g, sh.batch)
		}
		if c, changed := view.ChangeOf(r); changed {
			g.Add(c)
			sh.changes++
		}
		recipients = g.Readers(r.Place)
	}
	if r.Opaque || r.Known() && !r.Shown || len(recipients) == 0 {
		return to
	}
	return append(to, im.Delivery{
		Service: wire.ServiceIM, Method: wire.MethodEvent, Key: string(r.Conversation), Recipients: recipients,
		Body: wire.AppendRecordEvent(nil, &r.Record, s.cfg.Region), Trace: r.Trace, Notify: s.own(r.Place.Origin),
	})
}

// receipt adds the event of a user's cursors for the others of a direct conversation or a group. Super groups have no
// read lists.
func (sh *shard) receipt(to []im.Delivery, c wire.Cursors, p im.Partition, s *Server) []im.Delivery {
	recipients := c.Conversation.Members()
	switch c.Conversation.Lane() {
	case im.LaneSuper:
		return to
	case im.LaneGroup:
		if g, ok := sh.groups.get(c.Conversation); ok {
			recipients = g.Members()
		}
	}
	if len(recipients) == 0 {
		return to
	}
	return append(to, im.Delivery{
		Service: wire.ServiceIM, Method: wire.MethodEvent, Key: string(c.Conversation), Recipients: recipients,
		Body: wire.EncodeReceiptEvent(c, s.cfg.Region), Notify: s.own(p.Origin()),
	})
}

// own tells whether an origin is this region's: only there are notifies sent from.
func (s *Server) own(o im.Origin) bool { return o.Region() == s.cfg.Region }

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
