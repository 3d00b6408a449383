package rpc

import (
	"context"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// TestOnlySampledCallersAreTraced: a call inside a sampled span is one trace on both ends; one outside makes no span,
// though the servers would sample every root.
func TestOnlySampledCallersAreTraced(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	var seen trace.SpanContext
	addr, stop := serve(t, ServerConfig{Tracer: tp}, &raw{call: func(ctx context.Context, _ *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		seen = trace.SpanContextFromContext(ctx)
		return &antipodev1.BackendCallResponse{}, nil
	}})
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{Tracer: tp}))

	if _, err := client.Call(t.Context(), &antipodev1.BackendCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if seen.IsValid() {
		t.Error("a call outside a trace has a span")
	}
	ctx, submit := tp.Tracer("test").Start(t.Context(), "submit")
	if _, err := client.Call(ctx, &antipodev1.BackendCallRequest{}); err != nil {
		t.Fatal(err)
	}
	submit.End()
	stop(nil)
	if seen.TraceID() != submit.SpanContext().TraceID() {
		t.Error("the trace did not cross the call")
	}
	var kinds []trace.SpanKind
	for _, s := range spans.GetSpans() {
		if s.SpanContext.TraceID() != submit.SpanContext().TraceID() {
			t.Errorf("span %s belongs to another trace", s.Name)
		}
		kinds = append(kinds, s.SpanKind)
	}
	if len(kinds) != 3 {
		t.Errorf("spans of kinds %v; want the submit's, a client's and a server's", kinds)
	}
}
