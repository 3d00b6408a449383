package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// Outbox is a gateway's stream at the router's end. Its methods never block; an error says that the stream is gone or
// its queue full.
type Outbox interface {
	Push([]im.Push) error
	Kick(im.Kick) error
	Fenced(epoch uint64) error
}

// Attachment is what a router makes of an attached gateway.
type Attachment interface {
	// Submit queues claims in the order of calls; done is called once for each, and must not block.
	Submit(claims []im.Claim, done func(i int, err error))
	Heartbeat()
	Interest() // hears that the gateway looks who is in a large group
	Close()
}

// RouterService is the router behind the RPC server. Attach's result is an interface, so the composition root wraps the
// router's own Attach in three lines.
type RouterService interface {
	Attach(gw im.Gateway, out Outbox) (Attachment, error)
	Deliver(ctx context.Context, deliveries []im.Delivery) (pushes int, err error)
	Interest() bool // every attached gateway looks who is in a large group
	Notify(ctx context.Context, from im.Region, deliveries []im.Delivery) error
	Positions(ctx context.Context, origin im.Origin) ([]im.Position, error)
	Digest(ctx context.Context) (map[string]string, error)
}

// RegisterRouter serves a router. When ctx ends, attached streams are closed, so that the gRPC server can stop
// gracefully.
func RegisterRouter(ctx context.Context, s grpc.ServiceRegistrar, r RouterService) {
	antipodev1.RegisterRouterServer(s, &routerServer{router: r, ended: ctx.Done()})
}

type routerServer struct {
	antipodev1.UnimplementedRouterServer
	router RouterService
	ended  <-chan struct{}
}

func (s *routerServer) Deliver(ctx context.Context, r *antipodev1.DeliverRequest) (*antipodev1.DeliverResponse, error) {
	n, err := s.router.Deliver(ctx, deliveriesOf(r.Deliveries))
	if err != nil {
		return nil, err
	}
	return &antipodev1.DeliverResponse{Pushes: uint32(n), Interest: s.router.Interest()}, nil
}

func (s *routerServer) Notify(ctx context.Context, r *antipodev1.NotifyRequest) (*antipodev1.NotifyResponse, error) {
	from, err := im.ParseRegion(r.From)
	if err != nil {
		return nil, im.Errorf(im.CodeBadRequest, "notify from: %v", err)
	}
	if err := s.router.Notify(ctx, from, deliveriesOf(r.Deliveries)); err != nil {
		return nil, err
	}
	return &antipodev1.NotifyResponse{}, nil
}

func (s *routerServer) Positions(ctx context.Context, r *antipodev1.PositionsRequest) (*antipodev1.PositionsResponse, error) {
	positions, err := s.router.Positions(ctx, im.Origin(r.Origin))
	if err != nil {
		return nil, err
	}
	response := &antipodev1.PositionsResponse{Positions: make([]*antipodev1.Position, len(positions))}
	for i, p := range positions {
		response.Positions[i] = &antipodev1.Position{Topic: p.Partition.Topic, Partition: uint32(p.Partition.Number), Next: p.Next}
	}
	return response, nil
}

func (s *routerServer) Digest(ctx context.Context, _ *antipodev1.DigestRequest) (*antipodev1.DigestResponse, error) {
	digests, err := s.router.Digest(ctx)
	if err != nil {
		return nil, err
	}
	return &antipodev1.DigestResponse{Digests: digests}, nil
}

// Attach serves one gateway's stream until either end closes it, or the gateway was told that it is fenced.
func (s *routerServer) Attach(stream grpc.BidiStreamingServer[antipodev1.AttachRequest, antipodev1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return im.Errorf(im.CodeBadRequest, "the first message of a gateway is hello")
	}
	out := newOutbox()
	sent := make(chan error, 1)
	go func() { sent <- out.run(stream) }()
	attachment, err := s.router.Attach(im.Gateway{ID: hello.Gateway, Epoch: hello.Epoch}, out)
	if err != nil {
		out.close() // what is queued (fenced) still goes out
		<-sent
		return err
	}
	defer attachment.Close()
	if hello.Interest {
		attachment.Interest()
	}

	received := make(chan error, 1) // Recv ends when this handler returned
	go func() { received <- receiveAttached(stream, attachment, out) }()
	select {
	case err = <-received:
		out.close()
		<-sent
	case err = <-sent: // the stream broke, or fenced was sent
		out.close()
	case <-s.ended:
		out.close()
		<-sent
		err = im.Errorf(im.CodeDraining, "the router is going away: attach to another")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func receiveAttached(stream grpc.BidiStreamingServer[antipodev1.AttachRequest, antipodev1.AttachResponse], a Attachment, out *outbox) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch k := m.Kind.(type) {
		case *antipodev1.AttachRequest_Heartbeat:
			a.Heartbeat()
		case *antipodev1.AttachRequest_Claims:
			a.Heartbeat() // whoever claims lives
			claims := make([]im.Claim, len(k.Claims.GetClaims()))
			for i, c := range k.Claims.GetClaims() {
				claims[i] = im.Claim{
					UID: im.UID(c.Uid), Device: im.DeviceID(c.Device), Platform: im.Platform(c.Platform),
					Conn: c.Conn, Login: c.Login, Release: c.Release, Offline: c.Offline,
				}
			}
			a.Submit(claims, func(i int, err error) {
				if request := k.Claims.Claims[i].Request; request != 0 {
					out.claimed(request, err)
				}
			})
		}
	}
}

// Bounds of what waits for a gateway: past them pushes are refused, and its clients pull.
const (
	maxOutboxPushes = 32 << 10
	maxOutboxBytes  = 32 << 20
	maxPushBytes    = 1 << 20 // of one message
)

// outbox queues what goes to a gateway. Pushes are bounded by the limits above; answers by the claims under way; kicks
// by the conns there are.
type outbox struct {
	wake chan struct{} // holds at most one

	mu     sync.Mutex
	queue  []*antipodev1.AttachResponse
	pushes int // in the queue
	bytes  int
	closed bool
	fenced bool // the last message was queued
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

var errStreamGone = errors.New("the gateway's stream is gone")

func (o *outbox) Push(pushes []im.Push) error {
	bytes := 0
	for i := range pushes {
		bytes += pushSize(&pushes[i])
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return errStreamGone
	}
	if o.pushes > 0 && (o.pushes+len(pushes) > maxOutboxPushes || o.bytes+bytes > maxOutboxBytes) {
		return im.Errorf(im.CodeOverloaded, "%d pushes of %d bytes wait for the gateway", o.pushes, o.bytes)
	}
	o.pushes += len(pushes)
	o.bytes += bytes
	for len(pushes) > 0 {
		m := &antipodev1.AttachPush{}
		size := 0
		for len(pushes) > 0 && (size == 0 || size+pushSize(&pushes[0]) <= maxPushBytes) {
			p := &pushes[0]
			size += pushSize(p)
			m.Items = append(m.Items, &antipodev1.PushItem{
				Conns: p.Conns, Service: p.Service, Method: p.Method, Body: p.Body, Trace: p.Trace, Ephemeral: p.Ephemeral,
				Interest: wire.InterestMessage(p.Interest), Join: wire.Texts(p.Join),
			})
			pushes = pushes[1:]
		}
		o.queue = append(o.queue, &antipodev1.AttachResponse{Kind: &antipodev1.AttachResponse_Push{Push: m}})
	}
	o.poke()
	return nil
}

func pushSize(p *im.Push) int { return len(p.Body) + 10*len(p.Conns) + 128 }

func (o *outbox) Kick(k im.Kick) error {
	return o.put(&antipodev1.AttachResponse{Kind: &antipodev1.AttachResponse_Kick{
		Kick: &antipodev1.AttachKick{Conn: k.Conn, Login: k.Login, Code: string(k.Code)},
	}}, false)
}

func (o *outbox) Fenced(epoch uint64) error {
	return o.put(&antipodev1.AttachResponse{Kind: &antipodev1.AttachResponse_Fenced{
		Fenced: &antipodev1.AttachFenced{Epoch: epoch},
	}}, true)
}

func (o *outbox) claimed(request uint64, err error) {
	m := &antipodev1.AttachClaimed{Request: request}
	if err != nil {
		m.Error = wire.ErrorFrame(err)
	}
	_ = o.put(&antipodev1.AttachResponse{Kind: &antipodev1.AttachResponse_Claimed{Claimed: m}}, false) // gone: it claims again
}

func (o *outbox) put(m *antipodev1.AttachResponse, last bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.fenced {
		return errStreamGone
	}
	o.queue = append(o.queue, m)
	o.fenced = last
	o.poke()
	return nil
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// close makes run return once what is queued was sent.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.poke()
}

// run sends what is queued until the outbox is closed or fenced, or the stream breaks.
func (o *outbox) run(stream grpc.BidiStreamingServer[antipodev1.AttachRequest, antipodev1.AttachResponse]) error {
	for {
		select {
		case <-o.wake:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		o.mu.Lock()
		queue, last := o.queue, o.closed || o.fenced
		o.queue = nil
		o.mu.Unlock()
		for _, m := range queue {
			if err := stream.Send(m); err != nil {
				return err
			}
			if p := m.GetPush(); p != nil { // what is being sent still counts: it is what a slow gateway holds up
				bytes := 0
				for _, i := range p.Items {
					bytes += len(i.Body) + 10*len(i.Conns) + 128
				}
				o.mu.Lock()
				o.pushes -= len(p.Items)
				o.bytes -= bytes
				o.mu.Unlock()
			}
		}
		if last {
			return io.EOF
		}
	}
}

func deliveriesOf(in []*antipodev1.Delivery) []im.Delivery {
	out := make([]im.Delivery, len(in))
	for i, d := range in {
		out[i] = im.Delivery{
			Service: d.Service, Method: d.Method, Key: d.Key, Recipients: wire.UIDs(d.Recipients), Body: d.Body, Trace: d.Trace, Notify: d.Notify,
			Ephemeral: d.Ephemeral, Interest: wire.InterestOf(d.Interest), Join: wire.UIDs(d.Join),
		}
	}
	return out
}
