package telemetry

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Span is a finished span as a SpanStore keeps it.
type Span struct {
	Trace, ID, Parent         string // hex; Parent is empty for a root, and may be missing from the store
	Name                      string
	Service, Region, Instance string
	Start, End                time.Time
	Attributes                map[string]string
	Error                     string // the status description of a failed span
}

// TraceSummary is one line of a list of traces.
type TraceSummary struct {
	ID       string
	Root     Span      // the span without a parent; the earliest if that is missing
	Start    time.Time // of the earliest span
	End      time.Time // of the latest
	Spans    int
	Regions  []string // in the order in which the trace reached them
	Services []string // likewise
	Error    bool     // some span failed
}

// SpanStore keeps the spans of the latest traces in memory: the trace backend of `antipode dev`. One store may serve all
// instances of a process. It is safe for concurrent use.
type SpanStore struct {
	maxTraces, maxSpans int

	mu      sync.Mutex
	traces  map[trace.TraceID][]Span
	order   []trace.TraceID // a ring of the traces in the order in which their first span ended
	oldest  int
	dropped int
}

// NewSpanStore returns a store of at most maxTraces traces of at most maxSpans spans each; 1,000 and 500 if 0. A newer
// trace takes the oldest one's place; spans of a trace that is full are counted and dropped.
func NewSpanStore(maxTraces, maxSpans int) *SpanStore {
	maxTraces, maxSpans = cmp.Or(maxTraces, 1000), cmp.Or(maxSpans, 500)
	return &SpanStore{maxTraces: maxTraces, maxSpans: maxSpans, traces: make(map[trace.TraceID][]Span, maxTraces)}
}

// OnStart implements sdktrace.SpanProcessor.
func (s *SpanStore) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor: it keeps the span.
func (s *SpanStore) OnEnd(span sdktrace.ReadOnlySpan) {
	id := span.SpanContext().TraceID()
	kept := Span{
		Trace: id.String(), ID: span.SpanContext().SpanID().String(), Name: span.Name(),
		Start: span.StartTime(), End: span.EndTime(),
	}
	if p := span.Parent(); p.HasSpanID() {
		kept.Parent = p.SpanID().String()
	}
	for _, a := range span.Resource().Attributes() {
		switch a.Key {
		case attrService:
			kept.Service = a.Value.String()
		case attrRegion:
			kept.Region = a.Value.String()
		case attrInstance:
			kept.Instance = a.Value.String()
		}
	}
	if attributes := span.Attributes(); len(attributes) > 0 {
		kept.Attributes = make(map[string]string, len(attributes))
		for _, a := range attributes {
			kept.Attributes[string(a.Key)] = a.Value.String()
		}
	}
	if st := span.Status(); st.Code == codes.Error {
		kept.Error = cmp.Or(st.Description, "failed")
	}
	s.keep(id, kept)
}

// keep adds a span to its trace.
func (s *SpanStore) keep(id trace.TraceID, kept Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	spans, known := s.traces[id]
	if len(spans) >= s.maxSpans {
		s.dropped++
		return
	}
	s.traces[id] = append(spans, kept)
	if known {
		return
	}
	if len(s.order) < s.maxTraces {
		s.order = append(s.order, id)
		return
	}
	delete(s.traces, s.order[s.oldest])
	s.order[s.oldest] = id
	s.oldest = (s.oldest + 1) % s.maxTraces
}

// Shutdown implements sdktrace.SpanProcessor. The store outlives the instances that fill it.
func (s *SpanStore) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor.
func (s *SpanStore) ForceFlush(context.Context) error { return nil }

// Dropped counts the spans that found their trace full.
func (s *SpanStore) Dropped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Trace returns the spans of a trace (32 hex digits) by start; none if it is unknown or no longer kept.
func (s *SpanStore) Trace(id string) []Span {
	traceID, err := trace.TraceIDFromHex(id)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return sorted(s.traces[traceID])
}

// Recent lists at most limit traces, the latest begun first.
func (s *SpanStore) Recent(limit int) []TraceSummary {
	s.mu.Lock()
	list := make([]TraceSummary, 0, min(limit, len(s.order)))
	for i := range min(limit, len(s.order)) {
		// From the newest back: the ring's newest stands before its oldest.
		id := s.order[(s.oldest+len(s.order)-1-i)%len(s.order)]
		list = append(list, summarise(sorted(s.traces[id])))
	}
	s.mu.Unlock()
	slices.SortStableFunc(list, func(a, b TraceSummary) int { return b.Start.Compare(a.Start) })
	return list
}

func sorted(spans []Span) []Span {
	return slices.SortedStableFunc(slices.Values(spans), func(a, b Span) int { return a.Start.Compare(b.Start) })
}

// summarise returns the line of a trace's spans, which are sorted by start and at least one.
func summarise(spans []Span) TraceSummary {
	t := TraceSummary{ID: spans[0].Trace, Root: spans[0], Start: spans[0].Start, Spans: len(spans)}
	if i := slices.IndexFunc(spans, func(s Span) bool { return s.Parent == "" }); i >= 0 {
		t.Root = spans[i]
	}
	for _, s := range spans {
		if s.End.After(t.End) {
			t.End = s.End
		}
		if !slices.Contains(t.Regions, s.Region) {
			t.Regions = append(t.Regions, s.Region)
		}
		if !slices.Contains(t.Services, s.Service) {
			t.Services = append(t.Services, s.Service)
		}
		t.Error = t.Error || s.Error != ""
	}
	return t
}
