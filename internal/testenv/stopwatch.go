package testenv

import (
	"slices"
	"sync"
	"time"
)

const (
	// stopwatchTick is how often a stopwatch sees that the machine runs.
	stopwatchTick = 20 * time.Millisecond
	// standstill is from how long a gap between two looks the machine did not run: one that is merely busy lets a process that slept look
	// again within a fraction of it.
	standstill = 250 * time.Millisecond
)

// Stopwatch measures how long something took on a machine that may stand still for seconds, as a virtual one does whose host is
// busy: nobody keeps a promise then, and the time does not count. That the machine is busy does.
type Stopwatch struct {
	now  func() time.Time
	end  chan struct{}
	done chan struct{}

	mu   sync.Mutex
	last time.Time // when it was seen to run
	gaps []span
}

type span struct{ from, to time.Time }

// NewStopwatch begins to look whether the machine runs. What is measured must begin later.
func NewStopwatch() *Stopwatch {
	w := &Stopwatch{now: time.Now, end: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(stopwatchTick)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.look()
			case <-w.end:
				return
			}
		}
	}()
	return w
}

// Close ends the looking.
func (w *Stopwatch) Close() {
	close(w.end)
	<-w.done
}

// look notes a gap since the last one.
func (w *Stopwatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if now.Sub(w.last) >= standstill {
		w.gaps = append(w.gaps, span{w.last, now})
	}
	w.last = now
}

// Between is how long the machine ran between two moments, neither of which is to come.
func (w *Stopwatch) Between(from, to time.Time) time.Duration {
	w.look() // what asks may run before the looks do, after a standstill
	w.mu.Lock()
	defer w.mu.Unlock()
	ran := to.Sub(from)
	for _, g := range slices.Backward(w.gaps) {
		if !g.to.After(from) {
			break
		}
		if g.from.Before(from) {
			g.from = from
		}
		if g.to.After(to) {
			g.to = to
		}
		ran -= max(0, g.to.Sub(g.from))
	}
	return ran
}

// Since is Between up to now.
func (w *Stopwatch) Since(from time.Time) time.Duration { return w.Between(from, time.Now()) }
