package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// street is some gateways of one region, that reach each other without a network.
type street struct {
	mu       sync.Mutex
	gateways map[string]*Gateway
	asked    []string                // "who asks → who is asked"
	taken    map[im.SessionID]int    // how often each was given up
	breaks   int                     // outlets that a holder broke
	deaf     map[string]bool         // holders that do not answer
	arrived  func(ask im.SessionAsk) // called when one came, before it is taken in; may be nil
	unheard  bool                    // holders do not hear that sessions are settled
}

// Take implements Neighbours.
func (s *street) Take(ctx context.Context, holder string, ask im.SessionAsk, arrive func(*im.Session), h NeighbourHandler) (func(), string, error) {
	s.mu.Lock()
	g, deaf := s.gateways[holder], s.deaf[holder]
	s.asked = append(s.asked, ask.Gateway+" → "+holder)
	s.mu.Unlock()
	switch {
	case deaf:
		<-ctx.Done()
		return nil, "", im.Errorf(im.CodeUnavailable, "no answer")
	case g == nil:
		return nil, "", im.Errorf(im.CodeUnavailable, "no such gateway")
	}
	o := &outletTo{street: s, ask: ask, arrive: arrive, h: h}
	g.GiveUp(ask, o)
	settle := func() {
		s.mu.Lock()
		unheard := s.unheard
		s.mu.Unlock()
		if !unheard {
			g.Settled(ask.ID)
		}
	}
	return settle, o.elsewhere, o.err
}

// questions returns who asked whom since the last time.
func (s *street) questions() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.Join(s.asked, ", ")
	s.asked = nil
	return text
}

type outletTo struct {
	street    *street
	ask       im.SessionAsk
	arrive    func(*im.Session)
	h         NeighbourHandler
	elsewhere string
	err       error
	broken    bool
}

func (o *outletTo) Given(m *im.Session) {
	o.street.mu.Lock()
	o.street.taken[o.ask.ID]++
	arrived := o.street.arrived
	o.street.mu.Unlock()
	if arrived != nil {
		arrived(o.ask)
	}
	o.arrive(m)
}

func (o *outletTo) Refused(elsewhere string, err error) { o.elsewhere, o.err = elsewhere, err }

func (o *outletTo) Late(id im.SessionID, late *im.Late) error {
	o.street.mu.Lock()
	broken := o.broken
	o.street.mu.Unlock()
	if broken {
		return im.Errorf(im.CodeUnavailable, "broken")
	}
	o.h.Late(id, *late)
	return nil
}

func (o *outletTo) Break() {
	o.street.mu.Lock()
	o.broken = true
	o.street.breaks++
	o.street.mu.Unlock()
	go o.h.Missed([]im.SessionID{o.ask.ID}) // the taker notices by itself
}

// newStreet runs gateways a, b and c. Their move timeout is long: nothing here may depend on it, unless a test changes it.
func newStreet(t *testing.T, change ...func(*Config)) (s *street, a, b, c *rig) {
	t.Helper()
	issuer, err := issue.New("street", nil)
	if err != nil {
		t.Fatal(err)
	}
	s = &street{gateways: map[string]*Gateway{}, taken: map[im.SessionID]int{}, deaf: map[string]bool{}}
	open := func(id string) *rig {
		r := prepareRig(t, []auth.Key{issuer.Key()}, append([]func(*Config){func(c *Config) {
			c.Gateway.ID, c.MoveTimeout = id, 30*time.Second
		}}, change...)...)
		r.issuer = issuer
		r.g.deps.Neighbours = s
		s.gateways[id] = r.g
		r.run()
		return r
	}
	return s, open("a"), open("b"), open("c")
}

// calls tells that a socket still answers.
func (p *peer) expectAnswer(id uint32) {
	p.t.Helper()
	p.send(submit(id, "d:ann:bob", "on the old socket"))
	if r := expect(p, (*wire.Frame).GetReply); r.Id != id || r.Error != nil {
		p.t.Fatalf("reply is %v", r)
	}
}

// A session goes on at another gateway where its client stopped: what was not acknowledged, what comes late where it was, and
// what comes where it is, each once. Its former socket ends its calls.
func TestResumeElsewhere(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		s, a, b, _ := newStreet(t)
		old, w := a.login(subprotocol, "ann", 1)
		if !strings.HasSuffix(w.Session, "@eu/a") {
			t.Fatalf("the session is %q", w.Session)
		}
		for i := 1; i <= 4; i++ {
			a.push(fmt.Sprint(i), 1)
		}
		for i := 1; i <= 4; i++ {
			old.expectPush(uint64(i), fmt.Sprint(i))
		}
		old.send(&wire.PushAck{Number: 1})
		old.expectAlive()
		s.mu.Lock()
		s.arrived = func(im.SessionAsk) { go a.push("5", 1) } // waits for the session, which is just being given up
		s.mu.Unlock()
		p, w2 := b.resume(subprotocol, "ann", 2, w, 2)
		if !w2.Resumed || w2.Session != strings.Replace(w.Session, "@eu/a", "@eu/b", 1) || w2.ResumeSecret != w.ResumeSecret || w2.Gateway != "b" {
			t.Fatalf("welcome is %v", w2)
		}
		if claim := (im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 1, Login: 2}); b.routers.last() != claim {
			t.Errorf("b claimed %v", b.routers.last())
		}
		p.expectPush(3, "3")
		p.expectPush(4, "4")
		p.expectPush(5, "5")
		a.push("6", 1) // a router that has not heard of the new route yet
		p.expectPush(6, "6")
		b.push("7", 1)
		p.expectPush(7, "7")
		p.send(&wire.PushAck{Number: 7})
		p.expectAlive()

		a.routers.toGateway().Kick(im.Kick{Conn: 1, Login: 1, Code: im.CodeReplaced}) // of the route that lost
		old.expectAnswer(9)                                                           // no push came before it
		old.send(&wire.Bye{})
		if f, err := old.receive(); err == nil {
			t.Errorf("after bye: %v", f)
		}
		p.expectAlive()
		if got := s.questions(); got != "b → a" {
			t.Errorf("asked: %s", got)
		}
		if claims := a.routers.claimed(); len(claims) != 1 {
			t.Errorf("a claimed %v: its route was taken, not released", claims)
		}
	})
}

// Once the new route is claimed and its time has passed, nothing is left at the former gateway, the socket included.
func TestGivenUpIsForgotten(t *testing.T) {
	_, a, b, _ := newStreet(t, func(c *Config) { c.MoveTimeout = time.Millisecond })
	old, w := a.login(wire.SubprotocolProtobuf, "ann", 1)
	a.g.interests.joinAs(a.g.hub.byConn(1), []im.UID{"s:eu:crowd"}, member{moved: true}, 7)
	p, w2 := b.resume(wire.SubprotocolProtobuf, "ann", 2, w, 0)
	if !w2.Resumed {
		t.Fatal("not resumed")
	}
	eventually(t, "it is forgotten", func() bool {
		return a.g.hub.size() == 0 && a.g.hub.byConn(1) == nil && a.g.departed.Load() == 0 && a.g.conns.size.Load() == 0
	})
	eventually(t, "its group is released", func() bool { last := a.routers.last(); return last.UID == "s:eu:crowd" && last.Release })
	for _, c := range a.routers.claimed() {
		if c.UID == "ann" && c.Release {
			t.Errorf("released %v", c)
		}
	}
	if f, err := old.receive(); err == nil {
		t.Errorf("the old socket: %v", f)
	}
	p.expectAlive()
}

// Whoever does not prove a session gets a new one of their own, learns nothing, and changes nothing.
func TestResumeElsewhereRefused(t *testing.T) {
	s, a, b, _ := newStreet(t)
	held, w := a.login(wire.SubprotocolProtobuf, "ann", 3)
	hex, _, _ := strings.Cut(w.Session, "@")
	for name, test := range map[string]struct {
		change func(*wire.Hello)
		asked  string
	}{
		"wrong secret":      {func(h *wire.Hello) { h.Resume.Secret = h.Resume.Secret[1:] + "0" }, "b → a"},
		"no secret":         {func(h *wire.Hello) { h.Resume.Secret = "" }, "b → a"},
		"another user":      {func(h *wire.Hello) { h.Token = a.token("bob") }, "b → a"},
		"another device":    {func(h *wire.Hello) { h.Device = "tablet" }, "b → a"},
		"another platform":  {func(h *wire.Hello) { h.Platform = "web" }, "b → a"},
		"a future push":     {func(h *wire.Hello) { h.Resume.Push = 1 }, "b → a"},
		"unknown session":   {func(h *wire.Hello) { h.Resume.Session = strings.Repeat("0", 32) + "@eu/a" }, "b → a"},
		"unknown gateway":   {func(h *wire.Hello) { h.Resume.Session = hex + "@eu/x" }, "b → x"},
		"no gateway":        {func(h *wire.Hello) { h.Resume.Session = hex }, ""},
		"here, and it isnt": {func(h *wire.Hello) { h.Resume.Session = hex + "@eu/b" }, ""},
		"another region":    {func(h *wire.Hello) { h.Resume.Session = hex + "@us/a" }, ""},
		"nonsense":          {func(h *wire.Hello) { h.Resume.Session = "@eu/a" }, ""},
	} {
		p := b.dial(wire.SubprotocolProtobuf)
		h := b.hello("ann", 4)
		h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
		test.change(h)
		p.send(h)
		if got := expect(p, (*wire.Frame).GetWelcome); got.Resumed || strings.HasPrefix(got.Session, hex) {
			t.Errorf("%s: welcome is %v", name, got)
		}
		if got := s.questions(); got != test.asked {
			t.Errorf("%s: asked %q, want %q", name, got, test.asked)
		}
	}
	p := b.dial(wire.SubprotocolProtobuf)
	h := b.hello("ann", 3) // the login number must grow
	h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
	p.send(h)
	p.expectClose(im.CodeLoginTie)
	a.push("1", 1)
	held.expectPush(1, "1")
}

// Where the holder does not answer within the bound, or is just being restarted, the client gets a new session.
func TestResumeElsewhereUnanswered(t *testing.T) {
	s, a, b, _ := newStreet(t, func(c *Config) { c.MoveTimeout = 10 * time.Millisecond })
	_, w := a.login(wire.SubprotocolProtobuf, "ann", 1)
	s.mu.Lock()
	s.deaf["a"] = true
	s.mu.Unlock()
	if _, got := b.resume(wire.SubprotocolProtobuf, "ann", 2, w, 0); got.Resumed {
		t.Errorf("welcome is %v", got)
	}
	s.mu.Lock()
	s.deaf["a"] = false
	s.mu.Unlock()
	a.g.successor.moving.Lock()
	_, got := b.resume(wire.SubprotocolProtobuf, "ann", 3, w, 0)
	a.g.successor.moving.Unlock()
	if got.Resumed {
		t.Errorf("welcome is %v", got)
	}
	if _, got = b.resume(wire.SubprotocolProtobuf, "ann", 4, w, 0); !got.Resumed {
		t.Error("not resumed once the holder answers again")
	}
}

// A client whose welcome was lost knows only where its session was: it is found all the same, also where it came from.
func TestResumeFollows(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		s, a, b, c := newStreet(t)
		_, w := a.login(subprotocol, "ann", 1)
		a.push("1", 1)
		n := uint64(1) // of the last push
		step := func(r *rig, login uint64, asked string) *peer {
			t.Helper()
			p, got := r.resume(subprotocol, "ann", login, w, n-1)
			if !got.Resumed {
				t.Fatalf("login %d: not resumed", login)
			}
			if got := s.questions(); got != asked {
				t.Fatalf("login %d: asked %q, want %q", login, got, asked)
			}
			p.expectPush(n, fmt.Sprint(n))
			n++
			r.push(fmt.Sprint(n), r.routers.last().Conn)
			p.expectPush(n, fmt.Sprint(n))
			return p
		}
		step(b, 2, "b → a")
		step(c, 3, "c → a, c → b")
		step(b, 4, "b → c")
		p := step(a, 5, "a → b")
		a.push("6", 1) // under its first conn there
		p.expectPush(6, "6")
		c.push("7", 1) // over b
		p.expectPush(7, "7")
		p.send(&wire.Bye{})
		eventually(t, "it has ended", func() bool { return a.g.hub.byConn(a.routers.last().Conn) == nil })
		for _, r := range []*rig{a, b, c} {
			r.push("to nobody", 1)
		}
		if _, got := c.resume(subprotocol, "ann", 6, w, 0); got.Resumed {
			t.Error("resumed after bye")
		}
	})
}

// A client that resumes at two gateways at once ends up at one, and the session is nowhere twice.
func TestResumeAtTwoGatewaysAtOnce(t *testing.T) {
	for range 20 {
		s, a, b, c := newStreet(t)
		_, w := a.login(wire.SubprotocolProtobuf, "ann", 1)
		a.push("1", 1)
		type end struct {
			p       *peer
			welcome *wire.Welcome
		}
		ends := make(chan end, 2)
		for i, r := range []*rig{b, c} {
			p := r.dial(wire.SubprotocolProtobuf)
			h := r.hello("ann", uint64(2+i))
			h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
			p.send(h)
			go func() {
				f, _ := p.receive()
				ends <- end{p, f.GetWelcome()}
			}()
		}
		var live []*peer
		for range 2 {
			if e := <-ends; e.welcome != nil && e.welcome.Resumed {
				live = append(live, e.p)
			} else if e.welcome != nil {
				t.Fatal("a new session, though there is one")
			}
		}
		if len(live) == 0 {
			t.Fatal("resumed nowhere")
		}
		holders := 0
		for _, r := range []*rig{a, b, c} {
			if held := r.g.hub.byID(idOf(w.Session)); held != nil && held.wentTo() == "" {
				holders++
			}
		}
		if holders != 1 || s.taken[idOf(w.Session)] > 2 {
			t.Fatalf("%d gateways hold it, it was given up %d times", holders, s.taken[idOf(w.Session)])
		}
	}
}

// A claim that fails leaves the session where it was taken to, without a socket, and the client finds it there.
func TestResumeElsewhereAfterFailedClaim(t *testing.T) {
	s, a, b, c := newStreet(t)
	_, w := a.login(wire.SubprotocolProtobuf, "ann", 1)
	b.routers.mu.Lock()
	b.routers.refuse = func(c im.Claim) error {
		if !c.Offline {
			return im.Errorf(im.CodeUnavailable, "no router")
		}
		return nil
	}
	b.routers.mu.Unlock()
	p := b.dial(wire.SubprotocolProtobuf)
	h := b.hello("ann", 2)
	h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret}
	p.send(h)
	p.expectClose(im.CodeUnavailable)
	eventually(t, "b claims it as offline", func() bool { return b.routers.last().Offline })
	a.push("1", 1) // the route may be a's still
	p, got := c.resume(wire.SubprotocolProtobuf, "ann", 3, w, 0)
	if !got.Resumed || s.questions() != "b → a, c → a, c → b" {
		t.Fatalf("welcome is %v", got)
	}
	if m := expect(p, (*wire.Frame).GetBehind); m.Number != 2 { // what was pushed, and what may have been
		t.Errorf("behind %d, want 2", m.Number)
	}
}

// Where the way between two gateways breaks while something may be on it, the client is told to pull; what was numbered
// goes on.
func TestResumeElsewhereMissed(t *testing.T) {
	_, a, b, _ := newStreet(t)
	_, w := a.login(wire.SubprotocolProtobuf, "ann", 1)
	p, _ := b.resume(wire.SubprotocolProtobuf, "ann", 2, w, 0)
	b.push("1", 1)
	p.expectPush(1, "1")
	a.g.breakOff()
	a.push("lost", 1)
	if m := expect(p, (*wire.Frame).GetBehind); m.Number != 2 {
		t.Errorf("behind %d, want 2", m.Number)
	}
	b.push("3", 1)
	p.expectPush(3, "3")
}

// The groups of a session move with it: their pushes follow as its own do, and what a call that was under way says of them
// too.
func TestGroupsMove(t *testing.T) {
	_, a, b, _ := newStreet(t)
	join := func(groups ...im.UID) func(context.Context, im.Call) (im.CallResult, error) {
		return func(_ context.Context, c im.Call) (im.CallResult, error) {
			if c.Method == wire.MethodRoll {
				return rollOf("ann")
			}
			return im.CallResult{Join: groups}, nil
		}
	}
	b.backend.set(join())
	old, w := a.login(wire.SubprotocolProtobuf, "ann", 1)
	a.backend.set(join("s:eu:one"))
	old.expectJoined(1)
	conn := func(r *rig, group im.UID) (no uint64) {
		t.Helper()
		eventually(t, "the group is claimed", func() bool {
			i := slices.IndexFunc(r.routers.claimed(), func(c im.Claim) bool { return c.UID == group })
			if i >= 0 {
				no = r.routers.claimed()[i].Conn
			}
			return i >= 0
		})
		return no
	}
	at := conn(a, "s:eu:one")
	a.backend.set(join("s:eu:two"))
	p, _ := b.resume(wire.SubprotocolProtobuf, "ann", 2, w, 1)
	conn(b, "s:eu:one")
	a.pushToGroup("1", at)
	p.expectPush(2, "1") // nor is the client told to pull: the other gateway has passed on what came
	old.expectAnswer(2)
	two := conn(b, "s:eu:two")
	expect(p, (*wire.Frame).GetBehind)
	b.pushToGroup("2", two)
	p.expectPush(4, "2")
}

// A drain loses nobody's session: clients that follow the goaway go on elsewhere, and so do those that had to be closed, while
// the gateway passes on what still comes.
func TestDrainGivesSessionsUp(t *testing.T) {
	s, a, b, _ := newStreet(t, func(c *Config) {
		c.DrainTimeout, c.HelloTimeout, c.MoveTimeout = time.Minute, time.Minute, time.Millisecond
	})
	s.unheard = true // the time for what comes late begins when the test says so
	follows, w1 := a.login(wire.SubprotocolProtobuf, "ann", 1)
	stays, w2 := a.login(wire.SubprotocolProtobuf, "bob", 1)
	gone, w3 := a.login(wire.SubprotocolProtobuf, "cid", 1)
	last := a.dial(wire.SubprotocolProtobuf) // without a socket the drain would end what sessions are left
	eventually(t, "its socket counts", func() bool { return a.g.conns.size.Load() == 4 })
	a.stop(context.Canceled)
	expect(follows, (*wire.Frame).GetGoaway)
	gone.ws.NetConn().Close()
	eventually(t, "one is offline", func() bool { return a.routers.last().Offline })
	for uid, w := range map[im.UID]*wire.Welcome{"ann": w1, "cid": w3} {
		p, got := b.resume(wire.SubprotocolProtobuf, uid, 2, w, 0)
		if !got.Resumed {
			t.Fatalf("%s is not resumed", uid)
		}
		for _, c := range a.routers.claimed() {
			if c.UID == uid && !c.Offline {
				a.push("late", c.Conn)
			}
		}
		p.expectPush(1, "late")
	}
	for _, c := range a.g.conns.all() { // as the drain does when its time for them is over
		if s := c.session.Load(); s != nil && s.uid == "bob" {
			c.close(errDraining)
		}
	}
	expect(stays, (*wire.Frame).GetGoaway)
	stays.expectClose(im.CodeDraining)
	if _, got := b.resume(wire.SubprotocolProtobuf, "bob", 2, w2, 0); !got.Resumed {
		t.Fatal("the one that was closed is not resumed")
	}
	for _, w := range []*wire.Welcome{w1, w2, w3} {
		a.g.Settled(idOf(w.Session))
	}
	last.cut()
	a.shut(context.Canceled)
	for _, c := range a.routers.claimed() {
		if c.Release {
			t.Errorf("released %v, which another gateway has", c)
		}
	}
}

// When its region has what no push brought, a gateway tells all clients that they are behind: those without a socket when they are back,
// and not those whose sessions are at another gateway by now.
func TestAllAreTold(t *testing.T) {
	_, a, b, _ := newStreet(t)
	here, _ := a.login(wire.SubprotocolProtobuf, "ann", 1)
	away, w := a.login(wire.SubprotocolProtobuf, "bob", 1)
	away.cut()
	eventually(t, "bob's socket is gone", func() bool { return a.g.conns.size.Load() == 1 })
	_, moved := a.login(wire.SubprotocolProtobuf, "cid", 1)
	there, _ := b.resume(wire.SubprotocolProtobuf, "cid", 2, moved, 0)

	a.g.Behind(t.Context(), 0)
	if m := expect(here, (*wire.Frame).GetBehind); m.Number != 1 {
		t.Errorf("ann is behind %d, want 1", m.Number)
	}
	a.push("2", 1)
	here.expectPush(2, "2")
	back, _ := a.resume(wire.SubprotocolProtobuf, "bob", 2, w, 0)
	if m := expect(back, (*wire.Frame).GetBehind); m.Number != 1 {
		t.Errorf("bob is behind %d, want 1", m.Number)
	}
	a.push("passed on", 3)
	there.expectPush(1, "passed on") // with no behind before it
}

// Who is to be told is told evenly over a time: their pulls must not come all at once.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		told := make([]int, 10) // in each second
		spread(t.Context(), 1000, 10*time.Second, func(int) { told[min(9, int(time.Since(began).Seconds()))]++ })
		for second, n := range told {
			if n < 95 || n > 105 {
				t.Errorf("in second %d %d were told, want 100 or so: %v", second, n, told)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		spread(ctx, 1000, 10*time.Second, func(int) {
			if n++; n == 300 {
				cancel()
			}
		})
		if n > 305 {
			t.Errorf("%d were told though the gateway ended after 300", n)
		}
	})
}
