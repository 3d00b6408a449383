package rank

import (
	"sync/atomic"
	"time"
)

// Sent counts the newcomers that were sent to one gateway, in buckets of a second. It may be used from many goroutines.
type Sent struct {
	buckets [sentSeconds]atomic.Uint64 // second << 32 | count
	settled atomic.Int64               // those sent before this second are in the gateway's conns
}

const (
	// sentSeconds is how long one is remembered: who did not show up within it went elsewhere.
	sentSeconds = 8
	// arrival is how long a newcomer takes to arrive, generously: those sent this shortly before a load was measured are
	// not in it.
	arrival = time.Second
)

// Add notes that a newcomer was sent.
func (s *Sent) Add(now time.Time) {
	second := uint64(now.Unix()) & 0xffffffff
	b := &s.buckets[second%sentSeconds]
	for {
		old := b.Load()
		next := second<<32 | 1
		if old>>32 == second {
			next = old + 1
		}
		if b.CompareAndSwap(old, next) {
			return
		}
	}
}

// Settle notes that the gateway's conns were counted.
func (s *Sent) Settle(measured time.Time) {
	at := measured.Add(-arrival).Unix()
	for {
		old := s.settled.Load()
		if at <= old || s.settled.CompareAndSwap(old, at) {
			return
		}
	}
}

// Count returns how many were sent lately, and how many of them are not among the gateway's conns yet.
func (s *Sent) Count(now time.Time) (recent, inFlight float64) {
	settled := s.settled.Load()
	for i := range s.buckets {
		b := s.buckets[i].Load()
		second, n := int64(b>>32), float64(uint32(b))
		if now.Unix()-second >= sentSeconds {
			continue
		}
		recent += n
		if second >= settled {
			inFlight += n
		}
	}
	return recent, inFlight
}
