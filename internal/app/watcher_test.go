package app

import (
	"testing"
	"time"
)

// A link whose receiver was killed falls behind from then on, however little is sent.
func TestUnreceivedLinkFallsBehind(t *testing.T) {
	w := newWatcher(nil)
	name, at := linkName{"eu", "us"}, time.Unix(1000, 0)
	for i, want := range []float64{0, 1, 2} {
		l := w.unreceived(name, int64(i), at.Add(time.Duration(i)*time.Second))
		if l.LagSeconds != want || l.LagRecords != int64(i) {
			t.Errorf("after %d s the link lags %v s and %d records", i, l.LagSeconds, l.LagRecords)
		}
	}
}
