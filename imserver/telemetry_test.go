package imserver

import (
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// An origin that was far behind, and in which nobody writes since, is behind no more when its heartbeats come in time.
func TestLagEndsWithHeartbeats(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	m, err := newMeter(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("imserver"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) im.Stamp { return im.StampAt(now.Add(-d)) }
	p := im.Partition{Topic: "msg.us.direct"}
	record := view.Record{Record: im.Record{Place: im.Place{Stamp: ago(time.Minute), Origin: "us"}}}
	position := view.Position{Position: im.Position{Partition: p, Next: 2}, Watermark: ago(50 * time.Second)}
	for i, step := range []struct {
		part view.Part
		want float64
	}{
		{view.Part{Partition: p, To: position, Records: []view.Record{record}}, 60},
		{view.Part{Partition: p, From: 1, To: position}, 50},
		{view.Part{Partition: p, From: 1, To: view.Position{Position: position.Position, Watermark: ago(40 * time.Millisecond)}}, 0.04},
	} {
		m.committed(t.Context(), []view.Part{step.part}, 0, now)
		var got metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		lag := -1.0
		for _, scope := range got.ScopeMetrics {
			for _, one := range scope.Metrics {
				if gauge, ok := one.Data.(metricdata.Gauge[float64]); ok && one.Name == "antipode_imserver_lag" {
					lag = gauge.DataPoints[0].Value
				}
			}
		}
		if lag < step.want-.001 || lag > step.want+.001 {
			t.Errorf("step %d: the lag is %v s, want %v", i+1, lag, step.want)
		}
	}
}
