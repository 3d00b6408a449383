// Package await waits for states that nothing announces: it looks again and again, within a deadline.
package await

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// State looks at a state every so often until it holds. When ctx ends first, the error says what was missing at the last
// look and wraps why ctx ended. A state that holds at the first look takes no time.
func State(ctx context.Context, every time.Duration, look func() (ok bool, missing string)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, missing := look()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("not in time: %s", missing), context.Cause(ctx))
		}
	}
}

// Within is State with a deadline of its own.
func Within(ctx context.Context, limit, every time.Duration, look func() (ok bool, missing string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%v have passed", limit))
	defer cancel()
	return State(ctx, every, look)
}

// Moment waits until a moment, or until ctx ends, which is its error.
func Moment(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
