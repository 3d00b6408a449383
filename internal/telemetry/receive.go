package telemetry

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Receiver is an OTLP endpoint that keeps the spans of other processes: a trace backend for trials, in plain text on
// loopback.
type Receiver struct {
	server *grpc.Server
	served chan error
}

// Receive listens on addr and keeps what arrives in store, until Close.
func Receive(addr string, store *SpanStore) (*Receiver, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("telemetry: traces: %w", err)
	}
	r := &Receiver{server: grpc.NewServer(grpc.MaxRecvMsgSize(16<<20), grpc.ConnectionTimeout(5*time.Second)), served: make(chan error, 1)}
	collector.RegisterTraceServiceServer(r.server, &traceService{store: store})
	go func() { r.served <- r.server.Serve(l) }()
	return r, nil
}

// Close stops receiving.
func (r *Receiver) Close() {
	r.server.Stop()
	<-r.served
}

type traceService struct {
	collector.UnimplementedTraceServiceServer
	store *SpanStore
}

// Export implements the OTLP trace service.
func (s *traceService) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	rejected := int64(0)
	for _, resource := range r.ResourceSpans {
		var from Span
		for _, a := range resource.GetResource().GetAttributes() {
			switch a.Key {
			case string(attrService):
				from.Service = text(a.Value)
			case string(attrRegion):
				from.Region = text(a.Value)
			case string(attrInstance):
				from.Instance = text(a.Value)
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				if len(span.TraceId) != len(trace.TraceID{}) || len(span.SpanId) != len(trace.SpanID{}) {
					rejected++
					continue
				}
				s.store.keep(trace.TraceID(span.TraceId), received(from, span))
			}
		}
	}
	answer := &collector.ExportTraceServiceResponse{}
	if rejected > 0 {
		answer.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: "spans whose trace or span id is not one"}
	}
	return answer, nil
}

func received(from Span, span *traces.Span) Span {
	kept := from
	kept.Trace, kept.ID, kept.Parent = hex.EncodeToString(span.TraceId), hex.EncodeToString(span.SpanId), hex.EncodeToString(span.ParentSpanId)
	kept.Name = span.Name
	kept.Start, kept.End = time.Unix(0, int64(span.StartTimeUnixNano)), time.Unix(0, int64(span.EndTimeUnixNano))
	if len(span.Attributes) > 0 {
		kept.Attributes = make(map[string]string, len(span.Attributes))
		for _, a := range span.Attributes {
			kept.Attributes[a.Key] = text(a.Value)
		}
	}
	if st := span.Status; st.GetCode() == traces.Status_STATUS_CODE_ERROR {
		kept.Error = cmp.Or(st.GetMessage(), "failed")
	}
	return kept
}

// text is an attribute's value as an attribute.Value's String gives it; lists and maps, which nothing here sets, as
// protobuf does.
func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *common.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	}
	return v.String()
}
