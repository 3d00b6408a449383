package telemetry

import (
	"errors"
	"io"
	"net"
	"reflect"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// What arrives by OTLP is kept as what was made in this process is.
func TestReceive(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	received, own := NewSpanStore(0, 0), NewSpanStore(0, 0)
	r, err := Receive(addr, received)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tel, err := New(Config{Service: "imserver", Region: "eu", Instance: "imserver-1", LogWriter: io.Discard, SampleRatio: 1, OTLP: addr, Spans: own})
	if err != nil {
		t.Fatal(err)
	}
	ctx, parent := tel.Tracer.Start(t.Context(), "submit", trace.WithAttributes(
		attribute.String("text", "hello"), attribute.Int64("offset", -7), attribute.Bool("yes", true), attribute.Float64("part", 0.25)))
	_, child := tel.Tracer.Start(ctx, "append")
	child.RecordError(errors.New("no"))
	child.SetStatus(codes.Error, "the log is away")
	child.End()
	parent.End()
	if err := tel.Close(t.Context()); err != nil { // sends what is to be sent
		t.Fatal(err)
	}
	id := parent.SpanContext().TraceID().String()
	want, got := own.Trace(id), received.Trace(id)
	if len(want) != 2 || len(got) != 2 {
		t.Fatalf("made %d spans, received %d", len(want), len(got))
	}
	for i := range want {
		if !want[i].Start.Equal(got[i].Start) || !want[i].End.Equal(got[i].End) {
			t.Errorf("times: got %v to %v, want %v to %v", got[i].Start, got[i].End, want[i].Start, want[i].End)
		}
		want[i].Start, want[i].End = got[i].Start, got[i].End // the same moments, without the monotonic clock
		if !reflect.DeepEqual(want[i], got[i]) {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}
