package replicator_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// watchHeld collects what a replicator says that peers hold.
type watchHeld struct {
	mu    sync.Mutex
	held  map[im.Partition]int64
	peers int
}

func (w *watchHeld) follow(ctx context.Context, r *replicator.Replicator) {
	r.Held(ctx, func(h im.Held) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.peers = h.Peers
		for p, offset := range h.Offsets {
			w.held[p] = offset
		}
		return nil
	})
}

func (w *watchHeld) get(p im.Partition) (int64, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[p], w.peers
}

// TestHeldIsWhatAPeerReadBack: an append's answer does not count, and one peer is enough (I1).
func TestHeldIsWhatAPeerReadBack(t *testing.T) {
	m := newMesh(t, hasty, "eu", "us", "ap").start()
	eu, us, ap := m.nodes["eu"], m.nodes["us"], m.nodes["ap"]
	m.caughtUp(t)
	w := &watchHeld{held: map[im.Partition]int64{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.follow(ctx, eu.replicator()) }()
	defer func() { cancel(); <-done }()
	p := eu.own()[0]
	eventually(t, "both hold record 0", func() bool {
		held, peers := w.get(p)
		return held == 1 && peers == 2
	})
	m.proxy("ap", "eu").Cut()
	eu.log.must(p, message("eu", "one"))
	eventually(t, "one peer is enough", func() bool { held, _ := w.get(p); return held == 2 })
	eventually(t, "the other is known to be away", func() bool { _, peers := w.get(p); return peers == 1 })

	appends := 0
	us.log.setFault(func(at im.Partition, _ []im.Entry) appendFault { // acknowledged, but nothing to read
		if at == p {
			appends++
		}
		return vanished
	})
	eu.log.must(p, message("eu", "two"))
	eventually(t, "what could not be read is appended again", func() bool { return us.log.count(&appends) >= 2 })
	if held, _ := w.get(p); held != 2 {
		t.Fatalf("%d: an append's answer was taken for a record held", held)
	}
	us.log.setFault(nil)
	eventually(t, "held once it can be read", func() bool { held, _ := w.get(p); return held == 3 })
	us.kill(im.ErrKilled)
	eventually(t, "nobody", func() bool { _, peers := w.get(p); return peers == 0 })
	if held, _ := w.get(p); held != 3 {
		t.Errorf("%d: what a peer holds it holds without a link", held)
	}
	m.proxy("ap", "eu").Heal()
	us.start()
	eventually(t, "both again", func() bool { _, peers := w.get(p); return peers == 2 })
	_ = ap
}

// TestShipSpans: a sampled record has a span at each end, in its own trace; others have none.
func TestShipSpans(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tp := trace.NewTracerProvider(trace.WithSyncer(spans))
	defer tp.Shutdown(context.Background())
	m := newMesh(t, nil, "eu", "us")
	m.tracer = tp.Tracer("test")
	m.start().caughtUp(t)
	eu := m.nodes["eu"]
	const id = "0af7651916cd43dd8448eb211c80319c"
	for i, flags := range []string{"00", "01", "00"} {
		eu.log.must(eu.own()[0], wire.EncodeRecord(&im.Record{
			ID: im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: im.NewUUID(time.Now())}, Kind: im.KindMessage, Version: 1,
			Place: im.Place{Stamp: 1, Origin: "eu"}, Trace: fmt.Sprintf("00-%s-b7ad6b716920333%d-%s", id, i, flags),
		}))
	}
	m.caughtUp(t)
	eventually(t, "two spans", func() bool { return len(spans.GetSpans()) >= 2 })
	var regions []string
	for _, s := range spans.GetSpans() {
		if s.Name != "ship" || s.SpanContext.TraceID().String() != id || s.Parent.SpanID().String() != "b7ad6b7169203331" {
			t.Errorf("span %s of trace %s under %s", s.Name, s.SpanContext.TraceID(), s.Parent.SpanID())
		}
		for _, a := range s.Attributes {
			if a.Key == "antipode.region" {
				regions = append(regions, a.Value.AsString())
			}
		}
	}
	slices.Sort(regions)
	if !slices.Equal(regions, []string{"eu", "us"}) {
		t.Errorf("spans in %v", regions)
	}
}

// TestBehindAfterARestart: what a peer lacks counts from where it takes the log, also of a partition that it is refused. Until it
// has asked, nobody knows.
func TestBehindAfterARestart(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	for i := range 400 {
		eu.log.must(eu.own()[i%4], message("eu", fmt.Sprint(i)))
	}
	m.caughtUp(t)
	m.proxy("us", "eu").Cut()
	eu.kill(im.ErrKilled)
	us.loses(func(p im.Partition) bool { return p.Origin() == "eu" })
	passed := eu.own()[1]
	lacks := -eu.log.end(eu.own()[0]) - eu.log.end(passed)
	write(eu, eu.own()[0], 30)
	write(eu, passed, 20)
	lacks += eu.log.end(eu.own()[0]) + eu.log.end(passed)
	eu.log.retain(passed, eu.log.end(passed)-5)
	eu.start()
	eventually(t, "the log was looked at", func() bool { return m.linkOut(t, "eu", "us").Unknown == len(eu.own()) })
	if out := m.linkOut(t, "eu", "us"); out.Behind != 0 {
		t.Errorf("us is %d records behind, says a replicator that has not heard of it", out.Behind)
	}
	m.proxy("us", "eu").Heal()
	eventually(t, "us has asked, and is refused what retention passed", func() bool {
		out := m.linkOut(t, "eu", "us")
		return out.Unknown == 0 && len(out.Refused) == 1
	})
	if out := m.linkOut(t, "eu", "us"); out.Behind != lacks {
		t.Errorf("us is %d records behind; it lacks %d", out.Behind, lacks)
	}
}
