package testenv

import (
	"testing"
	"time"
)

// What a machine stood still is taken off from what something took, and nothing else is.
func TestStopwatch(t *testing.T) {
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	now := began
	w := &Stopwatch{now: func() time.Time { return now }, last: began}
	for _, ms := range []int{20, 40, 3040, 3060, 3260, 3280, 5280} { // it stood from 40 to 3040, and from 3280 on
		now = at(ms)
		w.look()
	}
	now = at(6280) // and nobody has looked since
	for _, c := range []struct{ from, to, ran int }{
		{0, 40, 40},
		{0, 1040, 40},
		{0, 3040, 40},
		{0, 3280, 280},
		{1000, 2000, 0},
		{1000, 3140, 100},
		{3040, 3280, 240}, // busy it was, and ran
		{0, 5280, 280},
		{20, 6280, 260},
		{5300, 6000, 0},
	} {
		if ran := w.Between(at(c.from), at(c.to)); ran != time.Duration(c.ran)*time.Millisecond {
			t.Errorf("between %d and %d it ran for %v, want %d ms", c.from, c.to, ran, c.ran)
		}
	}
}
