package client

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// steady is how long a connection must have lasted for its end not to count as one more failure in a row.
const steady = 5 * time.Second

// connectLoop keeps a socket until the client stops.
//
//	endpoints ─▶ race ─▶ hello ─▶ welcome ─▶ serve ─┬─ lost, closed: again, after a jittered wait
//	                                                └─ goaway: again while the old one serves on
//
// On networks that bear no WebSocket, carrier has it open a long poll instead, and try WebSockets from there.
func (c *Client) connectLoop() {
	failures, refresh, force := 0, false, false
	by := &c.carrier
	by.lost = time.Now()
	for c.ctx.Err() == nil {
		k, err := c.connect(refresh, force, by.poll(time.Now(), c.pollFallback(), rand.Float64()))
		if err == nil {
			refresh, force = false, false
			k, err = c.serve(k)
			if err == nil { // goaway: another one now
				continue
			}
			lasted, cut := time.Since(k.since), isCut(err)
			if c.streams.ended(k.socket, lasted, cut, c.pollFallback()) {
				cut = false // it says nothing of WebSockets: one is next
			}
			by.ended(k.polled, lasted, cut, time.Now(), c.pollFallback(), rand.Float64())
			switch {
			case time.Since(k.since) >= steady:
				failures = 0
			case failures > 0 && actionOf(err) == im.ActionBackOff:
				c.endpoints.failed(k.endpoint.Key()) // once may be the network; twice, try another
			}
		} else {
			by.failed()
			force = true
		}
		if c.ctx.Err() != nil {
			return
		}
		failures++
		code := im.Code("")
		if e, ok := asError(err); ok {
			code = e.Code
		}
		switch {
		case code == im.CodeTokenExpired:
			refresh = true
		case actionOf(err) == im.ActionStop:
			c.cfg.Logger.Warn("the client stops", "error", err)
			c.stop(public(err))
			return
		}
		wait := delay(c.endpoints.currentPolicy(), failures, err)
		c.cfg.Logger.Debug("no connection", "error", err, "failures", failures, "wait", wait)
		said, _ := asError(err)
		c.rest(wait, said != nil && said.RetryAfter > 0)
	}
}

// pollFallback is for how long a WebSocket must last, or be missing.
func (c *Client) pollFallback() time.Duration { return ms(c.endpoints.currentPolicy().PollFallbackMs) }

// isCut tells whether the network ended a connection, not the gateway with a code.
func isCut(err error) bool {
	if _, said := errors.AsType[*remote](err); said {
		return false
	}
	return im.CodeOf(err) == im.CodeUnavailable
}

// connect makes one connection and installs it.
func (c *Client) connect(refresh, force, poll bool) (*conn, error) {
	start := time.Now()
	state, err := c.device()
	if err != nil {
		return nil, err
	}
	first := c.endpoints.takeAlternatives()
	list, err := c.endpoints.get(c.ctx, c.UID(), state.Device, force)
	if err != nil && len(first) == 0 {
		return nil, err
	}
	list = ahead(first, list)
	c.nudge() // the policy may be new
	policy := c.endpoints.currentPolicy()
	c.mu.Lock()
	resume := c.session
	if resume != nil && !resume.lost.IsZero() && time.Since(resume.lost) > resume.window {
		c.session, resume = nil, nil
	}
	c.mu.Unlock()
	if resume != nil {
		// The gateway that holds the session takes it up without asking anybody.
		if i := slices.IndexFunc(list, func(e wire.Endpoint) bool { return e.Key() == resume.gateway }); i > 0 && !c.endpoints.avoided(resume.gateway) {
			e := list[i]
			list = slices.Insert(slices.Delete(slices.Clone(list), i, i+1), 0, e)
		}
	}
	if poll {
		return c.openPoll(list, policy, resume, refresh, start)
	}
	return c.openWebSocket(list, policy, resume, refresh, start)
}

func (c *Client) openWebSocket(list []wire.Endpoint, policy wire.Policy, resume *session, refresh bool, start time.Time) (*conn, error) {
	ws, endpoint, err := c.race(c.ctx, list, policy)
	if err != nil {
		return nil, err
	}
	return c.login(ws, endpoint, policy, resume, refresh, start)
}

// openPoll opens a long poll at the first gateway that takes one, of a few.
func (c *Client) openPoll(list []wire.Endpoint, policy wire.Policy, resume *session, refresh bool, start time.Time) (*conn, error) {
	codec, err := wire.NewCodec(c.cfg.Subprotocol)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range list {
		if e.PullURL == "" || len(errs) == policy.RaceWidth {
			continue
		}
		s := newPollSocket(c.ctx, codec, e.ID, c.cfg.CallTimeout, c.pollTo(e))
		k, err := c.login(s, e, policy, resume, refresh, start)
		if err == nil {
			return k, nil
		}
		if _, said := errors.AsType[*remote](err); said || c.ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, im.Errorf(im.CodeUnavailable, "none of %d gateways takes long polls", len(list))
	}
	return nil, errors.Join(errs...)
}

// login says hello on a socket, and installs the connection that is welcomed.
func (c *Client) login(s socket, endpoint wire.Endpoint, policy wire.Policy, resume *session, refresh bool, start time.Time) (*conn, error) {
	k, err := c.hello(s, endpoint, policy, resume, refresh)
	if err != nil {
		s.Close()
		if c.ctx.Err() != nil {
			return nil, context.Cause(c.ctx)
		}
		c.refused(endpoint.Key(), err)
		return nil, err
	}
	c.endpoints.used(endpoint.Key())
	c.carrier.opened(k.polled)
	old := c.install(k)
	if old != nil {
		c.wg.Go(func() { c.retire(old) })
	}
	at := endpoint.URL
	if _, ok := s.(*streamSocket); ok {
		at = endpoint.WebTransport
	}
	c.notice(Connected{
		UID: im.UID(k.welcome.Uid), Region: k.region(), Origin: im.Origin(k.welcome.Origin), Gateway: endpoint.ID,
		URL: at, Resumed: k.welcome.Resumed, LongPoll: k.polled, Took: time.Since(start),
	})
	if !k.welcome.Resumed {
		c.resync("connected")
	}
	return k, nil
}

// refused notes what a gateway's refusal says about using it again soon.
func (c *Client) refused(gateway string, err error) {
	switch im.CodeOf(err) {
	case im.CodeTokenExpired, im.CodeLoginTie:
	case im.CodeSessionExpired:
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
	case im.CodeDraining:
		c.endpoints.avoid(gateway, time.Minute)
	default:
		c.endpoints.failed(gateway)
	}
}

// device returns this installation's state, made at the first time.
func (c *Client) device() (State, error) {
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	if state.Device != "" {
		return state, nil
	}
	state, err := c.cfg.Store.Load(c.ctx)
	if err != nil {
		return State{}, err
	}
	if state.Device == "" {
		state.Device = im.DeviceID("dev-" + crand.Text())
	}
	c.mu.Lock()
	c.state = state
	c.mu.Unlock()
	return state, nil
}

// nextLogin takes the next login number, stored before it is told.
func (c *Client) nextLogin() (State, error) {
	c.mu.Lock()
	state := c.state
	c.mu.Unlock()
	state.Login++
	if err := c.cfg.Store.Save(c.ctx, state); err != nil {
		return State{}, err
	}
	c.mu.Lock()
	c.state = state
	c.mu.Unlock()
	return state, nil
}

// hello logs in on a socket and waits for the welcome.
func (c *Client) hello(s socket, e wire.Endpoint, p wire.Policy, resume *session, refresh bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, ms(p.ConnectTimeoutMs))
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	token, err := c.cfg.Token(ctx, refresh)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	state, err := c.nextLogin()
	if err != nil {
		return nil, err
	}
	codec, err := wire.NewCodec(c.cfg.Subprotocol)
	if err != nil {
		return nil, err
	}
	hello := &wire.Hello{
		Token: token, Device: string(state.Device), Platform: string(c.cfg.Platform), Login: state.Login, Agent: c.cfg.Agent,
	}
	if resume != nil && (resume.region == e.Region || e.Region == "") { // the gateways of a region hand sessions to each other
		c.mu.Lock()
		hello.Resume = &wire.Resume{Session: resume.id, Secret: resume.secret, Push: resume.pushed}
		c.mu.Unlock()
	}
	k := newConn(s, codec, e, &wire.Welcome{}, nil, p)
	sent := time.Now()
	if err := k.send(wire.FrameOf(hello)); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "gateway %s: %v", e.ID, err)
	}
	s.SetReadDeadline(sent.Add(ms(p.ConnectTimeoutMs)))
	for {
		_, b, err := s.ReadMessage()
		if err != nil {
			return nil, k.ended(err)
		}
		f, err := codec.Decode(b)
		if f == nil {
			if im.CodeOf(err) == im.CodeUnknownFrame {
				continue
			}
			return nil, im.Errorf(im.CodeUnavailable, "gateway %s sent: %v", e.ID, err)
		}
		switch kind := f.Kind.(type) {
		case *wire.FrameError:
			return nil, remoteError(kind.Error)
		case *wire.FrameWelcome:
			return c.welcomed(k, kind.Welcome, resume, sent)
		}
	}
}

// welcomed makes a conn of a socket whose welcome came.
func (c *Client) welcomed(k *conn, w *wire.Welcome, resume *session, sent time.Time) (*conn, error) {
	if _, err := im.ParseOrigin(w.Origin); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "gateway %s welcomed without an origin: %v", k.endpoint.ID, err)
	}
	s := resume
	if !w.Resumed || s == nil {
		w.Resumed = false
		s = new(session)
	}
	now := time.Now()
	c.mu.Lock()
	s.id, s.secret, s.window = w.Session, w.ResumeSecret, ms(int64(w.ResumeWindowMs))
	s.region, s.gateway = im.Region(w.Region), wire.Endpoint{Region: im.Region(w.Region), ID: w.Gateway}.Key()
	c.uid, c.origin = im.UID(w.Uid), im.Origin(w.Origin)
	// The server read its clock between our sending and receiving: half way, for want of better (Cristian, 1989).
	c.offset, c.known = time.UnixMilli(w.ServerTimeMs).Sub(sent.Add(now.Sub(sent)/2)), w.ServerTimeMs > 0
	c.mu.Unlock()
	if p, ok := k.socket.(*pollSocket); ok {
		p.welcome(w.MaxFrameBytes, k.policy.MaxFrameBytes)
	}
	welcomed := newConn(k.socket, k.codec, k.endpoint, w, s, k.policy)
	c.heart.welcome(w, k.policy)
	welcomed.heart = &c.heart
	return welcomed, nil
}

// install makes a conn the current one and starts it; it returns the one it replaces, which still lives.
func (c *Client) install(k *conn) (old *conn) {
	c.mu.Lock()
	old, c.cur, c.session = c.cur, k, k.session
	k.session.lost = time.Time{}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	c.wg.Go(func() { k.read(c) })
	c.wg.Go(k.write)
	c.wg.Go(func() { // whatever ends it, it is the current one no more
		select {
		case <-k.done:
		case <-c.ctx.Done():
			k.fail(public(context.Cause(c.ctx)))
		}
		c.uninstall(k)
	})
	return old
}

func (c *Client) uninstall(k *conn) {
	err := k.cause()
	c.mu.Lock()
	current := c.cur == k
	if current {
		c.cur, c.lostAt = nil, time.Now()
		k.session.lost = c.lostAt
		close(c.changed)
		c.changed = make(chan struct{})
	}
	c.mu.Unlock()
	if current && !c.ending() {
		c.notice(Disconnected{Region: k.region(), Gateway: k.endpoint.ID, Err: public(err)})
	}
}

// ending tells whether the client stops or is being closed.
func (c *Client) ending() bool {
	select {
	case <-c.closing:
		return true
	case <-c.ctx.Done():
		return true
	default:
		return false
	}
}

// retire lets the calls under way on a replaced conn finish, then says goodbye on it.
func (c *Client) retire(k *conn) {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(2 * time.Second); k.busy() && time.Now().Before(end); {
		select {
		case <-poll.C:
		case <-k.done:
			return
		case <-c.ctx.Done():
			return
		}
	}
	k.bye()
}

// serve waits for the end of a conn, and returns why it ended. A goaway returns nil, after a random part of its time:
// the conn goes on serving until the next one replaces it. From a long poll a WebSocket is tried now and then: last is the conn
// that was served at the end.
func (c *Client) serve(k *conn) (last *conn, err error) {
	for k.polled {
		t := time.NewTimer(time.Until(c.carrier.due))
		select {
		case <-t.C:
			ws, err := c.tryWebSocket(k)
			if err == nil {
				k = ws
				continue
			}
			c.cfg.Logger.Debug("a WebSocket was tried in vain; the long poll goes on", "error", err)
			c.carrier.tried(time.Now(), c.pollFallback(), rand.Float64())
			continue
		case <-c.moved:
			t.Stop()
			c.carrier.moved(time.Now())
			continue
		case <-k.done:
		case g := <-k.goaway:
			k.goaway <- g // for what follows
		}
		t.Stop()
		break
	}
	return k, c.untilEnd(k)
}

// tryWebSocket opens a WebSocket at the gateway of a long poll, and resumes its session there.
func (c *Client) tryWebSocket(k *conn) (*conn, error) {
	start, policy := time.Now(), c.endpoints.currentPolicy()
	ws, err := c.dial(c.ctx, k.endpoint, policy)
	if err != nil {
		return nil, err
	}
	next, err := c.login(ws, k.endpoint, policy, k.session, false, start)
	if err != nil {
		c.endpoints.used(k.endpoint.Key()) // it is the network's fault: the gateway serves, by long poll
	}
	return next, err
}

// untilEnd waits for the end of a conn, or for the time to leave it.
func (c *Client) untilEnd(k *conn) error {
	for {
		select {
		case <-c.moved:
			c.carrier.moved(time.Now())
			continue
		case <-k.done:
			return c.lost(k)
		case g := <-k.goaway:
			return c.leave(k, g)
		}
	}
}

// leave waits until a gateway that is going away is to be left.
func (c *Client) leave(k *conn, g *wire.Goaway) error {
	within := ms(int64(g.WithinMs))
	c.endpoints.avoid(k.endpoint.Key(), within+time.Minute)
	c.endpoints.expire()
	c.endpoints.alternatives(g.Alternatives)
	t := time.NewTimer(spread(within * 4 / 5)) // leave time to connect before the gateway closes
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-k.done:
		return c.lost(k)
	}
}

func (c *Client) lost(k *conn) error {
	err := k.cause()
	switch e, _ := asError(err); {
	case errors.Is(err, ErrClosed) || e == nil:
	case e.Code == im.CodeDraining:
		c.endpoints.avoid(k.endpoint.Key(), time.Minute)
	case e.Code == im.CodeSessionExpired, e.Code == im.CodeGatewayFenced:
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
	}
	return err
}
