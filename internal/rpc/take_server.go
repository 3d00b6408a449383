package rpc

import (
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// TakeOutlet is where a gateway that is asked for a session answers, and passes on what comes for it afterwards. Its methods
// never block. It is an alias, so that the gateway can name the same interface without importing this package.
type TakeOutlet = interface {
	Given(*im.Session)
	Refused(elsewhere string, err error)       // elsewhere: who took it before; else err says why not
	Late(id im.SessionID, late *im.Late) error // an error: the asker is gone, or does not keep up, and knows it
	Break()                                    // something may have been lost: the asker is told so, of all that it took lately
}

// maxLateBytes bounds what waits to be passed on to one gateway.
const maxLateBytes = 32 << 20

// Take serves another gateway until either end closes the stream.
func (s *gatewayServer) Take(stream grpc.BidiStreamingServer[antipodev1.TakeRequest, antipodev1.TakeResponse]) error {
	if s.access.Identify != nil {
		service, region, err := callerOf(stream.Context(), s.access.Identify)
		if err != nil {
			return err
		}
		if service != "gateway" || region != s.access.Region {
			return im.Errorf(im.CodeBadToken, "%s of region %s may not take sessions: only gateways of region %s may", service, region, s.access.Region)
		}
	}
	out := &takeOutbox{wake: make(chan struct{}, 1)}
	defer out.close(errStreamGone)
	sent := make(chan error, 1)
	go func() { sent <- out.run(stream) }()
	received := make(chan error, 1) // Recv ends when this handler returned
	go func() { received <- s.asked(stream, out) }()
	var err error
	select {
	case err = <-received:
		out.close(err)
		<-sent
	case err = <-sent:
	case <-s.ended:
		err = im.Errorf(im.CodeDraining, "the gateway is going away")
		out.close(err)
		<-sent
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *gatewayServer) asked(stream grpc.BidiStreamingServer[antipodev1.TakeRequest, antipodev1.TakeResponse], out *takeOutbox) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch k := m.Kind.(type) {
		case *antipodev1.TakeRequest_Session:
			outlet := takeOutlet{out, k.Session.Request}
			ask, err := askOf(k.Session)
			if err != nil {
				outlet.Refused("", err)
				continue
			}
			s.gateway.GiveUp(ask, outlet)
		case *antipodev1.TakeRequest_Settled:
			if id, err := sessionID(k.Settled.Session); err == nil {
				s.gateway.Settled(id)
			}
		}
	}
}

// takeOutlet answers one ask.
type takeOutlet struct {
	out     *takeOutbox
	request uint64
}

func (o takeOutlet) Given(s *im.Session) {
	m := takenMessage(s)
	m.Request = o.request
	size := 0
	for _, p := range m.Pushes {
		size += len(p.Body) + 128
	}
	_ = o.out.put(&antipodev1.TakeResponse{Kind: &antipodev1.TakeResponse_Taken{Taken: m}}, size) // gone: its client gets a new session
}

func (o takeOutlet) Refused(elsewhere string, err error) {
	m := &antipodev1.TakenSession{Request: o.request, Elsewhere: elsewhere}
	if err != nil {
		m.Error = wire.ErrorFrame(err)
	}
	_ = o.out.put(&antipodev1.TakeResponse{Kind: &antipodev1.TakeResponse_Taken{Taken: m}}, 0) // gone: nobody waits
}

func (o takeOutlet) Late(id im.SessionID, late *im.Late) error {
	return o.out.put(&antipodev1.TakeResponse{Kind: &antipodev1.TakeResponse_Late{Late: lateMessage(id, late)}}, len(late.Body)+128)
}

func (o takeOutlet) Break() {
	o.out.close(im.Errorf(im.CodeUnavailable, "what comes for sessions that were given up is no longer passed on"))
}

// takeOutbox queues what goes to another gateway. Past its bound the stream breaks: the other end then has its clients pull.
type takeOutbox struct {
	wake chan struct{} // holds at most one

	mu     sync.Mutex
	queue  []*antipodev1.TakeResponse
	bytes  int
	closed error
}

func (o *takeOutbox) put(m *antipodev1.TakeResponse, size int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil && o.bytes > 0 && o.bytes+size > maxLateBytes {
		o.closed = im.Errorf(im.CodeOverloaded, "%d bytes wait for the gateway", o.bytes)
	}
	if o.closed != nil {
		return o.closed
	}
	o.queue = append(o.queue, m)
	o.bytes += size
	o.poke()
	return nil
}

func (o *takeOutbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// close makes run return once what is queued was sent.
func (o *takeOutbox) close(why error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = why
	}
	o.poke()
}

func (o *takeOutbox) run(stream grpc.BidiStreamingServer[antipodev1.TakeRequest, antipodev1.TakeResponse]) error {
	for {
		select {
		case <-o.wake:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		o.mu.Lock()
		queue, closed := o.queue, o.closed
		o.queue, o.bytes = nil, 0
		o.mu.Unlock()
		for _, m := range queue {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		if closed != nil {
			return closed
		}
	}
}

func sessionID(b []byte) (id im.SessionID, err error) {
	if len(b) != len(id) {
		return id, im.Errorf(im.CodeBadRequest, "a session's id has %d bytes, not %d", len(id), len(b))
	}
	return im.SessionID(b), nil
}

func askOf(m *antipodev1.TakeSession) (im.SessionAsk, error) {
	id, err := sessionID(m.Session)
	return im.SessionAsk{
		ID: id, Secret: m.Secret, UID: im.UID(m.Uid), Device: im.DeviceID(m.Device), Platform: im.Platform(m.Platform),
		Login: m.Login, Push: m.Push, Gateway: m.Gateway,
	}, err
}

func askMessage(request uint64, a *im.SessionAsk) *antipodev1.TakeRequest {
	return &antipodev1.TakeRequest{Kind: &antipodev1.TakeRequest_Session{Session: &antipodev1.TakeSession{
		Request: request, Session: a.ID[:], Secret: a.Secret, Uid: string(a.UID), Device: string(a.Device), Platform: string(a.Platform),
		Login: a.Login, Push: a.Push, Gateway: a.Gateway,
	}}}
}

func takenMessage(s *im.Session) *antipodev1.TakenSession {
	m := &antipodev1.TakenSession{
		Seen: uint64(s.Seen), Missed: s.Missed, Number: s.Number, Sent: s.SentMax, Behind: s.Behind, Resends: uint32(s.Resends),
		Interests: wire.Texts(s.Groups), AllInterests: s.All, PassOnMs: s.PassOn.Milliseconds(),
	}
	for i := range s.Pushes {
		p := pushMessage(&s.Pushes[i].Late)
		p.Number = s.Pushes[i].Number
		m.Pushes = append(m.Pushes, p)
	}
	return m
}

func pushMessage(l *im.Late) *antipodev1.TakenPush {
	return &antipodev1.TakenPush{Service: l.Service, Method: l.Method, Body: l.Body, Trace: l.Trace}
}

func lateMessage(id im.SessionID, l *im.Late) *antipodev1.TakenLate {
	m := &antipodev1.TakenLate{Session: id[:], Interests: wire.Texts(l.Join)}
	if l.Method != "" {
		m.Push = pushMessage(l)
	}
	return m
}
