package storm

import (
	"time"

	"github.com/antipode-im/antipode/ipconf/rank"
)

// die ends a client's socket with its region: it is reset, or its host says nothing any more and a heartbeat tells.
func (s *storm) die(i uint32) {
	c := &s.clients[i]
	c.last = int16(s.rng.IntN(s.dead))
	notice := time.Duration(s.rng.ExpFloat64() * float64(200*time.Millisecond)) // resets arrive
	if s.gateways[c.last].silent {
		notice = time.Duration(s.rng.Float64()*float64(heartbeat)) + pongWait
	}
	s.again(i, notice)
}

// again lets a client that lost its socket at a time ask, after the first back-off.
func (s *storm) again(i uint32, at time.Duration) {
	c := &s.clients[i]
	c.failures = 1
	at += s.backoff(1)
	if !s.returned && s.rng.Float64() < s.cfg.Silent { // the ipconf of its region, which it asks first, says nothing either
		at += hedgeAfter
	}
	s.at(at, i, ask)
}

// step lets a client do its next thing.
func (s *storm) step(i uint32) {
	c := &s.clients[i]
	switch c.next {
	case lose: // its network changed
		s.gateways[c.last].conns--
		s.result.lost(s.now)
		s.again(i, s.now)
	case ask:
		s.ask(i)
	case answer:
		s.answer(i, s.ipconfs[c.at])
	case login:
		s.login(i, int(c.at))
	}
}

// ask asks a random ipconf, and another one as well if that takes long.
func (s *storm) ask(i uint32) {
	n := s.rng.IntN(len(s.ipconfs))
	at := s.queue(n)
	if at-s.now > hedgeAfter {
		if m := s.rng.IntN(len(s.ipconfs)); m != n {
			if other := s.queue(m) + hedgeAfter; other < at {
				n, at = m, other
			}
		}
	}
	s.result.asked++
	if at-s.now > queueTime {
		s.result.unanswered++
		s.fail(i, queueTime)
		return
	}
	s.clients[i].at = int16(n)
	s.at(at+askTime/2, i, answer)
}

// queue puts an ask into an ipconf's queue, and tells when it is answered.
func (s *storm) queue(n int) time.Duration {
	p := s.ipconfs[n]
	if p.busy = max(p.busy, s.now); p.busy-s.now < queueTime {
		p.busy += time.Duration(float64(time.Second) / s.cfg.Asks)
	}
	return p.busy
}

// answer is what an ipconf does with an ask, and the client with its answer.
func (s *storm) answer(i uint32, p *ipconf) {
	c := &s.clients[i]
	for _, g := range c.bad[:c.failed] {
		s.report(p, int(g))
	}
	c.failed = 0
	who := rank.Nobody()
	who.Last = int(c.last)
	who.RTT[0] = 10
	for r := 1; r < len(s.regions); r++ {
		who.RTT[r] = uint16(40 + 40*r + s.rng.IntN(20))
	}
	s.places = p.table.Draw(s.places[:0], &who, s.rng.Uint64())
	if s.cfg.Strategy != Weighted {
		s.compare(p)
	} else if len(s.places) > 0 {
		if wait := s.admit(p); wait > 0 { // clients add up to half, so that nobody meets there
			s.result.told(s.now)
			s.at(s.now+askTime/2+time.Duration(float64(wait)*(1+s.rng.Float64()/2)), i, ask)
			return
		}
	}
	if len(s.places) == 0 {
		s.fail(i, 0)
		return
	}
	p.table.Take(s.places[0].Gateway)
	p.sent[s.places[0].Gateway].Add(s.time())
	s.race(i, s.now+askTime/2)
}

// race dials the places from a time on, as clients do: the next one when one fails, or after the stagger, some at once. The
// first that answers wins.
func (s *storm) race(i uint32, at time.Duration) {
	c := &s.clients[i]
	var waiting [raceWidth]struct {
		until time.Duration
		g     int16
	}
	running := 0
	last := at
	for _, place := range s.places {
		gw := &s.gateways[place.Gateway]
		if running == raceWidth { // the first of them fails before another is dialled
			at = max(at, waiting[0].until)
			c.complain(waiting[0].g)
			copy(waiting[:], waiting[1:])
			running--
		}
		switch {
		case !gw.down:
			c.at = int16(place.Gateway)
			s.at(at+dialTime, i, login)
			return
		case gw.silent:
			waiting[running].until, waiting[running].g = at+connectTimeout, int16(place.Gateway)
			running++
			last = max(last, at+connectTimeout)
			at += raceStagger
		default:
			c.complain(int16(place.Gateway))
			at += refuseTime
			last = max(last, at)
		}
	}
	for _, w := range waiting[:running] {
		c.complain(w.g)
	}
	s.fail(i, last-s.now)
}

// complain notes a gateway that could not be used, for the next ask.
func (c *client) complain(g int16) {
	if int(c.failed) < len(c.bad) {
		c.bad[c.failed] = g
		c.failed++
	}
}

// login lets a gateway take a client, or not.
func (s *storm) login(i uint32, g int) {
	c := &s.clients[i]
	gw := &s.gateways[g]
	s.result.arrived(s.now, g, int(c.last) != g)
	wait := max(0, gw.busy-s.now)
	full := wait > time.Duration(maxLogins/gw.logins*float64(time.Second))
	if full || wait > connectTimeout || gw.conns >= gw.capacity {
		s.result.refused++
		c.complain(int16(g))
		s.fail(i, tellTime)
		return
	}
	gw.busy = max(gw.busy, s.now) + time.Duration(float64(time.Second)/gw.logins)
	gw.conns++
	c.last, c.failures = int16(g), 0
	s.result.connected(s.now + wait)
	s.at(s.now+wait+time.Duration(s.rng.ExpFloat64()*float64(s.cfg.Churn)), i, lose)
}

// fail lets a client back off and ask again.
func (s *storm) fail(i uint32, after time.Duration) {
	c := &s.clients[i]
	c.failures = min(c.failures+1, 20)
	s.at(s.now+after+s.backoff(int(c.failures)), i, ask)
}
