package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// Bounds of claims on one stream.
const (
	maxClaims       = 1024     // of one message
	maxClaimsQueued = 64 << 10 // not answered yet; claims anew come on top, bounded by the conns there are
)

// routerStream is a gateway's stream to one router while it is connected.
type routerStream struct {
	wake chan struct{} // holds at most one

	mu      sync.Mutex
	queue   []*antipodev1.Claim
	request uint64
	pending map[uint64]func(error)
	gone    bool
}

var errRouterGone = im.Errorf(im.CodeUnavailable, "the stream to the router broke before it answered")

// keep holds a stream to one router, for as long as the router is listed.
func (a *attach) keep(ctx context.Context, id, addr string) {
	r := a.routers
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := a.hold(ctx, id, addr)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > r.cfg.BackoffMax {
			attempt = 0
		}
		if attempt == 0 {
			r.log.Warn("the stream to a router broke; attaching again", "router", id, "addr", addr, "error", err)
		}
		r.backoff(ctx, attempt)
	}
}

// hold attaches to a router and serves the stream until it breaks.
func (a *attach) hold(ctx context.Context, id, addr string) error {
	r := a.routers
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cc, err := r.deps.Conns.Conn(addr)
	if err != nil {
		return err
	}
	stream, err := antipodev1.NewRouterClient(cc).Attach(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&antipodev1.AttachRequest{Kind: &antipodev1.AttachRequest_Hello{
		Hello: &antipodev1.AttachHello{Gateway: a.gateway.ID, Epoch: a.gateway.Epoch, Interest: true},
	}})
	if err != nil {
		_, err = stream.Recv() // has the reason
		return err
	}

	s := &routerStream{wake: make(chan struct{}, 1), pending: make(map[uint64]func(error))}
	r.mu.Lock()
	r.streams[id] = s
	r.signal()
	r.mu.Unlock()
	s.reclaim(a, func(c *im.Claim) bool {
		r.mu.Lock()
		live := r.live
		r.mu.Unlock()
		return r.owner(c.UID, live) == id
	})

	var sending sync.WaitGroup
	sending.Go(func() { s.run(ctx, cancel, stream, r.cfg.Heartbeat) })
	err = a.receive(s, stream)
	cancel()
	sending.Wait()
	r.mu.Lock()
	if r.streams[id] == s {
		delete(r.streams, id)
	}
	r.signal()
	r.mu.Unlock()
	s.end()
	if im.CodeOf(err) == im.CodeGatewayFenced {
		a.fenced(a.gateway.Epoch)
	}
	return err
}

// receive hands on what the router sends, in order.
func (a *attach) receive(s *routerStream, stream grpc.BidiStreamingClient[antipodev1.AttachRequest, antipodev1.AttachResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch k := m.Kind.(type) {
		case *antipodev1.AttachResponse_Claimed:
			s.answered(k.Claimed.GetRequest(), wire.ErrorOf(k.Claimed.GetError()))
		case *antipodev1.AttachResponse_Push:
			pushes := make([]im.Push, len(k.Push.GetItems()))
			for i, p := range k.Push.GetItems() {
				pushes[i] = im.Push{
					Conns: p.Conns, Service: p.Service, Method: p.Method, Body: p.Body, Trace: p.Trace, Ephemeral: p.Ephemeral,
					Interest: wire.InterestOf(p.Interest), Join: wire.UIDs(p.Join),
				}
			}
			a.handler.Push(pushes)
		case *antipodev1.AttachResponse_Kick:
			a.handler.Kick(im.Kick{Conn: k.Kick.GetConn(), Login: k.Kick.GetLogin(), Code: im.Code(k.Kick.GetCode())})
		case *antipodev1.AttachResponse_Fenced:
			if k.Fenced.GetEpoch() >= a.gateway.Epoch {
				a.fenced(k.Fenced.GetEpoch())
			}
		}
	}
}

// run sends claims as they are queued, and heartbeats.
func (s *routerStream) run(ctx context.Context, cancel func(), stream grpc.BidiStreamingClient[antipodev1.AttachRequest, antipodev1.AttachResponse], every time.Duration) {
	defer cancel()
	beat := time.NewTicker(every)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			err := stream.Send(&antipodev1.AttachRequest{Kind: &antipodev1.AttachRequest_Heartbeat{Heartbeat: &antipodev1.AttachHeartbeat{}}})
			if err != nil {
				return
			}
		case <-s.wake:
			s.mu.Lock()
			queue := s.queue
			s.queue = nil
			s.mu.Unlock()
			for len(queue) > 0 {
				n := min(len(queue), maxClaims)
				err := stream.Send(&antipodev1.AttachRequest{Kind: &antipodev1.AttachRequest_Claims{Claims: &antipodev1.AttachClaims{Claims: queue[:n]}}})
				if err != nil {
					return
				}
				queue = queue[n:]
			}
		}
	}
}

// send queues claims; done is called once for each, and must not block.
func (s *routerStream) send(claims []im.Claim, done func(i int, err error)) {
	s.mu.Lock()
	var refused error
	switch {
	case s.gone:
		refused = errRouterGone
	case len(s.pending) > maxClaimsQueued:
		refused = im.Errorf(im.CodeOverloaded, "%d claims wait for the router", len(s.pending))
	default:
		for i := range claims {
			s.put(&claims[i], func(err error) { done(i, err) })
		}
	}
	s.mu.Unlock()
	if refused != nil {
		for i := range claims {
			done(i, refused)
		}
		return
	}
	s.poke()
}

// reclaim claims live claims anew. They are listed and queued in one step, so that the release of a conn that closes
// meanwhile comes behind. What fails is tried again with the next slot of renew.
func (s *routerStream) reclaim(a *attach, which func(*im.Claim) bool) {
	r := a.routers
	s.mu.Lock()
	defer s.poke()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	claims := a.handler.Claims()
	for i := range claims {
		c := &claims[i]
		if !which(c) {
			continue
		}
		key := routeKey{c.Conn, c.Login}
		s.put(c, func(err error) {
			if elsewhere(err) {
				r.mu.Lock()
				r.failed[key] = struct{}{}
				r.mu.Unlock()
			}
		})
	}
}

// put queues one claim. The lock is held.
func (s *routerStream) put(c *im.Claim, done func(error)) {
	s.request++
	s.pending[s.request] = done
	s.queue = append(s.queue, &antipodev1.Claim{
		Request: s.request, Uid: string(c.UID), Device: string(c.Device), Platform: string(c.Platform),
		Conn: c.Conn, Login: c.Login, Release: c.Release, Offline: c.Offline,
	})
}

func (s *routerStream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *routerStream) answered(request uint64, err error) {
	s.mu.Lock()
	done := s.pending[request]
	delete(s.pending, request)
	s.mu.Unlock()
	if done != nil {
		done(err)
	}
}

// end answers what was not answered: the stream broke.
func (s *routerStream) end() {
	s.mu.Lock()
	s.gone = true
	pending := s.pending
	s.pending, s.queue = make(map[uint64]func(error)), nil
	s.mu.Unlock()
	for _, done := range pending {
		done(errRouterGone)
	}
}
