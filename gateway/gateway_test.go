package gateway

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func failing(err error) func(context.Context, im.Call) (im.CallResult, error) {
	return func(context.Context, im.Call) (im.CallResult, error) { return im.CallResult{}, err }
}

func (b *backend) set(handle func(context.Context, im.Call) (im.CallResult, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handle = handle
}

func TestLoginSubmitPush(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, w := r.login(subprotocol, "ann", 3)
		if w.Uid != "ann" || w.Resumed || w.Region != "eu" || w.Origin != "eu" || w.Gateway != "g1" || len(w.ResumeSecret) < 32 {
			t.Errorf("welcome is %v", w)
		}
		want := im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 1, Login: 3}
		if got := r.routers.claimed(); !slices.Equal(got, []im.Claim{want}) {
			t.Fatalf("claims are %v", got)
		}
		p.send(submit(9, "d:ann:bob", "hi"))
		reply := expect(p, (*wire.Frame).GetReply)
		var m wire.SubmitResponse
		if err := wire.Unmarshal(reply.Body, &m); err != nil || reply.Id != 9 || m.Stamp != 1 {
			t.Fatalf("reply is %v (%v)", reply, err)
		}
		p.send(submit(10, "d:ann:bob", "again"))
		expect(p, (*wire.Frame).GetReply)
		calls := r.backend.seen()
		if c := calls[0]; c.UID != "ann" || c.Device != "phone" || c.Key != "d:ann:bob" || c.Seen != 0 || c.MaxText != 8<<10 || textOf(c) != "hi" {
			t.Errorf("the backend saw %+v", c)
		}
		if calls[1].Seen != 1 {
			t.Errorf("the second submit has seen %d, want the stamp acked before", calls[1].Seen)
		}
		r.push("one", 1)
		r.push("two", 1, 99)
		p.expectPush(1, "one")
		p.expectPush(2, "two")
		p.send(&wire.PushAck{Number: 2})
		p.send(&wire.Bye{})
		if _, err := p.receive(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("bye is answered with %v", err)
		}
		want.Release = true
		eventually(t, "the route is released", func() bool { return r.routers.last() == want })
		eventually(t, "the session is forgotten", func() bool { return r.g.hub.size() == 0 && r.g.Load().Conns == 0 })
	})
}

// Replies may come in another order than calls, but submits of one key are made one by one.
func TestSubmitsOfAKeyGoInOrder(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		release := make(chan struct{})
		var running atomic.Int32
		r.backend.set(func(_ context.Context, c im.Call) (im.CallResult, error) {
			if c.Method == "submit" && c.Key == "d:ann:bob" {
				if running.Add(1) > 1 {
					t.Error("two submits of one key at once")
				}
				defer running.Add(-1)
				<-release
			}
			return r.backend.answer(c)
		})
		p, _ := r.login(subprotocol, "ann", 1)
		for i := range uint32(20) {
			p.send(submit(i, "d:ann:bob", fmt.Sprint(i)))
		}
		p.send(submit(50, "d:ann:cid", "another key"))
		if id := expect(p, (*wire.Frame).GetReply).Id; id != 50 {
			t.Fatalf("reply %d came first", id)
		}
		p.send(&wire.Call{Id: 51, Method: "pull", Key: "d:ann:bob"})
		if id := expect(p, (*wire.Frame).GetReply).Id; id != 51 {
			t.Fatalf("reply %d came first", id)
		}
		close(release)
		for i := range uint32(20) {
			if reply := expect(p, (*wire.Frame).GetReply); reply.Id != i || reply.Error != nil {
				t.Fatalf("reply is %v, want %d", reply, i)
			}
		}
		var texts []string
		for _, c := range r.backend.seen() {
			if c.Method == "submit" && c.Key == "d:ann:bob" {
				texts = append(texts, textOf(c))
			}
		}
		for i, s := range texts {
			if s != fmt.Sprint(i) {
				t.Fatalf("the backend saw %v", texts)
			}
		}
	})
}

// A failed submit fails those that were queued behind it: a later message must not overtake an earlier one.
func TestFailedSubmitFailsItsQueue(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	r.backend.set(func(_ context.Context, c im.Call) (im.CallResult, error) {
		if textOf(c) == "1" {
			<-release
			return im.CallResult{}, im.Errorf(im.CodeUnavailable, "no")
		}
		return r.backend.answer(c)
	})
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	for i := range uint32(4) {
		p.send(submit(i, "d:ann:bob", fmt.Sprint(i)))
	}
	expect(p, (*wire.Frame).GetReply)
	p.expectAlive() // all were read
	close(release)
	for i, want := range []im.Code{im.CodeUnavailable, im.CodeQueueFailed, im.CodeQueueFailed} {
		if reply := expect(p, (*wire.Frame).GetReply); reply.Id != uint32(i+1) || reply.Error.GetCode() != string(want) {
			t.Fatalf("reply is %v, want %s for call %d", reply, want, i+1)
		}
	}
	p.send(submit(9, "d:ann:bob", "9"))
	if reply := expect(p, (*wire.Frame).GetReply); reply.Error != nil {
		t.Errorf("the queue stays failed: %v", reply)
	}
	for _, c := range r.backend.seen() {
		if s := textOf(c); s == "2" || s == "3" {
			t.Errorf("the backend saw %s", s)
		}
	}
}

// Calls and queued submits are bounded, each with its code, and answers that nobody reads close the socket.
func TestCallLimits(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxCalls, c.MaxQueue = 2, 2 })
	release := make(chan struct{})
	r.backend.set(func(_ context.Context, c im.Call) (im.CallResult, error) {
		<-release
		return r.backend.answer(c)
	})
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	for i := range uint32(4) { // one under way, two queued, one too many
		p.send(submit(i, "d:ann:bob", fmt.Sprint(i)))
	}
	if reply := expect(p, (*wire.Frame).GetReply); reply.Id != 3 || reply.Error.GetCode() != string(im.CodeOverloaded) {
		t.Fatalf("reply is %v", reply)
	}
	p.send(&wire.Call{Id: 10, Method: "pull"})
	p.send(&wire.Call{Id: 11, Method: "pull"})
	if reply := expect(p, (*wire.Frame).GetReply); reply.Id != 11 || reply.Error.GetCode() != string(im.CodeOverloaded) {
		t.Fatalf("reply is %v", reply)
	}
	close(release)
	for range 4 {
		if reply := expect(p, (*wire.Frame).GetReply); reply.Error != nil {
			t.Fatalf("reply is %v", reply)
		}
	}
}

func TestCallDeadline(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CallTimeout = 30 * time.Millisecond })
	r.backend.set(func(ctx context.Context, _ im.Call) (im.CallResult, error) {
		<-ctx.Done()
		return im.CallResult{}, ctx.Err()
	})
	p, _ := r.login(wire.SubprotocolJSON, "ann", 1)
	p.send(submit(1, "d:ann:bob", "hi"))
	if e := expect(p, (*wire.Frame).GetReply).GetError(); e.GetCode() != string(im.CodeUnavailable) {
		t.Errorf("error is %v", e)
	}
}

// A resume goes on where the client stopped, under a new conn and login.
func TestResume(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, w := r.login(subprotocol, "ann", 1)
		for i := 1; i <= 4; i++ {
			r.push(fmt.Sprint(i), 1)
		}
		for i := 1; i <= 3; i++ {
			p.expectPush(uint64(i), fmt.Sprint(i))
		}
		p.send(&wire.PushAck{Number: 1})
		p.expectPush(4, "4")
		p.expectAlive()

		p, w2 := r.resume(subprotocol, "ann", 2, w, 2) // as far as the gateway knows, the old socket lives
		if !w2.Resumed || w2.Session != w.Session {
			t.Fatalf("welcome is %v", w2)
		}
		claim := im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 2, Login: 2}
		if r.routers.last() != claim {
			t.Errorf("claimed %v", r.routers.last())
		}
		p.expectPush(3, "3")
		p.expectPush(4, "4")
		r.push("5", 1) // a router that has not heard of the new conn yet
		r.push("6", 2)
		p.expectPush(5, "5")
		p.expectPush(6, "6")
	})
}

// While a session has no socket its route says so; what routers push to it meanwhile is there when it resumes.
func TestResumeAfterOffline(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, w := r.login(subprotocol, "ann", 1)
		r.push("1", 1)
		p.expectPush(1, "1")
		p.cut()
		offline := im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 1, Login: 1, Offline: true}
		eventually(t, "the route is claimed as offline", func() bool { return r.routers.last() == offline })
		r.push("2", 1)
		p, w2 := r.resume(subprotocol, "ann", 2, w, 1)
		if !w2.Resumed {
			t.Fatalf("welcome is %v", w2)
		}
		p.expectPush(2, "2")
		r.push("3", 2)
		p.expectPush(3, "3")
		p.send(&wire.PushAck{Number: 3})
		p.expectAlive()
	})
}

// Before the gateway noticed that the old socket is dead, a resume takes the session from it.
func TestResumeTakesTheSessionOver(t *testing.T) {
	r := newRig(t)
	old, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	p, w2 := r.resume(wire.SubprotocolJSON, "ann", 2, w, 0) // also in the other encoding
	if !w2.Resumed {
		t.Fatal("not resumed")
	}
	if f, err := old.receive(); err == nil {
		t.Errorf("the old socket goes on: %v", f)
	}
	r.push("1", 1)
	p.expectPush(1, "1")
	for _, c := range r.routers.claimed() {
		if c.Offline {
			t.Errorf("claimed %v though the session has a socket", c)
		}
	}
}

// The same while the old socket's login is still under way: it ends without a word, as replaced is for another device.
func TestResumeTakesAnUnfinishedLoginOver(t *testing.T) {
	r := newRig(t)
	_, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	resume := func(login uint64) *wire.Hello {
		h := r.hello("ann", login)
		h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
		return h
	}
	r.routers.mu.Lock()
	r.routers.refuse = func(c im.Claim) error {
		if c.Login != 2 || c.Offline {
			return nil
		}
		_, _, err := r.g.takeOver(3, "ann", resume(3))
		return err
	}
	r.routers.mu.Unlock()
	p := r.dial(wire.SubprotocolProtobuf)
	p.send(resume(2))
	for {
		f, err := p.receive()
		if _, closed := errors.AsType[*websocket.CloseError](err); closed && !websocket.IsCloseError(err, websocket.CloseAbnormalClosure) {
			t.Fatalf("closed with %v", err)
		}
		if err != nil {
			return
		}
		if f.GetWelcome() == nil {
			t.Fatalf("got %v", f)
		}
	}
}

// A router that asks for all routes while a login waits for its claim must not hear that the device is offline: that
// word may come after the claim, and would hold pushes back until the route is claimed anew.
func TestClaimsDuringLogin(t *testing.T) {
	r := newRig(t)
	var during [][]im.Claim
	r.routers.mu.Lock()
	r.routers.refuse = func(c im.Claim) error {
		if !c.Release {
			during = append(during, r.routers.handler.Claims())
		}
		return nil
	}
	r.routers.mu.Unlock()
	_, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.resume(wire.SubprotocolProtobuf, "ann", 2, w, 0)
	r.routers.mu.Lock()
	defer r.routers.mu.Unlock()
	want := [][]im.Claim{
		{{UID: "ann", Device: "phone", Platform: "ios", Conn: 1, Login: 1}},
		{{UID: "ann", Device: "phone", Platform: "ios", Conn: 2, Login: 2}},
	}
	if !reflect.DeepEqual(during, want) {
		t.Errorf("claimed during the logins: %v, want %v", during, want)
	}
}

// A resume whose claim fails leaves the session without a socket: its route is claimed so, because the claim may have
// landed, and the next resume is told that pushes may be missing, because the conn of the route may be forgotten by then.
func TestResumeAfterFailedClaim(t *testing.T) {
	r := newRig(t)
	_, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.routers.mu.Lock()
	r.routers.refuse = func(c im.Claim) error {
		if c.Login == 2 && !c.Offline {
			return im.Errorf(im.CodeUnavailable, "no router")
		}
		return nil
	}
	r.routers.mu.Unlock()
	p := r.dial(wire.SubprotocolProtobuf)
	h := r.hello("ann", 2)
	h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
	p.send(h)
	p.expectClose(im.CodeUnavailable)
	offline := im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 2, Login: 2, Offline: true}
	eventually(t, "the route is claimed as offline", func() bool { return r.routers.last() == offline })
	p, w2 := r.resume(wire.SubprotocolProtobuf, "ann", 3, w, 0)
	if !w2.Resumed {
		t.Fatalf("welcome is %v", w2)
	}
	if b := expect(p, (*wire.Frame).GetBehind); b.Number != 1 {
		t.Errorf("behind %d, want 1", b.Number)
	}
}

// Whatever is wrong with a resume, the answer is a new session: the client pulls. It tells nothing about others' sessions.
func TestResumeRefused(t *testing.T) {
	r := newRig(t)
	_, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	wrong := func(change func(*wire.Hello)) *wire.Welcome {
		t.Helper()
		p := r.dial(wire.SubprotocolProtobuf)
		h := r.hello("ann", 5)
		h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
		change(h)
		p.send(h)
		return expect(p, (*wire.Frame).GetWelcome)
	}
	for name, change := range map[string]func(*wire.Hello){
		"unknown session": func(h *wire.Hello) { h.Resume.Session = "x" },
		"wrong secret":    func(h *wire.Hello) { h.Resume.Secret = h.Resume.Secret[1:] + "0" },
		"no secret":       func(h *wire.Hello) { h.Resume.Secret = "" },
		"another user":    func(h *wire.Hello) { h.Token = r.token("bob") },
		"another device":  func(h *wire.Hello) { h.Device = "tablet" },
		"a future push":   func(h *wire.Hello) { h.Resume.Push = 1 },
	} {
		if got := wrong(change); got.Resumed || got.Session == w.Session {
			t.Errorf("%s: welcome is %v", name, got)
		}
	}
	p := r.dial(wire.SubprotocolProtobuf)
	h := r.hello("ann", 1) // the login number must grow
	h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
	p.send(h)
	p.expectClose(im.CodeLoginTie)
}

// Past the window the session is gone and its route released.
func TestResumeWindow(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ResumeWindow = 50 * time.Millisecond })
	p, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	p.cut()
	eventually(t, "the route is released", func() bool {
		return r.routers.last() == im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 1, Login: 1, Release: true}
	})
	if _, w2 := r.resume(wire.SubprotocolProtobuf, "ann", 2, w, 0); w2.Resumed {
		t.Error("resumed after the window")
	}
}

// A claim that is refused refuses the login with the router's code, and is given back.
func TestClaimRefused(t *testing.T) {
	for _, test := range []struct {
		err  error
		code im.Code
	}{
		{im.Errorf(im.CodeReplaced, "a higher login has it"), im.CodeReplaced},
		{im.Errorf(im.CodeLoginTie, "tie"), im.CodeLoginTie},
		{im.Errorf(im.CodeUnavailable, "no router"), im.CodeUnavailable},
		{errors.New("pipe"), im.CodeUnavailable},
	} {
		r := newRig(t)
		r.routers.mu.Lock()
		r.routers.refuse = func(c im.Claim) error {
			if c.Release {
				return nil
			}
			return test.err
		}
		r.routers.mu.Unlock()
		p := r.dial(wire.SubprotocolJSON)
		p.send(r.hello("ann", 1))
		p.expectClose(test.code)
		eventually(t, "the route is released", func() bool { return r.routers.last().Release })
		if n := r.g.hub.size(); n != 0 {
			t.Errorf("%d sessions stay", n)
		}
	}
}

func TestKick(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, w := r.login(subprotocol, "ann", 5)
		h := r.routers.toGateway()
		h.Kick(im.Kick{Conn: 1, Login: 4, Code: im.CodeReplaced}) // claimed anew since
		h.Kick(im.Kick{Conn: 9, Login: 5, Code: im.CodeReplaced})
		p.expectAlive()
		h.Kick(im.Kick{Conn: 1, Login: 5, Code: im.CodeReplaced})
		p.expectClose(im.CodeReplaced)
		eventually(t, "the session is gone", func() bool { return r.g.hub.size() == 0 })
		if _, w2 := r.resume(subprotocol, "ann", 6, w, 0); w2.Resumed {
			t.Error("a replaced session was resumed")
		}
		r.routers.toGateway().Kick(im.Kick{Conn: 2, Login: 6, Code: im.CodeLoginTie})
		eventually(t, "the session is gone", func() bool { return r.g.hub.size() == 0 })
	})
}

// A client that does not acknowledge is told that it is behind, and closed if that does not help; its session stays.
func TestSlowConsumer(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t, func(c *Config) { c.MaxUnacked = 3; c.SlowTimeout = time.Hour })
		p, w := r.login(subprotocol, "ann", 1)
		for i := 1; i <= 3; i++ {
			r.push(fmt.Sprint(i), 1)
			p.expectPush(uint64(i), fmt.Sprint(i))
		}
		r.push("4", 1)
		if b := expect(p, (*wire.Frame).GetBehind); b.Number != 4 {
			t.Fatalf("behind %d, want 4", b.Number)
		}
		r.push("5", 1)
		p.expectPush(5, "5")
		p.send(&wire.PushAck{Number: 5}) // caught up
		p.expectAlive()
		number := 5
		fill := func() { // what it may have unacknowledged
			t.Helper()
			for range 3 {
				number++
				r.push(fmt.Sprint(number), 1)
				p.expectPush(uint64(number), fmt.Sprint(number))
			}
			number++
			r.push(fmt.Sprint(number), 1)
		}
		for range 2 { // it has its time
			fill()
			if b := expect(p, (*wire.Frame).GetBehind); b.Number != uint64(number) {
				t.Fatalf("behind %d, want %d", b.Number, number)
			}
			p.expectAlive()
		}
		s := r.g.hub.byConn(1)
		s.mu.Lock()
		s.slowAt = s.slowAt.Add(-time.Hour) // which passes
		s.mu.Unlock()
		fill()
		p.expectClose(im.CodeSlowConsumer)
		eventually(t, "the route is offline", func() bool { return r.routers.last().Offline })
		p, w2 := r.resume(subprotocol, "ann", 2, w, 5)
		if !w2.Resumed {
			t.Fatal("the session is lost")
		}
		if b := expect(p, (*wire.Frame).GetBehind); b.Number != uint64(number) {
			t.Fatalf("behind %d, want %d", b.Number, number)
		}
	})
}

// A client that reads nothing cannot hold more than its buffers.
func TestConsumerThatDoesNotRead(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.WriteTimeout = 200 * time.Millisecond
		c.MaxUnacked = 1 << 20
		c.MaxUnackedBytes = 1 << 30
	})
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	body := make([]byte, 1<<20)
	for range 64 { // more than the kernel keeps
		r.routers.toGateway().Push([]im.Push{{Conns: []uint64{1}, Service: "weather", Method: "now", Body: body}})
	}
	eventually(t, "its socket is dropped", func() bool { return r.routers.last().Offline })
	p.cut()
}

func TestIdle(t *testing.T) {
	const idle = 200 * time.Millisecond
	r := newRig(t, func(c *Config) { c.Heartbeat, c.IdleTimeout, c.Rate, c.Burst = idle/4, idle, 1e6, 1e6 })
	p, _ := r.login(wire.SubprotocolJSON, "ann", 1)
	p.expectClose(im.CodeIdle)

	r = newRig(t)
	p, _ = r.login(wire.SubprotocolJSON, "ann", 1)
	c := r.g.conns.all()[0]
	old := c.g.elapsed() - int64(r.g.cfg.IdleTimeout)
	c.heard.Store(old)
	p.expectAlive() // a ping is life
	if c.heard.Load() <= old {
		t.Error("a ping was not noted")
	}
}

// shortLived has each token expire soon after it was checked, however late that is.
type shortLived struct{ Tokens }

func (s shortLived) Verify(token string) (auth.Identity, error) {
	identity, err := s.Tokens.Verify(token)
	identity.Expires = time.Now().Add(300 * time.Millisecond)
	return identity, err
}

func TestTokenExpiresOnTheWay(t *testing.T) {
	r := prepareRig(t, nil)
	r.g.deps.Tokens = shortLived{r.g.deps.Tokens}
	r.run()
	p, w := r.login(wire.SubprotocolProtobuf, "ann", 1)
	p.expectClose(im.CodeTokenExpired)
	if _, w2 := r.resume(wire.SubprotocolProtobuf, "ann", 2, w, 0); !w2.Resumed {
		t.Error("the session is lost")
	}
}

// A fenced gateway takes a new epoch and claims every route again; its clients notice nothing.
func TestFenced(t *testing.T) {
	r := newRig(t)
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.routers.toGateway().Fenced(6) // an old one
	r.routers.toGateway().Fenced(7)
	eventually(t, "the new epoch is attached", func() bool {
		r.routers.mu.Lock()
		defer r.routers.mu.Unlock()
		return slices.Equal(r.routers.gateways, []im.Gateway{{ID: "g1", Epoch: 7}, {ID: "g1", Epoch: 8}})
	})
	if claims := r.routers.claimed(); len(claims) != 2 || claims[0] != claims[1] {
		t.Errorf("claims are %v", claims)
	}
	if gw := r.g.Load().Gateway; gw.Epoch != 8 {
		t.Errorf("load tells %v", gw)
	}
	p.expectAlive()
}

// A drain tells clients where to go, closes those that stay, and releases every route.
func TestDrain(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		t.Parallel()                   // it waits for most of its time
		const drain = 12 * time.Second // half of it is the clients', also on a machine that stops for seconds
		r := newRig(t, func(c *Config) { c.DrainTimeout = drain })
		leaves, _ := r.login(subprotocol, "ann", 1)
		stays, _ := r.login(subprotocol, "bob", 1)
		offline, _ := r.login(subprotocol, "cid", 1)
		silent := r.dial(subprotocol) // has not said hello
		offline.cut()
		eventually(t, "one is offline", func() bool { return r.routers.last().Offline })
		r.stop(context.Canceled)
		for _, p := range []*peer{leaves, stays} {
			g := expect(p, (*wire.Frame).GetGoaway)
			if g.WithinMs == 0 || g.WithinMs > uint32(drain.Milliseconds())/2 || !slices.Equal(g.Alternatives, []string{"wss://g2.eu.example/v1/ws"}) {
				t.Errorf("goaway is %v", g)
			}
		}
		if !r.g.Load().Draining {
			t.Error("the load does not tell of the drain")
		}
		if _, response, err := r.tryDial(subprotocol, nil); err == nil || response == nil || response.StatusCode != 503 {
			t.Errorf("a newcomer: %v, %v", err, response)
		}
		leaves.send(&wire.Bye{})
		stays.expectAlive() // served to the end
		stays.expectClose(im.CodeDraining)
		silent.expectClose(im.CodeDraining)
		r.shut(context.Canceled)
		released := map[im.UID]bool{}
		for _, c := range r.routers.claimed() {
			released[c.UID] = released[c.UID] || c.Release
		}
		if !released["ann"] || !released["bob"] || !released["cid"] {
			t.Errorf("released: %v", released)
		}
	})
}

// A killed gateway says and releases nothing.
func TestKill(t *testing.T) {
	r := newRig(t)
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.backend.set(func(ctx context.Context, _ im.Call) (im.CallResult, error) {
		<-ctx.Done()
		return im.CallResult{}, ctx.Err()
	})
	p.send(submit(1, "d:ann:bob", "hi"))
	eventually(t, "a call is under way", func() bool { return len(r.backend.seen()) == 1 })
	began := time.Now()
	r.shut(im.ErrKilled)
	if took := time.Since(began); took > 5*time.Second { // the call has 10 s
		t.Errorf("took %v", took)
	}
	if f, err := p.receive(); err == nil || websocket.IsCloseError(err, 4001) {
		t.Errorf("got %v, %v", f, err)
	}
	if claims := r.routers.claimed(); len(claims) != 1 {
		t.Errorf("claims are %v", claims)
	}
}

func TestConfigCheck(t *testing.T) {
	good := Config{Gateway: im.Gateway{ID: "g", Epoch: 1}, Region: "eu", Origin: "eu"}.Defaults()
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no id":           func(c *Config) { c.Gateway.ID = "" },
		"no epoch":        func(c *Config) { c.Gateway.Epoch = 0 },
		"bad region":      func(c *Config) { c.Region = "EU" },
		"bad origin":      func(c *Config) { c.Origin = "eu.1" },
		"bad url":         func(c *Config) { c.URL = "ftp://x" },
		"idle too short":  func(c *Config) { c.IdleTimeout = c.Heartbeat },
		"text over frame": func(c *Config) { c.MaxText = c.MaxFrame },
		"negative":        func(c *Config) { c.MaxCalls = -1 },
		"negative time":   func(c *Config) { c.ResumeWindow = -1 },
		"negative rate":   func(c *Config) { c.Rate = -1 },
	} {
		c := good
		change(&c)
		if c.Check() == nil {
			t.Errorf("%s passes", name)
		}
	}
}
