package rpc

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// NeighboursConfig says how the other gateways are treated. Zero values take the defaults in the comments.
type NeighboursConfig struct {
	Remember time.Duration // 2 min: a gateway that drains has left discovery before its clients leave it
	Rest     time.Duration // 1 s: one that did not answer is not asked for so long
}

// NeighboursDeps is what Neighbours work with.
type NeighboursDeps struct {
	Conns  Conns
	Watch  func(ctx context.Context, fn func([]im.Instance)) error // of the region's gateways
	Logger *slog.Logger                                            // may be nil
}

// NeighbourHandler hears what follows sessions that were taken. Its methods must not block. It is an alias, so that the
// gateway can name the same interface without importing this package.
type NeighbourHandler = interface {
	Late(id im.SessionID, late im.Late)
	Missed(ids []im.SessionID) // what came late for these may have been lost
}

// Neighbours are the other gateways of the region, for sessions that clients resume here. There is one stream to each,
// while it is needed.
type Neighbours struct {
	cfg  NeighboursConfig
	deps NeighboursDeps
	log  *slog.Logger

	base context.Context // of streams
	end  context.CancelFunc

	mu      sync.Mutex
	known   map[string]neighbour
	streams map[string]*taking
}

type neighbour struct {
	addr  string
	gone  time.Time // when discovery stopped to list it; zero: it does
	rests time.Time // it is not asked until then
}

// NewNeighbours returns Neighbours that know of nobody; Run makes them work.
func NewNeighbours(cfg NeighboursConfig, deps NeighboursDeps) *Neighbours {
	cfg.Remember = cmp.Or(cfg.Remember, 2*time.Minute)
	cfg.Rest = cmp.Or(cfg.Rest, time.Second)
	n := &Neighbours{cfg: cfg, deps: deps, log: deps.Logger, known: map[string]neighbour{}, streams: map[string]*taking{}}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.base, n.end = context.WithCancel(context.Background())
	return n
}

// Run follows discovery until ctx ends, and then ends the streams.
func (n *Neighbours) Run(ctx context.Context) error {
	defer n.end()
	for failures := 0; ctx.Err() == nil; failures++ {
		if err := n.deps.Watch(ctx, n.list); ctx.Err() == nil {
			n.log.Warn("the list of gateways cannot be watched; trying on", "error", err)
			wait := min(50*time.Millisecond<<min(failures, 10), 2*time.Second)
			pauseFor(ctx, wait/2+rand.N(wait/2))
		}
	}
	return nil
}

// list takes what discovery knows.
func (n *Neighbours) list(live []im.Instance) {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	here := make(map[string]bool, len(live))
	for _, i := range live {
		here[i.ID] = true
		if n.known[i.ID].addr != i.Addr {
			n.known[i.ID] = neighbour{addr: i.Addr}
		}
		k := n.known[i.ID]
		k.gone = time.Time{}
		n.known[i.ID] = k
	}
	for id, k := range n.known {
		switch {
		case here[id]:
		case k.gone.IsZero():
			k.gone = now
			n.known[id] = k
		case now.Sub(k.gone) > n.cfg.Remember:
			delete(n.known, id)
		}
	}
}

// Take asks a gateway for a session. When it gives it up, arrive is called with it before h hears anything of it, and then
// Take returns settle, to be called once the session's new route is claimed. elsewhere names the gateway that took it
// before. When ctx ends first, the session is lost if it comes.
func (n *Neighbours) Take(
	ctx context.Context, holder string, ask im.SessionAsk, arrive func(*im.Session), h NeighbourHandler,
) (settle func(), elsewhere string, err error) {
	s, err := n.stream(holder, h)
	if err != nil {
		return nil, "", err
	}
	a := &asked{arrive: arrive, done: make(chan takeAnswer, 1)}
	request := s.ask(&ask, a)
	select {
	case got := <-a.done:
		return got.settle, got.elsewhere, got.err
	case <-ctx.Done():
	}
	if s.forget(request) {
		n.rest(holder)
		return nil, "", im.Errorf(im.CodeUnavailable, "gateway %s did not answer in time", holder)
	}
	got := <-a.done // it is just being answered
	return got.settle, got.elsewhere, got.err
}

// stream returns the stream to a gateway, or begins one.
func (n *Neighbours) stream(holder string, h NeighbourHandler) (*taking, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k, ok := n.known[holder]
	switch {
	case !ok:
		return nil, im.Errorf(im.CodeUnavailable, "gateway %q is not known here", holder)
	case time.Now().Before(k.rests):
		return nil, im.Errorf(im.CodeUnavailable, "gateway %s did not answer a moment ago", holder)
	}
	if s := n.streams[holder]; s != nil && s.addr == k.addr && s.usable() {
		return s, nil
	}
	s := &taking{
		addr: k.addr, handler: h, wake: make(chan struct{}, 1),
		pending: map[uint64]*asked{}, arrivals: map[im.SessionID]*arrival{},
	}
	n.streams[holder] = s
	go func() {
		err := s.hold(n.base, n.deps.Conns)
		n.mu.Lock()
		if n.streams[holder] == s {
			delete(n.streams, holder)
		}
		n.mu.Unlock()
		if err != nil && n.base.Err() == nil {
			n.log.Info("the stream to a gateway broke", "gateway", holder, "addr", s.addr, "error", err)
			n.rest(holder)
		}
		s.over(n.base.Err() == nil && err != nil)
	}()
	return s, nil
}

// rest leaves a gateway alone for a moment: logins do not wait for it one after the other.
func (n *Neighbours) rest(holder string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if k, ok := n.known[holder]; ok {
		k.rests = time.Now().Add(n.cfg.Rest)
		n.known[holder] = k
	}
}

// taking is a stream to one gateway.
type taking struct {
	addr    string
	handler NeighbourHandler
	wake    chan struct{} // holds at most one

	mu       sync.Mutex
	queue    []*antipodev1.TakeRequest
	request  uint64
	pending  map[uint64]*asked
	arrivals map[im.SessionID]*arrival
	ended    bool
}

type asked struct {
	id     im.SessionID
	arrive func(*im.Session)
	done   chan takeAnswer // holds one
}

type takeAnswer struct {
	settle    func()
	elsewhere string
	err       error
}

// arrival is a session that was taken, while something may come late for it.
type arrival struct {
	passOn time.Duration
	until  time.Time // zero: its route is not claimed yet
}

// closeAfter is how long a stream stays after nothing can come late any more.
const closeAfter = time.Second

func (s *taking) usable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

func (s *taking) ask(ask *im.SessionAsk, a *asked) (request uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		a.done <- takeAnswer{err: errTakeBroke}
		return 0
	}
	a.id = ask.ID
	s.request++
	s.pending[s.request] = a
	s.put(askMessage(s.request, ask))
	return s.request
}

var errTakeBroke = im.Errorf(im.CodeUnavailable, "the stream to the gateway broke before it answered")

// forget takes an ask back; false: it was answered.
func (s *taking) forget(request uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, waits := s.pending[request]
	delete(s.pending, request)
	return waits
}

// put queues a message. The lock is held.
func (s *taking) put(m *antipodev1.TakeRequest) {
	s.queue = append(s.queue, m)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hold serves the stream until it breaks, or is needed no more: then it returns nil.
func (s *taking) hold(ctx context.Context, conns Conns) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cc, err := conns.Conn(s.addr)
	if err != nil {
		return err
	}
	stream, err := antipodev1.NewGatewayClient(cc).Take(ctx)
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() { received <- s.receive(stream) }()
	tick := time.NewTicker(closeAfter)
	defer tick.Stop()
	for {
		select {
		case err := <-received:
			if errors.Is(err, io.EOF) {
				err = errTakeBroke // it is for this end to close
			}
			return err
		case <-tick.C:
			if s.idle(time.Now()) {
				_ = stream.CloseSend() // nothing waits on it
				<-received
				return nil
			}
		case <-s.wake:
			s.mu.Lock()
			queue := s.queue
			s.queue = nil
			s.mu.Unlock()
			for _, m := range queue {
				if stream.Send(m) != nil {
					return <-received // has the reason
				}
			}
		}
	}
}

// idle tells whether the stream is not needed any more; then nothing is asked on it from now on.
func (s *taking) idle(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.arrivals {
		if !a.until.IsZero() && now.Sub(a.until) > closeAfter {
			delete(s.arrivals, id)
		}
	}
	s.ended = len(s.arrivals) == 0 && len(s.pending) == 0 && len(s.queue) == 0
	return s.ended
}

func (s *taking) receive(stream grpc.BidiStreamingClient[antipodev1.TakeRequest, antipodev1.TakeResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch k := m.Kind.(type) {
		case *antipodev1.TakeResponse_Taken:
			s.answered(k.Taken)
		case *antipodev1.TakeResponse_Late:
			if id, err := sessionID(k.Late.Session); err == nil {
				s.handler.Late(id, lateOf(k.Late))
			}
		}
	}
}

func (s *taking) answered(m *antipodev1.TakenSession) {
	s.mu.Lock()
	a := s.pending[m.Request]
	delete(s.pending, m.Request)
	given := m.Error == nil && m.Elsewhere == ""
	var here *arrival
	if a != nil && given {
		here = &arrival{passOn: time.Duration(m.PassOnMs) * time.Millisecond}
		s.arrivals[a.id] = here
	}
	s.mu.Unlock()
	switch {
	case a == nil: // its login did not wait for so long
	case given:
		a.arrive(takenOf(m))
		a.done <- takeAnswer{settle: func() { s.settle(a.id, here) }}
	default:
		a.done <- takeAnswer{elsewhere: m.Elsewhere, err: wire.ErrorOf(m.Error)}
	}
}

// settle tells that a session's route is claimed.
func (s *taking) settle(id im.SessionID, a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.until = time.Now().Add(a.passOn)
	if !s.ended {
		s.put(&antipodev1.TakeRequest{Kind: &antipodev1.TakeRequest_Settled{Settled: &antipodev1.TakeSettled{Session: id[:]}}})
	}
}

// over ends what waits. If it broke, sessions for which something may have been on its way are told.
func (s *taking) over(broke bool) {
	now := time.Now()
	s.mu.Lock()
	s.ended = true
	pending := s.pending
	s.pending, s.queue = nil, nil
	var missed []im.SessionID
	for id, a := range s.arrivals {
		if broke && (a.until.IsZero() || now.Before(a.until)) {
			missed = append(missed, id)
		}
	}
	s.arrivals = nil
	s.mu.Unlock()
	for _, a := range pending {
		a.done <- takeAnswer{err: errTakeBroke}
	}
	if len(missed) > 0 {
		s.handler.Missed(missed)
	}
}

func takenOf(m *antipodev1.TakenSession) *im.Session {
	s := &im.Session{
		Seen: im.Stamp(m.Seen), Missed: m.Missed, Number: m.Number, SentMax: m.Sent, Behind: m.Behind, Resends: int(m.Resends),
		Groups: wire.UIDs(m.Interests), All: m.AllInterests, PassOn: time.Duration(m.PassOnMs) * time.Millisecond,
	}
	for _, p := range m.Pushes {
		s.Pushes = append(s.Pushes, im.SessionPush{Number: p.Number, Late: pushOf(p)})
	}
	return s
}

func pushOf(p *antipodev1.TakenPush) im.Late {
	return im.Late{Service: p.GetService(), Method: p.GetMethod(), Body: p.GetBody(), Trace: p.GetTrace()}
}

func lateOf(m *antipodev1.TakenLate) im.Late {
	l := pushOf(m.Push)
	l.Join = wire.UIDs(m.Interests)
	return l
}
