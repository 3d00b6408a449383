package gateway

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/gateway/wheel"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// A client that acknowledges, loses its socket, resumes or falls behind hears of every push: it got it, in order and once
// per socket, or was told that it is behind it.
func TestSessionAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{MaxUnacked: rapid.IntRange(1, 8).Draw(t, "count"), MaxUnackedBytes: 400, SlowTimeout: time.Second}
		s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
		now := time.UnixMilli(0)
		var (
			c      *conn
			number uint64 // of the last push
			has    uint64 // the client's: highest without a gap, or behind
			login  uint64 = 1
			bodies        = map[uint64]string{} // what was pushed
		)
		connect := func() {
			if s.missed {
				number++ // what routers did not push
			}
			c = &conn{flusher: newFlusher()}
			if err := s.attach(c, login, has, nil); err != nil {
				t.Fatal(err)
			}
		}
		drain := func(batch int) {
			behind, pushes := s.next(c, make([]numberedPush, 0, batch))
			if behind > 0 {
				if behind <= has || behind > number {
					t.Fatalf("behind %d, the client has %d of %d", behind, has, number)
				}
				has = behind
			}
			for _, p := range pushes {
				if p.number != has+1 {
					t.Fatalf("push %d after %d", p.number, has)
				}
				if got := p.push.Trace(); got != bodies[p.number] {
					t.Fatalf("push %d is %q, want %q", p.number, got, bodies[p.number])
				}
				has = p.number
			}
		}
		connect()
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				number++
				bodies[number] = fmt.Sprint("body ", number)
				now = now.Add(time.Millisecond)
				s.push(wire.PreparePush("im", "event", nil, bodies[number]), now, false)
			},
			"read": func(t *rapid.T) {
				if c != nil {
					drain(rapid.IntRange(1, 4).Draw(t, "batch"))
				}
			},
			"ack": func(t *rapid.T) {
				n := rapid.Uint64Range(0, number+1).Draw(t, "number")
				if c != nil && s.acked(c, n) != (n <= has) {
					t.Fatalf("ack of %d, sent %d", n, has)
				}
			},
			"lose": func(t *rapid.T) {
				if c != nil {
					s.detach(c, now.Add(time.Hour))
					c = nil
				}
			},
			"resume": func(t *rapid.T) {
				if c == nil {
					login++
					if _, _, _, err := s.takeOver(login, login, has, now); err != nil {
						t.Fatal(err)
					}
					connect()
				}
			},
			"": func(t *rapid.T) {
				if len(s.unacked) > cfg.MaxUnacked || s.bytes > cfg.MaxUnackedBytes {
					t.Fatalf("keeps %d pushes, %d bytes", len(s.unacked), s.bytes)
				}
				size := 0
				for i, p := range s.unacked {
					size += p.push.Size()
					if p.number != s.number-uint64(len(s.unacked)-1-i) {
						t.Fatal("a gap in what is kept")
					}
				}
				if size != s.bytes {
					t.Fatalf("counts %d bytes, are %d", s.bytes, size)
				}
			},
		})
		if c == nil {
			login++
			if _, _, _, err := s.takeOver(login, login, has, now); err != nil {
				t.Fatal(err)
			}
			connect()
		}
		for range number + 2 {
			drain(4)
		}
		if has != number {
			t.Fatalf("in the end the client has %d of %d", has, number)
		}
	})
}

// A consumer that acknowledges nothing is closed once it has been behind for the slow timeout, and not before.
func TestSessionTooSlow(t *testing.T) {
	cfg := Config{MaxUnacked: 1, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Second}
	s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
	c := &conn{flusher: newFlusher()}
	if err := s.attach(c, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	p := wire.PreparePush("im", "event", nil, "")
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	step := func(ms int, want overflow) {
		t.Helper()
		if got := s.push(p, at(ms), false); got != want {
			t.Fatalf("at %d ms: %v, want %v", ms, got, want)
		}
	}
	step(0, fits)
	step(1, dropped)
	step(900, fits)
	step(1001, dropped)
	step(1100, fits)
	step(1101, tooSlow)
	s.next(c, nil)
	if !s.acked(c, s.behind) {
		t.Fatal("behind is not acknowledged")
	}
	step(1200, fits)
	step(1201, dropped)
}

// The resume window ends a session once, when it has been without a socket for as long, and costs nothing until then.
func TestSessionWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = time.Minute
		clock := wheel.New(tick)
		done := make(chan struct{})
		go clock.Run(done)
		defer close(done)
		cfg := Config{MaxUnacked: 1, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Second}
		s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
		ends := 0
		s.clock, s.due = clock, func(due *session) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if due != s || !expired(time.Now())(s) {
				t.Errorf("session %p is due, or is not: %p", due, s)
			}
			ends++
		}
		after := func(d time.Duration, timers, want int) {
			t.Helper()
			time.Sleep(d) // on synctest's clock: it takes none
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if clock.Len() != timers || ends != want {
				t.Fatalf("%d timers, ended %d times; want %d and %d", clock.Len(), ends, timers, want)
			}
		}
		for login := uint64(1); login < 4; login++ {
			c := &conn{flusher: newFlusher()}
			if err := s.attach(c, login, 0, nil); err != nil {
				t.Fatal(err)
			}
			after(2*window, 0, 0) // with a socket
			s.detach(c, time.Now().Add(window))
			after(window-time.Second, 1, 0)
			if _, _, _, err := s.takeOver(login+1, login+1, 0, time.Now().Add(window)); err != nil {
				t.Fatal(err)
			}
			after(window-time.Second, 1, 0) // a login under way has its time, too
		}
		after(time.Second+2*tick, 0, 1)
	})
}

// What three sockets in a row were sent again and none acknowledged is not sent a fourth time: the client pulls. A socket that
// acknowledges anything begins the count anew.
func TestResendsAreBounded(t *testing.T) {
	cfg := Config{MaxUnacked: 100, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Second}
	s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
	login := uint64(1)
	var c *conn
	socket := func(has, behind uint64, pushes int) {
		t.Helper()
		if login > 1 {
			if _, _, _, err := s.takeOver(login, login, has, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		c = &conn{flusher: newFlusher()}
		if err := s.attach(c, login, has, nil); err != nil {
			t.Fatal(err)
		}
		login++
		if b, p := s.next(c, make([]numberedPush, 0, 10)); b != behind || len(p) != pushes {
			t.Fatalf("login %d: behind %d, %d pushes; want %d and %d", login-1, b, len(p), behind, pushes)
		}
	}
	push := func() { s.push(wire.PreparePush("im", "event", nil, ""), time.Time{}, false) }
	push()
	push()
	socket(0, 0, 2)
	for range maxResends {
		socket(0, 0, 2)
	}
	socket(1, 0, 1) // one came through
	for range maxResends - 1 {
		socket(1, 0, 1)
	}
	push()
	socket(1, 3, 0)
	if !s.acked(c, 3) {
		t.Fatal("behind is not acknowledged")
	}
	for range 2 * maxResends { // nothing to send again
		socket(3, 0, 0)
	}
	push()
	socket(3, 0, 1)
}

func TestTakeOverRefuses(t *testing.T) {
	cfg := Config{MaxUnacked: 4, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Second}
	s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 5}, 1)
	for _, test := range []struct {
		name       string
		login, has uint64
		code       im.Code
	}{
		{"the same login", 5, 0, im.CodeLoginTie},
		{"a lower login", 4, 0, im.CodeLoginTie},
		{"a push that was never made", 6, 1, im.CodeSessionExpired},
	} {
		if _, _, _, err := s.takeOver(2, test.login, test.has, time.Time{}); im.CodeOf(err) != test.code {
			t.Errorf("%s: %v, want %s", test.name, err, test.code)
		}
	}
	if s.connNo != 1 || s.login != 5 {
		t.Errorf("a refused resume changed the session: conn %d, login %d", s.connNo, s.login)
	}
}

// A bye that is handled when another socket has taken the session ends nothing: it was said of the socket before.
func TestByeAfterResume(t *testing.T) {
	r := newRig(t)
	_, w := r.login(wire.SubprotocolJSON, "ann", 1)
	s := r.g.hub.byID(idOf(w.Session))
	var left *conn
	eventually(t, "the session has its socket", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		left = s.conn
		return left != nil
	})
	p, again := r.resume(wire.SubprotocolJSON, "ann", 2, w, 0)
	if !again.Resumed {
		t.Fatal("not resumed")
	}
	left.handle(wire.FrameOf(&wire.Bye{}), nil)
	if r.g.hub.byID(idOf(w.Session)) != s {
		t.Error("the session ended")
	}
	p.expectAlive()
}
