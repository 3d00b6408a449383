package client

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// pulse decides after how long a silent socket is pinged. In the foreground that is fixed: as the gateway asks, so that a dead
// socket is noticed soon. In the background every ping wakes a radio, so the client looks for the longest silence that the
// NATs and firewalls on its path bear: they forget a quiet connection, and tell nobody.
//
//	             a ping answered after so long a silence         lost after it
//	foreground ──▶ probing up ──────────────────────────────────▶ holding
//	  (fixed)        step ×2, then +half of what is between         below what failed; again up after an hour
//
// It has no clock: callers pass the time. It outlives connections, for it is the network that it knows.
type pulse struct {
	fixed    time.Duration // in the foreground
	min, max time.Duration // bounds, by policy and gateway
	good     time.Duration // the longest silence that was borne
	bad      time.Duration // the shortest that was not; 0: none failed
	failures int           // in a row, at one length: one may be chance
	settled  time.Time     // when it last found good and bad close together
}

const (
	// pulseClose is how near good and bad come before the client is content.
	pulseClose = 15 * time.Second
	// pulseMargin is the part of good that is used: NATs count from another moment.
	pulseMargin = 0.9
	// pulseRetry is how long it is content before it looks again whether more is borne: networks change.
	pulseRetry = time.Hour
	// pulseStep is the first longer silence that is tried, as a multiple.
	pulseStep = 2
	// pulseJitter is the part of every silence that is random, so that the pings of many do not form a tide.
	pulseJitter = 0.1
	// pulseTries is how many losses at one length it takes to believe that the silence was the reason.
	pulseTries = 2
)

// bounds sets what policy and gateway allow. An interval outside is never used.
func (p *pulse) bounds(fixed, low, high time.Duration) {
	p.min, p.max = low, max(low, high)
	p.fixed = min(max(fixed, p.min), p.max)
	p.good = min(max(p.good, p.fixed), p.max)
	if p.bad > 0 && p.bad <= p.fixed { // what the gateway asks for is known not to be borne: stay below
		p.good = max(p.min, p.bad/2)
	}
}

// next is how long to be silent before the next ping, in the background or not; r is uniform in [0, 1). Only less than what
// was decided is random: a bound is a bound.
func (p *pulse) next(background bool, now time.Time, r float64) time.Duration {
	d := p.fixed
	if p.bad > 0 && p.bad <= d {
		d = p.held()
	}
	if background {
		d = p.probe(now)
	}
	d = min(max(d, p.min), p.max)
	return max(time.Duration(float64(d)*(1-pulseJitter*r)), 1)
}

// held is the silence to stay at, below what failed.
func (p *pulse) held() time.Duration {
	return max(p.min, time.Duration(pulseMargin*float64(p.good)))
}

// probe is the silence to try in the background.
func (p *pulse) probe(now time.Time) time.Duration {
	switch {
	case p.good >= p.max:
		return p.max
	case p.bad == 0:
		return min(p.max, p.good*pulseStep)
	case p.bad-p.good > pulseClose:
		return p.good + (p.bad-p.good)/2
	case p.settled.IsZero():
		p.settled = now
	case now.Sub(p.settled) >= pulseRetry: // look again: up from here
		p.bad, p.failures, p.settled = 0, 0, time.Time{}
		return min(p.max, p.good+pulseClose)
	}
	return p.held()
}

// alive notes that a ping after a silence was answered. quiet is how long nothing at all went either way before it.
func (p *pulse) alive(quiet time.Duration) {
	p.failures = 0
	p.good = min(p.max, max(p.good, quiet))
	if p.bad > 0 && p.good >= p.bad {
		p.bad = 0
	}
}

// lost notes that a socket was found dead by a ping that was not answered after such a silence. Sockets that end otherwise
// say nothing about silences.
func (p *pulse) lost(quiet time.Duration) {
	if quiet <= p.min { // so short a silence is not the reason
		return
	}
	if p.failures++; p.failures < pulseTries {
		return
	}
	p.failures = 0
	if p.bad == 0 || quiet < p.bad {
		p.bad = quiet
	}
	p.settled = time.Time{}
	if p.good >= p.bad { // it was borne before: the network is another one now
		p.good = max(p.min, p.bad/2)
	}
}

// moved forgets what was learned: the device is in another network.
func (p *pulse) moved() {
	p.good, p.bad, p.failures, p.settled = p.fixed, 0, 0, time.Time{}
}

// heart is the pulse of a client, shared by its connections one after another.
type heart struct {
	mu         sync.Mutex
	pulse      pulse
	background bool
}

// pongWait is how long an answer to a ping may take, and never longer than the silence before it.
const pongWait = 10 * time.Second

// idleMargin is the part of a gateway's idle timeout that a client may be silent.
const idleMargin = 0.8

// welcome takes the bounds of a policy and of a gateway's welcome.
func (h *heart) welcome(w *wire.Welcome, p wire.Policy) {
	fixed, low, high := ms(int64(w.HeartbeatMs)), ms(p.HeartbeatMinMs), ms(p.HeartbeatMaxMs)
	idle := time.Duration(idleMargin * float64(ms(int64(w.IdleMs))))
	if w.IdleMs == 0 { // of an older gateway: it does not say, but lets one ping be lost
		idle = min(max(fixed, low), high)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pulse.bounds(fixed, low, max(low, min(high, idle)))
}

// next is how long to be silent before a ping.
func (h *heart) next() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pulse.next(h.background, time.Now(), rand.Float64())
}

// longest is the most that next returns now.
func (h *heart) longest() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pulse.next(h.background, time.Now(), 0)
}

// outcome notes what became of a ping after a silence.
func (h *heart) outcome(quiet time.Duration, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if answered {
		h.pulse.alive(quiet)
	} else {
		h.pulse.lost(quiet)
	}
}

// SetBackground tells that the program is not looked at, or is again. In the background the client pings as seldom as the
// network bears, within the bounds of its policy: it takes longer to notice a dead socket, and costs less battery.
func (c *Client) SetBackground(background bool) {
	c.heart.mu.Lock()
	c.heart.background = background
	c.heart.mu.Unlock()
	c.beat()
}

// beat makes the current connection ping now.
func (c *Client) beat() {
	c.mu.Lock()
	cur := c.cur
	c.mu.Unlock()
	if cur != nil {
		select {
		case cur.beats <- struct{}{}:
		default:
		}
	}
}
