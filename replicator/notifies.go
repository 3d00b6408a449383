package replicator

import (
	"context"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Notifies have a link of their own beside the one that ships the log, on its own connection: what gRPC, TLS and the kernel hold
// of a backlog stands before whatever comes after it on the same connection, and what a lost packet holds up does, too.

// notifies keeps that link open for as long as the session lasts. While it is not, notifies come with the log.
func (s *session) notifies(ctx context.Context) {
	wait := s.c.r.backoff()
	for {
		began := time.Now()
		err := s.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*s.c.r.cfg.BackoffMax { // it worked for a while
			wait.Reset()
		}
		d := wait.NextBackOff()
		s.c.r.log.Warn("link of notifies closed: they come with the log", "peer", string(s.c.peer.Region), "via", string(s.sender),
			"again_in", d, "reason", err.Error())
		if !pause(ctx, d) {
			return
		}
	}
}

// listen opens the link of notifies and takes what comes until it fails.
func (s *session) listen(ctx context.Context) error {
	cfg := &s.c.r.cfg
	l, err := s.c.dial(ctx, s.sender, cfg.LinkTimeout)
	if err != nil {
		return err
	}
	defer l.close()
	m, err := l.ask(&wire.LinkRequest{Kind: &wire.LinkRequestOpen{Open: &wire.LinkOpen{
		Region: string(cfg.Region), Origin: string(s.c.peer.Origin), Own: string(cfg.Origin), Notifies: true,
		Version: wire.LinkVersions().Oldest, Newest: wire.LinkVersions().Newest,
	}}})
	if err != nil {
		return err
	}
	if o := m.GetOpened(); o == nil || im.Region(o.Region) != s.sender || o.Lost != 0 {
		return im.Errorf(im.CodeWrongRegion, "%s did not open a link of notifies", s.sender)
	}
	for {
		m, err := l.recv()
		if err != nil {
			return err
		}
		switch k := m.Kind.(type) {
		case *wire.LinkResponseNotify:
			s.notified(k.Notify)
		case *wire.LinkResponseStatus:
			held := &wire.LinkHeld{StatusMs: k.Status.ClockMs, ClockMs: s.c.r.now().UnixMilli()}
			if err := l.stream.Send(&wire.LinkRequest{Kind: &wire.LinkRequestHeld{Held: held}}); err != nil {
				return err
			}
		default:
			return im.Errorf(im.CodeBadRequest, "%s sent more than notifies on a link of them", s.sender)
		}
	}
}

// notified takes notifies for the own router, or for a region that takes the origin's log from the copy here.
func (s *session) notified(m *wire.NotifyRequest) {
	c, ds := s.c, wire.DeliveriesOf(m)
	if to := im.Region(m.To); to != "" && to != c.r.cfg.Region {
		if s.sender == c.peer.Region { // one hop, as the log
			c.r.pass(c.peer.Origin, to, ds)
		}
		return
	}
	select {
	case c.inbox <- ds:
	default:
		c.r.metrics.notifyUndelivered(c.peer.Region, len(ds))
	}
}
