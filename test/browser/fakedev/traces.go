package fakedev

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/console"
)

const keptTraces = 200

type trace struct {
	line  console.Trace
	spans []console.Span
}

// span notes a span of the entry's trace. The caller holds World.mu.
func (w *World) span(e *entry, name string, r im.Region, service string, from, to time.Time) {
	parts := strings.Split(e.trace, "-")
	if len(parts) != 4 || e.record == nil {
		return
	}
	i := slices.IndexFunc(w.traces, func(t *trace) bool { return t.line.ID == parts[1] })
	if i < 0 {
		w.traces = append(w.traces, &trace{line: console.Trace{
			ID: parts[1], Conversation: im.Conversation(e.record.Conversation), Sender: im.UID(e.record.Sender), Root: name,
			StartUS: from.UnixMicro(),
		}})
		if len(w.traces) > keptTraces {
			w.traces = w.traces[1:]
		}
		i = len(w.traces) - 1
	}
	t := w.traces[i]
	s := console.Span{
		ID: randomHex(8), Parent: parts[2], Name: name, Region: string(r), Service: service,
		StartUS: from.UnixMicro(), DurationUS: max(to.Sub(from).Microseconds(), 1),
		Attributes: map[string]string{"conversation": e.record.Conversation, "origin": e.record.Origin},
	}
	t.spans = append(t.spans, s)
	t.line.Spans = len(t.spans)
	t.line.DurationUS = max(t.line.DurationUS, s.StartUS+s.DurationUS-t.line.StartUS)
	if !slices.Contains(t.line.Regions, string(r)) {
		t.line.Regions = append(t.line.Regions, string(r))
	}
}

// Recent implements console.Traces.
func (w *World) Recent(_ context.Context, limit int) ([]console.Trace, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []console.Trace
	for _, t := range w.traces {
		line := t.line
		line.Regions = slices.Clone(line.Regions)
		out = append(out, line)
	}
	slices.SortStableFunc(out, func(a, b console.Trace) int { return cmp.Compare(b.StartUS, a.StartUS) })
	return out[:min(limit, len(out))], nil
}

// Spans implements console.Traces.
func (w *World) Spans(_ context.Context, id string) ([]console.Span, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.traces {
		if t.line.ID == id {
			return slices.Clone(t.spans), nil
		}
	}
	return nil, nil
}
