package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// pollPeer is a client's end of a long poll.
type pollPeer struct {
	t      testing.TB
	url    string
	codec  *wire.Codec
	client *http.Client

	conn       string
	held, sent uint32
	got        [][]byte
	closed     int
}

func (r *rig) pollPeer(subprotocol string) *peer {
	r.t.Helper()
	codec, err := wire.NewCodec(subprotocol)
	if err != nil {
		r.t.Fatal(err)
	}
	transport := &http.Transport{}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &peer{t: r.t, codec: codec, poll: &pollPeer{
		t: r.t, url: r.g.URL() + "/v1/poll", codec: codec, client: &http.Client{Transport: transport, Timeout: 20 * time.Second},
	}}
}

func (p *pollPeer) media() string {
	if p.codec.MessageType() == wire.TextMessage {
		return mediaJSON
	}
	return mediaProtobuf
}

// post sends a body as it is.
func (p *pollPeer) post(ctx context.Context, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", p.media())
	response, err := p.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// ask sends a request that must be answered as a poll.
func (p *pollPeer) ask(q wire.PollRequest) wire.PollAnswer {
	p.t.Helper()
	status, b, err := p.post(context.Background(), p.codec.EncodePoll(&q))
	if err != nil || status != http.StatusOK {
		p.t.Fatalf("status %d, %q, %v", status, b, err)
	}
	a, err := p.codec.DecodePollAnswer(b)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *pollPeer) send(frame []byte) {
	p.t.Helper()
	if p.conn == "" {
		p.held = 1
		p.take(p.ask(wire.PollRequest{Number: 1, HoldMs: 5000, Frames: [][]byte{frame}}))
		return
	}
	p.sent++
	if a := p.ask(wire.PollRequest{Conn: p.conn, Number: p.sent, Frames: [][]byte{frame}}); a.Close != 0 {
		p.take(a)
	}
}

func (p *pollPeer) take(a wire.PollAnswer) {
	if a.Conn != "" {
		p.conn = a.Conn
	}
	p.got = append(p.got, a.Frames...)
	p.closed = a.Close
}

func (p *pollPeer) receive() ([]byte, error) {
	p.t.Helper()
	for until := time.Now().Add(30 * time.Second); len(p.got) == 0; {
		if p.closed != 0 {
			return nil, &websocket.CloseError{Code: p.closed, Text: string(im.CodeOfClose(p.closed))}
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("no frame came")
		}
		p.held++
		p.take(p.ask(wire.PollRequest{Conn: p.conn, Number: p.held, HoldMs: 2000}))
	}
	b := p.got[0]
	p.got = p.got[1:]
	return b, nil
}

// loginPoll opens a session by long poll.
func (r *rig) loginPoll(subprotocol string, uid im.UID, login uint64) (*peer, *wire.Welcome) {
	r.t.Helper()
	p := r.pollPeer(subprotocol)
	p.send(r.hello(uid, login))
	return p, expect(p, (*wire.Frame).GetWelcome)
}

func (r *rig) resumePoll(subprotocol string, uid im.UID, login uint64, w *wire.Welcome, push uint64) (*peer, *wire.Welcome) {
	r.t.Helper()
	p := r.pollPeer(subprotocol)
	h := r.hello(uid, login)
	h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret, Push: push}
	p.send(h)
	return p, expect(p, (*wire.Frame).GetWelcome)
}

// A session by long poll does what one by WebSocket does.
func TestPollSession(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, w := r.loginPoll(subprotocol, "ann", 1)
		if w.Uid != "ann" || w.Resumed {
			t.Errorf("welcome %v", w)
		}
		p.expectAlive()
		p.send(submit(7, "d:ann:bob", "hi"))
		if reply := expect(p, (*wire.Frame).GetReply); reply.Id != 7 || reply.Error != nil {
			t.Errorf("reply %v", reply)
		}
		no := r.routers.last().Conn
		r.push("one", no)
		r.push("two", no)
		p.expectPush(1, "one")
		p.expectPush(2, "two")
		p.send(&wire.PushAck{Number: 3}) // was not sent
		if e := expect(p, (*wire.Frame).GetError); e.Code != string(im.CodeBadRequest) {
			t.Errorf("error %v", e)
		}
		p.send(&wire.PushAck{Number: 2})
		unacked := func() int {
			s := r.g.hub.byConn(no)
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.unacked)
		}
		if n := unacked(); n != 0 {
			t.Errorf("%d pushes are kept", n)
		}
		p.send(&wire.Bye{})
		if _, err := p.receive(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("after bye: %v", err)
		}
		eventually(t, "the session is released", func() bool { return r.routers.last().Release && r.g.hub.size() == 0 })
		eventually(t, "the conn is gone", func() bool { return r.g.conns.reserved.Load() == 0 && r.g.polls.size() == 0 })
	})
}

// Frames behind hello, in its own request, wait for the login, and are handled in their order.
func TestPollFramesBehindHello(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p := r.pollPeer(subprotocol)
		q := wire.PollRequest{Number: 1, HoldMs: 5000}
		want := []string{}
		for i, m := range []proto.Message{r.hello("ann", 1), submit(1, "d:ann:bob", "a"), submit(2, "d:ann:bob", "b"), submit(3, "d:ann:bob", "c")} {
			b, err := p.codec.Encode(wire.FrameOf(m))
			if err != nil {
				t.Fatal(err)
			}
			q.Frames = append(q.Frames, b)
			if i > 0 {
				want = append(want, textOf(im.Call{Body: m.(*wire.Call).Body}))
			}
		}
		p.poll.held = 1
		p.poll.take(p.poll.ask(q))
		expect(p, (*wire.Frame).GetWelcome)
		for id := uint32(1); id <= 3; id++ {
			if reply := expect(p, (*wire.Frame).GetReply); reply.Id != id || reply.Error != nil {
				t.Errorf("reply %v, want %d", reply, id)
			}
		}
		got := []string{}
		for _, c := range r.backend.seen() {
			got = append(got, textOf(c))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("called %v, want %v", got, want)
		}
	})
}

// A session goes from WebSocket to long poll and back; pushes that are under way are sent again, in order, once.
func TestPollSwitch(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		first, w := r.login(subprotocol, "ann", 1)
		r.push("1", r.routers.last().Conn)
		r.push("2", r.routers.last().Conn)
		first.expectPush(1, "1") // 2 is under way as the client leaves

		p, again := r.resumePoll(subprotocol, "ann", 2, w, 1)
		if !again.Resumed {
			t.Fatal("not resumed by long poll")
		}
		p.expectPush(2, "2")
		r.push("3", r.routers.last().Conn)
		p.expectPush(3, "3")
		p.send(&wire.PushAck{Number: 2})
		r.push("4", r.routers.last().Conn) // nobody polls

		back, again := r.resume(subprotocol, "ann", 3, w, 3)
		if !again.Resumed {
			t.Fatal("not resumed by WebSocket")
		}
		back.expectPush(4, "4")
		r.push("5", r.routers.last().Conn)
		back.expectPush(5, "5")
		back.expectAlive() // and nothing twice
		if a := p.poll.ask(wire.PollRequest{Conn: p.poll.conn, Number: p.poll.held + 1, HoldMs: 1000}); a.Close != im.CodeIdle.Spec().Close {
			t.Errorf("the poll that was left: %+v", a)
		}
	})
}

// An answer that is lost is given again, and what a repeated request brings is not handled twice.
func TestPollRepeats(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, _ := r.loginPoll(subprotocol, "ann", 1)
		call, err := p.codec.Encode(wire.FrameOf(submit(1, "d:ann:bob", "once")))
		if err != nil {
			t.Fatal(err)
		}
		q := wire.PollRequest{Conn: p.poll.conn, Number: 1, Frames: [][]byte{call}}
		p.poll.ask(q)
		p.poll.ask(q)
		q = wire.PollRequest{Conn: p.poll.conn, Number: p.poll.held + 1, HoldMs: 5000, Frames: [][]byte{call}}
		a, b := p.poll.ask(q), p.poll.ask(q)
		if len(a.Frames) == 0 || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%+v was answered again with %+v", a, b)
		}
		p.poll.held, p.poll.sent = q.Number, 1
		replies := len(a.Frames)
		for replies < 2 {
			expect(p, (*wire.Frame).GetReply)
			replies++
		}
		if n := len(r.backend.seen()); n != 2 {
			t.Errorf("%d calls came of two requests that were sent twice", n)
		}

		// The connection breaks while the gateway holds the request.
		q = wire.PollRequest{Conn: p.poll.conn, Number: p.poll.held + 1, HoldMs: 20_000}
		ctx, cancel := context.WithCancel(t.Context())
		broken := make(chan error, 1)
		go func() {
			_, _, err := p.poll.post(ctx, p.codec.EncodePoll(&q))
			broken <- err
		}()
		lp := r.g.polls.get(p.poll.conn)
		held := func() bool {
			lp.mu.Lock()
			defer lp.mu.Unlock()
			return lp.waits
		}
		eventually(t, "the request is held", held)
		cancel()
		if err := <-broken; err == nil {
			t.Error("the request was answered")
		}
		no := r.routers.last().Conn
		r.push("in between", no)
		p.poll.take(p.poll.ask(q))
		p.poll.held = q.Number
		p.expectPush(1, "in between")

		// A repetition takes the place of a request that is still held.
		q = wire.PollRequest{Conn: p.poll.conn, Number: p.poll.held + 1, HoldMs: 20_000}
		status := make(chan int, 1)
		go func() {
			s, _, _ := p.poll.post(t.Context(), p.codec.EncodePoll(&q)) // 0 if it failed
			status <- s
		}()
		eventually(t, "the request is held", held)
		answered := make(chan wire.PollAnswer, 1)
		go func() { answered <- p.poll.ask(q) }()
		if s := <-status; s != http.StatusBadRequest {
			t.Errorf("the first of two requests was answered %d", s)
		}
		r.push("for the second", no)
		p.poll.take(<-answered)
		p.poll.held = q.Number
		p.expectPush(2, "for the second")
	})
}

// Whoever is closed learns why.
func TestPollCloses(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		t.Run("replaced", func(t *testing.T) {
			r := newRig(t)
			p, _ := r.loginPoll(subprotocol, "ann", 1)
			claim := r.routers.last()
			r.routers.toGateway().Kick(im.Kick{Conn: claim.Conn, Login: claim.Login, Code: im.CodeReplaced})
			p.expectClose(im.CodeReplaced)
		})
		t.Run("refused", func(t *testing.T) {
			r := newRig(t)
			p := r.pollPeer(subprotocol)
			h := r.hello("ann", 1)
			h.Token = "x"
			p.send(h)
			p.expectClose(im.CodeBadToken)
		})
		t.Run("hello expected", func(t *testing.T) {
			r := newRig(t)
			p := r.pollPeer(subprotocol)
			p.send(&wire.Ping{})
			p.expectClose(im.CodeHelloExpected)
		})
		t.Run("a frame too large", func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.MaxFrame, c.MaxText = 4096, 1024 })
			p, _ := r.loginPoll(subprotocol, "ann", 1)
			p.send(submit(1, "d:ann:bob", strings.Repeat("x", 5000)))
			p.expectClose(im.CodeFrameTooLarge)
		})
		t.Run("idle", func(t *testing.T) {
			r := newRig(t)
			p, _ := r.loginPoll(subprotocol, "ann", 1)
			p.expectAlive() // the welcome comes before the login's end, which is a sign of life too
			c := r.g.polls.get(p.poll.conn).c
			before := c.heard.Load()
			p.poll.held++
			p.poll.take(p.poll.ask(wire.PollRequest{Conn: p.poll.conn, Number: p.poll.held, HoldMs: 1}))
			if c.heard.Load() <= before {
				t.Error("a request is no sign of life")
			}
			c.heard.Store(c.g.elapsed() - int64(r.g.cfg.IdleTimeout))
			c.check(c.g.elapsed())
			p.expectClose(im.CodeIdle)
		})
		t.Run("draining", func(t *testing.T) {
			r := newRig(t)
			p, _ := r.loginPoll(subprotocol, "ann", 1)
			r.g.Drain()
			if g := expect(p, (*wire.Frame).GetGoaway); len(g.Alternatives) != 1 {
				t.Errorf("goaway %v", g)
			}
			for _, s := range r.g.hub.all() {
				r.g.endSession(s, errDraining, nil)
			}
			p.expectClose(im.CodeDraining)
			hello, err := p.codec.Encode(wire.FrameOf(r.hello("bob", 1)))
			if err != nil {
				t.Fatal(err)
			}
			status, _, err := p.poll.post(t.Context(), p.codec.EncodePoll(&wire.PollRequest{Number: 1, HoldMs: 1, Frames: [][]byte{hello}}))
			if err != nil || status != im.CodeDraining.Spec().HTTP {
				t.Errorf("a newcomer: %d, %v", status, err)
			}
		})
	})
}

// What is no poll, or not now, is refused over HTTP, and ends nothing.
func TestPollRefusals(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConns, c.MaxPolls, c.MaxFrame, c.MaxText = 2, 1, 4096, 1024 })
	p, _ := r.loginPoll(wire.SubprotocolJSON, "ann", 1)
	hello, err := p.codec.Encode(wire.FrameOf(r.hello("bob", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		body string
		want im.Code
	}{
		{"no JSON", "x", im.CodeBadFrame},
		{"no hello", `{"number":1,"holdMs":1000}`, im.CodeBadRequest},
		{"a new one that does not hold", fmt.Sprintf(`{"number":1,"frames":[%s]}`, hello), im.CodeBadRequest},
		{"a number from the past", fmt.Sprintf(`{"conn":%q,"holdMs":1000}`, p.poll.conn), im.CodeBadRequest},
		{"a number from the future", fmt.Sprintf(`{"conn":%q,"number":7,"holdMs":1000}`, p.poll.conn), im.CodeBadRequest},
		{"the same without holding", fmt.Sprintf(`{"conn":%q,"number":7}`, p.poll.conn), im.CodeBadRequest},
		{"too many polls", fmt.Sprintf(`{"number":1,"holdMs":1000,"frames":[%s]}`, hello), im.CodeOverloaded},
		{"a body too large", strings.Repeat(" ", 8193), im.CodeFrameTooLarge},
	} {
		status, answer, err := p.poll.post(t.Context(), []byte(c.body))
		if err != nil || status != c.want.Spec().HTTP || !strings.Contains(string(answer), string(c.want)) {
			t.Errorf("%s: %d %s, %v; want %s", c.name, status, answer, err, c.want)
		}
	}
	if a := p.poll.ask(wire.PollRequest{Conn: "nobody", Number: 1, HoldMs: 1000}); a.Close != im.CodeIdle.Spec().Close || len(a.Frames) != 1 {
		t.Errorf("a conn that is not there: %+v", a)
	}
	other, _ := wire.NewCodec(wire.SubprotocolProtobuf)
	q := wire.PollRequest{Conn: p.poll.conn, Number: 2, HoldMs: 10}
	p.poll.codec = other
	if status, _, err := p.poll.post(t.Context(), other.EncodePoll(&q)); status != http.StatusBadRequest || err != nil {
		t.Errorf("another encoding: %d, %v", status, err)
	}
	p.poll.codec = p.codec
	p.expectAlive() // through all of it

	r.login(wire.SubprotocolProtobuf, "carl", 1) // polls count as conns: now it is full
	if _, response, err := r.tryDial(wire.SubprotocolProtobuf, nil); err == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third conn of two: %v", err)
	}
}

// A client that does not poll holds no more than any other that does not read, and is left with its session.
func TestPollSlow(t *testing.T) {
	r := newRig(t)
	p, w := r.loginPoll(wire.SubprotocolProtobuf, "ann", 1)
	no := r.routers.last().Conn
	for i := range 50 {
		r.push(fmt.Sprint(i+1), no)
	}
	c := r.g.polls.get(p.poll.conn).c
	eventually(t, "frames wait", func() bool { return c.blocked.Load() > 0 })
	c.blocked.Store(max(1, c.g.elapsed()-int64(r.g.cfg.WriteTimeout)))
	c.check(c.blocked.Load() + int64(r.g.cfg.WriteTimeout))
	eventually(t, "its conn is dropped", func() bool { return r.g.conns.size.Load() == 0 })
	p.expectClose(im.CodeIdle)
	again, welcome := r.resumePoll(wire.SubprotocolProtobuf, "ann", 2, w, 0)
	if !welcome.Resumed {
		t.Error("the session is gone")
	}
	for i := range 50 {
		again.expectPush(uint64(i+1), fmt.Sprint(i+1))
	}
}

func (t *polls) all() (list []*longPoll) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		list = append(list, p)
	}
	return list
}
