package gateway

import (
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// A client that lost its gateway, or that its gateway sends away, may resume at any other gateway of the region:
//
//	client        taker (take.go)                      holder
//	  │ ── hello ──▶ │ ── the session, its secret ───────▶ │  compares the secret first; gives the session up
//	  │              │ ◀────────────────────── the session │  from here on what comes for it follows, in order
//	  │              │ claims the route, with a higher login number
//	  │ ◀─ welcome ─ │ ── settled ───────────────────────▶ │  routers push to the taker from here on
//	  │              │ ◀────────────── what comes late ─── │  for a moment more
//
// The holder keeps the session's conns until then, as a session that has ended and is gone. Where the stream between the two
// breaks, the taker tells those clients that they are behind.

// Outlet is where a gateway that is asked for a session answers, and passes on what comes for it afterwards. Its methods
// never block. It is an alias, so that whoever calls GiveUp need not import this package.
type Outlet = interface {
	Given(*im.Session)
	Refused(elsewhere string, err error)
	Late(id im.SessionID, late *im.Late) error
	Break()
}

// maxGiven bounds the bodies of a session that is given up, in bytes: with more, the client is behind.
const maxGiven = 8 << 20

// departure is where a session went.
type departure struct {
	to      string // the gateway that took it
	out     Outlet
	settled bool // the new route is claimed
}

// GiveUp gives a session to the gateway that asks for it, or says why not. Nothing is told before the secret was compared.
func (g *Gateway) GiveUp(ask im.SessionAsk, out Outlet) {
	if !g.successor.moving.TryRLock() {
		out.Refused("", im.Errorf(im.CodeUnavailable, "this gateway is being restarted"))
		return
	}
	defer g.successor.moving.RUnlock()
	s := g.hub.byID(ask.ID)
	if g.successor.send != nil || s == nil || !s.is(ask.Secret, ask.UID, ask.Device, ask.Platform) {
		out.Refused("", errNoSession)
		return
	}
	var old *conn
	var elsewhere string
	var err error
	g.interests.hold(s, func(groups []im.UID, waiting bool) {
		given := im.Session{Groups: groups, Missed: waiting, PassOn: g.passOn()}
		old, elsewhere, err = s.depart(&ask, &given, out, time.Now().Add(g.cfg.ResumeWindow))
	})
	switch {
	case err != nil || elsewhere != "":
		out.Refused(elsewhere, err)
		return
	case old != nil:
		old.outlive(g.passOn())
	}
	g.departed.Add(1)
	g.metrics.sessions(-1)
}

// passOn is for how long what comes late is passed on, once the new route is claimed: other routers than the one that has
// it may be as far behind.
func (g *Gateway) passOn() time.Duration { return 2 * g.cfg.MoveTimeout }

// Settled hears that the new route of a session that was given up is claimed.
func (g *Gateway) Settled(id im.SessionID) {
	s := g.hub.byID(id)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil && !s.gone.settled {
		s.gone.settled = true
		s.endBy(time.Now().Add(g.passOn()))
	}
}

// forget ends the time in which what comes for a session that was given up is passed on. False: it is here.
func (g *Gateway) forget(s *session) bool {
	s.mu.Lock()
	gone, release := s.gone, s.claim()
	if gone == nil {
		s.mu.Unlock()
		return false
	}
	s.endBy(time.Time{})
	s.mu.Unlock()
	g.hub.remove(s)
	g.interests.drop(s, g.epochNow())
	if !gone.settled { // else another route is in its place
		release.Release, release.Offline = true, false
		g.claims.put(release)
	}
	g.departed.Add(-1)
	return true
}

// breakOff stops passing on: this process ends, and the next one does not know of it.
func (g *Gateway) breakOff() {
	for _, s := range g.hub.all() {
		s.mu.Lock()
		gone := s.gone
		s.mu.Unlock()
		if gone != nil {
			gone.out.Break()
		}
	}
}

// is tells whether a session is meant by who knows its secret, which is compared before anything else.
func (s *session) is(secret string, uid im.UID, device im.DeviceID, platform im.Platform) bool {
	return s.knows(secret) && s.uid == uid && s.device == device && s.platform == platform
}

// depart gives the session up, unless it went elsewhere before. Its former socket is left to end its calls.
func (s *session) depart(ask *im.SessionAsk, given *im.Session, out Outlet, until time.Time) (old *conn, elsewhere string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone != nil:
		return nil, s.gone.to, nil
	case s.ended != "" || ask.Push > s.number:
		return nil, "", errNoSession
	case ask.Login <= s.login:
		return nil, "", s.tie()
	}
	s.ack(ask.Push)
	if s.bytes > maxGiven {
		s.fallBehind()
	}
	given.Seen, given.Missed, given.Resends, given.All = s.seen, s.missed || given.Missed, s.resends, s.informed
	given.Number, given.SentMax, given.Behind = s.number, s.sentMax, s.behind
	for _, p := range s.unacked {
		given.Pushes = append(given.Pushes, im.SessionPush{Number: p.number, Late: *lateOf(p.push)})
	}
	out.Given(given) // with the lock held: what is passed on comes behind
	old = s.conn
	s.conn, s.joining, s.unacked, s.bytes = nil, false, nil, 0
	s.ended, s.gone = im.CodeSessionExpired, &departure{to: ask.Gateway, out: out}
	s.endBy(until)
	return old, "", nil
}

// passOn hands to the gateway that took the session what came for it here. The caller holds mu.
func (s *session) passOn(late *im.Late) overflow {
	if s.gone.out.Late(s.id, late) != nil {
		return astray
	}
	return fits
}

// passOnGroups does the same with groups that it may be in.
func (s *session) passOnGroups(join []im.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil {
		s.passOn(&im.Late{Join: join})
	}
}

func lateOf(p *wire.PreparedPush) *im.Late {
	l := new(im.Late)
	l.Service, l.Method, l.Body, l.Trace = p.Parts()
	return l
}

// outlive keeps the socket of a session that went elsewhere for as long as its calls may need to be answered. The client has
// another one: it is told nothing.
func (c *conn) outlive(d time.Duration) {
	c.lingers.CompareAndSwap(0, c.g.elapsed()+int64(d))
	c.arm()
}
