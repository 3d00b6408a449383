package gateway

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/im"
)

// maxRates bounds the users whose HTTP calls are counted at once; past it, new ones are refused until a sweep.
const maxRates = 100_000

// rates holds the allowances of users over HTTP, where no conn has one.
type rates struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex
	users map[im.UID]*rate.Limiter
	swept time.Time
}

func newRates(limit float64, burst int) *rates {
	return &rates{limit: rate.Limit(limit), burst: burst, users: map[im.UID]*rate.Limiter{}}
}

// allow takes one call off a user's allowance.
func (r *rates) allow(u im.UID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.users[u]
	if l == nil {
		if len(r.users) >= maxRates {
			return false
		}
		l = rate.NewLimiter(r.limit, r.burst)
		r.users[u] = l
	}
	return l.AllowN(now, 1)
}

// sweep forgets users whose allowance is full again: a new one would be equal.
func (r *rates) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) < 10*time.Second {
		return
	}
	r.swept = now
	for u, l := range r.users {
		if l.TokensAt(now) >= float64(r.burst) {
			delete(r.users, u)
		}
	}
}
