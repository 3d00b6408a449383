package gateway

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

var soakFor = flag.Duration("soak.for", 2*time.Second, "how long TestSoak keeps its garbage up")

// soakPatience is how long a busy machine may take for anything.
const soakPatience = time.Minute

// Beside clients that send garbage of every kind, each from an address of its own, good clients get every answer and every
// push in order; nothing panics; and when the garbage is gone, so are its goroutines and memory.
func TestSoak(t *testing.T) {
	const good, garblers = 4, 24
	said := new(said)
	r := prepareRig(t, nil, func(c *Config) {
		c.HelloTimeout, c.ResumeWindow, c.SlowTimeout = 2*time.Second, time.Second, soakPatience
		c.IdleTimeout, c.WriteTimeout = 2*soakPatience, soakPatience
		c.MaxConnsPerIP, c.FailureBurst, c.Burst = 64, 20, 200
	})
	r.g.log = slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.run()
	var friends []*friend
	for i := range good {
		uid := im.UID(fmt.Sprint("good", i))
		p, _ := r.login(wire.Subprotocols()[i%2], uid, 1)
		friends = append(friends, &friend{peer: p, key: fmt.Sprint("d:", uid, ":x"), conn: r.routers.last().Conn})
	}
	goroutines, memory := runtime.NumGoroutine(), heap()

	stop := make(chan struct{})
	var talking, reading, spoiling sync.WaitGroup
	for _, f := range friends {
		reading.Go(func() { f.read(t) })
		talking.Go(func() { f.write(t, stop) })
		talking.Go(func() { f.beFed(t, r, stop) })
	}
	bad := &garbage{rig: r, until: time.Now().Add(*soakFor), done: make([]atomic.Int64, len(spoils()))}
	for i := range garblers {
		spoiling.Go(func() { bad.spoil(t, i) })
	}
	spoiling.Wait()
	close(stop)
	talking.Wait()
	for _, f := range friends {
		f.over.Store(true)
		f.tell(t, wire.FrameOf(&wire.Ping{})) // its pong wakes who has everything already
	}
	reading.Wait()
	for i, f := range friends {
		if f.replies == 0 || f.pushes == 0 {
			t.Errorf("good client %d had %d replies and %d pushes", i, f.replies, f.pushes)
		}
		r.backend.inOrder(t, f.key, f.sent)
	}
	rounds := int64(0)
	for i, kind := range spoils() {
		if bad.done[i].Load() == 0 {
			t.Errorf("nobody did: %s", kind.name)
		}
		rounds += bad.done[i].Load()
	}

	settle := func(what string, ok func() bool) {
		t.Helper()
		for until := time.Now().Add(soakPatience); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("never: %s; %d conns, %d sessions, %d goroutines (%d before), %d bytes (%d before)\n%s", what, r.g.conns.size.Load(),
					r.g.hub.count.Load(), runtime.NumGoroutine(), goroutines, heap(), memory, stacks[:runtime.Stack(stacks, true)])
			}
		}
	}
	for _, p := range r.g.polls.all() { // only garbage polls; IdleTimeout, which is good clients' too, is long
		p.c.drop()
	}
	settle("garbage has no conns", func() bool { return r.g.conns.size.Load() == good })
	settle("garbage has no sessions", func() bool { return r.g.hub.count.Load() == good })
	settle("goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	r.backend.mu.Lock()
	r.backend.calls = nil // what the test itself keeps
	r.backend.mu.Unlock()
	r.routers.mu.Lock()
	r.routers.claims = nil
	r.routers.mu.Unlock()
	settle("memory is as before, but for 16 MiB of pools", func() bool { return heap() <= memory+16<<20 })
	if text := said.complaints(); text != "" {
		t.Errorf("the gateway logged:\n%s", text)
	}
	for _, f := range friends {
		f.expectAlive()
	}
	t.Logf("%d pieces of garbage; good clients sent %d and got %d pushes", rounds, friends[0].sent, friends[0].pushes)
}

// heap is what is in use after everything that can be freed was.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // pools are emptied at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// inOrder checks that a key's submits came as they were sent.
func (b *backend) inOrder(t *testing.T, key string, sent int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, c := range b.calls {
		if c.Key != key || c.Method != wire.MethodSubmit {
			continue
		}
		if got := textOf(c); got != fmt.Sprint(n) {
			t.Errorf("submit %d of %s says %s", n, key, got)
			return
		}
		n++
	}
	if n != sent {
		t.Errorf("%d submits of %s came, %d were sent", n, key, sent)
	}
}

// said keeps what a gateway logs that it should not: panics, which the HTTP server survives, and errors.
type said struct {
	mu  sync.Mutex
	bad bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) || bytes.Contains(b, []byte("level=ERROR")) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.bad.Len() < 1<<16 {
			s.bad.Write(b)
		}
	}
	return len(b), nil
}

func (s *said) complaints() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bad.String()
}

// friend is a good client: it sends one submit after the other's answer, and gets pushes.
type friend struct {
	*peer
	key     string
	conn    uint64
	writing sync.Mutex

	fed           atomic.Uint64 // pushes given to the gateway
	acked         atomic.Uint64 // pushes received
	answered      atomic.Int64
	over          atomic.Bool // nothing more is sent or fed
	sent, replies int
	pushes        uint64
}

func (f *friend) tell(t *testing.T, m *wire.Frame) bool {
	b, err := f.codec.Encode(m)
	if err == nil {
		f.writing.Lock()
		err = f.ws.WriteMessage(f.codec.MessageType(), b)
		f.writing.Unlock()
	}
	if err != nil {
		t.Errorf("%s cannot send: %v", f.key, err)
	}
	return err == nil
}

// write submits until stop.
func (f *friend) write(t *testing.T, stop chan struct{}) {
	for pace := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-pace.C:
		case <-stop:
			pace.Stop()
			return
		}
		if int(f.answered.Load()) < f.sent {
			continue
		}
		if !f.tell(t, wire.FrameOf(submit(uint32(f.sent), f.key, fmt.Sprint(f.sent)))) {
			return
		}
		f.sent++
	}
}

// beFed gives the gateway pushes for it.
func (f *friend) beFed(t *testing.T, r *rig, stop chan struct{}) {
	for pace := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-pace.C:
		case <-stop:
			pace.Stop()
			return
		}
		if n := f.fed.Load(); n < f.acked.Load()+256 { // more would be dropped, and pulled
			body, err := wire.Marshal(&wire.Event{From: fmt.Sprint(n + 1)})
			if err != nil {
				t.Error(err)
				return
			}
			f.fed.Store(n + 1)
			r.routers.toGateway().Push([]im.Push{{Conns: []uint64{f.conn}, Service: "im", Method: "event", Body: body}})
		}
	}
}

// read takes replies and pushes, which must come in order, until it is over and all have come.
func (f *friend) read(t *testing.T) {
	for !f.over.Load() || f.replies < f.sent || f.pushes < f.fed.Load() {
		f.ws.SetReadDeadline(time.Now().Add(soakPatience))
		_, b, err := f.ws.ReadMessage()
		if err != nil {
			t.Errorf("%s: the socket ended: %v", f.key, err)
			return
		}
		frame, err := f.codec.Decode(b)
		if err != nil {
			t.Errorf("%s: got %q: %v", f.key, b, err)
			return
		}
		switch k := frame.Kind.(type) {
		case *wire.FrameReply:
			if k.Reply.Id != uint32(f.replies) || k.Reply.Error != nil {
				t.Errorf("%s: reply %d is %v", f.key, f.replies, k.Reply)
			}
			f.replies++
			f.answered.Store(int64(f.replies))
		case *wire.FramePush:
			var e wire.Event
			f.pushes++
			if err := wire.Unmarshal(k.Push.Body, &e); err != nil || k.Push.Number != f.pushes || e.From != fmt.Sprint(f.pushes) {
				t.Errorf("%s: push %d is number %d and says %q, %v", f.key, f.pushes, k.Push.Number, e.From, err)
				return
			}
			if f.pushes%16 == 0 && !f.tell(t, wire.FrameOf(&wire.PushAck{Number: f.pushes})) {
				return
			}
			f.acked.Store(f.pushes)
		case *wire.FramePong:
		default:
			t.Errorf("%s: got %v", f.key, frame)
		}
	}
}
