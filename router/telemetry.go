package router

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/labels"
	"github.com/antipode-im/antipode/router/routes"
)

// instruments are the router's metrics and spans. Labels are regions, origins, codes and reasons: all bounded.
type instruments struct {
	labels      labels.Sets
	meter       metric.Meter
	tracer      trace.Tracer
	claims      metric.Int64Counter
	claimsSpare metric.Int64Counter
	pushes      metric.Int64Counter
	pushesLost  metric.Int64Counter
	notifies    metric.Int64Counter
	notifyDrops metric.Int64Counter
	notifiedIn  metric.Int64Counter
	kicks       metric.Int64Counter
	downs       metric.Int64Counter
	skipped     metric.Int64Counter
	jumps       metric.Int64Counter
	storeErrors metric.Int64Counter
	fenced      metric.Int64Counter
	live        metric.Int64ObservableGauge
	gateways    metric.Int64ObservableGauge
	waiting     metric.Int64ObservableGauge
	cut         metric.Int64ObservableGauge
	damped      metric.Int64ObservableGauge
	flaps       metric.Int64ObservableCounter
	behind      metric.Int64ObservableGauge
	watermark   metric.Float64ObservableGauge
	partitions  metric.Int64ObservableGauge
	owned       metric.Int64ObservableGauge

	mu  sync.Mutex
	lag map[im.Partition]int64 // records still to come when the partition was last read
}

func newInstruments(m metric.Meter, t trace.Tracer) (*instruments, error) {
	if m == nil {
		m = noopmetric.Meter{}
	}
	if t == nil {
		t = nooptrace.Tracer{}
	}
	i := &instruments{meter: m, tracer: t, lag: make(map[im.Partition]int64)}
	var errs []error
	counter := func(c *metric.Int64Counter, name, unit, what string) {
		var err error
		*c, err = m.Int64Counter("antipode_router_"+name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
	}
	gauge := func(g *metric.Int64ObservableGauge, name, unit, what string) {
		var err error
		*g, err = m.Int64ObservableGauge("antipode_router_"+name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
	}
	counter(&i.claims, "claims", "{claim}", "Claims and releases answered, by code (ok for none).")
	counter(&i.claimsSpare, "claims_spared", "{claim}", "Claims and releases answered without a record, by reason: the view had it (known), or another of the device stood for it (merged).")
	counter(&i.pushes, "pushes", "{push}", "Sockets that a push was queued for.")
	counter(&i.pushesLost, "pushes_lost", "{push}", "Sockets whose gateway is not attached or did not take the push.")
	counter(&i.notifies, "notifies", "{delivery}", "Deliveries handed to the replicator, by peer.")
	counter(&i.notifyDrops, "notifies_dropped", "{delivery}", "Deliveries for a peer that were dropped, by peer.")
	counter(&i.notifiedIn, "notifies_received", "{delivery}", "Deliveries that came over a link, by peer.")
	counter(&i.kicks, "kicks", "{kick}", "Conns closed because their device logged in again, by code.")
	counter(&i.downs, "gateway_down", "{record}", "gateway_down records appended.")
	counter(&i.skipped, "records_skipped", "{record}", "Records of route logs that were not the next one, by origin.")
	counter(&i.jumps, "jumps", "{jump}", "Times that an origin's routes were dropped to jump over a lost part of its log.")
	counter(&i.fenced, "fenced", "{batch}", "Batches that Redis refused because the stored position had moved: another owner was faster, or Redis lost its memory.")
	counter(&i.storeErrors, "store_errors", "{error}", "Times that writing Redis stopped and began anew.")
	gauge(&i.live, "routes", "{route}", "Routes held in memory, by their region.")
	gauge(&i.waiting, "claims_waiting", "{claim}", "Claims that wait for the route log or the view.")
	gauge(&i.cut, "regions_cut", "{partition}", "Partitions of a region's routes that do not count: the region is not heard, or not completely.")
	gauge(&i.damped, "regions_damped", "{region}", "1 for a region that came and went too often to count.")
	gauge(&i.gateways, "gateways", "{gateway}", "Gateways attached.")
	gauge(&i.behind, "lag", "{record}", "Records of route logs not yet read, by origin.")
	gauge(&i.partitions, "partitions", "{partition}", "Partition numbers that there are.")
	gauge(&i.owned, "partitions_owned", "{partition}", "Partition numbers that this router owns.")
	var err error
	i.flaps, err = m.Int64ObservableCounter("antipode_router_region_flaps", metric.WithUnit("{flap}"),
		metric.WithDescription("Times that a region was cut off from this router's view."))
	errs = append(errs, err)
	i.watermark, err = m.Float64ObservableGauge("antipode_router_silence", metric.WithUnit("s"),
		metric.WithDescription("Time since the last record heard of an origin, of its quietest partition."))
	errs = append(errs, err)
	return i, errors.Join(errs...)
}

// observe registers what is read off the router when somebody asks. Counters begin at 0, or their first step would be no
// increase to Prometheus.
func (i *instruments) observe(r *Router) (unobserve func(), err error) {
	for _, c := range []metric.Int64Counter{i.pushes, i.downs, i.storeErrors, i.fenced} {
		c.Add(context.Background(), 0)
	}
	i.claims.Add(context.Background(), 0, metric.WithAttributes(attribute.String("code", "ok")))
	i.spared("known", 0)
	i.spared("merged", 0)
	i.lost("unattached", 0)
	i.lost("refused", 0)
	for _, code := range []im.Code{im.CodeReplaced, im.CodeLoginTie, im.CodeDeviceLimit} {
		i.kicks.Add(context.Background(), 0, metric.WithAttributes(attribute.String("code", string(code))))
	}
	for _, o := range r.table.Origins() {
		i.begin(o, r.cfg.Region)
	}
	reg, err := i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for region, n := range r.table.Count() {
			o.ObserveInt64(i.live, int64(n), metric.WithAttributes(attribute.String("of_region", string(region)))) // "region" is the router's own
		}
		o.ObserveInt64(i.partitions, int64(r.cfg.Partitions))
		o.ObserveInt64(i.owned, int64(len(*r.owned.Load())))
		depth := 0
		for _, a := range r.appenders {
			a.mu.Lock()
			depth += a.depth()
			a.mu.Unlock()
		}
		o.ObserveInt64(i.waiting, int64(depth))
		for _, reach := range r.table.Reaches(im.StampAt(time.Now())) {
			label := metric.WithAttributes(attribute.String("of_region", string(reach.Region)))
			o.ObserveInt64(i.cut, int64(reach.Cut), label)
			o.ObserveInt64(i.flaps, int64(reach.Flaps), label)
			damped := int64(0)
			if reach.Suppressed {
				damped = 1
			}
			o.ObserveInt64(i.damped, damped, label)
		}
		r.hub.mu.Lock()
		attached := len(r.hub.attached)
		r.hub.mu.Unlock()
		o.ObserveInt64(i.gateways, int64(attached))
		behind := make(map[im.Origin]int64)
		i.mu.Lock()
		for p, n := range i.lag {
			behind[p.Origin()] += n
		}
		i.mu.Unlock()
		for _, origin := range r.table.Origins() {
			label := metric.WithAttributes(attribute.String("origin", string(origin)))
			o.ObserveInt64(i.behind, behind[origin], label)
			if w := r.table.Watermark(origin); w > 0 {
				o.ObserveFloat64(i.watermark, max(time.Since(w.Time()).Seconds(), 0), label)
			}
		}
		return nil
	}, i.live, i.gateways, i.waiting, i.cut, i.damped, i.flaps, i.behind, i.watermark, i.partitions, i.owned)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil // it fails only for a registration of another provider
}

// begin shows an origin's counters as 0.
func (i *instruments) begin(o im.Origin, own im.Region) {
	i.skipped.Add(context.Background(), 0, i.origin(o))
	i.jumps.Add(context.Background(), 0, i.origin(o))
	if o.Region() != own {
		i.notify(o.Region(), 0)
		i.notifyDropped(o.Region(), 0)
		i.notified(o.Region(), 0)
	}
}

func (i *instruments) applied(b *im.Batch, res *routes.Result) {
	if len(b.Entries) > 0 {
		i.mu.Lock()
		i.lag[b.Partition] = max(b.End-b.Entries[len(b.Entries)-1].Offset-1, 0)
		i.mu.Unlock()
	}
	if n := res.Skipped + res.Ahead; n > 0 {
		i.skipped.Add(context.Background(), int64(n), i.origin(b.Partition.Origin()))
	}
}

func (i *instruments) origin(o im.Origin) metric.MeasurementOption {
	return i.labels.One("origin", string(o))
}

func (i *instruments) peer(r im.Region) metric.MeasurementOption {
	return i.labels.One("peer", string(r))
}

func (i *instruments) claim(err error, n int) {
	if n == 0 {
		return
	}
	code := "ok"
	if err != nil {
		code = string(im.CodeOf(err))
	}
	i.claims.Add(context.Background(), int64(n), i.labels.One("code", code))
}

func (i *instruments) spared(reason string, n int) {
	i.claimsSpare.Add(context.Background(), int64(n), i.labels.One("reason", reason))
}

func (i *instruments) pushed(n int) { i.pushes.Add(context.Background(), int64(n)) }

func (i *instruments) lost(reason string, n int) {
	i.pushesLost.Add(context.Background(), int64(n), i.labels.One("reason", reason))
}

func (i *instruments) notify(to im.Region, n int) {
	i.notifies.Add(context.Background(), int64(n), i.peer(to))
}

func (i *instruments) notifyDropped(to im.Region, n int) {
	i.notifyDrops.Add(context.Background(), int64(n), i.peer(to))
}

func (i *instruments) notified(from im.Region, n int) {
	i.notifiedIn.Add(context.Background(), int64(n), i.peer(from))
}

func (i *instruments) kick(c im.Code) {
	i.kicks.Add(context.Background(), 1, i.labels.One("code", string(c)))
}

func (i *instruments) down()            { i.downs.Add(context.Background(), 1) }
func (i *instruments) jump(o im.Origin) { i.jumps.Add(context.Background(), 1, i.origin(o)) }
func (i *instruments) refused()         { i.fenced.Add(context.Background(), 1) }
func (i *instruments) storeError()      { i.storeErrors.Add(context.Background(), 1) }

// sampled tells whether a W3C traceparent asks for spans: the lowest bit of its flags.
func sampled(traceparent string) bool {
	if len(traceparent) < 55 {
		return false
	}
	c := traceparent[54]
	return c >= '0' && c <= '9' && (c-'0')&1 == 1 || c >= 'a' && c <= 'f' && (c-'a')&1 == 1
}

// span begins a span below a traceparent and returns the traceparent to hand on.
func (i *instruments) span(traceparent, name string, attributes ...attribute.KeyValue) (trace.Span, string) {
	carrier := propagation.MapCarrier{"traceparent": traceparent}
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
	ctx, span := i.tracer.Start(ctx, name, trace.WithAttributes(attributes...))
	propagation.TraceContext{}.Inject(ctx, carrier)
	return span, carrier["traceparent"]
}
