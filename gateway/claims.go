package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
)

const (
	claimBatch    = 256
	claimAttempts = 4
)

// claimQueue holds the claims that nobody waits for: sessions that lost their socket, and releases. One that is lost
// costs little: routers drop what is not claimed anew. So it is bounded and gives up after a few attempts.
type claimQueue struct {
	max  int
	wake chan struct{}

	mu     sync.Mutex
	claims []queuedClaim
	busy   bool
	idle   chan struct{} // closed while nothing is queued or under way
}

// queuedClaim is one claim. done, unless it is nil, is called with whether it was taken, or is given up.
type queuedClaim struct {
	im.Claim
	done func(taken bool)
}

func newClaimQueue(max int) *claimQueue {
	q := &claimQueue{max: max, wake: make(chan struct{}, 1), idle: make(chan struct{})}
	close(q.idle)
	return q
}

// put queues a claim; false if it had to be left out.
func (q *claimQueue) put(c im.Claim) bool { return q.putFor(c, nil) }

// putFor queues a claim whose end somebody wants to hear of.
func (q *claimQueue) putFor(c im.Claim, done func(taken bool)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.claims) >= q.max {
		return false
	}
	if len(q.claims) == 0 && !q.busy {
		q.idle = make(chan struct{})
	}
	q.claims = append(q.claims, queuedClaim{c, done})
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

func (q *claimQueue) take() []queuedClaim {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.claims), claimBatch)
	batch := q.claims[:n:n]
	q.claims = q.claims[n:]
	if n == 0 && q.busy {
		close(q.idle)
	}
	q.busy = n > 0
	return batch
}

// settled is closed once everything that was queued is done with.
func (q *claimQueue) settled() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.idle
}

// run sends what is queued until ctx ends.
func (q *claimQueue) run(ctx context.Context, timeout time.Duration, claim func(context.Context, []im.Claim) []error, lost func(int, error)) {
	for {
		batch := q.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			continue
		}
		if n, err := send(ctx, timeout, batch, claim); n > 0 {
			lost(n, err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// send tries a batch a few times; it returns how many claims were not taken in the end, and why.
func send(ctx context.Context, timeout time.Duration, batch []queuedClaim, claim func(context.Context, []im.Claim) []error) (int, error) {
	defer func() {
		for i := range batch {
			batch[i].end(false)
		}
	}()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 50 * time.Millisecond
	wait.MaxInterval = time.Second
	var last error
	for range claimAttempts {
		once, cancel := context.WithTimeout(ctx, timeout)
		claims := make([]im.Claim, len(batch))
		for i := range batch {
			claims[i] = batch[i].Claim
		}
		errs := claim(once, claims)
		cancel()
		var again []queuedClaim
		for i, err := range errs {
			switch im.CodeOf(err) {
			case "", im.CodeReplaced, im.CodeLoginTie: // taken, or somebody else has the device
				batch[i].end(true)
			default:
				again, last = append(again, batch[i]), err
			}
		}
		if batch = again; len(batch) == 0 {
			return 0, nil
		}
		select {
		case <-ctx.Done():
			return len(batch), last
		case <-time.After(wait.NextBackOff()):
		}
	}
	return len(batch), last
}

func (c *queuedClaim) end(taken bool) {
	if c.done != nil {
		c.done(taken)
	}
}
