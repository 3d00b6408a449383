package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const direct = im.Conversation("d:ann:bob")

// scenario runs a test on a fake clock, once for each subprotocol.
func scenario(t *testing.T, fn func(t *testing.T, w *world)) {
	for _, sub := range wire.Subprotocols() {
		t.Run(sub, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.json = sub == wire.SubprotocolJSON
				w.ipconf("ipconf")
				fn(t, w)
			})
		})
	}
}

func submit(t *testing.T, r *rig, text string) im.Ack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ack, err := r.Submit(ctx, direct, text)
	if err != nil {
		t.Fatalf("submit %q: %v", text, err)
	}
	return ack
}

func TestSubmitAndReceive(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		w.say("eu", direct, "bob", "before")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		ack := submit(t, r, "hello")
		if ack.Origin != "eu" || ack.Stamp == 0 || ack.ID.Sender != "ann" || !ack.ID.ClientID.IsV7() {
			t.Errorf("ack %+v", ack)
		}
		eu.push(w.say("eu", direct, "bob", "hi"), "eu")
		eventually(t, time.Second, "three messages", func() bool { return len(r.inserted()) == 3 })
		if got := r.inserted(); !slices.Equal(got, []string{"before", "hello", "hi"}) {
			t.Errorf("inserted %q", got)
		}
		if got := r.Cursor(direct).String(); got != "eu=3" {
			t.Errorf("cursor %q", got)
		}
		if r.UID() != "ann" {
			t.Errorf("uid %q", r.UID())
		}
		if region, origin := r.Region(); region != "eu" || origin != "eu" {
			t.Errorf("region %q, origin %q", region, origin)
		}
		// The delivered cursor is told by itself, read on demand.
		eventually(t, 5*time.Second, "delivered", func() bool { return w.lastMark().Delivered == "eu=3" })
		if read := w.lastMark().Read; read != "" {
			t.Errorf("read %q was told by itself", read)
		}
		r.Read(direct)
		eventually(t, 5*time.Second, "read", func() bool { return w.lastMark().Read == "eu=3" })
		eventually(t, time.Second, "push ack", func() bool {
			eu.mu.Lock()
			defer eu.mu.Unlock()
			return eu.acked == eu.pushed
		})
	})
}

func (w *world) lastMark() *wire.MarkRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.marks) == 0 {
		return &wire.MarkRequest{}
	}
	return w.marks[len(w.marks)-1]
}

// The socket goes after the record was appended and before its ack: it is sent again elsewhere under the same client_id,
// and shows once.
func TestCutBeforeAck(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu, us := w.gateway("e1", "eu"), w.gateway("u1", "us")
		eu.onAcked = func(int, *peer) error { w.wg.Go(eu.kill); return errCut }
		r := w.client(nil)
		defer r.end()
		ack := submit(t, r, "hello")
		if ack.Origin != "us" {
			t.Errorf("acked by %s", ack.Origin)
		}
		if first, again := eu.sent()[0].ClientId, us.sent()[0].ClientId; first != again {
			t.Errorf("client_id %s, then %s", first, again)
		}
		eventually(t, 5*time.Second, "both records", func() bool { return r.Cursor(direct).String() == "eu=1,us=1" })
		if got := r.inserted(); !slices.Equal(got, []string{"hello"}) {
			t.Errorf("inserted %q", got)
		}
		if place := r.Messages(direct)[0].Place; place.Origin != "eu" {
			t.Errorf("shows at %v, want the lower place", place)
		}
		if logins := []uint64{eu.logins()[0].Login, us.logins()[0].Login}; !slices.Equal(logins, []uint64{1, 2}) {
			t.Errorf("login numbers %v", logins)
		}
		if s, _ := w.store.Load(t.Context()); s.Login != 2 || string(s.Device) != eu.logins()[0].Device {
			t.Errorf("stored %+v", s)
		}
	})
}

// Submits of one conversation keep their order through failures.
func TestOrderThroughFailures(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.gateway("e1", "eu").onSubmit = func(n int, _ *peer, _ *wire.SubmitRequest) error {
			switch n {
			case 4:
				return &im.Error{Code: im.CodeUnavailable, Detail: "kafka"}
			case 9, 10:
				return errCut
			case 15:
				return &im.Error{Code: im.CodeTooManyRequests, RetryAfter: time.Second}
			}
			return nil
		}
		testOrder(t, w, 1)
	})
}

// With several under way, each failure fails those behind it, and they are sent again in order.
func TestOrderInPipeline(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		failed := ""
		w.gateway("e1", "eu").onSubmit = func(n int, _ *peer, r *wire.SubmitRequest) error {
			switch {
			case failed != "" && r.ClientId != failed:
				return im.Errorf(im.CodeQueueFailed, "behind")
			case n == 4 || n == 25:
				failed = r.ClientId
				return &im.Error{Code: im.CodeUnavailable, Detail: "kafka"}
			case n == 18:
				return errCut
			}
			failed = ""
			return nil
		}
		testOrder(t, w, 8)
	})
}

func testOrder(t *testing.T, w *world, pipeline int) {
	r := w.client(func(c *Config) { c.Pipeline = pipeline })
	defer r.end()
	var want []string
	var posted []*Submission
	for i := range 20 {
		text := fmt.Sprint(i)
		want = append(want, text)
		s, err := r.Post(t.Context(), direct, text)
		if err != nil {
			t.Fatal(err)
		}
		posted = append(posted, s)
	}
	for _, s := range posted {
		if _, err := s.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, rec := range w.log(direct, "eu") {
		got = append(got, rec.GetText().Text)
	}
	got = slices.Compact(got)
	if !slices.Equal(got, want) {
		t.Errorf("the log says %q", got)
	}
	eventually(t, 5*time.Second, "all shown", func() bool { return len(r.inserted()) == 20 })
	if got := textsOf(r.Messages(direct)); !slices.Equal(got, want) {
		t.Errorf("shown %q", got)
	}
}

func TestStopCodes(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		eu.onSubmit = func(n int, _ *peer, r *wire.SubmitRequest) error {
			switch {
			case r.GetText().GetText() == "bad":
				return im.Errorf(im.CodeNotMember, "not yours")
			case n < 4:
				return im.Errorf(im.CodeNotYetHere, "a moment")
			}
			return nil
		}
		r := w.client(nil)
		defer r.end()
		submit(t, r, "later") // not_yet_here is tried again
		if _, err := r.Submit(t.Context(), direct, "bad"); im.CodeOf(err) != im.CodeNotMember {
			t.Errorf("err %v", err)
		}
		if _, err := r.Submit(t.Context(), "d:zoe:ann", "x"); im.CodeOf(err) != im.CodeBadConversation {
			t.Errorf("err %v", err)
		}
		if _, err := r.Submit(t.Context(), direct, string(make([]byte, 101))); im.CodeOf(err) != im.CodeTextTooLong {
			t.Errorf("err %v", err)
		}
		if _, err := r.Submit(t.Context(), direct, ""); im.CodeOf(err) != im.CodeBadText {
			t.Errorf("err %v", err)
		}
		if _, err := r.Submit(t.Context(), direct, "not UTF-8: \xff"); im.CodeOf(err) != im.CodeBadRequest {
			t.Errorf("err %v", err)
		}
		eu.script(func() {
			eu.onSubmit = func(int, *peer, *wire.SubmitRequest) error { return im.Errorf(im.CodeUnavailable, "for ever") }
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := r.Submit(ctx, direct, "never"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err %v", err)
		}
	})
}

func TestResume(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.BackoffCapMs = 200
		eu := w.gateway("e1", "eu")
		w.gateway("u1", "us")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		eu.push(w.say("eu", direct, "bob", "1"), "eu")
		eventually(t, time.Second, "one", func() bool { return len(r.inserted()) == 1 })
		eu.drop()
		eu.push(w.say("eu", direct, "bob", "2"), "eu") // while there is no socket
		eventually(t, 5*time.Second, "two", func() bool { return len(r.inserted()) == 2 })
		second := eu.logins()[1]
		if second.Resume == nil || second.Resume.Push != 1 || second.Resume.Session != "e1-1" || second.Login != 2 {
			t.Errorf("second hello %v", second)
		}
		if n := w.listed(); n != 1 {
			t.Errorf("%d lists: a resumed session misses nothing", n)
		}
		// Duplicates of pushes are dropped by number, and acknowledged again.
		eu.mu.Lock()
		again := eu.backlog[1]
		eu.mu.Unlock()
		eu.peer().send(wire.FrameOf(again))
		eu.push(w.say("eu", direct, "bob", "3"), "eu")
		eventually(t, time.Second, "three", func() bool { return len(r.inserted()) == 3 })
	})
}

func TestBehindAndMissingPushes(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		w.say("eu", direct, "bob", "1")
		eu.mu.Lock()
		eu.pushed += 5
		p := eu.conns[0]
		eu.mu.Unlock()
		p.send(wire.FrameOf(&wire.Behind{Number: 5}))
		eventually(t, time.Second, "what was dropped", func() bool { return len(r.inserted()) == 1 })
		w.say("eu", "d:ann:carl", "carl", "2")
		eu.mu.Lock()
		eu.pushed++ // a push is lost without a word
		eu.mu.Unlock()
		eu.push(w.say("eu", direct, "bob", "3"), "eu")
		eventually(t, time.Second, "what was lost", func() bool { return len(r.inserted()) == 3 })
	})
}

// Nothing is pushed at all: the client asks by itself, by the policy's interval.
func TestFallbackPull(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.FallbackPullMs = 20_000
		w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		w.say("eu", direct, "bob", "1")
		took := eventually(t, 25*time.Second, "the message", func() bool { return len(r.inserted()) == 1 })
		if took < 15*time.Second {
			t.Errorf("asked after %v", took)
		}
	})
}

// The own record is acked but its push is lost: it is asked for soon.
func TestOwnEcho(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		eu.onAcked = func(int, *peer) error { eu.mu.Lock(); eu.pushed--; eu.mu.Unlock(); return nil }
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		eu.mu.Lock()
		conns := eu.conns
		eu.conns = nil // pushes go nowhere
		eu.mu.Unlock()
		submit(t, r, "mine")
		eventually(t, 5*time.Second, "mine", func() bool { return len(r.inserted()) == 1 })
		eu.mu.Lock()
		eu.conns = conns
		eu.mu.Unlock()
	})
}

func TestMarksAreRepeatedWhileCut(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		w.cut = 2
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		for i := range 50 { // coalesced: one mark a second at most
			eu.push(w.say("eu", direct, "bob", fmt.Sprint(i)), "eu")
			pass(10 * time.Millisecond)
		}
		eventually(t, 20*time.Second, "delivered", func() bool { return w.lastMark().Delivered == "eu=50" })
		pass(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.marks); n < 3 || n > 5 {
			t.Errorf("%d marks", n)
		}
	})
}

func TestGroups(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		g, err := r.CreateGroup(t.Context(), "three", []im.UID{"bob"})
		if err != nil {
			t.Fatal(err)
		}
		if o, _, ok := g.Created(); !ok || o != "eu" {
			t.Errorf("group %s", g)
		}
		if _, err := r.AddMembers(t.Context(), g, "carl"); err != nil {
			t.Error(err)
		}
		if _, err := r.RemoveMembers(t.Context(), g, "bob"); err != nil {
			t.Error(err)
		}
		if title, members, err := r.Members(t.Context(), g); err != nil || title != "three" || len(members) != 3 {
			t.Errorf("%v %q %v", err, title, members)
		}
		if receipts, err := r.Receipts(t.Context(), g); err != nil || len(receipts) != 1 || receipts[0].Read["eu"] != 1 {
			t.Errorf("%v %v", err, receipts)
		}
		if list, err := r.List(t.Context(), "", 10); err != nil || len(list.Rows) != 1 {
			t.Errorf("%v %v", err, list)
		}
		eventually(t, time.Second, "three records", func() bool { return len(r.Messages(g)) == 3 })
		if m := r.Messages(g); m[0].Create.GetTitle() != "three" || m[1].Member.GetAdd()[0] != "carl" || m[2].Member.GetRemove()[0] != "bob" {
			t.Errorf("%v", m)
		}
	})
}

// The client is moved between create and ack: the region of the first try is asked over HTTP under the same ids.
func TestCreateGroupThenMoved(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu, us := w.gateway("e1", "eu"), w.gateway("u1", "us")
		eu.onAcked = func(int, *peer) error {
			eu.script(func() { eu.onHello = func(*wire.Hello) error { return im.Errorf(im.CodeDraining, "go") } })
			return errCut
		}
		us.onSubmit = func(_ int, _ *peer, r *wire.SubmitRequest) error {
			if o, _, _ := im.Conversation(r.Conversation).Created(); o != "us" {
				return im.Errorf(im.CodeWrongRegion, "ask eu")
			}
			return nil
		}
		r := w.client(nil)
		defer r.end()
		g, err := r.CreateGroup(t.Context(), "three", nil)
		if err != nil {
			t.Fatal(err)
		}
		if o, _, _ := g.Created(); o != "eu" {
			t.Errorf("group %s", g)
		}
		if len(eu.sent()) != 2 || eu.sent()[0].ClientId != eu.sent()[1].ClientId {
			t.Errorf("submits at eu: %v", eu.sent())
		}
	})
}

func TestHistoryAndTrim(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.gateway("e1", "eu")
		for i := range 100 {
			w.say("eu", direct, "bob", fmt.Sprint(i))
		}
		r := w.client(func(c *Config) { c.History = 30; c.Keep = 16 })
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		if got := r.inserted(); len(got) != 30 || got[0] != "70" {
			t.Errorf("inserted %q", got)
		}
		if got := textsOf(r.Messages(direct)); len(got) > 18 || got[len(got)-1] != "99" || r.took(Trimmed{}) == 0 {
			t.Errorf("kept %q", got)
		}
	})
}

// A reader who does not read holds everything up but the replies, and loses nothing.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.ipconf("ipconf")
		eu := w.gateway("e1", "eu")
		c, err := New(Config{
			IPConf: w.ipconfs, Token: StaticToken("token-ann"), Dial: w.net.dial, EventBuffer: 1, Inbox: 4,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.end()
		defer c.Close()
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		for i := range 50 {
			eu.push(w.say("eu", direct, "bob", fmt.Sprint(i)), "eu")
		}
		if _, err := c.Submit(t.Context(), "d:ann:carl", "still"); err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for len(seen) < 51 {
			if i, ok := (<-c.Events()).(Inserted); ok {
				seen[i.Message.Text]++
			}
		}
		for text, n := range seen {
			if n != 1 {
				t.Errorf("%q was inserted %d times", text, n)
			}
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.ipconf("ipconf")
		r := w.client(func(c *Config) { c.Outbox = 3 })
		defer r.end()
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 3 {
			if _, err := r.Post(ctx, direct, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Post(ctx, direct, "4"); im.CodeOf(err) != im.CodeOverloaded {
			t.Errorf("err %v", err)
		}
		cancel()
		synctest.Wait()
		if _, err := r.Post(t.Context(), direct, "5"); err != nil {
			t.Errorf("there is room again: %v", err)
		}
	})
}

func TestBadConfig(t *testing.T) {
	token := StaticToken("x")
	for name, cfg := range map[string]Config{
		"no ipconf":   {Token: token},
		"no token":    {IPConf: []string{"http://x"}},
		"subprotocol": {IPConf: []string{"http://x"}, Token: token, Subprotocol: "v2"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Others' typing shows until they stop, send, or were not heard of; the own is told at most every few seconds.
func TestTyping(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		typing := func() (list []string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, e := range r.events {
				if e, ok := e.(Typing); ok {
					list = append(list, fmt.Sprint(e.UID, " ", e.Stopped))
				}
			}
			return list
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if got := typing(); !slices.Equal(got, want) {
				t.Errorf("typing: %q, want %q", got, want)
			}
		}
		eu.typing(direct, "bob", false)
		pass(4 * time.Second)
		eu.typing(direct, "bob", false) // still
		expect("bob false")
		pass(4900 * time.Millisecond)
		expect("bob false")
		pass(200 * time.Millisecond)
		expect("bob false", "bob true")
		eu.typing(direct, "bob", false)
		eu.typing(direct, "bob", true)
		eu.typing(direct, "bob", true)
		eu.typing(direct, "ann", false) // another device of the own
		expect("bob false", "bob true", "bob false", "bob true")
		eu.typing(direct, "bob", false)
		eu.push(w.say("eu", direct, "bob", "hi"), "eu")
		eventually(t, time.Second, "the message and the end of typing", func() bool { return len(typing()) == 6 && len(r.inserted()) == 1 })
		pass(10 * time.Second)
		expect("bob false", "bob true", "bob false", "bob true", "bob false", "bob true")
		if n := eu.ackedUpTo(); n != 1 {
			t.Errorf("pushes up to %d were acknowledged; only one had a number", n)
		}

		for range 65 {
			r.Typing(direct, false)
			pass(100 * time.Millisecond)
		}
		r.Typing(direct, true)
		r.Typing(direct, true)
		r.Typing("s:eu:00000000-0000-7000-8000-000000000001", false)
		synctest.Wait()
		if got, want := eu.typed(), []bool{false, false, false, true}; !slices.Equal(got, want) {
			t.Errorf("told others %v, want %v", got, want)
		}
	})
}
