package replicator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/labels"
	"github.com/antipode-im/antipode/wire"
)

// metrics are the instruments of a replicator. Labels are peers, lanes and directions: bounded by the regions.
type metrics struct {
	labels                  labels.Sets
	records, bytes, wire    metric.Int64Counter
	skipped, gaps, failures metric.Int64Counter
	opens, seek, dropped    metric.Int64Counter
	canaries                metric.Float64Histogram
	registration            metric.Registration
}

func newMetrics(m metric.Meter, peers []Peer, status func() Status) (*metrics, error) {
	if m == nil {
		m = noop.NewMeterProvider().Meter("replicator")
	}
	var errs []error
	counter := func(name, unit, text string) metric.Int64Counter {
		c, err := m.Int64Counter("antipode_replicator_"+name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, unit, text string) metric.Float64ObservableGauge {
		g, err := m.Float64ObservableGauge("antipode_replicator_"+name, metric.WithUnit(unit), metric.WithDescription(text))
		errs = append(errs, err)
		return g
	}
	s := &metrics{
		records:  counter("shipped", "{record}", "records sent to a peer (out) or appended to the copy of its log (in)"),
		bytes:    counter("shipped_size", "By", "entries sent to a peer (out) or received from it (in), before compression"),
		wire:     counter("wire_size", "By", "the same as they crossed the link"),
		skipped:  counter("skipped", "{record}", "records of a copy that were there already or are of a lower link generation"),
		gaps:     counter("gaps", "{gap}", "records of a copy that came before their predecessor; the link is asked again"),
		failures: counter("append_failures", "{append}", "appends to a copy that failed or whose outcome is unknown"),
		opens:    counter("link_opens", "{link}", "links opened to a peer's log"),
		seek:     counter("seeks", "{seek}", "times a peer asked again for a partition"),
		dropped:  counter("notifies_dropped", "{delivery}", "notifies lost to a closed or congested link (out) or a slow router (in)"),
	}
	var histErr error
	s.canaries, histErr = m.Float64Histogram("antipode_replicator_canary", metric.WithUnit("s"),
		metric.WithDescription("from when a heartbeat was written, by the origin's clock as measured, to when it was read from the copy"),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	errs = append(errs, histErr)
	open := gauge("link_open", "1", "1 while the link to a peer is open, in the direction its records go")
	standsIn := gauge("link_stands_in", "1", "1 while a peer's log is taken from the copy of a region that stands in for its own way; via names that region, also one that is configured")
	refused := gauge("partitions_refused", "{partition}", "partitions of a peer's log that are not shipped: another log, truncated, or past retention; at names the region to which they are not, which may be one in between")
	lagRecords := gauge("lag", "{record}", "records of a peer's log that its copy here lacks")
	lagBytes := gauge("lag_size", "By", "the same in bytes, approximately")
	lagSeconds := gauge("lag_age", "s", "age of the newest moment of a peer's log up to which its copy here is complete")
	behind := gauge("behind", "{record}", "records of the own log that a peer does not hold; absent until it asked for the log since this replicator started")
	clock := gauge("clock_offset", "s", "how far a peer's clock is ahead of the own")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("replicator: metrics: %w", err)
	}
	var err error
	s.registration, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		st := status()
		for i := range st.In {
			in := &st.In[i]
			peer := attribute.String("peer", string(in.Peer))
			o.ObserveFloat64(open, oneIf(in.Open), metric.WithAttributes(peer, attribute.String("direction", "in")))
			o.ObserveFloat64(standsIn, oneIf(in.StandsIn), metric.WithAttributes(peer, attribute.String("via", string(in.Via))))
			for _, at := range []im.Region{st.Region, in.Via} {
				if at != "" {
					o.ObserveFloat64(refused, float64(in.refusedAt(at)), metric.WithAttributes(peer, attribute.String("at", string(at))))
				}
			}
			o.ObserveFloat64(clock, in.Clock.Seconds(), metric.WithAttributes(peer))
			for _, lag := range in.Lag {
				at := metric.WithAttributes(peer, attribute.String("lane", lag.Lane))
				o.ObserveFloat64(lagRecords, float64(lag.Records), at)
				o.ObserveFloat64(lagBytes, float64(lag.Bytes), at)
				o.ObserveFloat64(lagSeconds, lag.Seconds, at)
			}
		}
		for i := range st.Out {
			out := &st.Out[i]
			peer := attribute.String("peer", string(out.Peer))
			o.ObserveFloat64(open, oneIf(out.Open), metric.WithAttributes(peer, attribute.String("direction", "out")))
			if out.Unknown == 0 || out.Behind > 0 { // 0 would say that the peer has it all
				o.ObserveFloat64(behind, float64(out.Behind), metric.WithAttributes(peer))
			}
		}
		return nil
	}, open, standsIn, refused, lagRecords, lagBytes, lagSeconds, behind, clock)
	if err != nil {
		return nil, fmt.Errorf("replicator: metrics: %w", err)
	}
	for _, p := range peers {
		s.begin(p.Region)
	}
	return s, nil
}

// begin shows a peer's counters as 0: one that appears with its first step has not increased, to Prometheus.
func (m *metrics) begin(peer im.Region) {
	for _, c := range []metric.Int64Counter{m.skipped, m.gaps, m.failures, m.opens, m.seek} {
		m.add(c, 0, peer, "")
	}
	for _, c := range []metric.Int64Counter{m.records, m.bytes, m.wire, m.dropped} {
		m.add(c, 0, peer, "in")
		m.add(c, 0, peer, "out")
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) close() { _ = m.registration.Unregister() } // fails only if it was never registered

func (m *metrics) add(c metric.Int64Counter, n int, peer im.Region, direction string) {
	of := m.labels.One("peer", string(peer))
	if direction != "" {
		of = m.labels.Two(labels.Pair{Key: "peer", Value: string(peer)}, labels.Pair{Key: "direction", Value: direction})
	}
	c.Add(context.Background(), int64(n), of)
}

func (m *metrics) sent(peer im.Region, records, bytes, wire int) {
	m.add(m.records, records, peer, "out")
	m.add(m.bytes, bytes, peer, "out")
	m.add(m.wire, wire, peer, "out")
}

func (m *metrics) canary(peer im.Region, lane string, d time.Duration) {
	m.canaries.Record(context.Background(), d.Seconds(),
		metric.WithAttributes(attribute.String("peer", string(peer)), attribute.String("lane", lane)))
}

func (m *metrics) appended(peer im.Region, records int) { m.add(m.records, records, peer, "in") }
func (m *metrics) received(peer im.Region, bytes, wire int) {
	m.add(m.bytes, bytes, peer, "in")
	m.add(m.wire, wire, peer, "in")
}

func (m *metrics) skips(peer im.Region, n int)             { m.add(m.skipped, n, peer, "") }
func (m *metrics) gap(peer im.Region)                      { m.add(m.gaps, 1, peer, "") }
func (m *metrics) appendFailed(peer im.Region)             { m.add(m.failures, 1, peer, "") }
func (m *metrics) linkOpened(peer im.Region)               { m.add(m.opens, 1, peer, "") }
func (m *metrics) seeks(peer im.Region)                    { m.add(m.seek, 1, peer, "") }
func (m *metrics) notifyDropped(peer im.Region, n int)     { m.add(m.dropped, n, peer, "out") }
func (m *metrics) notifyUndelivered(peer im.Region, n int) { m.add(m.dropped, n, peer, "in") }

// startShip begins a span "ship" for a record whose trace is sampled, and adds it to spans.
func (r *Replicator) startShip(spans []trace.Span, e *im.Entry, peer im.Region, out bool) []trace.Span {
	h := wire.DecodeShipHead(e)
	if !wire.Sampled(h.Trace) {
		return spans
	}
	return append(spans, r.shipSpan(h.Trace, e.Partition, h.OriginOffset, peer, out))
}

// shipSpan begins a span "ship".
func (r *Replicator) shipSpan(parent string, p im.Partition, offset int64, peer im.Region, out bool) trace.Span {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
	kind, from, to := trace.SpanKindProducer, r.cfg.Region, peer
	if !out {
		kind, from, to = trace.SpanKindConsumer, peer, r.cfg.Region
	}
	_, span := r.tracer.Start(ctx, "ship", trace.WithSpanKind(kind), trace.WithAttributes(
		attribute.String("antipode.region", string(r.cfg.Region)),
		attribute.String("antipode.from", string(from)), attribute.String("antipode.to", string(to)),
		attribute.String("antipode.partition", p.String()), attribute.Int64("antipode.offset", offset)))
	return span
}

func endAll(spans []trace.Span, err error) {
	for _, s := range spans {
		if err != nil {
			s.RecordError(err)
		}
		s.End()
	}
}

// lane names what a partition carries, for lags.
func lane(p im.Partition) string {
	family, _, err := im.ParseTopic(p.Topic)
	if err != nil {
		return ""
	}
	if family != im.FamilyMsg {
		return string(family)
	}
	for _, l := range im.Lanes {
		if p.Topic == im.MsgTopic(p.Origin(), l) {
			return string(l)
		}
	}
	return ""
}

// Status is a snapshot of all links.
func (r *Replicator) Status() Status {
	s := Status{Region: r.cfg.Region}
	_, ends := r.ends.snapshot()
	for _, p := range r.all() {
		s.In = append(s.In, p.in.status())
		c := p.counts
		out := LinkOut{
			Peer: p.Region, Open: r.newestSending(p.Region, r.cfg.Origin) != nil,
			Records: c.records.Load(), Bytes: c.bytes.Load(), Dropped: c.dropped.Load(),
		}
		if !out.Open {
			if l := r.relayTo(p.Region); l != nil {
				out.Open, out.Via = true, l.peer
			}
		}
		r.mu.Lock()
		out.Since = c.since
		if links := r.sendings[endpoint{peer: p.Region, origin: r.cfg.Origin}]; len(links) > 0 {
			parts := links[len(links)-1].parts
			for i := range parts { // the link writes next meanwhile: only what is fixed once it is open is read
				if part := &parts[i]; part.refused != "" {
					out.Refused = append(out.Refused, Refusal{Partition: part.p, Reason: part.refused, At: p.Region})
				}
			}
		}
		r.mu.Unlock()
		holds := r.held.of(p.Region)
		for part, b := range ends {
			if next, ok := holds[part]; ok {
				out.Behind += max(0, b.End-next)
			} else {
				out.Unknown++
			}
		}
		s.Out = append(s.Out, out)
	}
	return s
}
