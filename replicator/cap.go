package replicator

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Cap bounds what the links to one peer may carry at a time of day.
type Cap struct {
	Peer           im.Region
	From, To       time.Duration // since midnight, UTC; From above To goes over midnight; equal: all day
	BytesPerSecond int
}

// holds tells whether the cap is in force.
func (c *Cap) holds(now time.Time) bool {
	now = now.UTC()
	day := now.Sub(time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC))
	switch {
	case c.From == c.To:
		return true
	case c.From < c.To:
		return day >= c.From && day < c.To
	}
	return day >= c.From || day < c.To
}

// capBurst is how much of a second's worth may go at once.
const capBurst = time.Second / 10

// throttle holds the links to one peer to its caps. What goes is paid for afterwards, so that a message larger than the
// burst passes too; the next one waits until it is paid. Notifies go ahead of all else: they are paid for like it, and wait
// for nothing but notifies.
type throttle struct {
	caps []Cap
	now  func() time.Time

	mu       sync.Mutex
	paid     time.Time // what was sent is paid for up to then
	notifies time.Time // the same of notifies alone
}

// rate is the lowest cap in force, 0 if there is none, and when that is to be asked again.
func (t *throttle) rate(now time.Time) (bytes int) {
	for i := range t.caps {
		if c := &t.caps[i]; c.holds(now) && (bytes == 0 || c.BytesPerSecond < bytes) {
			bytes = c.BytesPerSecond
		}
	}
	return bytes
}

// spend counts bytes that are sent, and says how far the link is in debt.
func (t *throttle) spend(bytes int) (debt time.Duration) { return t.pay(bytes, &t.paid) }

// notify counts bytes of notifies, and says how far these are in debt.
func (t *throttle) notify(bytes int) (debt time.Duration) {
	t.spend(bytes)
	return t.pay(bytes, &t.notifies)
}

func (t *throttle) pay(bytes int, paid *time.Time) (debt time.Duration) {
	if len(t.caps) == 0 {
		return 0
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	rate := t.rate(now)
	if rate == 0 {
		*paid = now
		return 0
	}
	if start := now.Add(-capBurst); paid.Before(start) {
		*paid = start
	}
	*paid = paid.Add(time.Duration(float64(bytes) / float64(rate) * float64(time.Second)))
	return paid.Sub(now)
}

// capRecheck is how often a link in debt looks whether the time of its cap is over.
const capRecheck = time.Second

// wait returns when the link is out of debt, or its cap no longer holds.
func (t *throttle) wait(ctx context.Context) error {
	for {
		debt := t.spend(0)
		if debt <= 0 {
			return nil
		}
		if !pause(ctx, min(debt, capRecheck)) {
			return context.Cause(ctx)
		}
	}
}

// paced returns send with a wait before each batch until the link is out of debt.
func (t *throttle) paced(ctx context.Context, send func(*wire.LinkBatch) error) func(*wire.LinkBatch) error {
	return func(b *wire.LinkBatch) error {
		if err := t.wait(ctx); err != nil {
			return err
		}
		t.spend(len(b.Entries))
		return send(b)
	}
}

// capped tells whether a cap is in force.
func (t *throttle) capped() bool { return len(t.caps) > 0 && t.rate(t.now()) > 0 }
