package client

import (
	"sync/atomic"
	"time"
)

// NetworkChanged tells that the device is in another network. What was learned of the old one is forgotten: the silences that it
// bore, the round trips that were measured, which gateways failed, whether it ended WebSockets; and the list of gateways, which an
// ipconf ranked by them, is asked for anew before the next connection. The socket is tried at once; a wait for the
// next one is cut short, unless a server said how long it is to be.
func (c *Client) NetworkChanged() {
	c.heart.mu.Lock()
	c.heart.pulse.moved()
	c.heart.mu.Unlock()
	c.endpoints.moved()
	c.streams.moved()
	select {
	case c.moved <- struct{}{}:
	default: // the connect loop is about to see one
	}
	c.beat()
}

// SetNetwork tells what kind of network the device is in (wifi, cell, 3g…): a hint to ipconf, as Config.Network is to begin with, by
// which it chooses the policy. Another kind is another network.
func (c *Client) SetNetwork(kind string) {
	if c.endpoints.setNetwork(kind) {
		c.NetworkChanged()
	}
}

// moved forgets what was found out about gateways in another network. What an ipconf said about coming back stands.
func (e *endpoints) moved() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fetched, e.etag, e.etagFrom = time.Time{}, "", ""
	clear(e.rtt)
	clear(e.tried)
	e.moves++
}

// setNetwork tells whether the kind is another one.
func (e *endpoints) setNetwork(kind string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.network == kind {
		return false
	}
	e.network = kind
	return true
}

// moved lets WebTransport be tried again.
func (s *streams) moved() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
}

// moved notes another network, which may bear WebSockets.
func (t *carrier) moved(now time.Time) {
	t.cuts, t.trials, t.due = 0, 0, now
	if !t.up {
		t.polling, t.trial, t.other, t.lost = false, false, false, now
	}
}

// rest waits before the next connection, less if the network changes meanwhile, unless a server said how long.
func (c *Client) rest(wait time.Duration, told bool) {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case <-c.moved:
			c.carrier.moved(time.Now())
			if !told {
				return
			}
		case <-c.ctx.Done():
			return
		}
	}
}

// pages are how much a page of records or rows is asked to hold, where the policy wishes for small frames. A request counts
// records, so it goes by what they took lately.
type pages struct {
	average atomic.Int64 // bytes of a record or row; 0: not known yet
}

// pageGuess is about what a record or row takes, before one was seen.
const pageGuess = 250

// limit is how many to ask for, most at the most; frame is the policy's max_frame_bytes.
func (p *pages) limit(most int, frame int64) int {
	if frame <= 0 {
		return most
	}
	average := p.average.Load()
	if average == 0 {
		average = pageGuess
	}
	return max(1, min(most, int(frame/average)))
}

// came notes what a page took.
func (p *pages) came(count, bytes int) {
	if count == 0 {
		return
	}
	now := int64(max(bytes/count, 1))
	if old := p.average.Load(); old > 0 {
		now = (3*old + now) / 4
	}
	p.average.Store(max(now, 1))
}
