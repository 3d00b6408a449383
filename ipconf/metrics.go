package ipconf

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
)

// ofRegion labels what a metric is about. The label "region" says which region's ipconf tells: every metric has it.
const ofRegion = "of_region"

type metrics struct {
	meter    metric.Meter
	answers  metric.Int64Counter
	held     metric.Int64Counter
	gateways metric.Int64ObservableGauge
	age      metric.Float64ObservableGauge
}

func newMetrics(m metric.Meter) (metrics, error) {
	answers, err1 := m.Int64Counter("antipode_ipconf_answers", metric.WithUnit("{answer}"),
		metric.WithDescription("Lists handed out, by the region of the first gateway; none: there was none to hand out."))
	held, err2 := m.Int64Counter("antipode_ipconf_held_back", metric.WithUnit("{update}"),
		metric.WithDescription("Readings of discovery that would have dropped more than half of a region's gateways."))
	gateways, err3 := m.Int64ObservableGauge("antipode_ipconf_gateways", metric.WithUnit("{gateway}"),
		metric.WithDescription("Gateways known, by region and whether they are handed out."))
	age, err4 := m.Float64ObservableGauge("antipode_ipconf_catalogue_age", metric.WithUnit("s"),
		metric.WithDescription("Time since discovery last said anything of a region."))
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return metrics{}, err
		}
	}
	return metrics{m, answers, held, gateways, age}, nil
}

func (m *metrics) answered(ctx context.Context, first im.Region) {
	m.answers.Add(ctx, 1, metric.WithAttributes(attribute.String(ofRegion, string(first))))
}

func (m *metrics) heldBack(r im.Region) {
	m.held.Add(context.Background(), 1, metric.WithAttributes(attribute.String(ofRegion, string(r))))
}

// observe registers the gauges until stop. Counters begin at 0, or their first step would be no increase to Prometheus.
func (m *metrics) observe(s *IPConf) (stop func(), err error) {
	m.answers.Add(context.Background(), 0, metric.WithAttributes(attribute.String(ofRegion, "none")))
	for _, name := range s.cfg.Regions {
		of := metric.WithAttributes(attribute.String(ofRegion, string(name)))
		m.answers.Add(context.Background(), 0, of)
		m.held.Add(context.Background(), 0, of)
	}
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now := time.Now()
		type key struct {
			region im.Region
			state  string
		}
		counts := map[key]int64{}
		for _, name := range s.cfg.Regions {
			counts[key{name, "usable"}] = 0
			if age, _, known := s.fleet.age(name, now); known {
				o.ObserveFloat64(m.age, age.Seconds(), metric.WithAttributes(attribute.String(ofRegion, string(name))))
			}
		}
		gateways, _ := s.fleet.candidates(now)
		for _, g := range gateways {
			state := "usable"
			switch {
			case g.Dead:
				state = "unhealthy"
			case g.Draining:
				state = "draining"
			}
			counts[key{g.Region, state}]++
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
