package ipconf

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// ofRegion labels what a metric is about. The label "region" says which region's ipconf tells: every metric has it.
const ofRegion = "of_region"

type metrics struct {
	meter    metric.Meter
	answers  metric.Int64Counter
	waits    metric.Int64Counter
	same     metric.Int64Counter
	signs    metric.Int64Counter
	limits   metric.Int64Counter
	regions  [rank.MaxRegions][]metric.AddOption // of each region, made once: an answer must not allocate
	none     []metric.AddOption
	held     metric.Int64Counter
	gateways metric.Int64ObservableGauge
	age      metric.Float64ObservableGauge
}

func newMetrics(m metric.Meter, regions []im.Region) (metrics, error) {
	answers, err1 := m.Int64Counter("antipode_ipconf_answers", metric.WithUnit("{answer}"),
		metric.WithDescription("Lists handed out, by the region of the first gateway; none: there was none to hand out."))
	held, err2 := m.Int64Counter("antipode_ipconf_held_back", metric.WithUnit("{update}"),
		metric.WithDescription("Readings of discovery that would have dropped more than half of a region's gateways."))
	gateways, err3 := m.Int64ObservableGauge("antipode_ipconf_gateways", metric.WithUnit("{gateway}"),
		metric.WithDescription("Gateways known, by region and whether they are handed out."))
	age, err4 := m.Float64ObservableGauge("antipode_ipconf_catalogue_age", metric.WithUnit("s"),
		metric.WithDescription("Time since discovery last said anything of a region."))
	waits, err5 := m.Int64Counter("antipode_ipconf_told_to_wait", metric.WithUnit("{answer}"),
		metric.WithDescription("Clients that were told to come back later, since many came at once or room is scarce."))
	same, err6 := m.Int64Counter("antipode_ipconf_unchanged", metric.WithUnit("{answer}"),
		metric.WithDescription("Clients that were told that their list is still good (304)."))
	signs, err7 := m.Int64Counter("antipode_ipconf_catalogues_signed", metric.WithUnit("{catalogue}"),
		metric.WithDescription("Catalogues signed: one per change of gateways or ipconfs."))
	limits, err8 := m.Int64Counter("antipode_ipconf_refused", metric.WithUnit("{request}"),
		metric.WithDescription("Requests refused because their address sent too many."))
	for _, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
		if err != nil {
			return metrics{}, err
		}
	}
	all := metrics{meter: m, answers: answers, waits: waits, same: same, signs: signs, limits: limits, held: held, gateways: gateways, age: age}
	all.name(0, regions)
	all.none = ofRegionOption("none")
	return all, nil
}

func ofRegionOption(region string) []metric.AddOption {
	return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String(ofRegion, region)))}
}

// name says which regions have the places from first on. Nobody asks for these places before.
func (m *metrics) name(first int, regions []im.Region) {
	for i, r := range regions {
		m.regions[first+i] = ofRegionOption(string(r))
	}
}

// begin shows the counters of regions as 0, the first of which has that place.
func (m *metrics) begin(first int, regions []im.Region) {
	for i, r := range regions {
		m.answers.Add(context.Background(), 0, m.regions[first+i]...)
		m.held.Add(context.Background(), 0, metric.WithAttributes(attribute.String(ofRegion, string(r))))
	}
}

// answered counts a list, by the index of its first gateway's region; -1: there was none to hand out.
func (m *metrics) answered(ctx context.Context, first int) {
	if first < 0 {
		m.answers.Add(ctx, 1, m.none...)
		return
	}
	m.answers.Add(ctx, 1, m.regions[first]...)
}

func (m *metrics) delayed(ctx context.Context)   { m.waits.Add(ctx, 1) }
func (m *metrics) unchanged(ctx context.Context) { m.same.Add(ctx, 1) }
func (m *metrics) limit(ctx context.Context)     { m.limits.Add(ctx, 1) }
func (m *metrics) signed()                       { m.signs.Add(context.Background(), 1) }

func (m *metrics) heldBack(r im.Region) {
	m.held.Add(context.Background(), 1, metric.WithAttributes(attribute.String(ofRegion, string(r))))
}

// observe registers the gauges until stop. Counters begin at 0, or their first step would be no increase to Prometheus.
func (m *metrics) observe(s *IPConf) (stop func(), err error) {
	m.answers.Add(context.Background(), 0, m.none...)
	for _, c := range []metric.Int64Counter{m.waits, m.same, m.signs, m.limits} {
		c.Add(context.Background(), 0)
	}
	m.begin(0, s.regions())
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now := time.Now()
		type key struct {
			region im.Region
			state  string
		}
		counts := map[key]int64{}
		for _, name := range s.regions() {
			counts[key{name, "usable"}] = 0
			if age, _, known := s.fleet.age(name, now); known {
				o.ObserveFloat64(m.age, age.Seconds(), metric.WithAttributes(attribute.String(ofRegion, string(name))))
			}
		}
		v := s.current.Load()
		for i := range v.table.Len() {
			g := v.table.Gateway(i)
			state := "usable"
			switch {
			case g.Dead:
				state = "unhealthy"
			case g.Draining:
				state = "draining"
			}
			counts[key{v.regions[g.Region].Name, state}]++
		}
		for k, n := range counts {
			o.ObserveInt64(m.gateways, n, metric.WithAttributes(
				attribute.String(ofRegion, string(k.region)), attribute.String("state", k.state)))
		}
		return nil
	}, m.gateways, m.age)
	if err != nil {
		return nil, err
	}
	return func() { _ = r.Unregister() }, nil
}
