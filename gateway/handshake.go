package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// serve is the life of a conn; it runs on the reader's goroutine.
func (g *Gateway) serve(c *conn) {
	defer g.removeConn(c)
	defer c.drop()
	if err := g.handshake(c); err != nil {
		if told, ok := errors.AsType[*im.Error](err); ok {
			g.metrics.loggedIn(told.Code)
			c.close(told)
			_, closing := c.take()
			c.farewell(closing)
			c.discard()
		}
		return
	}
	g.metrics.loggedIn("")
	g.conns.Go(c.write)
	c.read()
	close(c.heard)
	c.mu.Lock()
	closing := c.closing != nil
	c.mu.Unlock()
	if closing {
		<-c.gone // the writer says goodbye first
	}
	g.detach(c)
}

// handshake reads hello and answers it with welcome. The error is *im.Error if the client is to be told.
func (g *Gateway) handshake(c *conn) error {
	c.ws.SetReadDeadline(time.Now().Add(g.cfg.HelloTimeout))
	f, err := c.decode()
	c.greeted.Store(true)
	switch {
	case im.CodeOf(err) == im.CodeUnknownFrame:
		return im.Errorf(im.CodeHelloExpected, "the first frame must be hello; this one is of an unknown kind")
	case isTimeout(err):
		return im.Errorf(im.CodeHelloExpected, "no hello came within %v", g.cfg.HelloTimeout)
	case f == nil:
		return err
	case f.GetHello() == nil:
		return im.Errorf(im.CodeHelloExpected, "the first frame must be hello")
	}
	h := f.GetHello()
	identity, err := g.deps.Tokens.Verify(h.Token)
	if err != nil {
		return err
	}
	if err := checkHello(h); err != nil {
		return err
	}
	if g.draining.Load() {
		return errDraining
	}
	c.expires = identity.Expires

	s, has, resumed, err := g.login(c, identity.UID, h)
	if err != nil {
		return err
	}
	welcome := &wire.Welcome{
		Uid: string(s.uid), Session: s.id, ResumeSecret: s.secret,
		ResumeWindowMs: uint32(g.cfg.ResumeWindow.Milliseconds()), Resumed: resumed,
		Region: string(g.cfg.Region), Origin: string(g.cfg.Origin), Gateway: g.cfg.Gateway.ID,
		ServerTimeMs: g.now().UnixMilli(), HeartbeatMs: uint32(g.cfg.Heartbeat.Milliseconds()),
		MaxFrameBytes: uint32(g.cfg.MaxFrame), MaxTextBytes: uint32(g.cfg.MaxText),
	}
	c.session = s
	c.send(wire.FrameOf(welcome)) // queued before the first push can be
	if err := s.attach(c, h.Login, has); err != nil {
		return err
	}
	if g.draining.Load() { // Drain may have passed over this conn
		c.send(g.goaway())
	}
	return nil
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
		s, claim, err := g.takeOver(connNo, uid, h)
		switch {
		case err == nil:
			if err := g.claimNow(claim); err != nil {
				g.claimFailed(s, h.Login, err)
				return nil, 0, false, err
			}
			g.metrics.resumed("resumed")
			return s, h.Resume.Push, true, nil
		case !errors.Is(err, errNoSession):
			return nil, 0, false, err
		}
		g.metrics.resumed("refused")
	}
	s = newSession(&g.cfg, g.random, uid, h, connNo)
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
	s := g.hub.byID(h.Resume.Session)
	if s == nil {
		return nil, im.Claim{}, errNoSession
	}
	// The secret is compared before anything else is, so that the answer tells nothing about a session to others.
	if !s.knows(h.Resume.Secret) || s.uid != uid || string(s.device) != h.Device || string(s.platform) != h.Platform {
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

// endSession takes a session out for good, if match agrees: its socket is closed with the reason, its route released.
func (g *Gateway) endSession(s *session, why error, match func(*session) bool) bool {
	c, release, ok := g.hub.end(s, im.CodeOf(why), match)
	if !ok {
		return false
	}
	g.metrics.sessions(-1)
	g.claims.put(release)
	if c != nil {
		c.close(why)
	}
	return true
}

// detach leaves a session without its socket for the resume window.
func (g *Gateway) detach(c *conn) {
	g.mu.Lock()
	stopped := g.stopped
	g.mu.Unlock()
	if stopped { // killed, or drained: nothing is to be kept or told
		return
	}
	offline, ok := c.session.detach(c, time.Now().Add(g.cfg.ResumeWindow))
	if !ok {
		return
	}
	if g.draining.Load() || g.hub.size() > 2*g.cfg.MaxConns {
		g.endSession(c.session, errDraining, func(s *session) bool { return s.conn == nil })
		return
	}
	g.claims.put(offline)
}
