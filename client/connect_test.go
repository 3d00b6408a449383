package client

import (
	"context"
	"net"
	"net/http/httptrace"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func TestRace(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		a, b, c := w.gateway("a", "eu"), w.gateway("b", "eu"), w.gateway("c", "eu")
		d := w.gateway("d", "us")
		w.net.slowly("a:80", -1)
		w.net.slowly("b:80", 900*time.Millisecond)
		w.net.slowly("c:80", 10*time.Millisecond)
		r := w.client(nil)
		defer r.end()
		took := eventually(t, 2*time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		if took < 400*time.Millisecond || took > 500*time.Millisecond {
			t.Errorf("took %v: two staggers of 200 ms, then c", took)
		}
		pass(3 * time.Second)
		synctest.Wait()
		if len(a.logins())+len(b.logins())+len(d.logins()) != 0 || len(c.logins()) != 1 {
			t.Errorf("hellos: %d %d %d %d", len(a.logins()), len(b.logins()), len(c.logins()), len(d.logins()))
		}
		if slices.Contains(w.net.dialled(), "d:80") {
			t.Error("d was dialled though the race is three wide")
		}
	})
}

func TestEveryGatewayIsTried(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		for _, id := range []string{"a", "b", "c", "d"} {
			w.gateway(id, "eu").kill()
		}
		w.gateway("e", "us")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
	})
}

// A slow ipconf is hedged, a dead one replaced; when none answers, the last list stands.
func TestIPConfs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.ipconf("slow")
		w.ipconf("dead")
		w.ipconf("good")
		w.net.slowly("slow:80", -1)
		w.net.unlisten("dead:80")
		eu := w.gateway("e1", "eu")
		us := w.gateway("u1", "us")
		r := w.client(nil)
		defer r.end()
		took := eventually(t, 3*time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		if took > time.Second {
			t.Errorf("took %v", took)
		}
		w.net.unlisten("good:80")
		eu.kill()
		eventually(t, 10*time.Second, "connected by the old list", func() bool { return len(us.logins()) == 1 })
	})
}

func TestKicks(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(CaughtUp{}) == 1 })
		eu.close(im.CodeLoginTie)
		eventually(t, 5*time.Second, "logged in again", func() bool { return len(eu.logins()) == 2 })
		if eu.logins()[1].Login != 2 {
			t.Errorf("login %d", eu.logins()[1].Login)
		}
		eventually(t, time.Second, "connected", func() bool { return r.took(Connected{}) == 2 })
		s, err := r.Post(t.Context(), "d:ann:carl", "x")
		if err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		eu.close(im.CodeReplaced)
		<-r.done // events are closed
		if stopped, ok := r.last().(Stopped); !ok || im.CodeOf(stopped.Err) != im.CodeReplaced {
			t.Errorf("last event %#v", r.last())
		}
		if _, err := r.Submit(t.Context(), direct, "x"); im.CodeOf(err) != im.CodeReplaced {
			t.Errorf("err %v", err)
		}
		if err := r.Ready(t.Context()); im.CodeOf(err) != im.CodeReplaced {
			t.Errorf("err %v", err)
		}
		if len(eu.logins()) != 2 {
			t.Errorf("%d hellos: a replaced client must stay away", len(eu.logins()))
		}
	})
}

func TestTokenExpired(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		eu.onHello = func(h *wire.Hello) error {
			if h.Token == "token-old" {
				return im.Errorf(im.CodeTokenExpired, "old")
			}
			return nil
		}
		r := w.client(func(c *Config) {
			c.Token = func(_ context.Context, refresh bool) (string, error) {
				if refresh {
					return "token-ann", nil
				}
				return "token-old", nil
			}
		})
		defer r.end()
		eventually(t, 5*time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		eu.script(func() { eu.onHello = func(*wire.Hello) error { return im.Errorf(im.CodeBadToken, "no") } })
		eu.drop()
		<-r.done
		if stopped, ok := r.last().(Stopped); !ok || im.CodeOf(stopped.Err) != im.CodeBadToken {
			t.Errorf("last event %#v", r.last())
		}
	})
}

// A goaway is obeyed within its time, on another gateway, before the old socket is given up; the session moves too.
func TestGoaway(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		a, b := w.gateway("a", "eu"), w.gateway("b", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(CaughtUp{}) == 1 })
		a.push(w.say("eu", direct, "bob", "1"), "eu")
		eventually(t, time.Second, "one", func() bool { return len(r.inserted()) == 1 })
		b.mu.Lock() // as if it asked a
		b.resumes["a-1"], b.pushed = 1, 1
		b.mu.Unlock()
		a.peer().send(wire.FrameOf(&wire.Goaway{WithinMs: 10_000}))
		eventually(t, 9*time.Second, "moved", func() bool { return r.took(Connected{}) == 2 })
		if len(b.logins()) != 1 {
			t.Fatalf("%d logins at b", len(b.logins()))
		}
		if h := b.logins()[0]; h.Resume == nil || h.Resume.Session != "a-1" || h.Resume.Push != 1 || h.Login != 2 {
			t.Errorf("hello at b: %v", h)
		}
		b.push(w.say("eu", direct, "bob", "2"), "eu")
		eventually(t, time.Second, "two", func() bool { return len(r.inserted()) == 2 })
		if n := w.listed(); n != 1 {
			t.Errorf("%d lists: a session that moved misses nothing", n)
		}
		if r.took(Disconnected{}) != 0 {
			t.Error("there was a moment without a socket")
		}
		submit(t, r, "on b")
		if len(b.sent()) != 1 {
			t.Errorf("%d submits at b", len(b.sent()))
		}
	})
}

// A socket that says nothing is dead after a heartbeat and the wait for its pong.
func TestGoawayNamesAlternatives(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		a := w.gateway("a", "eu")
		b, c := w.gateway("b", "eu"), w.gateway("c", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(CaughtUp{}) == 1 })
		unlisted := w.gateway("d", "eu")
		w.mu.Lock()
		w.gateways = w.gateways[:3]
		w.mu.Unlock()
		defer unlisted.drop()
		a.peer().send(wire.FrameOf(&wire.Goaway{WithinMs: 10_000, Alternatives: []string{"ws://d:80/v1/ws", "ws://c:80/v1/ws"}}))
		eventually(t, 9*time.Second, "moved", func() bool { return r.took(Connected{}) == 2 })
		if n := len(unlisted.logins()); n != 1 {
			t.Fatalf("%d logins at the first alternative", n)
		}
		if h := unlisted.logins()[0]; h.Resume == nil || h.Resume.Session != "a-1" {
			t.Errorf("hello at d: %v", h)
		}
		// One that cannot be reached is passed over; there is no list to be had meanwhile.
		w.net.unlisten("ipconf:80")
		w.net.unlisten("b:80")
		unlisted.peer().send(wire.FrameOf(&wire.Goaway{WithinMs: 10_000, Alternatives: []string{"ws://b:80/v1/ws", "ws://c:80/v1/ws"}}))
		eventually(t, 20*time.Second, "moved again", func() bool { return r.took(Connected{}) == 3 })
		if len(b.logins()) != 0 || len(c.logins()) != 1 || r.took(Disconnected{}) != 0 {
			t.Errorf("%d logins at b, %d at c, %d times without a socket", len(b.logins()), len(c.logins()), r.took(Disconnected{}))
		}
	})
}

// A round trip is the connect, not the lookup of the name before it.
func TestRoundTripsAreWithoutLookups(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.gateway("e1", "eu")
		r := w.client(func(cfg *Config) {
			cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				pass(300 * time.Millisecond) // the lookup
				trace := httptrace.ContextClientTrace(ctx)
				if trace == nil { // of an ipconf
					return w.net.dial(ctx, network, addr)
				}
				trace.ConnectStart(network, addr)
				pass(20 * time.Millisecond)
				c, err := w.net.dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				trace.ConnectDone(network, addr, nil)
				return addressed{c, addr}, nil
			}
		})
		defer r.end()
		eventually(t, 5*time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		r.endpoints.mu.Lock()
		defer r.endpoints.mu.Unlock()
		if got := r.endpoints.rtt["eu"]; got < 20*time.Millisecond || got > 30*time.Millisecond {
			t.Errorf("measured %v", got)
		}
	})
}

// addressed is a conn to an address.
type addressed struct {
	net.Conn
	addr string
}

func (a addressed) RemoteAddr() net.Addr { return &net.UnixAddr{Name: a.addr} }

func TestDeadSocket(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		a, b := w.gateway("a", "eu"), w.gateway("b", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(CaughtUp{}) == 1 })
		pass(5 * time.Minute) // pings keep it alive
		synctest.Wait()
		if r.took(Connected{}) != 1 {
			t.Fatal("a live socket was given up")
		}
		a.mu.Lock()
		a.dead = true
		a.mu.Unlock()
		w.net.slowly("a:80", -1)
		eventually(t, 70*time.Second, "moved", func() bool { return len(b.logins()) == 1 })
	})
}

// Without a socket for long, HTTP serves: submits go out, messages come in.
func TestHTTPFallback(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.PollFallbackMs, w.policy.FallbackPullMs = 5_000, 10_000
		eu := w.gateway("e1", "eu")
		eu.onHello = func(*wire.Hello) error { return im.Errorf(im.CodeOverloaded, "no sockets") }
		w.say("eu", direct, "bob", "1")
		r := w.client(nil)
		defer r.end()
		submit(t, r, "2")
		eventually(t, 15*time.Second, "both", func() bool { return len(r.inserted()) == 2 })
		if r.took(Connected{}) != 0 {
			t.Error("connected")
		}
	})
}

// The gateways of another region cannot take a session: it is not shown to them.
func TestSessionStaysInItsRegion(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(CaughtUp{}) == 1 })
		us := w.gateway("u1", "us")
		w.mu.Lock()
		w.gateways = w.gateways[1:]
		w.mu.Unlock()
		w.net.unlisten("e1:80")
		eu.drop()
		eventually(t, 30*time.Second, "moved", func() bool { return r.took(Connected{}) == 2 })
		if h := us.logins()[0]; h.Resume != nil {
			t.Errorf("hello at u1: %v", h)
		}
	})
}
