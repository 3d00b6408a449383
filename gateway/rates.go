package gateway

import (
	"hash/maphash"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// rateShards is a power of two.
	rateShards = 32
	// maxRates bounds the keys that are counted at once. Past it, a new one takes the place of another: were it refused
	// instead, whoever comes with many keys would keep everybody else out.
	maxRates = 100_000
	// evictAmong is how many keys are looked at for the one that has spent the least, which loses least by being forgotten.
	evictAmong = 8
)

// rates holds an allowance for each key: users, or addresses.
type rates[K comparable] struct {
	limit  rate.Limit
	burst  int
	seed   maphash.Seed
	shards [rateShards]rateShard[K]
}

type rateShard[K comparable] struct {
	mu    sync.Mutex
	keys  map[K]*rate.Limiter
	swept time.Time
}

func newRates[K comparable](limit float64, burst int) *rates[K] {
	r := &rates[K]{limit: rate.Limit(limit), burst: burst, seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].keys = map[K]*rate.Limiter{}
	}
	return r
}

func (r *rates[K]) shard(key K) *rateShard[K] {
	return &r.shards[maphash.Comparable(r.seed, key)%rateShards]
}

// allow takes one off a key's allowance.
func (r *rates[K]) allow(key K, now time.Time) bool {
	s := r.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.keys[key]
	if l == nil {
		if len(s.keys) >= maxRates/rateShards {
			s.evict(now)
		}
		l = rate.NewLimiter(r.limit, r.burst)
		s.keys[key] = l
	}
	return l.AllowN(now, 1)
}

// giveBack returns one to a key's allowance, which is never more than full.
func (r *rates[K]) giveBack(key K, now time.Time) {
	s := r.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.keys[key]; l != nil {
		l.AllowN(now, -1)
	}
}

// evict forgets one of some keys, which the map picks by chance: the one that has spent the least.
func (s *rateShard[K]) evict(now time.Time) {
	var fullest K
	most, looked := math.Inf(-1), 0
	for key, l := range s.keys {
		if left := l.TokensAt(now); left > most {
			fullest, most = key, left
		}
		if looked++; looked == evictAmong {
			break
		}
	}
	delete(s.keys, fullest)
}

// spent tells whether nothing is left of a key's allowance.
func (r *rates[K]) spent(key K, now time.Time) bool {
	s := r.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.keys[key]
	return l != nil && l.TokensAt(now) < 1
}

// sweep forgets keys whose allowance is full again: a new one would be equal.
func (r *rates[K]) sweep(now time.Time) {
	for i := range r.shards {
		r.shards[i].sweep(now, float64(r.burst))
	}
}

func (s *rateShard[K]) sweep(now time.Time, full float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) < 10*time.Second {
		return
	}
	s.swept = now
	for key, l := range s.keys {
		if l.TokensAt(now) >= full {
			delete(s.keys, key)
		}
	}
}
