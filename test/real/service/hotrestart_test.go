//go:build real

package service_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/wire"
)

// sender is a client of a pair. It submits to the other one as soon as its last submit was answered and a pause is over, and
// checks that what either of them submits is pushed to it, once and in order. It never connects again.
type sender struct {
	uid, peer im.UID
	ws        *websocket.Conn
	codec     *wire.Codec
	writing   sync.Mutex

	answered chan uint32
	got      map[string]struct{} // client_ids that were pushed; the reader's
	last     uint64              // number of the last push

	finished []answer
	ids      []string // client_ids that were acked
}

// answer is when a submit was sent, and when its answer came.
type answer struct{ sent, came time.Time }

// chatter is many of them.
type chatter struct {
	t       testing.TB
	all     []*sender
	pushed  atomic.Int64
	acked   atomic.Int64
	stop    chan struct{}
	senders errgroup.Group
	readers errgroup.Group
	wrong   chan error // capacity 1: the first
}

func (c *chatter) fail(err error) error {
	select {
	case c.wrong <- err:
	default:
	}
	return err
}

// login connects clients to a gateway.
func login(t testing.TB, url string, clients int) *chatter {
	t.Helper()
	c := &chatter{t: t, all: make([]*sender, clients), stop: make(chan struct{}), wrong: make(chan error, 1)}
	var logins errgroup.Group
	logins.SetLimit(32)
	for i := range c.all {
		logins.Go(func() error {
			s := &sender{
				uid: im.UID(fmt.Sprintf("u%d", i)), peer: im.UID(fmt.Sprintf("u%d", i^1)),
				answered: make(chan uint32, 1), got: map[string]struct{}{},
			}
			c.all[i] = s
			return s.login(url)
		})
	}
	if err := logins.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range c.all {
			s.ws.Close()
		}
		_ = c.readers.Wait()
	})
	return c
}

func (s *sender) login(url string) error {
	claims := jwt.RegisteredClaims{
		Subject: string(s.uid), Audience: jwt.ClaimStrings{auth.Audience}, ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	unsigned.Header["kid"] = "trial"
	token, err := unsigned.SignedString(make([]byte, 32)) // the key of the shared file
	if err != nil {
		return err
	}
	d := websocket.Dialer{Subprotocols: []string{wire.SubprotocolProtobuf}, HandshakeTimeout: patience, ReadBufferSize: 1024, WriteBufferSize: 1024}
	if s.ws, _, err = d.Dial(url, nil); err != nil {
		return fmt.Errorf("%s: %w", s.uid, err)
	}
	if s.codec, err = wire.NewCodec(wire.SubprotocolProtobuf); err != nil {
		return err
	}
	if err := s.send(wire.FrameOf(&wire.Hello{Token: token, Device: "phone", Platform: "ios", Login: 1})); err != nil {
		return err
	}
	f, err := s.receive()
	if err == nil && f.GetWelcome() == nil {
		err = fmt.Errorf("%s: got %v, want a welcome", s.uid, f)
	}
	return err
}

func (s *sender) send(f *wire.Frame) error {
	b, err := s.codec.Encode(f)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.ws.WriteMessage(s.codec.MessageType(), b)
}

func (s *sender) receive() (*wire.Frame, error) {
	if err := s.ws.SetReadDeadline(time.Now().Add(2 * patience)); err != nil {
		return nil, err
	}
	_, b, err := s.ws.ReadMessage()
	if err != nil {
		return nil, fmt.Errorf("%s was disconnected: %w", s.uid, err)
	}
	return s.codec.Decode(b)
}

// read takes what comes until the socket is closed.
func (c *chatter) read(s *sender) error {
	for {
		f, err := s.receive()
		if err != nil {
			return c.fail(err) // at the end nobody looks
		}
		switch k := f.Kind.(type) {
		case *wire.FrameReply:
			if k.Reply.Error != nil {
				return c.fail(fmt.Errorf("%s: submit %d: %v", s.uid, k.Reply.Id, k.Reply.Error))
			}
			s.answered <- k.Reply.Id
		case *wire.FramePush:
			if k.Push.Number != s.last+1 {
				return c.fail(fmt.Errorf("%s: push %d after %d", s.uid, k.Push.Number, s.last))
			}
			s.last = k.Push.Number
			var e wire.Event
			if err := wire.Unmarshal(k.Push.Body, &e); err != nil {
				return c.fail(err)
			}
			r := e.GetRecord()
			if _, again := s.got[r.GetClientId()]; r == nil || again {
				return c.fail(fmt.Errorf("%s: pushed %v, again=%v", s.uid, r, again))
			}
			s.got[r.GetClientId()] = struct{}{}
			c.pushed.Add(1)
			if err := s.send(wire.FrameOf(&wire.PushAck{Number: s.last})); err != nil {
				return c.fail(err)
			}
		default:
			return c.fail(fmt.Errorf("%s: got %v", s.uid, f))
		}
	}
}

// submit sends until it is stopped.
func (c *chatter) submit(s *sender, pace time.Duration) error {
	wait := rand.N(pace)
	for id := uint32(1); ; id++ {
		select {
		case <-c.stop:
			return nil
		case <-time.After(wait):
		}
		wait = pace/2 + rand.N(pace)
		now := time.Now()
		key, clientID := string(im.Direct(s.uid, s.peer)), im.NewUUID(now).String()
		body, err := wire.Marshal(&wire.SubmitRequest{
			Conversation: key, ClientId: clientID, Content: &wire.SubmitText{Text: &wire.Text{Text: "while gateways change"}},
		})
		if err != nil {
			return c.fail(err)
		}
		if err := s.send(wire.FrameOf(&wire.Call{Id: id, Service: wire.ServiceIM, Method: wire.MethodSubmit, Key: key, Body: body})); err != nil {
			return c.fail(err)
		}
		select {
		case got := <-s.answered:
			if got != id {
				return c.fail(fmt.Errorf("%s: submit %d was answered, want %d", s.uid, got, id))
			}
		case <-time.After(patience):
			return c.fail(fmt.Errorf("%s: submit %d has no answer", s.uid, id))
		}
		s.finished = append(s.finished, answer{now, time.Now()})
		s.ids = append(s.ids, clientID)
		c.acked.Add(1)
	}
}

// begin has all of them send.
func (c *chatter) begin(pace time.Duration) {
	for _, s := range c.all {
		c.readers.Go(func() error { return c.read(s) })
		c.senders.Go(func() error { return c.submit(s, pace) })
	}
}

// until waits for a state, or for something to go wrong.
func (c *chatter) until(what string, ok func() error) {
	c.t.Helper()
	eventually(c.t, what, func() error {
		select {
		case err := <-c.wrong:
			c.t.Fatal(err)
		default:
		}
		return ok()
	})
}

// more waits until each has sent a number of times more, on average.
func (c *chatter) more(times int) {
	c.t.Helper()
	want := c.acked.Load() + int64(times*len(c.all))
	c.until("they go on sending", func() error {
		if n := c.acked.Load(); n < want {
			return fmt.Errorf("%d submits were answered, want %d", n, want)
		}
		return nil
	})
}

// end stops them and checks that everything that was acked was pushed, and nothing else.
func (c *chatter) end() {
	c.t.Helper()
	close(c.stop)
	if err := c.senders.Wait(); err != nil {
		c.t.Fatal(err)
	}
	c.until("what was sent has come", func() error {
		if want, pushed := 2*c.acked.Load(), c.pushed.Load(); pushed < want {
			return fmt.Errorf("%d of %d", pushed, want)
		}
		return nil
	})
	for _, s := range c.all {
		s.ws.Close()
	}
	_ = c.readers.Wait()
	for i, s := range c.all {
		got := slices.Sorted(maps.Keys(s.got))
		want := slices.Sorted(slices.Values(slices.Concat(s.ids, c.all[i^1].ids)))
		if !slices.Equal(got, want) {
			c.t.Fatalf("%s got %d messages, and it and %s sent %d", s.uid, len(got), s.peer, len(want))
		}
	}
}

// slowest returns, sorted, the slowest answer that each client waited for in a span of time, and all that began before it.
func (c *chatter) slowest(from, to time.Time) (during, before []time.Duration) {
	for _, s := range c.all {
		slow := time.Duration(0)
		for _, a := range s.finished {
			switch {
			case a.came.Before(from):
				before = append(before, a.came.Sub(a.sent))
			case a.sent.Before(to):
				slow = max(slow, a.came.Sub(a.sent))
			}
		}
		if slow > 0 {
			during = append(during, slow)
		}
	}
	slices.Sort(during)
	slices.Sort(before)
	return during, before
}

func at(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// restarted is what came of a hot restart.
type restarted struct {
	submits        int64
	handoff        time.Duration // from the new process's start to the old one's end
	pauses, before []time.Duration
}

// hotRestart runs a region, has clients send, and starts a gateway process on the one that runs.
func hotRestart(t testing.TB, clients int, pace time.Duration) restarted {
	over := settings{"timelines.urls": database(t), "imserver.rate": "1000"}
	migrate(t, over)
	share(t, start(t, "router", "router-1", over))
	share(t, start(t, "imserver", "imserver-1", over))
	over["gateway.handoff"] = filepath.Join(t.TempDir(), "handoff.sock")
	listen := fmt.Sprintf("%s:%d", world.env.Host(3), 10_000+world.ports.Add(1))
	over["listen"], over["public_url"] = listen, "http://"+listen
	old := start(t, "gateway", "gateway-1", over)
	eventually(t, "the gateway is ready", func() error {
		r, err := old.ready()
		if err == nil && !r.OK {
			err = fmt.Errorf("%v", r.Checks)
		}
		return err
	})
	gaps := listedThroughout(t, "gateway-1")
	c := login(t, "ws://"+listen+"/v1/ws", clients)
	c.begin(pace)
	c.more(1)

	next := &service{t: t, kind: "gateway", args: old.args, admin: old.admin, log: filepath.Join(t.TempDir(), "next.log")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- log of the next process\n%s", next.logged())
		}
	})
	from := time.Now()
	next.start()
	t.Cleanup(func() {
		if err := next.Kill(); err != nil {
			t.Error(err)
		}
	})
	c.until("the old process ends", func() error {
		select {
		case <-old.Done():
			return nil
		default:
			return fmt.Errorf("it runs")
		}
	})
	to := time.Now()
	if err := old.Err(); err != nil {
		t.Errorf("the old process ended with %v", err)
	}
	c.more(1)
	if gap := gaps(); gap != "" {
		t.Error(gap)
	}
	c.end()
	if !strings.Contains(next.logged(), fmt.Sprintf(`"conns":%d`, clients)) {
		t.Error("the next process does not say that it took all conns over")
	}
	for _, log := range []string{old.logged(), next.logged()} {
		if strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("an error was logged:\n%s", log)
		}
	}
	r := restarted{submits: c.acked.Load(), handoff: to.Sub(from)}
	r.pauses, r.before = c.slowest(from, to)
	return r
}

// listedThroughout watches an instance in discovery; the function that it returns tells whether it was missing at any time.
func listedThroughout(t testing.TB, id string) (gaps func() string) {
	c, err := consul.New(consul.Config{Address: world.consul["eu"].Addr(), Region: "eu"}, consul.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var gap string
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Watch(ctx, "gateway", "eu", func(list []im.Instance) {
			mu.Lock()
			defer mu.Unlock()
			if !slices.ContainsFunc(list, func(i im.Instance) bool { return i.ID == id }) {
				gap = fmt.Sprintf("%s: %s is not among the gateways listed: %v", time.Now().Format(time.TimeOnly), id, list)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		c.Close()
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return gap
	}
}

// TestHotRestart: clients that send throughout see no more of a gateway's next process than a pause, and discovery nothing.
func TestHotRestart(t *testing.T) {
	r := hotRestart(t, 1000, 3*time.Second)
	t.Logf("%d submits; the old process ended %v after the start of the new one; slowest answer of a client meanwhile: median %v, p99 %v; of all before: median %v, p99 %v",
		r.submits, r.handoff.Round(time.Millisecond), at(r.pauses, .5), at(r.pauses, .99), at(r.before, .5), at(r.before, .99))
}

// BenchmarkHotRestart is TestHotRestart with 5,000 clients.
func BenchmarkHotRestart(b *testing.B) {
	for b.Loop() {
		r := hotRestart(b, 5000, 10*time.Second)
		ms := func(name string, d time.Duration) { b.ReportMetric(float64(d.Microseconds())/1000, "ms-"+name) }
		ms("answer-p50", at(r.before, .5))
		ms("answer-p99", at(r.before, .99))
		ms("pause-p50", at(r.pauses, .5))
		ms("pause-p99", at(r.pauses, .99))
		ms("handoff", r.handoff)
		b.ReportMetric(float64(r.submits), "submits")
	}
}
