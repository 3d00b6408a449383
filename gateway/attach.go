package gateway

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// attach keeps the gateway attached to the region's routers, under the next epoch whenever the present one is fenced.
func (g *Gateway) attach() {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 2*time.Second
	for g.base.Err() == nil {
		ctx, cancel := context.WithCancel(g.base)
		g.mu.Lock()
		gw := im.Gateway{ID: g.cfg.Gateway.ID, Epoch: g.epoch}
		g.reattach = cancel
		g.mu.Unlock()
		began := time.Now()
		err := g.deps.Routers.Attach(ctx, gw, handler{g, gw.Epoch})
		fenced := ctx.Err() != nil || im.CodeOf(err) == im.CodeGatewayFenced
		cancel()
		if g.base.Err() != nil {
			return
		}
		if fenced {
			g.log.Warn("this gateway's epoch was declared dead: taking a new one", "epoch", gw.Epoch)
			next, nextErr := g.deps.NextEpoch(g.base)
			if nextErr == nil {
				g.metrics.fenced()
				g.mu.Lock()
				g.epoch = next
				g.mu.Unlock()
				wait.Reset()
				continue
			}
			err = nextErr
		}
		if time.Since(began) > wait.MaxInterval {
			wait.Reset()
		}
		g.log.Warn("not attached to the routers: trying again", "err", err)
		select {
		case <-g.base.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// handler takes what routers send to one epoch of the gateway.
type handler struct {
	g     *Gateway
	epoch uint64
}

// Push hands pushes to their sessions. Each body is encoded once for each subprotocol, whatever the number of conns.
func (h handler) Push(pushes []im.Push) {
	if passed := h.g.successor.begin(); passed != nil {
		passed(func(m *passedOn) { m.Pushes = pushes })
		return
	}
	defer h.g.successor.end()
	h.push(pushes)
}

func (h handler) push(pushes []im.Push) {
	now := time.Now()
	for i := range pushes {
		p := &pushes[i]
		prepared := wire.PreparePush(p.Service, p.Method, p.Body, p.Trace)
		traced := sampled(p.Trace)
		to := h.g.pushTo
		if p.Ephemeral {
			to = h.g.passTo
		}
		for j, no := range p.Conns {
			traced := traced && j < maxTracedConns
			if s := h.g.hub.byConn(no); s != nil {
				if p.Method != "" {
					to(s, prepared, now, traced)
				}
				h.g.interested(s, p.Join, false)
				continue
			}
			// A group's, or of one that ended and whose release is on its way.
			if group := h.g.interests.byConn(no); group != nil && !p.Ephemeral {
				h.g.interests.take(group, groupPush{push: prepared, interest: p.Interest, at: now, traced: traced})
			}
		}
	}
}

func (g *Gateway) pushTo(s *session, p *wire.PreparedPush, now time.Time, traced bool) {
	switch s.push(p, now, traced) {
	case dropped:
		g.metrics.shed("behind")
	case astray:
		g.metrics.shed("astray")
	case tooSlow:
		g.metrics.shed("slow")
		g.closeSocket(s, im.Errorf(im.CodeSlowConsumer, "pushes were not acknowledged for %v: reconnect and pull", g.cfg.SlowTimeout))
	}
}

// passTo hands an ephemeral push on.
func (g *Gateway) passTo(s *session, p *wire.PreparedPush, now time.Time, _ bool) {
	if !s.pass(p, now) {
		g.metrics.shed("ephemeral")
	}
}

// closeSocket closes a session's socket and keeps the session.
func (g *Gateway) closeSocket(s *session, why *im.Error) {
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.close(why)
	}
}

// Kick ends the session of a conn whose device logged in with a higher login number, unless the conn's session has gone
// on to another login meanwhile.
func (h handler) Kick(k im.Kick) {
	if passed := h.g.successor.begin(); passed != nil {
		passed(func(m *passedOn) { m.Kick = &k })
		return
	}
	defer h.g.successor.end()
	h.kick(k)
}

func (h handler) kick(k im.Kick) {
	s := h.g.hub.byConn(k.Conn)
	if s == nil {
		return
	}
	code, detail := im.CodeReplaced, "this device logged in again"
	switch k.Code {
	case im.CodeLoginTie:
		code, detail = k.Code, "another socket of this device has the same login number: raise it and log in again"
	case im.CodeDeviceLimit:
		code, detail = k.Code, "you are connected with too many devices of this kind: those that logged in last stay"
	}
	h.g.endSession(s, im.Errorf(code, "%s", detail), func(s *session) bool { return s.connNo == k.Conn && s.login == k.Login })
}

// Fenced makes the gateway take its next epoch.
func (h handler) Fenced(epoch uint64) {
	h.g.mu.Lock()
	defer h.g.mu.Unlock()
	if h.epoch == h.g.epoch && epoch >= h.epoch && h.g.reattach != nil {
		h.g.reattach()
	}
}

// Claims lists the route of every live session, and of every group that some are in.
func (h handler) Claims() []im.Claim {
	h.g.reachedOnce.Do(func() { close(h.g.reached) })
	sessions := h.g.hub.all()
	claims := make([]im.Claim, 0, len(sessions))
	for _, s := range sessions {
		s.mu.Lock()
		if s.ended == "" {
			claims = append(claims, s.claim())
		}
		s.mu.Unlock()
	}
	return append(claims, h.g.interests.claims(h.epoch)...)
}
