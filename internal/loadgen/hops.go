package loadgen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

// Span is a finished span of one message's trace.
type Span struct {
	Service, Name string
	Region        im.Region
	To            im.Region // of a ship: whose copy it goes to
	Start, End    time.Time
}

// FetchSpans returns the spans that the services made in a trace (32 hex digits), in any order; those that are there so far.
type FetchSpans func(ctx context.Context, trace string) ([]Span, error)

// Hops tells where the time of some of a run's messages goes: it keeps the clients' spans, and joins them with those of the
// services. All of them must run on one machine, whose clock is one.
type Hops struct {
	provider *sdktrace.TracerProvider

	mu     sync.Mutex
	since  time.Time
	traces map[string]*sample
}

// sample is a message's spans at its clients.
type sample struct{ submit, receive Span }

// NewHops returns Hops that have seen nothing.
func NewHops() *Hops {
	h := &Hops{traces: map[string]*sample{}}
	h.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor((*recorder)(h)))
	return h
}

// Tracer is what a user's client traces with.
func (h *Hops) Tracer(uid im.UID) trace.Tracer { return h.provider.Tracer(string(uid)) }

// from has what is submitted earlier not count.
func (h *Hops) from(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since = t
}

// recorder is Hops as the processor of its clients' spans.
type recorder Hops

func (r *recorder) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (r *recorder) Shutdown(context.Context) error                  { return nil }
func (r *recorder) ForceFlush(context.Context) error                { return nil }

func (r *recorder) OnEnd(s sdktrace.ReadOnlySpan) {
	span := Span{Service: "client", Name: s.Name(), Start: s.StartTime(), End: s.EndTime()}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := s.SpanContext().TraceID().String()
	m := r.traces[id]
	if m == nil {
		m = &sample{}
		r.traces[id] = m
	}
	switch {
	case span.Name == "submit":
		m.submit = span
	case span.Name == "receive" && strings.HasSuffix(s.InstrumentationScope().Name, receiver):
		m.receive = span
	}
}

// Hop is a part of messages' ways.
type Hop struct {
	Name string
	Took *hdrhistogram.Histogram // microseconds
}

// HopTable is where the time goes.
type HopTable struct {
	Within, Across []Hop // in the order of the way
	Complete       int   // messages whose whole way is known
	Partial        int   // others: their spans did not come in time, or were not kept
}

// Table joins the clients' spans with the services', for which it waits until ctx ends: they are sent in batches.
func (h *Hops) Table(ctx context.Context, fetch FetchSpans) (*HopTable, error) {
	h.mu.Lock()
	waiting := map[string]sample{}
	for id, s := range h.traces {
		if !s.submit.Start.Before(h.since) && !s.submit.Start.IsZero() && !s.receive.Start.IsZero() {
			waiting[id] = *s
		}
	}
	h.mu.Unlock()
	table := &HopTable{Within: hops(wayWithin), Across: hops(wayAcross)}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var failed error
	for {
		for id, s := range waiting {
			spans, err := fetch(ctx, id)
			if err != nil {
				failed = err
				continue
			}
			if table.add(s, spans) {
				table.Complete++
				delete(waiting, id)
			}
		}
		if len(waiting) > 0 {
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
			}
		}
		table.Partial = len(waiting)
		if table.Complete == 0 {
			return nil, fmt.Errorf("of none of %d sampled messages are all spans there: do the services send their traces here? %w",
				table.Partial, cmp.Or(failed, errors.New("no fetch failed")))
		}
		return table, nil
	}
}

// The ways of a message: what each hop is called that ends at a moment.
var (
	wayWithin = []string{
		"client → gateway", "gateway → imserver", "accept", "append", "log → apply", "apply → router", "router → gateway", "gateway → client",
	}
	wayAcross = []string{
		"client → gateway", "gateway → imserver", "accept", "append", "log → replicator", "link and copy", "copy → apply", "apply → router", "router → gateway", "gateway → client",
	}
)

func hops(way []string) []Hop {
	list := make([]Hop, 0, len(way)+1)
	for _, name := range append(slices.Clone(way), "append → ack at the client") {
		list = append(list, Hop{name, hdrhistogram.New(1, 60_000_000, 3)})
	}
	return list
}

// add counts one message's hops, if all of them are known.
func (t *HopTable) add(s sample, spans []Span) bool {
	moments, appended, within, ok := moments(s, spans)
	if !ok {
		return false
	}
	list := t.Across
	if within {
		list = t.Within
	}
	for i := range moments[1:] {
		_ = list[i].Took.RecordValue(max(0, moments[i+1].Sub(moments[i]).Microseconds()))
	}
	_ = list[len(list)-1].Took.RecordValue(max(0, s.submit.End.Sub(appended).Microseconds()))
	return true
}

// moments are when a message was where on its way, from its submit to its receipt.
func moments(s sample, spans []Span) (at []time.Time, appended time.Time, within, ok bool) {
	slices.SortFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	first := func(service, name string, in im.Region) (Span, bool) {
		i := slices.IndexFunc(spans, func(x Span) bool { return x.Service == service && x.Name == name && (in == "" || x.Region == in) })
		if i < 0 {
			return Span{}, false
		}
		return spans[i], true
	}
	gateway, ok1 := first("gateway", "submit", "")
	submit, ok2 := first("imserver", "submit", "")
	appends, ok3 := first("imserver", "append", "")
	var last Span // the push that the receiver got: the sender gets one too, in its own region
	for _, x := range spans {
		if x.Service == "gateway" && x.Name == "deliver" && !x.Start.After(s.receive.Start) && (x.Region != gateway.Region || last.Region == "" || last.Region == x.Region) {
			last = x
		}
	}
	to := last.Region
	deliver, ok4 := first("imserver", "deliver", to)
	router, ok5 := first("router", "deliver", to)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || to == "" {
		return nil, time.Time{}, false, false
	}
	at = []time.Time{s.submit.Start, gateway.Start, submit.Start, appends.Start, appends.End}
	if to != gateway.Region {
		var left, landed time.Time
		for _, x := range spans {
			switch {
			case x.Name != "ship" || x.To != to:
			case x.Region == gateway.Region && left.IsZero():
				left = x.Start
			case x.Region == to && landed.IsZero():
				landed = x.End
			}
		}
		if left.IsZero() || landed.IsZero() {
			return nil, time.Time{}, false, false
		}
		at = append(at, left, landed)
	}
	return append(at, deliver.Start, router.Start, last.Start, s.receive.Start), appends.End, to == gateway.Region, true
}
