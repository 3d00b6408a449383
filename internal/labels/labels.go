// Package labels makes each set of a metric's labels once. OpenTelemetry sorts and hashes a set whenever it is given as
// attributes, which costs several times what counting does.
package labels

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// MaxSets bounds what a Sets remembers: labels are from closed lists, so only a mistake comes to it.
const MaxSets = 512

// Pair is one label.
type Pair struct{ Key, Value string }

// Sets remembers the sets that were asked for. The zero Sets is ready, and safe for concurrent use.
type Sets struct {
	known atomic.Pointer[map[[2]Pair]metric.MeasurementOption]
	mu    sync.Mutex // held by who adds one
}

// One is the set of one label.
func (s *Sets) One(key, value string) metric.MeasurementOption {
	return s.of([2]Pair{{key, value}})
}

// Two is the set of two labels.
func (s *Sets) Two(a, b Pair) metric.MeasurementOption { return s.of([2]Pair{a, b}) }

func (s *Sets) of(pairs [2]Pair) metric.MeasurementOption {
	if known := s.known.Load(); known != nil {
		if set, ok := (*known)[pairs]; ok {
			return set
		}
	}
	list := make([]attribute.KeyValue, 0, len(pairs))
	for _, p := range pairs {
		if p.Key != "" {
			list = append(list, attribute.String(p.Key, p.Value))
		}
	}
	set := metric.WithAttributeSet(attribute.NewSet(list...))
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[[2]Pair]metric.MeasurementOption{}
	if old := s.known.Load(); old != nil {
		known = maps.Clone(*old)
	}
	if len(known) < MaxSets {
		known[pairs] = set
		s.known.Store(&known)
	}
	return set
}
