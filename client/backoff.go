package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// backoff is the wait after n failures in a row (n ≥ 1), as the policy says: min(cap, base·2ⁿ⁻¹), of which the policy's
// part is random. r is uniform in [0, 1).
func backoff(p wire.Policy, n int, r float64) time.Duration {
	d := p.BackoffCapMs
	if n < 32 {
		d = min(d, p.BackoffBaseMs<<(max(n, 1)-1))
	}
	if d <= 0 { // the shift overflowed
		d = p.BackoffCapMs
	}
	return time.Duration(float64(ms(d)) * (1 - p.BackoffJitter*r))
}

// delay is how long to wait after err, the n-th failure in a row: what the server asked for, or the policy's back-off. A
// code that says retry is retried at once the first time.
func delay(p wire.Policy, n int, err error) time.Duration {
	d := backoff(p, n, rand.Float64())
	if actionOf(err) == im.ActionRetry && n <= 1 {
		d = time.Duration(rand.Int64N(int64(ms(p.BackoffBaseMs)))) / 4
	}
	if e, ok := asError(err); ok && e.RetryAfter > 0 {
		// Everybody who was refused together comes back spread over half as long again.
		d = max(d, e.RetryAfter+time.Duration(rand.Int64N(int64(e.RetryAfter)/2+1)))
	}
	return d
}

// sleep waits; it returns ctx's cause if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spread is a random part of d.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
