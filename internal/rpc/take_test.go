package rpc_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/rpc"
)

// holder is a gateway that is asked for sessions.
type holder struct {
	mu      sync.Mutex
	asks    []im.SessionAsk
	outs    []rpc.TakeOutlet
	settled []im.SessionID
	answer  func(ask im.SessionAsk, out rpc.TakeOutlet)
}

func (*holder) Load() im.Load { return im.Load{} }

func (h *holder) GiveUp(ask im.SessionAsk, out rpc.TakeOutlet) {
	h.mu.Lock()
	h.asks, h.outs = append(h.asks, ask), append(h.outs, out)
	answer := h.answer
	h.mu.Unlock()
	if answer != nil {
		answer(ask, out)
	}
}

func (h *holder) Settled(id im.SessionID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settled = append(h.settled, id)
}

func (h *holder) out(t *testing.T) rpc.TakeOutlet {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.outs) == 0 {
		t.Fatal("nobody asked")
	}
	return h.outs[len(h.outs)-1]
}

// taker hears what comes late.
type taker struct {
	mu     sync.Mutex
	heard  []string
	missed []im.SessionID
}

func (k *taker) note(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = append(k.heard, fmt.Sprintf(format, args...))
}

func (k *taker) Late(_ im.SessionID, l im.Late) {
	k.note("%s %s %s %s %v", l.Service, l.Method, l.Body, l.Trace, l.Join)
}

func (k *taker) Missed(ids []im.SessionID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missed = append(k.missed, ids...)
}

func (k *taker) count() (heard, missed int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.heard), len(k.missed)
}

// serveHolder runs a holder's server; stop ends it like a crash.
func serveHolder(t *testing.T, h *holder) (addr string, stop func()) {
	t.Helper()
	s, err := rpc.NewServer(rpc.ServerConfig{Addr: "127.0.0.1:0", Drain: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	rpc.RegisterGateway(ctx, s, h, rpc.GatewayAccess{Region: "eu"})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel(im.ErrKilled)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s.Addr(), stop
}

// neighbourhood runs Neighbours that know gateways by their addresses.
func neighbourhood(t *testing.T, cfg rpc.NeighboursConfig, addrs map[string]string) *rpc.Neighbours {
	t.Helper()
	dialer := rpc.NewDialer(rpc.DialConfig{})
	listed := make(chan struct{})
	n := rpc.NewNeighbours(cfg, rpc.NeighboursDeps{Conns: dialer, Watch: func(ctx context.Context, fn func([]im.Instance)) error {
		var all []im.Instance
		for id, addr := range addrs {
			all = append(all, im.Instance{ID: id, Addr: addr})
		}
		fn(all)
		fn(nil) // they have left discovery, and are remembered
		close(listed)
		<-ctx.Done()
		return ctx.Err()
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	<-listed
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		dialer.Close()
	})
	return n
}

func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("never: ", what)
		}
	}
}

// A session comes as it was given, and what comes late for it follows in order.
func TestTake(t *testing.T) {
	given := im.Session{
		Seen: 7, Missed: true, Number: 9, SentMax: 8, Behind: 3, Resends: 2, PassOn: time.Hour, Groups: []im.UID{"s:eu:one", "s:eu:two"}, All: true,
		Pushes: []im.SessionPush{{Number: 8, Late: im.Late{Service: "im", Method: "event", Body: []byte("eight"), Trace: "t"}}, {Number: 9, Late: im.Late{Service: "x", Method: "y"}}},
	}
	h := &holder{answer: func(_ im.SessionAsk, out rpc.TakeOutlet) {
		out.Given(&given)
		if err := out.Late(im.SessionID{1}, &im.Late{Service: "im", Method: "event", Body: []byte("ten"), Trace: "t"}); err != nil {
			t.Error(err)
		}
		if err := out.Late(im.SessionID{1}, &im.Late{Join: []im.UID{"s:eu:three"}}); err != nil {
			t.Error(err)
		}
	}}
	addr, _ := serveHolder(t, h)
	n := neighbourhood(t, rpc.NeighboursConfig{}, map[string]string{"a": addr})
	k := &taker{}
	ask := im.SessionAsk{ID: im.SessionID{1}, Secret: "s", UID: "ann", Device: "phone", Platform: "ios", Login: 5, Push: 7, Gateway: "b"}
	settle, elsewhere, err := n.Take(t.Context(), "a", ask, func(s *im.Session) {
		if !reflect.DeepEqual(*s, given) {
			t.Errorf("got %+v, want %+v", *s, given)
		}
		k.note("arrived")
	}, k)
	if err != nil || elsewhere != "" || settle == nil {
		t.Fatal(elsewhere, err)
	}
	if !slices.Equal(h.asks, []im.SessionAsk{ask}) {
		t.Errorf("asked %+v", h.asks)
	}
	soon(t, "what is late comes", func() bool { heard, _ := k.count(); return heard == 3 })
	if want := []string{"arrived", "im event ten t []", "    [s:eu:three]"}; !slices.Equal(k.heard, want) {
		t.Errorf("heard %q, want %q", k.heard, want)
	}
	settle()
	soon(t, "the holder hears that it is settled", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return slices.Equal(h.settled, []im.SessionID{{1}})
	})
}

// What the holder answers instead comes back as it is, and nothing arrives.
func TestTakeRefused(t *testing.T) {
	h := &holder{}
	addr, _ := serveHolder(t, h)
	n := neighbourhood(t, rpc.NeighboursConfig{}, map[string]string{"a": addr})
	take := func(holder string) (string, error) {
		t.Helper()
		settle, elsewhere, err := n.Take(t.Context(), holder, im.SessionAsk{}, func(*im.Session) { t.Error("a session came") }, &taker{})
		if settle != nil && err != nil {
			t.Error("it may be settled")
		}
		return elsewhere, err
	}
	h.answer = func(_ im.SessionAsk, out rpc.TakeOutlet) {
		out.Refused("", im.Errorf(im.CodeLoginTie, "above 5"))
	}
	if _, err := take("a"); im.CodeOf(err) != im.CodeLoginTie {
		t.Errorf("got %v", err)
	}
	h.mu.Lock()
	h.answer = func(_ im.SessionAsk, out rpc.TakeOutlet) { out.Refused("c", nil) }
	h.mu.Unlock()
	if elsewhere, err := take("a"); elsewhere != "c" || err != nil {
		t.Errorf("got %q, %v", elsewhere, err)
	}
	if _, err := take("x"); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("an unknown gateway: %v", err)
	}
}

// A holder that does not answer is not waited for past the bound, nor asked again for a moment; what it gives up too late is
// nobody's.
func TestTakeUnanswered(t *testing.T) {
	h := &holder{}
	addr, _ := serveHolder(t, h)
	n := neighbourhood(t, rpc.NeighboursConfig{Rest: time.Hour}, map[string]string{"a": addr})
	k := &taker{}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			h.mu.Lock()
			asked := len(h.asks)
			h.mu.Unlock()
			if asked > 0 {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	arrive := func(*im.Session) { t.Error("it came") }
	if _, _, err := n.Take(ctx, "a", im.SessionAsk{ID: im.SessionID{1}}, arrive, k); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	out := h.out(t)
	out.Given(&im.Session{PassOn: time.Hour})
	if err := out.Late(im.SessionID{1}, &im.Late{Method: "late"}); err != nil {
		t.Error(err)
	}
	soon(t, "late comes behind it", func() bool { heard, _ := k.count(); return heard == 1 })
	if _, _, err := n.Take(t.Context(), "a", im.SessionAsk{}, arrive, k); im.CodeOf(err) != im.CodeUnavailable || len(h.asks) != 1 {
		t.Errorf("got %v after %d asks", err, len(h.asks))
	}
}

// When the stream breaks, those are told whose pushes may have been on their way: not those that have been settled for long
// enough, and not those whose stream was closed because nothing could come any more.
func TestTakeBreaks(t *testing.T) {
	for name, breaks := range map[string]func(h *holder, stop func()){
		"the holder dies":     func(_ *holder, stop func()) { stop() },
		"the holder gives up": func(h *holder, _ func()) { h.outs[0].Break() },
		"too much waits": func(h *holder, _ func()) {
			for h.outs[0].Late(im.SessionID{1}, &im.Late{Method: "big", Body: make([]byte, 1<<20)}) == nil {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			passOn := map[im.SessionID]time.Duration{{1}: time.Hour, {2}: time.Hour, {3}: 0}
			h := &holder{answer: func(ask im.SessionAsk, out rpc.TakeOutlet) { out.Given(&im.Session{PassOn: passOn[ask.ID]}) }}
			addr, stop := serveHolder(t, h)
			n := neighbourhood(t, rpc.NeighboursConfig{}, map[string]string{"a": addr})
			k := &taker{}
			for id := range passOn {
				settle, _, err := n.Take(t.Context(), "a", im.SessionAsk{ID: id}, func(*im.Session) {}, k)
				if err != nil {
					t.Fatal(err)
				}
				if id != (im.SessionID{1}) {
					settle()
				}
			}
			breaks(h, stop)
			soon(t, "the break is noticed", func() bool { _, missed := k.count(); return missed >= 2 })
			slices.SortFunc(k.missed, func(a, b im.SessionID) int { return slices.Compare(a[:], b[:]) })
			if !slices.Equal(k.missed, []im.SessionID{{1}, {2}}) {
				t.Errorf("missed %v", k.missed)
			}
		})
	}
	t.Run("nothing can come any more", func(t *testing.T) {
		h := &holder{answer: func(_ im.SessionAsk, out rpc.TakeOutlet) { out.Given(&im.Session{}) }}
		addr, _ := serveHolder(t, h)
		n := neighbourhood(t, rpc.NeighboursConfig{}, map[string]string{"a": addr})
		k := &taker{}
		for range 2 { // the second one begins a stream anew
			settle, _, err := n.Take(t.Context(), "a", im.SessionAsk{ID: im.SessionID{1}}, func(*im.Session) {}, k)
			if err != nil {
				t.Fatal(err)
			}
			settle()
			out := h.out(t)
			soon(t, "the stream is closed", func() bool { return out.Late(im.SessionID{1}, &im.Late{}) != nil })
		}
		if _, missed := k.count(); missed > 0 {
			t.Errorf("missed %v", k.missed)
		}
	})
}

// A gateway of before there was Take refuses like any that has no such session.
func TestTakeOfAnOlderGateway(t *testing.T) {
	s, err := rpc.NewServer(rpc.ServerConfig{Addr: "127.0.0.1:0", Drain: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(im.ErrKilled); <-done }()
	n := neighbourhood(t, rpc.NeighboursConfig{}, map[string]string{"a": s.Addr()})
	_, _, err = n.Take(t.Context(), "a", im.SessionAsk{}, func(*im.Session) { t.Error("it came") }, &taker{})
	if im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("got %v", err)
	}
}
