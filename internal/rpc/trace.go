package rpc

import (
	"context"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
)

// sampledOnly traces the calls of sampled callers and leaves all others alone: traces begin with a submit or a pull, not
// with a heartbeat between two services, and an unsampled call costs one look at its context.
type sampledOnly struct {
	stats.Handler
	sampled func(ctx context.Context) bool
}

// tracedKey marks the context of a call with whether it is traced.
type tracedKey struct{}

func (h sampledOnly) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	traced := h.sampled(ctx)
	ctx = context.WithValue(ctx, tracedKey{}, traced)
	if traced {
		return h.Handler.TagRPC(ctx, info)
	}
	return ctx
}

func (h sampledOnly) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if traced, _ := ctx.Value(tracedKey{}).(bool); traced {
		h.Handler.HandleRPC(ctx, s)
	}
}

func traceOptions(tp trace.TracerProvider) []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(tp), otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
	}
}

func serverTracing(tp trace.TracerProvider) stats.Handler {
	return sampledOnly{otelgrpc.NewServerHandler(traceOptions(tp)...), func(ctx context.Context) bool {
		md, _ := metadata.FromIncomingContext(ctx)
		parent := md.Get("traceparent")
		if len(parent) == 0 {
			return false
		}
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent[0]})
		return trace.SpanContextFromContext(ctx).IsSampled()
	}}
}

func clientTracing(tp trace.TracerProvider) stats.Handler {
	return sampledOnly{otelgrpc.NewClientHandler(traceOptions(tp)...), func(ctx context.Context) bool {
		return trace.SpanContextFromContext(ctx).IsSampled()
	}}
}
