package app

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/im"
)

// clock compares an imserver's clock with those of other regions, as the replicator measured them. What it accepts is
// stamped by its clock: one that is off by more than half of what others tolerate is not to accept.
//
// Between two measurements it watches for steps: wall clock and monotonic clock run at one rate unless somebody sets the
// wall clock. A clock that was stepped by more than the bound is not believed until it is measured again, or until nobody
// is there who could tell.
type clock struct {
	ask   func(context.Context) (map[im.Region]time.Duration, error) // how far others are ahead
	bound time.Duration
	since func() time.Duration // monotonic, of any beginning
	wall  func() time.Time

	mu    sync.Mutex
	ahead time.Duration // of the others' median
	peers int           // of how many; 0: not known
	zero  time.Time     // what the wall clock said, by its last measurement, when since was 0
	wake  chan struct{} // to measure at once
}

func newClock(ask func(context.Context) (map[im.Region]time.Duration, error), bound time.Duration, wall func() time.Time) *clock {
	begun := time.Now()
	c := &clock{
		ask: ask, bound: bound, wall: wall, since: func() time.Duration { return time.Since(begun) }, wake: make(chan struct{}, 1),
	}
	c.zero = c.origin(wall())
	return c
}

// origin is what the wall clock would have said when since was 0, without steps.
func (c *clock) origin(now time.Time) time.Time { return now.Round(0).Add(-c.since()) }

const (
	clockInterval = 2 * time.Second
	clockTimeout  = time.Second
	// clockPeers is how many others can tell who is wrong.
	clockPeers = 2
)

// run asks until ctx ends. While nobody answers, the last that was known stands: clocks drift slowly.
func (c *clock) run(ctx context.Context) error {
	for {
		c.measure(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-time.After(clockInterval*9/10 + rand.N(clockInterval/5)):
		}
	}
}

func (c *clock) measure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	zero := c.origin(c.wall())
	others, err := c.ask(ctx)
	if err != nil {
		return
	}
	ahead, known := aheadOf(others)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.origin(c.wall()).Sub(zero).Abs() > c.bound {
		return // stepped while it was measured
	}
	c.ahead, c.peers, c.zero = ahead, 0, zero
	if known {
		c.peers = len(others)
	}
}

// aheadOf is how far the own clock is ahead of the median of others, which are told as how far they are ahead of it; false
// if they are too few to tell. Of the two in the middle of an even number the one nearer to the own clock counts, which is
// the median of all clocks, the own included: of two that contradict each other, the one that agrees is believed.
func aheadOf(others map[im.Region]time.Duration) (time.Duration, bool) {
	if len(others) < clockPeers {
		return 0, false
	}
	all := make([]time.Duration, 0, len(others)+1)
	for _, d := range others {
		all = append(all, d)
	}
	if len(all)%2 == 0 {
		all = append(all, 0) // the own
	}
	slices.SortFunc(all, cmp.Compare[time.Duration])
	return -all[len(all)/2], true
}

// ready tells whether the clock is good enough now.
func (c *clock) ready(context.Context) error { return c.trust(c.wall()) }

// trust tells why what the clock said is not to be believed. Not known is good enough: a region alone, or with one peer, has
// to accept.
func (c *clock) trust(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if step := c.origin(now).Sub(c.zero); step.Abs() > c.bound {
		select {
		case c.wake <- struct{}{}:
		default:
		}
		return fmt.Errorf("this machine's clock was set by %v and is compared with other regions' first", step.Round(time.Millisecond))
	}
	if c.peers == 0 || c.ahead.Abs() <= c.bound {
		return nil
	}
	side := "ahead of"
	if c.ahead < 0 {
		side = "behind"
	}
	return fmt.Errorf("this machine's clock is %v %s the median of %d regions' clocks, and may be %v: set it, and let NTP keep it",
		c.ahead.Abs().Round(time.Millisecond), side, c.peers, c.bound)
}

// observe tells the difference as a metric.
func (c *clock) observe(m metric.Meter) (func() error, error) {
	gauge, err := m.Float64ObservableGauge("antipode_imserver_clock_ahead", metric.WithUnit("s"),
		metric.WithDescription("How far this clock is ahead of the median of other regions' clocks; not told with fewer than two."))
	if err != nil {
		return nil, err
	}
	hook, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.peers > 0 {
			o.ObserveFloat64(gauge, c.ahead.Seconds())
		}
		return nil
	}, gauge)
	if err != nil {
		return nil, err
	}
	return hook.Unregister, nil
}
