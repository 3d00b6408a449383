package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// fakePoll is a gateway's side of a long poll.
type fakePoll struct {
	id   string
	out  chan []byte
	done chan struct{}
	once sync.Once
	code int

	mu     sync.Mutex
	held   uint32 // numbers that were handled
	sent   uint32
	answer []byte // to held
}

func (f *fakePoll) over(code int) {
	f.once.Do(func() {
		f.code = code
		close(f.done)
	})
}

func (g *gateway) servePoll(rw http.ResponseWriter, r *http.Request) {
	sub := wire.SubprotocolProtobuf
	if r.Header.Get("Content-Type") == "application/json" {
		sub = wire.SubprotocolJSON
	}
	codec, err := wire.NewCodec(sub)
	if err != nil {
		g.w.t.Error(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	q, err := codec.DecodePoll(body)
	if err != nil {
		g.w.t.Error(err)
		return
	}
	g.mu.Lock()
	p := g.polls[q.Conn]
	if q.Conn == "" {
		if g.polls == nil {
			g.polls = map[string]*peer{}
		}
		p = &peer{g: g, codec: codec, poll: &fakePoll{id: fmt.Sprint("poll-", len(g.polls)), out: make(chan []byte, 1000), done: make(chan struct{})}}
		g.polls[p.poll.id] = p
	}
	g.mu.Unlock()
	if p == nil {
		rw.Write(codec.EncodePollAnswer(&wire.PollAnswer{Close: im.CodeIdle.Spec().Close}))
		return
	}
	f := p.poll
	last := &f.sent
	if q.HoldMs > 0 {
		last = &f.held
	}
	f.mu.Lock()
	again := q.Number == *last
	*last = q.Number
	answer := f.answer
	f.mu.Unlock()
	if again && answer != nil && q.HoldMs > 0 {
		rw.Write(answer)
		return
	}
	if !again {
		for _, b := range q.Frames {
			frame, err := codec.Decode(b)
			if err != nil {
				g.w.t.Error(err)
			}
			if !g.frame(p, frame) {
				f.over(0)
			}
		}
	}
	a := wire.PollAnswer{Conn: f.id}
	if q.HoldMs > 0 {
		t := time.NewTimer(time.Duration(q.HoldMs) * time.Millisecond)
		defer t.Stop()
		select {
		case b := <-f.out:
			a.Frames = append(a.Frames, b)
			for len(f.out) > 0 {
				a.Frames = append(a.Frames, <-f.out)
			}
		case <-t.C:
		case <-f.done:
			if a.Close = f.code; a.Close == 0 {
				a.Close = im.CodeUnavailable.Spec().Close
			}
		case <-r.Context().Done():
			return
		}
		f.mu.Lock()
		f.answer = codec.EncodePollAnswer(&a)
		f.mu.Unlock()
	}
	rw.Write(codec.EncodePollAnswer(&a))
}

func (r *rig) connections() (list []Connected) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if c, ok := e.(Connected); ok {
			list = append(list, c)
		}
	}
	return list
}

func (r *rig) polls() bool {
	list := r.connections()
	return len(list) > 0 && list[len(list)-1].LongPoll
}

// WebSockets die after two seconds: after the third the client polls, under the same session. When they live again it is back.
func TestLongPollAfterCuts(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		eu.script(func() { eu.cutAfter = 2 * time.Second })
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Minute, "it polls", r.polls)
		if n := len(r.connections()); n != cutsToPoll+1 {
			t.Errorf("%d connections", n)
		}
		if !r.connections()[cutsToPoll].Resumed {
			t.Error("the session did not go on")
		}
		for n := range 5 {
			submit(t, r, fmt.Sprint("mine ", n))
			eu.push(w.say("eu", direct, "bob", fmt.Sprint("theirs ", n)), "eu")
		}
		eventually(t, 5*time.Second, "all is shown", func() bool { return len(r.Messages(direct)) == 10 })
		if len(eu.sent()) != 5 {
			t.Errorf("%d submits for 5", len(eu.sent()))
		}
		// The first WebSocket that is tried dies as well, and sends it back at once.
		eventually(t, 2*time.Minute, "a WebSocket was tried", func() bool { return len(r.connections()) == cutsToPoll+2 })
		if r.polls() {
			t.Fatal("no WebSocket")
		}
		eventually(t, 10*time.Second, "it polls again", r.polls)
		eu.script(func() { eu.cutAfter = 0 })
		lost := r.took(Disconnected{})
		eventually(t, 10*time.Minute, "a WebSocket again", func() bool { return !r.polls() })
		list := r.connections()
		if last := list[len(list)-1]; !last.Resumed || r.took(Disconnected{}) != lost {
			t.Errorf("%+v; %d times without a socket", last, r.took(Disconnected{})-lost)
		}
		pass(time.Hour)
		synctest.Wait()
		if n := len(r.connections()); n != len(list) {
			t.Errorf("%d connections more", n-len(list))
		}
		submit(t, r, "on a WebSocket")
		eventually(t, time.Second, "it is shown", func() bool { return len(r.Messages(direct)) == 11 })
		if got := r.inserted(); len(got) != 11 {
			t.Errorf("inserted %q", got)
		}
	})
}

// No WebSocket can be had at all.
func TestLongPollInsteadOfWebSockets(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		eu.script(func() { eu.noSocket = true })
		w.policy.PollFallbackMs = 5_000
		r := w.client(nil)
		defer r.end()
		took := eventually(t, time.Minute, "it polls", r.polls)
		if took < 5*time.Second || took > 12*time.Second {
			t.Errorf("after %v", took)
		}
		submit(t, r, "by poll")
		pass(10 * time.Minute) // silence, and WebSockets tried in vain
		if n := len(r.connections()); n != 1 {
			t.Errorf("%d connections", n)
		}
		submit(t, r, "still")
		eu.drop() // the gateway restarts
		eventually(t, time.Minute, "it polls again", func() bool { return len(r.connections()) == 2 })
		submit(t, r, "and again")
		eventually(t, 5*time.Second, "all is shown", func() bool {
			return slices.Equal(textsOf(r.Messages(direct)), []string{"by poll", "still", "and again"})
		})
	})
}

// Answers are lost: the request is made again under its number, and what is held is held shorter.
func TestPollRepeatsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codec, err := wire.NewCodec(wire.SubprotocolProtobuf)
		if err != nil {
			t.Fatal(err)
		}
		ping, err := codec.Encode(wire.FrameOf(&wire.Ping{}))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var asked []string
		failing := 0
		s := newPollSocket(t.Context(), codec, "g", 20*time.Second, func(ctx context.Context, body []byte) ([]byte, error) {
			q, err := codec.DecodePoll(body)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			asked = append(asked, fmt.Sprintf("%s%d/%d/%d", q.Conn, q.Number, q.HoldMs, len(q.Frames)))
			fail := failing > 0
			if fail {
				failing--
			}
			mu.Unlock()
			switch {
			case fail:
				return nil, errors.New("cut")
			case q.Number == 1 && q.HoldMs > 0:
				return codec.EncodePollAnswer(&wire.PollAnswer{Conn: "c", Frames: [][]byte{ping}}), nil
			case q.HoldMs > 0:
				if err := sleep(ctx, ms(int64(q.HoldMs))); err != nil {
					return nil, err
				}
			}
			return codec.EncodePollAnswer(&wire.PollAnswer{Conn: "c"}), nil
		})
		defer s.Close()
		saw := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(asked, want) {
				t.Errorf("asked %q, want %q", asked, want)
			}
			asked = nil
		}
		if err := s.write(ping); err != nil {
			t.Fatal(err)
		}
		if _, err := s.read(); err != nil {
			t.Fatal(err)
		}
		saw("1/25000/1", "c2/25000/0")
		mu.Lock()
		failing = 2
		mu.Unlock()
		if err := s.write(ping); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		saw("c1/0/1", "c1/0/1", "c1/0/1")
		s.poke() // the network changed: what is held may be on a dead connection
		saw("c2/25000/0")
		mu.Lock()
		failing = 3
		mu.Unlock()
		pass(28 * time.Second)
		saw("c3/25000/0", "c3/12500/0", "c3/6250/0", "c3/3125/0")
		mu.Lock()
		failing = 1 << 30
		mu.Unlock()
		pass(time.Minute)
		synctest.Wait()
		if _, err := s.read(); im.CodeOf(err) != im.CodeUnavailable {
			t.Errorf("it is lost by %v", err)
		}
	})
}
