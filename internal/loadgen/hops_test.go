package loadgen

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

// A message's time is told hop by hop, in a region and across, whichever other spans its trace has; one whose spans do not
// come is counted as such.
func TestHops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHops()
		spans := map[string][]Span{}
		// says has a message go from eu to a region, and hop i of its way take i+1 milliseconds.
		says := func(to im.Region) {
			began := time.Now()
			at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
			ctx, submit := h.Tracer("x"+"-a").Start(t.Context(), "submit", trace.WithTimestamp(at(0)))
			id := submit.SpanContext().TraceID().String()
			moment := []int{0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55}
			list := []Span{
				{Service: "gateway", Name: "submit", Region: "eu", Start: at(moment[1])},
				{Service: "imserver", Name: "submit", Region: "eu", Start: at(moment[2])},
				{Service: "imserver", Name: "append", Region: "eu", Start: at(moment[3]), End: at(moment[4])},
				{Service: "imserver", Name: "apply", Region: "eu", Start: at(moment[4]), End: at(99)},
			}
			next := 5
			if to != "eu" {
				list = append(list,
					Span{Service: "replicator", Name: "ship", Region: "eu", To: "sa", Start: at(11), End: at(12)},
					Span{Service: "replicator", Name: "ship", Region: "eu", To: to, Start: at(moment[5]), End: at(16)},
					Span{Service: "replicator", Name: "ship", Region: to, To: to, Start: at(20), End: at(moment[6])},
					// the sender has its own message back long before
					Span{Service: "imserver", Name: "deliver", Region: "eu", Start: at(11)},
					Span{Service: "router", Name: "deliver", Region: "eu", Start: at(12)},
					Span{Service: "gateway", Name: "deliver", Region: "eu", Start: at(13)})
				next = 7
			}
			list = append(list,
				Span{Service: "imserver", Name: "deliver", Region: to, Start: at(moment[next])},
				Span{Service: "router", Name: "deliver", Region: to, Start: at(moment[next+1])},
				Span{Service: "gateway", Name: "deliver", Region: to, Start: at(moment[next+2])},
				Span{Service: "gateway", Name: "deliver", Region: to, Start: at(90)}) // again, after a resume
			slices.Reverse(list) // in no order
			spans[id] = list
			submit.End(trace.WithTimestamp(at(moment[4] + 11)))
			_, echo := h.Tracer("x-a").Start(ctx, "receive", trace.WithTimestamp(at(30)))
			echo.End()
			_, receive := h.Tracer("x-b").Start(ctx, "receive", trace.WithTimestamp(at(moment[next+3])))
			receive.End()
		}
		says("eu") // in the warm-up
		time.Sleep(time.Second)
		h.from(time.Now())
		says("eu")
		says("us")

		asked := 0
		fetch := func(_ context.Context, id string) ([]Span, error) {
			if asked++; asked < 6 {
				return spans[id][:3], nil // the rest is still under way
			}
			return spans[id], nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		table, err := h.Table(ctx, fetch)
		if err != nil || table.Complete != 2 || table.Partial != 0 {
			t.Fatalf("%+v, %v", table, err)
		}
		for way, list := range map[string][]Hop{"within": table.Within, "across": table.Across} {
			for i, hop := range list {
				want := int64(i+1) * 1000
				if i == len(list)-1 {
					want = 11_000
				}
				if got := hop.Took.ValueAtQuantile(50); hop.Took.TotalCount() != 1 || got < want || got > want+want/500 {
					t.Errorf("%s: %s took %d µs of %d messages, want %d of 1", way, hop.Name, got, hop.Took.TotalCount(), want)
				}
			}
		}

		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		gone := errors.New("newer ones took its place")
		if _, err := h.Table(ctx, func(context.Context, string) ([]Span, error) { return nil, gone }); !errors.Is(err, gone) || !strings.Contains(err.Error(), "none of 2") {
			t.Errorf("without the services' spans: %v", err)
		}
	})
}
