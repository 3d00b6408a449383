package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/labels"
	"github.com/antipode-im/antipode/wire"
)

// metrics are the gateway's instruments. Labels are from closed lists: reasons of this package, codes, and the methods of
// the service "im" (those of other services count as "other").
type metrics struct {
	openConns, liveSessions               metric.Int64UpDownCounter
	logins, calls, resumes, sheds, closes metric.Int64Counter
	pushes, received, sent, fences        metric.Int64Counter
	callTime                              metric.Float64Histogram

	labels labels.Sets
	bytes  atomic.Uint64 // read and written, for the load
}

func newMetrics(m metric.Meter) (*metrics, error) {
	var errs []error
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := m.Int64Counter("antipode_gateway_"+name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, unit, text string) metric.Int64UpDownCounter {
		c, err := m.Int64UpDownCounter("antipode_gateway_"+name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return c
	}
	x := &metrics{
		openConns:    gauge("conns", "{conn}", "Open sockets."),
		liveSessions: gauge("sessions", "{session}", "Sessions, with and without a socket."),
		logins:       counter("logins", "{login}", "Hellos by outcome."),
		calls:        counter("calls", "{call}", "Calls by method and code; code cancelled for those that their clients took back."),
		resumes:      counter("resumes", "{resume}", "Attempts to resume a session by outcome."),
		sheds:        counter("sheds", "{shed}", "Work refused or dropped because of a limit."),
		closes:       counter("closes", "{close}", "Connections closed by the gateway, by code."),
		pushes:       counter("pushes", "{push}", "Pushes written to sockets."),
		received:     counter("received", "By", "Bytes of messages from clients."),
		sent:         counter("sent", "By", "Bytes of messages to clients."),
		fences:       counter("fences", "{fence}", "New epochs taken because the old one was declared dead."),
	}
	var err error
	x.callTime, err = m.Float64Histogram("antipode_gateway_call_duration", metric.WithUnit("s"),
		metric.WithDescription("From a call's start to its backend's answer."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	x.begin()
	return x, nil
}

// begin shows everything as 0: a counter that appears with its first step has not increased, to Prometheus.
func (x *metrics) begin() {
	ctx := context.Background()
	for _, c := range []metric.Int64Counter{x.pushes, x.received, x.sent, x.fences} {
		c.Add(ctx, 0)
	}
	x.conns(0)
	x.sessions(0)
	for _, reason := range []string{"admission", "astray", "behind", "calls", "ephemeral", "group", "groups", "handshake", "interest", "logins", "queue", "rate", "replies", "slow", "sockets", "tls"} {
		x.sheds.Add(ctx, 0, x.labels.One("reason", reason))
	}
	for _, how := range []string{"resumed", "taken", "refused"} {
		x.resumes.Add(ctx, 0, x.labels.One("outcome", how))
	}
	for _, c := range im.Codes() {
		if c.Spec().Close != 0 {
			x.closes.Add(ctx, 0, x.labels.One("code", string(c)))
		}
	}
}

// outcome is a code, or "ok" for none.
func outcome(c im.Code) string {
	if c == "" {
		return "ok"
	}
	return string(c)
}

func (x *metrics) conns(n int64)    { x.openConns.Add(context.Background(), n) }
func (x *metrics) sessions(n int64) { x.liveSessions.Add(context.Background(), n) }
func (x *metrics) loggedIn(c im.Code) {
	x.logins.Add(context.Background(), 1, x.labels.One("code", outcome(c)))
}

func (x *metrics) resumed(how string) {
	x.resumes.Add(context.Background(), 1, x.labels.One("outcome", how))
}

func (x *metrics) shed(reason string) {
	x.sheds.Add(context.Background(), 1, x.labels.One("reason", reason))
}

func (x *metrics) closed(c im.Code) {
	x.closes.Add(context.Background(), 1, x.labels.One("code", string(c)))
}
func (x *metrics) fenced() { x.fences.Add(context.Background(), 1) }

func (x *metrics) pushed(n int) {
	if n > 0 {
		x.pushes.Add(context.Background(), int64(n))
	}
}

func (x *metrics) read(n int) {
	x.bytes.Add(uint64(n))
	x.received.Add(context.Background(), int64(n))
}

func (x *metrics) wrote(n int) {
	x.bytes.Add(uint64(n))
	x.sent.Add(context.Background(), int64(n))
}

func (x *metrics) called(c *im.Call, code im.Code, took time.Duration) {
	method := methodLabel(c.Service, c.Method)
	x.counted(method, code)
	x.callTime.Record(context.Background(), took.Seconds(), x.labels.One("method", method))
}

// cancelled counts a call that was taken back: it is no failure.
func (x *metrics) cancelled(c *im.Call) {
	x.counted(methodLabel(c.Service, c.Method), "cancelled")
}

func (x *metrics) refused(c *wire.Call, err error) {
	x.counted(methodLabel(c.Service, c.Method), im.CodeOf(err))
}

func (x *metrics) counted(method string, code im.Code) {
	x.calls.Add(context.Background(), 1, x.labels.Two(labels.Pair{Key: "method", Value: method}, labels.Pair{Key: "code", Value: outcome(code)}))
}

func methodLabel(service, method string) string {
	if service == wire.ServiceIM || service == "" {
		switch method {
		case wire.MethodSubmit, wire.MethodPull, wire.MethodList, wire.MethodMark, wire.MethodReceipts, wire.MethodMembers, wire.MethodTyping:
			return method
		}
	}
	return "other"
}

// maxTracedConns bounds the spans that one push makes.
const maxTracedConns = 16

// sampled tells whether a W3C traceparent asks for spans: its flags end in an odd digit.
func sampled(traceparent string) bool {
	const length = 55
	if len(traceparent) < length {
		return false
	}
	switch traceparent[length-1] {
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	}
	return false
}

func withTrace(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// traceCall puts a call's trace into the context, and begins a span if it is a submit or a pull that is sampled. A
// submit without a trace begins one, which the tracer's sampler may take.
func (g *Gateway) traceCall(ctx context.Context, traceparent string, c *im.Call) (context.Context, func(error)) {
	ctx = withTrace(ctx, traceparent)
	if c.Method != wire.MethodSubmit && (c.Method != wire.MethodPull || !sampled(traceparent)) ||
		traceparent != "" && !sampled(traceparent) {
		return ctx, func(error) {}
	}
	ctx, span := g.tracer.Start(ctx, c.Method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("antipode.service", "gateway"), attribute.String("antipode.region", string(g.cfg.Region)),
		attribute.String("antipode.gateway", g.cfg.Gateway.ID), attribute.String("antipode.conversation", c.Key)))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, string(im.CodeOf(err)))
		}
		span.End()
	}
}

// traceDelivered records that a push was written to a socket.
func (g *Gateway) traceDelivered(p *numberedPush, c *conn) {
	_, span := g.tracer.Start(withTrace(context.Background(), p.push.Trace()), "deliver",
		trace.WithTimestamp(p.at), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
			attribute.String("antipode.service", "gateway"), attribute.String("antipode.region", string(g.cfg.Region)),
			attribute.String("antipode.gateway", g.cfg.Gateway.ID), attribute.String("antipode.device", string(c.session.Load().device))))
	span.End()
}
