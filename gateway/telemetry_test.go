package gateway

import (
	"context"
	"strings"
	"testing"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	sampledTrace   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampledTrace = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// A sampled submit and its pushes make spans of the client's trace; unsampled ones make none but carry their trace on.
func TestSpans(t *testing.T) {
	r := prepareRig(t, nil)
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	r.g.tracer = provider.Tracer("gateway")
	traces := make(chan string, 4)
	r.backend.handle = func(ctx context.Context, c im.Call) (im.CallResult, error) {
		traces <- trace.SpanContextFromContext(ctx).TraceID().String()
		return r.backend.answer(c)
	}
	r.run()
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	for i, traceparent := range []string{sampledTrace, unsampledTrace} {
		call := submit(uint32(i), "d:ann:bob", "hi")
		call.Trace = traceparent
		p.send(call)
		expect(p, (*wire.Frame).GetReply)
		if got := <-traces; got != traceparent[3:35] {
			t.Errorf("the backend is in trace %s, want %s", got, traceparent[3:35])
		}
		r.routers.toGateway().Push([]im.Push{{Conns: []uint64{1}, Service: "im", Method: "event", Trace: traceparent}})
		if push := expect(p, (*wire.Frame).GetPush); push.Trace != traceparent {
			t.Errorf("the push says %s", push.Trace)
		}
	}
	p.expectAlive() // the writer is past the pushes
	var names []string
	for _, s := range spans.GetSpans() {
		names = append(names, s.Name)
		if got := s.SpanContext.TraceID().String(); got != sampledTrace[3:35] {
			t.Errorf("%s is in trace %s", s.Name, got)
		}
	}
	if got := strings.Join(names, " "); got != "submit deliver" {
		t.Errorf("spans are %q", got)
	}
}

func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	r := prepareRig(t, nil)
	var err error
	if r.g.metrics, err = newMetrics(provider.Meter("gateway")); err != nil {
		t.Fatal(err)
	}
	r.run()
	p, _ := r.login(wire.SubprotocolJSON, "ann", 1)
	p.send(submit(1, "d:ann:bob", "hi"))
	expect(p, (*wire.Frame).GetReply)
	r.push("1", 1)
	p.expectPush(1, "1")
	values := map[string]int64{}
	eventually(t, "the push is counted", func() bool { // after it was written
		var got metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		clear(values)
		for _, scope := range got.ScopeMetrics {
			for _, m := range scope.Metrics {
				if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
					for _, point := range sum.DataPoints {
						values[m.Name] += point.Value
					}
				}
			}
		}
		return values["antipode_gateway_pushes"] > 0
	})
	for name, want := range map[string]int64{"conns": 1, "sessions": 1, "logins": 1, "calls": 1, "pushes": 1} {
		if got := values["antipode_gateway_"+name]; got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	if values["antipode_gateway_received"] == 0 || values["antipode_gateway_sent"] == 0 {
		t.Errorf("bytes are not counted: %v", values)
	}
}
