package imserver

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/internal/labels"
)

// meter holds the instruments. Labels are few and bounded: codes, lanes, origins.
type meter struct {
	labels     labels.Sets
	calls      metric.Int64Counter
	appends    metric.Float64Histogram
	applied    metric.Int64Counter
	commits    metric.Float64Histogram
	lag        metric.Float64Gauge
	gaps       metric.Int64Counter
	halted     metric.Int64UpDownCounter
	fenced     metric.Int64Counter
	deliveries metric.Int64Counter
	pushes     metric.Int64Counter
	lost       metric.Int64Counter
	snapshots  metric.Int64Counter
	silence    metric.Float64ObservableGauge
	partitions metric.Int64ObservableGauge
	owned      metric.Int64ObservableGauge
}

// Where a batch of an owner that is none any more is given up.
const (
	fencedCommit = "commit"
	fencedNumber = "number"
)

// fence counts a batch that was given up, if it was for that another owner was faster.
func (m *meter) fence(ctx context.Context, at string, err error) {
	if errors.Is(err, view.ErrFenced) {
		m.fenced.Add(ctx, 1, m.labels.One("at", at))
	}
}

func newMeter(m metric.Meter) (*meter, error) {
	var errs []error
	counter := func(name, unit, what string) metric.Int64Counter {
		c, err := m.Int64Counter("antipode_imserver_"+name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
		return c
	}
	seconds := func(name, what string, bounds ...float64) metric.Float64Histogram {
		h, err := m.Float64Histogram("antipode_imserver_"+name, metric.WithUnit("s"), metric.WithDescription(what), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, err)
		return h
	}
	t := &meter{
		calls:   counter("calls", "{call}", "Calls answered, by method and code; code ok for success."),
		appends: seconds("append", "Time for a submit to reach the log.", .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5),
		applied: counter("applied", "{record}", "Records applied, by origin."),
		commits: seconds("commit", "Time to commit a batch to the timelines.", .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5),
		gaps:    counter("gaps", "{gap}", "Times a partition stopped because a copy skipped records of its origin, by origin."),
		fenced:  counter("fenced", "{batch}", "Batches that were given up because another owner was faster, by at: commit (the timelines refused it) or number (positions showed it before)."),

		deliveries: counter("deliveries", "{delivery}", "Deliveries that routers took."),
		pushes:     counter("pushes", "{push}", "Pushes that routers made of them."),
		lost:       counter("deliveries_lost", "{delivery}", "Deliveries that routers did not take in time; clients pull them."),
		snapshots:  counter("snapshot", "By", "Sent of snapshots of the timelines, to regions that are seeded."),
	}
	var err error
	t.lag, err = m.Float64Gauge("antipode_imserver_lag", metric.WithUnit("s"), metric.WithDescription("Age of the oldest record, or else the latest heartbeat, in the batch last applied, by origin."))
	errs = append(errs, err)
	t.halted, err = m.Int64UpDownCounter("antipode_imserver_halted_partitions", metric.WithUnit("{partition}"),
		metric.WithDescription("Partitions that are not applied until somebody acts, by origin."))
	errs = append(errs, err)
	t.silence, err = m.Float64ObservableGauge("antipode_imserver_silence", metric.WithUnit("s"),
		metric.WithDescription("Time since an origin's clock at its last heartbeat applied, in the quietest partition owned, by origin."))
	errs = append(errs, err)
	t.partitions, err = m.Int64ObservableGauge("antipode_imserver_partitions", metric.WithUnit("{partition}"), metric.WithDescription("Partition numbers that there are."))
	errs = append(errs, err)
	t.owned, err = m.Int64ObservableGauge("antipode_imserver_partitions_owned", metric.WithUnit("{partition}"), metric.WithDescription("Partition numbers that this imserver applies."))
	return t, errors.Join(append(errs, err)...)
}

// observe registers what is read off the server when somebody asks, until stop. Counters begin at 0, or their first step
// would be no increase to Prometheus.
func (m *meter) observe(s *Server) (stop func(), err error) {
	ctx := context.Background()
	for _, c := range []metric.Int64Counter{m.deliveries, m.pushes, m.lost, m.snapshots} {
		c.Add(ctx, 0)
	}
	for _, at := range []string{fencedCommit, fencedNumber} {
		m.fenced.Add(ctx, 0, m.labels.One("at", at))
	}
	origins, _ := s.follow.now()
	for _, o := range origins {
		m.begin(o)
	}
	reg, err := s.deps.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(m.partitions, int64(s.cfg.Partitions))
		o.ObserveInt64(m.owned, int64(len(s.shards.numbers())))
		now := s.deps.Now()
		for _, origin := range s.follow.expected() {
			if heard := s.heard(origin); heard > 0 {
				o.ObserveFloat64(m.silence, max(now.Sub(heard.Time()).Seconds(), 0), m.labels.One("origin", string(origin)))
			}
		}
		return nil
	}, m.silence, m.partitions, m.owned)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil // it fails only for a registration of another provider
}

// begin shows an origin's counters as 0.
func (m *meter) begin(o im.Origin) {
	ctx, origin := context.Background(), m.labels.One("origin", string(o))
	m.applied.Add(ctx, 0, origin)
	m.gaps.Add(ctx, 0, origin)
	m.halted.Add(ctx, 0, origin)
}

// heard is an origin's clock at its last heartbeat applied, the lowest of the partitions owned; 0 if one heard nothing.
func (s *Server) heard(o im.Origin) im.Stamp {
	var low im.Stamp
	first := true
	for _, n := range s.shards.numbers() {
		sh := s.shards.get(n)
		if sh == nil { // given up meanwhile
			continue
		}
		for _, topic := range s.topics(o) {
			if w := sh.Watermark(topic); first || w < low {
				low, first = w, false
			}
		}
	}
	return low
}

func (m *meter) called(ctx context.Context, method string, err error) {
	code := "ok"
	if err != nil {
		code = string(im.CodeOf(err))
	}
	m.calls.Add(ctx, 1, m.labels.Two(labels.Pair{Key: "method", Value: method}, labels.Pair{Key: "code", Value: code}))
}

func (m *meter) appended(ctx context.Context, took time.Duration, lane im.Lane) {
	m.appends.Record(ctx, took.Seconds(), m.labels.One("lane", string(lane)))
}

func (m *meter) committed(ctx context.Context, parts []view.Part, took time.Duration, now time.Time) {
	m.commits.Record(ctx, took.Seconds())
	rows, oldest, beat := map[im.Origin]int{}, map[im.Origin]im.Stamp{}, map[im.Origin]im.Stamp{}
	for i := range parts {
		o := parts[i].Partition.Origin()
		rows[o] += len(parts[i].Records) + len(parts[i].Cursors)
		if len(parts[i].Records)+len(parts[i].Cursors) == 0 { // what moved it is a heartbeat
			beat[o] = max(beat[o], parts[i].To.Watermark)
		}
		for j := range parts[i].Records {
			if s := parts[i].Records[j].Place.Stamp; oldest[o] == 0 || s < oldest[o] {
				oldest[o] = s
			}
		}
	}
	for o, n := range rows {
		origin := m.labels.One("origin", string(o))
		m.applied.Add(ctx, int64(n), origin)
		if oldest[o] == 0 { // an origin in which nobody writes is no longer behind when its heartbeats are not
			oldest[o] = beat[o]
		}
		if oldest[o] > 0 {
			m.lag.Record(ctx, max(0, now.Sub(oldest[o].Time()).Seconds()), origin)
		}
	}
}

func (m *meter) gap(ctx context.Context, o im.Origin) {
	m.gaps.Add(ctx, 1, m.labels.One("origin", string(o)))
}

func (m *meter) halt(ctx context.Context, o im.Origin, by int64) {
	m.halted.Add(ctx, by, m.labels.One("origin", string(o)))
}

func (m *meter) delivered(ctx context.Context, deliveries, pushes int) {
	m.deliveries.Add(ctx, int64(deliveries))
	m.pushes.Add(ctx, int64(pushes))
}

func (m *meter) gaveUp(ctx context.Context, deliveries int) { m.lost.Add(ctx, int64(deliveries)) }

// attributes are what this service's spans say beside their name.
func (s *Server) attributes(conversation string) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("antipode.region", string(s.cfg.Region)),
		attribute.String("antipode.conversation", conversation),
	}
}

// sampled returns the span context in a traceparent if it is sampled; most are not, and are told by one byte.
func sampled(traceparent string) (trace.SpanContext, bool) {
	if len(traceparent) != 55 || traceparent[54]&1 == 0 {
		return trace.SpanContext{}, false
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
	sc := trace.SpanContextFromContext(ctx)
	return sc, sc.IsSampled()
}

// traceparent is the text of a sampled span's context, empty for others.
func traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}
