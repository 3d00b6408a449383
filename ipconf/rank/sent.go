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

const (
	// believed is how many reports about a silent gateway are needed, beside a fifth of those sent there.
	believed     = 3
	believedPart = 0.2
	// Ban is how long a silent gateway that clients complain of is left out before it is tried again.
	Ban = 30 * time.Second
	// MaxErrors bounds what clients' reports can do to a gateway that answers: they may be forged.
	MaxErrors = 0.5
	// fewSent is counted beside those sent, so that one report about a quiet gateway says little.
	fewSent = 20
)

// Believed tells whether clients are believed that they could not use a gateway that is silent, of so many reports while so
// many were sent there.
func Believed(failed, sent float64) bool { return failed >= believed && failed >= believedPart*sent }

// Errors is the error rate that reports make of a gateway that answers.
func Errors(failed, sent float64) float64 { return min(MaxErrors, failed/(failed+sent+fewSent)) }

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
