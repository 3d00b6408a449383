package client

import (
	"context"
	"encoding/hex"
	"math/rand/v2"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

// startSubmit decides whether a submit is traced: if the caller's own trace is, or by Config.SampleRatio. With a tracer
// the span submit begins the trace; without one only the ids do, so that the servers' spans have a trace to be in.
func (c *Client) startSubmit(ctx context.Context, conversation im.Conversation) (traceparent string, span trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsSampled() && !(rand.Float64() < c.cfg.SampleRatio) {
		return "", nil
	}
	ctx, span = c.cfg.Tracer.Start(ctx, "submit", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("conversation", string(conversation))))
	if sc := span.SpanContext(); !sc.IsValid() || !sc.IsSampled() {
		span.End()
		return newTraceparent(), nil
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"], span
}

// newTraceparent is a sampled W3C traceparent with random ids.
func newTraceparent() string {
	var b [24]byte
	for i := range b {
		b[i] = byte(rand.Uint32N(255) + 1) // never all zero, which would be invalid
	}
	return "00-" + hex.EncodeToString(b[:16]) + "-" + hex.EncodeToString(b[16:]) + "-01"
}

func endSpan(span trace.Span, attempts int, ack im.Ack, err error) {
	span.SetAttributes(attribute.Int("attempts", attempts))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	} else {
		span.SetAttributes(attribute.String("origin", string(ack.Origin)), attribute.String("client_id", ack.ID.ClientID.String()))
	}
	span.End()
}
