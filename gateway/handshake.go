package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// refuseLogin ends a conn that did not come to its welcome.
func (c *conn) refuseLogin(err *im.Error) {
	c.g.metrics.loggedIn(err.Code)
	c.close(err)
}

// greet takes the first frame. The rest of a login has to wait for others, so it gets a goroutine for that time; nothing
// more is read meanwhile.
func (c *conn) greet(f *wire.Frame, err error) {
	told, tell := errors.AsType[*im.Error](err)
	switch {
	case im.CodeOf(err) == im.CodeUnknownFrame:
		told = im.Errorf(im.CodeHelloExpected, "the first frame must be hello; this one is of an unknown kind")
	case f == nil && tell:
	case f == nil:
		told = errBadStream
	case f.GetHello() == nil:
		told = im.Errorf(im.CodeHelloExpected, "the first frame must be hello")
	default:
		told = c.g.admit(f.GetHello())
	}
	if told != nil {
		c.refuseLogin(told)
		return
	}
	c.state.Store(connJoining)
	c.socket.Pause()
	c.g.logins.Go(func() { c.join(f.GetHello()) })
}

// join logs the conn in and has its socket read on.
func (c *conn) join(h *wire.Hello) {
	defer c.g.joining.Add(-1)
	s, err := c.g.join(c, h)
	switch {
	case err == errTakenFrom:
		c.g.metrics.loggedIn(im.CodeReplaced)
		c.drop()
	case err != nil:
		told, ok := errors.AsType[*im.Error](err)
		if !ok {
			told = im.Errorf(im.CodeInternal, "")
		}
		c.refuseLogin(told)
	default:
		c.g.metrics.loggedIn("")
		c.heard.Store(c.g.elapsed())
	}
	c.state.Store(connOpen)
	c.arm()
	c.socket.Resume()
	if err == nil && c.gone.Load() { // the client left meanwhile: whoever noticed may not have seen the session
		c.g.detach(c, s)
	}
}

// join checks a hello, claims its route and queues the welcome. The error is for the client.
func (g *Gateway) join(c *conn, h *wire.Hello) (*session, error) {
	identity, err := g.verify(c.ip, h.Token)
	if err != nil {
		return nil, err
	}
	if !g.admission.logins.allow(identity.UID, time.Now()) {
		g.metrics.shed("logins")
		return nil, refusal(im.CodeTooManyRequests, time.Duration(float64(time.Second)/g.cfg.LoginRate), "you log in too often")
	}
	if err := checkHello(h); err != nil {
		return nil, err
	}
	if g.draining.Load() {
		return nil, errDraining
	}
	if !identity.Expires.IsZero() {
		c.expires = max(g.elapsed()+int64(time.Until(identity.Expires)), 1)
	}
	s, has, resumed, err := g.login(c, identity.UID, h)
	if err != nil {
		return nil, err
	}
	welcome := &wire.Welcome{
		Uid: string(s.uid), Session: g.at(s), ResumeSecret: s.secret.String(),
		ResumeWindowMs: uint32(g.cfg.ResumeWindow.Milliseconds()), Resumed: resumed,
		Region: string(g.cfg.Region), Origin: string(g.cfg.Origin), Gateway: g.cfg.Gateway.ID,
		ServerTimeMs: g.now().UnixMilli(), HeartbeatMs: uint32(g.cfg.Heartbeat.Milliseconds()),
		MaxFrameBytes: uint32(g.cfg.MaxFrame), MaxTextBytes: uint32(g.cfg.MaxText),
		IdleMs: uint32(g.cfg.IdleTimeout.Milliseconds()),
	}
	greeting, err := c.codec.Encode(wire.FrameOf(welcome))
	if err != nil {
		return nil, err
	}
	if err := s.attach(c, h.Login, has, greeting); err != nil {
		return nil, err
	}
	if g.draining.Load() { // Drain may have passed over this conn
		c.send(g.goaway())
	}
	return s, nil
}

var errDraining = im.Errorf(im.CodeDraining, "this gateway is going away: use another")

// checkHello refuses what no client that read the protocol sends.
func checkHello(h *wire.Hello) error {
	bad := func(format string, args ...any) error {
		return im.Errorf(im.CodeBadFrame, "hello: %s", fmt.Sprintf(format, args...))
	}
	if n := len(h.Device); n == 0 || n > 64 {
		return bad("device has %d characters, want 1 to 64", n)
	}
	for _, b := range []byte(h.Device) {
		if b < '!' || b > '~' {
			return bad("device holds %q, want visible ASCII characters", b)
		}
	}
	switch h.Platform {
	case "ios", "android", "web", "desktop":
	default:
		return bad("platform is %q, want ios, android, web or desktop", h.Platform)
	}
	if h.Login == 0 {
		return bad("login is 0, want a number that grows with every socket")
	}
	if len(h.Agent) > 128 {
		return bad("agent has %d bytes; at most 128 are allowed", len(h.Agent))
	}
	return nil
}

// login finds or makes the session of a hello and claims its route. has is the last push that the client has.
func (g *Gateway) login(c *conn, uid im.UID, h *wire.Hello) (s *session, has uint64, resumed bool, err error) {
	connNo := g.connNo.Add(1)
	if h.Resume != nil {
		how, settle := "resumed", func() {}
		s, claim, err := g.takeOver(connNo, uid, h)
		if errors.Is(err, errNoSession) {
			how = "taken"
			s, claim, settle, err = g.take(connNo, uid, h)
		}
		switch {
		case err == nil:
			if err := g.claimNow(claim); err != nil {
				g.claimFailed(s, h.Login, err)
				return nil, 0, false, err
			}
			settle()
			g.metrics.resumed(how)
			return s, h.Resume.Push, true, nil
		case !errors.Is(err, errNoSession):
			return nil, 0, false, err
		}
		g.metrics.resumed("refused")
	}
	s = newSession(&g.cfg, g.random, uid, h, connNo)
	g.windUp(s)
	claim := s.claim()
	g.hub.add(s)
	g.metrics.sessions(1)
	if err := g.claimNow(claim); err != nil {
		g.endSession(s, err, nil)
		return nil, 0, false, err
	}
	return s, 0, false, nil
}

// takeOver moves a session to a new conn number and login, ahead of the claim. errNoSession: there is none to resume.
func (g *Gateway) takeOver(connNo uint64, uid im.UID, h *wire.Hello) (*session, im.Claim, error) {
	id, _ := sessionIDOf(h.Resume.Session)
	s := g.hub.byID(id)
	if s == nil {
		return nil, im.Claim{}, errNoSession
	}
	// The secret is compared before anything else is, so that the answer tells nothing about a session to others.
	if !s.is(h.Resume.Secret, uid, im.DeviceID(h.Device), im.Platform(h.Platform)) {
		return nil, im.Claim{}, errNoSession
	}
	g.hub.mapConn(connNo, s) // pushes find the session under the new number from the claim on, and under the old one
	old, stale, claim, err := s.takeOver(connNo, h.Login, h.Resume.Push, time.Now().Add(g.cfg.ResumeWindow))
	if err != nil {
		g.hub.unmapConn(connNo)
		return nil, im.Claim{}, err
	}
	g.hub.unmapConn(stale)
	if old != nil {
		old.drop() // the client left it without our hearing
	}
	return s, claim, nil
}

// claimNow claims a route and waits for the answer.
func (g *Gateway) claimNow(claim im.Claim) error {
	ctx, cancel := context.WithTimeout(g.base, g.cfg.ClaimTimeout)
	defer cancel()
	errs := g.deps.Routers.Claim(ctx, []im.Claim{claim})
	if len(errs) == 0 || errs[0] == nil {
		return nil
	}
	if _, coded := errors.AsType[*im.Error](errs[0]); !coded {
		g.log.Warn("a claim failed", "err", errs[0])
		return im.Errorf(im.CodeUnavailable, "the login could not be recorded in time")
	}
	return errs[0]
}

// claimFailed ends a session whose device logged in elsewhere; otherwise it stays without a socket, for another try.
func (g *Gateway) claimFailed(s *session, login uint64, err error) {
	switch im.CodeOf(err) {
	case im.CodeReplaced, im.CodeLoginTie:
		g.endSession(s, err, func(s *session) bool { return s.login == login })
	default: // the claim may have landed all the same
		if offline, ok := s.giveUp(login); ok {
			g.claims.put(offline)
		}
	}
}

// windUp gives a session that nobody else knows yet its timing wheel.
func (g *Gateway) windUp(s *session) {
	s.clock, s.due = g.clocks[int(s.id[1])%len(g.clocks)], g.sessionDue // ids are random
}

// sessionDue ends a session whose resume window has passed.
func (g *Gateway) sessionDue(s *session) {
	if g.frozen.Load() { // it may be being moved
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.deadline.IsZero() {
			s.endBy(time.Now().Add(linger))
		}
		return
	}
	if g.forget(s) {
		return
	}
	g.endSession(s, errNoSession, expired(time.Now()))
}

// endSession takes a session out for good, if match agrees: its socket is closed with the reason, its route released.
func (g *Gateway) endSession(s *session, why error, match func(*session) bool) bool {
	c, release, ok := g.hub.end(s, im.CodeOf(why), match)
	if !ok {
		return false
	}
	g.metrics.sessions(-1)
	g.claims.put(release)
	g.interests.drop(s, g.epochNow())
	if c != nil {
		c.close(why)
	}
	return true
}

// detach leaves a session without its socket for the resume window.
func (g *Gateway) detach(c *conn, s *session) {
	if g.conns.stopped.Load() { // killed, or drained: nothing is to be kept or told
		return
	}
	offline, ok := s.detach(c, time.Now().Add(g.cfg.ResumeWindow))
	if !ok {
		return
	}
	if g.hub.size() > 2*g.cfg.MaxConns {
		g.endSession(s, errDraining, func(s *session) bool { return s.conn == nil })
		return
	}
	g.claims.put(offline)
}
