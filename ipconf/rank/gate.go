package rank

import (
	"sync"
	"time"
)

// Gate spreads newcomers over time: it lets in so many a second, and tells the others when to come back, each at a moment
// that is not promised to more than it can let in then. So those who were told to wait return in a stream, not as a crowd.
// Its zero value is ready.
type Gate struct {
	mu       sync.Mutex
	slot     int64   // the present one
	used     float64 // let in during it
	frontier int64   // slots before it are promised
	promised float64 // of the slot at the frontier
}

const (
	slot = 100 * time.Millisecond
	// maxWait bounds the wait that is told: what lies further ahead is not known.
	maxWait = time.Minute
	// resumes may use so much more than the rate: they have waited, and cost less.
	resumes = 1.25
)

// Ask asks for one newcomer, with a random luck in [0, 1). It returns 0 to let it in, or how long it is to wait.
func (g *Gate) Ask(now time.Time, perSecond float64, resume bool, luck float64) time.Duration {
	each := max(1, perSecond*slot.Seconds())
	limit := each
	if resume {
		limit *= resumes
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	at := now.UnixNano() / int64(slot)
	if at > g.slot {
		g.slot, g.used = at, 0
	}
	if g.used < limit {
		g.used++
		return 0
	}
	if g.frontier <= g.slot {
		g.frontier, g.promised = g.slot+1, 0
	}
	if g.promised >= each {
		g.frontier, g.promised = g.frontier+1, 0
	}
	end := g.slot + int64(maxWait/slot)
	if g.frontier >= end { // more wait than that: somewhere in its second half
		g.frontier = end
		return maxWait/2 + time.Duration(luck*float64(maxWait/2))
	}
	g.promised++
	return time.Duration(g.frontier*int64(slot)-now.UnixNano()) + time.Duration(luck*float64(slot))
}

// Shortage is the part of newcomers to turn away for want of room: none while more than reserve of the capacity is free,
// all when nothing is.
func Shortage(free, reserve float64) float64 {
	if reserve <= 0 || free >= reserve {
		return 0
	}
	return 1 - max(0, free)/reserve
}

// ShortageWait is how long those are told to wait: room comes back by people leaving or gateways joining, not in seconds.
func ShortageWait(luck float64) time.Duration {
	return 10*time.Second + time.Duration(luck*float64(20*time.Second))
}
