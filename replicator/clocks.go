package replicator

import (
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// clockSamples is how many of the last statuses a clock is judged by: the one that came back fastest counts, since its
// answer was under way for the least unknown time.
const clockSamples = 16

// clocks estimates the clocks of peers, as NTP does: a status goes out, its answer names the peer's clock, and half the
// round trip is how old that is. The error is at most half of the shortest round trip among the samples.
type clocks struct {
	mu    sync.Mutex
	peers map[im.Region][]clockSample
}

type clockSample struct {
	trip   time.Duration
	offset time.Duration // peer's clock minus own
}

// observe takes an answer that names the peer's clock (Unix ms) to a status sent at asked.
func (c *clocks) observe(peer im.Region, ms int64, asked, now time.Time) {
	trip := now.Sub(asked)
	s := clockSample{trip, time.UnixMilli(ms).Add(trip / 2).Sub(now)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers == nil {
		c.peers = map[im.Region][]clockSample{}
	}
	samples := append(c.peers[peer], s)
	if len(samples) > clockSamples {
		samples = append(samples[:0], samples[1:]...)
	}
	c.peers[peer] = samples
}

// offset is the best estimate of a peer's clock.
func (c *clocks) offset(peer im.Region) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	samples := c.peers[peer]
	if len(samples) == 0 {
		return 0, false
	}
	best := samples[0]
	for _, s := range samples {
		if s.trip < best.trip {
			best = s
		}
	}
	return best.offset, true
}

// trip is the shortest round trip to a peer of late; 0 if none was measured.
func (c *clocks) trip(peer im.Region) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	least := time.Duration(0)
	for _, s := range c.peers[peer] {
		if least == 0 || s.trip < least {
			least = s.trip
		}
	}
	return least
}

// ClockOffsets tells how far the clocks of peers are ahead of the own, to half a round trip; peers that never answered a
// status are missing.
func (r *Replicator) ClockOffsets() map[im.Region]time.Duration {
	all := map[im.Region]time.Duration{}
	for _, p := range r.all() {
		if d, ok := r.clocks.offset(p.Region); ok {
			all[p.Region] = d
		}
	}
	return all
}
