package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/quic-go/webtransport-go"
	"golang.org/x/sys/unix"

	"github.com/antipode-im/antipode/gateway/handoff"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// next starts the process that takes over from a rig's, with the same services behind it.
func (r *rig) next(t testing.TB) *rig {
	t.Helper()
	n := &rig{t: t, backend: r.backend, routers: r.routers, issuer: r.issuer, done: make(chan error, 1)}
	cfg := r.g.cfg
	cfg.Gateway.Epoch = 1_000_000 // what a new process would take
	deps := r.g.deps
	var err error
	if n.g, err = New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n.stop = cancel
	go func() { n.done <- n.g.Run(ctx) }()
	t.Cleanup(func() { n.shut(im.ErrKilled) })
	return n
}

// ended waits until a taken-over process has ended by itself.
func (r *rig) ended() {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.done <- nil
		if err != ErrTakenOver {
			r.t.Error("the process that was taken over:", err)
		}
	case <-time.After(20 * time.Second):
		r.t.Fatal("the process that was taken over does not end")
	}
}

func handoffAt(t testing.TB) func(*Config) {
	path := filepath.Join(t.TempDir(), "handoff.sock")
	return func(c *Config) { c.Handoff = path }
}

// What is offered is the listener that this process goes on accepting from: were it made to block, an accept that nobody connects to
// would keep it from ever ending.
func TestOfferLeavesTheListenerAsItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, handoffAt(t))
	r.login(wire.SubprotocolProtobuf, "ann", 1) // it serves, and has made its offer before
	c, err := handoff.Dial(r.g.cfg.Handoff, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(handoffHello{handoffVersion, r.g.cfg.Gateway.ID}); err != nil {
		t.Fatal(err)
	}
	var offer handoffOffer
	files, err := c.Receive(&offer)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files came, want the listener: %v", len(files), err)
	}
	defer unix.Close(files[0])
	flags, err := unix.FcntlInt(uintptr(files[0]), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("the listener blocks")
	}
}

// A session without a socket has as long in the next process as it had left.
func TestHotRestartWithinWindow(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, handoffAt(t), func(c *Config) { c.ResumeWindow = time.Second })
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	p.ws.NetConn().Close()
	eventually(t, "the session has no socket", func() bool { // or had none, on a machine that stopped
		return slices.ContainsFunc(r.routers.claimed(), func(c im.Claim) bool { return c.Offline })
	})
	n := r.next(t)
	r.ended()
	eventually(t, "the window ends it", func() bool { return n.g.hub.size() == 0 && r.routers.last().Release })
}

// Whatever a conn is in the middle of goes on in the next process.
func TestHotRestart(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t, handoffAt(t), func(c *Config) {
			c.HelloTimeout = 20 * time.Second
			c.MaxUnackedBytes, c.MaxSendBytes, c.SendBuffer = 64<<20, 64<<20, 32<<10
		})
		idle, welcome := r.login(subprotocol, "idle", 1)

		half, _ := r.login(subprotocol, "half", 1) // half a frame was read
		frame, err := half.codec.Encode(wire.FrameOf(submit(9, "d:half:x", "in two halves")))
		if err != nil {
			t.Fatal(err)
		}
		masked := []byte{0x80 | byte(half.codec.MessageType()), 0x80 | 126, byte(len(frame) >> 8), byte(len(frame)), 1, 2, 3, 4}
		if len(frame) < 126 {
			masked = []byte{0x80 | byte(half.codec.MessageType()), 0x80 | byte(len(frame)), 1, 2, 3, 4}
		}
		for i, b := range frame {
			masked = append(masked, b^[]byte{1, 2, 3, 4}[i&3])
		}
		cut := len(masked) / 2
		if _, err := half.ws.NetConn().Write(masked[:cut]); err != nil {
			t.Fatal(err)
		}

		silent := r.dial(subprotocol) // no hello yet

		deaf, _ := r.login(subprotocol, "deaf", 1) // half a frame was written
		big := strings.Repeat("x", 60_000)
		deafNo := r.routers.last().Conn
		const bigs = 40
		for range bigs {
			r.push(big, deafNo)
		}
		blocked := func() bool {
			for _, c := range r.g.conns.all() {
				if c.blocked.Load() > 0 {
					return true
				}
			}
			return false
		}
		eventually(t, "a socket takes no more", blocked)

		away, awayWelcome := r.login(subprotocol, "away", 1) // lost its socket
		awayNo := r.routers.last().Conn
		away.ws.Close()
		eventually(t, "its route is offline", func() bool { return r.routers.last().Offline })
		r.push("missed", awayNo)

		n := r.next(t)
		eventually(t, "the next process took over", func() bool { return r.g.successor.has() && n.g.conns.size.Load() == 4 })
		if got := n.g.Gateway(); got != r.g.Gateway() {
			t.Errorf("went on as %v, was %v", got, r.g.Gateway())
		}

		idle.expectAlive()
		n.push("after", 1)
		idle.expectPush(1, "after")
		if _, err := half.ws.NetConn().Write(masked[cut:]); err != nil {
			t.Fatal(err)
		}
		if reply := expect(half, (*wire.Frame).GetReply); reply.Id != 9 || reply.Error != nil {
			t.Errorf("got %v", reply)
		}
		silent.send(n.hello("silent", 1))
		expect(silent, (*wire.Frame).GetWelcome)
		for i := range uint64(bigs) {
			deaf.expectPush(i+1, big)
		}
		back, w := n.resume(subprotocol, "away", 2, awayWelcome, 0)
		if !w.Resumed {
			t.Error("a session without a socket was lost")
		}
		back.expectPush(1, "missed")
		idle.ws.Close()
		if _, w := n.resume(subprotocol, "idle", 2, welcome, 1); !w.Resumed {
			t.Error("a session was lost")
		}
		r.ended()
		back.expectAlive()
	})
}

// What routers send to the wrong process comes all the same.
func TestHotRestartPassesOn(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, handoffAt(t))
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	no := r.routers.last().Conn
	r.g.interests.joinAs(r.g.hub.byConn(no), []im.UID{"group"}, member{moved: true}, 7)
	r.backend.set(func(context.Context, im.Call) (im.CallResult, error) { return rollOf("ann") })
	eventually(t, "the group is claimed", func() bool { return r.routers.last().UID == "group" })
	group := r.routers.last().Conn
	old := r.routers.toGateway()
	n := r.next(t)
	eventually(t, "the next process took over", func() bool { return n.g.conns.size.Load() == 1 && r.g.successor.has() })
	body, err := wire.Marshal(&wire.Event{From: "late"})
	if err != nil {
		t.Fatal(err)
	}
	old.Push([]im.Push{{Conns: []uint64{no}, Service: "im", Method: "event", Body: body}})
	p.expectPush(1, "late")
	n.pushToGroup("to the group", group)
	p.expectPush(2, "to the group")
	old.Kick(im.Kick{Conn: no, Login: 1, Code: im.CodeReplaced})
	p.expectClose(im.CodeReplaced)
	r.ended()
}

// A group's push that waits until it is known who is in does not move. Whom it may be for is told, socket or not.
func TestHotRestartTellsWhoMissed(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, handoffAt(t))
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.g.interests.joinAs(r.g.hub.byConn(r.routers.last().Conn), []im.UID{"group"}, member{moved: true}, 7)
	r.backend.set(func(ctx context.Context, _ im.Call) (im.CallResult, error) {
		<-ctx.Done() // nobody says who is in
		return im.CallResult{}, ctx.Err()
	})
	eventually(t, "the group is claimed", func() bool { return r.routers.last().UID == "group" })
	group := r.routers.last().Conn
	r.pushToGroup("to the group", group)
	if !r.g.interests.byConn(group).waits() {
		t.Fatal("the push does not wait")
	}
	r.next(t)
	if b := expect(p, (*wire.Frame).GetBehind); b.Number != 1 {
		t.Errorf("behind %d, want 1", b.Number)
	}
	r.ended()
}

// A group whose claim is under way is claimed by the next process, too: the one before may end without an answer. It is
// claimed only once all was taken over: the answer has sockets written to, which may not be here yet, or stay where they are.
func TestHotRestartClaimsGroups(t *testing.T) {
	before, next := newCrowd(), newCrowd()
	ann := before.session("ann")
	before.join(ann, []im.UID{"s:eu:known", "s:eu:new"}, 7)
	before.done[0](true)
	groups, _ := before.moved(ann)
	moved := next.session("ann")
	for _, g := range groups {
		next.restore(moved, g)
	}
	if len(next.put) > 0 {
		t.Fatalf("claimed while the other process may keep all: %+v", next.put)
	}
	next.announceRest(7)
	want := im.Claim{UID: "s:eu:new", Device: "eu/g1", Conn: before.groups["s:eu:new"].conn, Login: 7}
	if !slices.Equal(next.put, []im.Claim{want}) {
		t.Fatalf("claimed: %+v, want %+v", next.put, want)
	}
	next.done[0](true)
	if !moved.missed {
		t.Error("who may have missed something was not told")
	}
}

// A process that cannot take over leaves everything as it was.
func TestHotRestartRefused(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, handoffAt(t))
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	cfg := r.g.cfg
	cfg.Gateway.ID = "another"
	if _, err := New(cfg, r.g.deps); err == nil || !strings.Contains(err.Error(), "it is gateway another, this one g1") {
		t.Fatal(err)
	}
	p.expectAlive()

	cfg = r.g.cfg
	broken, err := findPredecessor(&cfg) // and then dies
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.conn.Send(handoffStep{Begin: true}); err != nil {
		t.Fatal(err)
	}
	broken.listener.Close()
	broken.conn.Close()
	p.expectAlive()
	r.push("still here", r.routers.last().Conn)
	p.expectPush(1, "still here")
	q, _ := r.login(wire.SubprotocolJSON, "bob", 1)
	q.expectAlive()

	n := r.next(t) // the next one can
	eventually(t, "the next process took over", func() bool { return n.g.conns.size.Load() == 2 && r.g.successor.has() })
	p.expectAlive()
	q.expectAlive()
	r.ended()
}

// A process that is told to end while another takes over waits for the outcome: clients that are being moved are not sent
// away.
func TestHotRestartMeetsShutdown(t *testing.T) {
	t.Parallel() // it waits for most of its time
	begins := func(r *rig) *predecessor {
		cfg := r.g.cfg
		p, err := findPredecessor(&cfg)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("taken over", func(t *testing.T) {
		r := newRig(t, handoffAt(t), func(c *Config) { c.DrainTimeout = 40 * time.Second })
		p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
		n := &rig{t: t, backend: r.backend, routers: r.routers, issuer: r.issuer, done: make(chan error, 1)}
		var err error
		if n.g, err = New(r.g.cfg, r.g.deps); err != nil { // the other one has made its offer
			t.Fatal(err)
		}
		r.stop(nil)
		ctx, cancel := context.WithCancelCause(context.Background())
		n.stop = cancel
		go func() { n.done <- n.g.Run(ctx) }()
		t.Cleanup(func() { n.shut(im.ErrKilled) })
		r.ended()
		p.expectAlive()
		n.push("still here", r.routers.last().Conn)
		p.expectPush(1, "still here")
	})
	t.Run("the other one stalls", func(t *testing.T) {
		r := newRig(t, handoffAt(t), func(c *Config) { c.DrainTimeout = time.Second })
		p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
		stalled := begins(r)
		defer stalled.conn.Close()
		defer stalled.listener.Close()
		r.stop(nil)
		expect(p, (*wire.Frame).GetGoaway)
		r.shut(nil)
	})
	t.Run("nobody begins any more", func(t *testing.T) {
		r := newRig(t, handoffAt(t), func(c *Config) { c.DrainTimeout = 5 * time.Second })
		p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
		r.stop(nil)
		expect(p, (*wire.Frame).GetGoaway)
		cfg := r.g.cfg
		if other, err := findPredecessor(&cfg); other != nil || err != nil {
			t.Errorf("got %v, %v: an offer of a process that drains", other, err)
		}
		p.ws.Close()
		r.shut(nil)
	})
}

// storm is many clients that send throughout, and what became of it.
type storm struct {
	sent, replied  atomic.Int64
	pushed         atomic.Int64
	disconnects    atomic.Int64
	wrong          atomic.Pointer[string]
	mu             sync.Mutex
	latency        []time.Duration
	slowest        []time.Duration // of each client
	stopping       chan struct{}
	clients        sync.WaitGroup
	executed       map[string]int
	executedLocker sync.Mutex
}

func (s *storm) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.wrong.CompareAndSwap(nil, &text)
}

// client submits again as soon as a submit was answered, pace later, and checks that pushes come without gap or repeat.
func (s *storm) client(p *peer, i int, pace time.Duration) {
	var last uint64
	var latencies []time.Duration
	slowest := time.Duration(0)
	defer func() {
		s.mu.Lock()
		s.latency = append(s.latency, latencies...)
		s.slowest = append(s.slowest, slowest)
		s.mu.Unlock()
	}()
	time.Sleep(rand.N(pace)) // not all clients send at once
	for id := uint32(1); ; id++ {
		select {
		case <-s.stopping:
			return
		default:
		}
		began := time.Now()
		b, err := p.codec.Encode(wire.FrameOf(submit(id, fmt.Sprint("d:x:u", i), fmt.Sprint(i, "/", id))))
		if err == nil {
			err = p.ws.WriteMessage(p.codec.MessageType(), b)
		}
		if err != nil {
			s.disconnects.Add(1)
			s.fail("client %d: %v", i, err)
			return
		}
		s.sent.Add(1)
		for answered := false; !answered; {
			p.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, b, err := p.ws.ReadMessage()
			if err != nil {
				s.disconnects.Add(1)
				s.fail("client %d: %v", i, err)
				return
			}
			f, err := p.codec.Decode(b)
			if err != nil {
				s.fail("client %d: %v", i, err)
				return
			}
			switch k := f.Kind.(type) {
			case *wire.FrameReply:
				if k.Reply.Id != id || k.Reply.Error != nil {
					s.fail("client %d: reply %v to call %d", i, k.Reply, id)
				}
				answered = true
				s.replied.Add(1)
			case *wire.FramePush:
				if k.Push.Number != last+1 {
					s.fail("client %d: push %d after %d", i, k.Push.Number, last)
				}
				last = k.Push.Number
				s.pushed.Add(1)
				ack, err := p.codec.Encode(wire.FrameOf(&wire.PushAck{Number: last}))
				if err == nil {
					_ = p.ws.WriteMessage(websocket.BinaryMessage, ack)
				}
			default:
				s.fail("client %d: %v", i, f)
			}
		}
		took := time.Since(began)
		latencies = append(latencies, took)
		slowest = max(slowest, took)
		time.Sleep(pace) // as people write
	}
}

// restartUnderLoad restarts a gateway once while clients send and are pushed to; it returns when everything is checked.
func restartUnderLoad(t testing.TB, clients int, pace time.Duration) *storm {
	r := newRig(t, handoffAt(t), func(c *Config) { c.MaxUnacked = 1 << 20; c.MaxUnackedBytes = 1 << 30 })
	s := &storm{stopping: make(chan struct{}), executed: map[string]int{}}
	r.backend.handle = func(_ context.Context, c im.Call) (im.CallResult, error) {
		s.executedLocker.Lock()
		s.executed[textOf(c)]++
		s.executedLocker.Unlock()
		time.Sleep(time.Millisecond) // as an append takes
		return r.backend.answer(c)
	}
	peers := make([]*peer, clients)
	for i := range peers {
		peers[i], _ = r.login(wire.SubprotocolProtobuf, im.UID(fmt.Sprint("u", i)), 1)
	}
	var conns []uint64
	for _, c := range r.routers.claimed() {
		conns = append(conns, c.Conn)
	}
	for i, p := range peers {
		s.clients.Go(func() { s.client(p, i, pace) })
	}
	pushes := 0
	push := func() {
		body, err := wire.Marshal(&wire.Event{From: "eu"})
		if err != nil {
			t.Fatal(err)
		}
		r.routers.toGateway().Push([]im.Push{{Conns: conns, Service: "im", Method: "event", Body: body}})
		pushes++
	}
	// Pushes come at a pace of their own, before, during and after the restart.
	pushing := func(until time.Time, done func() bool) {
		for !done() && s.wrong.Load() == nil && time.Now().Before(until) {
			push()
			time.Sleep(pace / 8) // open-loop: pushes come whatever became of those before
		}
	}
	never := func() bool { return false }
	pushing(time.Now().Add(2*pace), never)
	n := r.next(t)
	until := time.Now().Add(30 * time.Second)
	pushing(until, func() bool { return int(n.g.conns.size.Load()) == clients && r.g.successor.has() })
	pushing(time.Now().Add(2*pace), never)
	await(until, time.Millisecond, func() bool { return int(s.pushed.Load()) >= pushes*clients || s.wrong.Load() != nil })
	close(s.stopping)
	s.clients.Wait()
	r.ended()
	if wrong := s.wrong.Load(); wrong != nil {
		t.Fatal(*wrong)
	}
	if got, want := s.pushed.Load(), int64(pushes*clients); got != want {
		t.Errorf("%d pushes came, want %d", got, want)
	}
	if s.sent.Load() != s.replied.Load() || len(s.executed) != int(s.sent.Load()) {
		t.Errorf("%d submits sent, %d answered, %d carried out", s.sent.Load(), s.replied.Load(), len(s.executed))
	}
	for text, times := range s.executed {
		if times != 1 {
			t.Fatalf("submit %s was carried out %d times", text, times)
		}
	}
	slices.Sort(s.latency)
	slices.Sort(s.slowest)
	return s
}

// While clients send and are pushed to, nobody is cut, and nothing is lost or done twice.
func TestHotRestartUnderLoad(t *testing.T) {
	s := restartUnderLoad(t, 300, 40*time.Millisecond)
	t.Logf("%d submits, %d pushes; the slowest submit of a client: median %v, p99 %v", s.sent.Load(), s.pushed.Load(), share(s.slowest, .5), share(s.slowest, .99))
}

// BenchmarkHotRestart tells the pause: the slowest answer that each of 5,000 clients got, most of which met the restart,
// beside what an answer takes otherwise. Clients and both processes share this one.
func BenchmarkHotRestart(b *testing.B) {
	for b.Loop() {
		s := restartUnderLoad(b, 5000, time.Second)
		b.ReportMetric(float64(share(s.latency, .5).Microseconds())/1000, "ms-p50")
		b.ReportMetric(float64(share(s.slowest, .5).Microseconds())/1000, "ms-pause-p50")
		b.ReportMetric(float64(share(s.slowest, .99).Microseconds())/1000, "ms-pause-p99")
		b.ReportMetric(float64(s.disconnects.Load()), "disconnects")
		b.ReportMetric(float64(s.sent.Load()-s.replied.Load()), "lost")
	}
}

// A socket of TLS does not move to the next process. Its session does, and is resumed there.
func TestTLSHotRestart(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, withTLS, handoffAt(t))
	before, welcome := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.push("one", r.routers.last().Conn)
	before.expectPush(1, "one")
	n := r.next(t)
	before.expectClose(im.CodeUnavailable)
	eventually(t, "the next process took over", func() bool { return r.g.successor.has() })
	after, again := n.resume(wire.SubprotocolProtobuf, "ann", 2, welcome, 0)
	if !again.Resumed {
		t.Error("the session was not resumed")
	}
	after.expectPush(1, "one")
	after.expectAlive()
	r.ended()
}

// QUIC stays with the process that has it until that ends; the next one serves it then, at the same address. Sessions are
// resumed there.
func TestWebTransportHotRestart(t *testing.T) {
	t.Parallel() // it waits for most of its time
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	r := newRig(t, handoffAt(t), func(c *Config) { c.QUIC = free.LocalAddr().String() })
	before := r.dialStream(wire.SubprotocolProtobuf)
	before.send(r.hello("ann", 1))
	welcome := expect(before, (*wire.Frame).GetWelcome)
	n := r.next(t)
	before.expectClose(im.CodeUnavailable)
	before.cut()
	r.ended()
	if a, b := r.g.WebTransportURL(), n.g.WebTransportURL(); a != b {
		t.Errorf("it was at %s and is at %s", a, b)
	}
	var session *webtransport.Session
	eventually(t, "the next process serves WebTransport", func() bool {
		_, _, session, err = n.dialSession("", wire.SubprotocolProtobuf)
		return err == nil
	})
	stream, err := session.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	after := &peer{t: t, codec: before.codec, stream: &streamPeer{t: t, session: session, stream: stream}}
	h := r.hello("ann", 2)
	h.Resume = &wire.Resume{Session: welcome.Session, Secret: welcome.ResumeSecret}
	after.send(h)
	if !expect(after, (*wire.Frame).GetWelcome).Resumed {
		t.Error("not resumed")
	}
	after.expectAlive()
}
