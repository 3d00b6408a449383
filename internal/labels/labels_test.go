package labels

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

func TestSets(t *testing.T) {
	var s Sets
	for range 2 { // made, then remembered
		for _, test := range []struct {
			got  metric.MeasurementOption
			want []attribute.KeyValue
		}{
			{s.One("lane", "direct"), []attribute.KeyValue{attribute.String("lane", "direct")}},
			{s.One("lane", ""), []attribute.KeyValue{attribute.String("lane", "")}},
			{s.Two(Pair{"peer", "us"}, Pair{"code", "ok"}), []attribute.KeyValue{attribute.String("code", "ok"), attribute.String("peer", "us")}},
			{s.Two(Pair{"peer", "us"}, Pair{"code", "gone"}), []attribute.KeyValue{attribute.String("code", "gone"), attribute.String("peer", "us")}},
		} {
			set, want := metric.NewAddConfig([]metric.AddOption{test.got}).Attributes(), attribute.NewSet(test.want...)
			if !set.Equals(&want) {
				t.Errorf("got %v, want %v", set.Encoded(attribute.DefaultEncoder()), want.Encoded(attribute.DefaultEncoder()))
			}
		}
	}
}

func TestSetsAreBounded(t *testing.T) {
	var s Sets
	for i := range MaxSets + 10 {
		s.One("n", fmt.Sprint(i%(MaxSets+5)))
	}
	if n := len(*s.known.Load()); n != MaxSets {
		t.Errorf("%d sets are remembered, want %d", n, MaxSets)
	}
}

func BenchmarkSets(b *testing.B) {
	var s Sets
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Two(Pair{"method", "submit"}, Pair{"code", "ok"})
		}
	})
	b.Run("made", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			metric.WithAttributes(attribute.String("method", "submit"), attribute.String("code", "ok"))
		}
	})
}
