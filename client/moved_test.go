package client

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func (w *world) asked() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*http.Request(nil), w.asks...)
}

// In another network, what the old one taught is forgotten: the next list is asked for with its kind, without round trips,
// failures or tag.
func TestAnotherNetwork(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		gone := w.gateway("e1", "eu")
		gone.kill()
		eu := w.gateway("e2", "eu")
		r := w.client(func(c *Config) { c.Network = "wifi" })
		defer r.end()
		eventually(t, 10*time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		eu.drop()
		eventually(t, 10*time.Second, "connected again", func() bool { return r.took(Connected{}) == 2 })
		synctest.Wait()
		before := len(w.asked())
		if q := w.asked()[0].URL.Query(); q.Get("network") != "wifi" {
			t.Errorf("the first ask says %v", q)
		}
		if len(r.endpoints.rtt) == 0 || len(r.endpoints.tried) == 0 {
			t.Fatal("the first network taught nothing")
		}

		r.SetNetwork("wifi") // the same
		eu.drop()
		eventually(t, 10*time.Second, "connected a third time", func() bool { return r.took(Connected{}) == 3 })
		if n := len(w.asked()); n != before {
			t.Errorf("a list that is still good was asked for again: %d times", n-before)
		}

		r.SetNetwork("cell")
		eu.drop()
		eventually(t, 10*time.Second, "connected a fourth time", func() bool { return r.took(Connected{}) == 4 })
		asked := w.asked()
		if len(asked) != before+1 {
			t.Fatalf("ipconf was asked %d times", len(asked)-before)
		}
		q := asked[before]
		if tag := q.Header.Get("If-None-Match"); tag != "" || q.URL.Query().Get("network") != "cell" || q.URL.Query().Has("rtt") || strings.Contains(q.URL.Query().Get("failed"), "gateway-1") {
			t.Errorf("the next ask says %v, If-None-Match %q", q.URL.Query(), tag)
		}
	})
}

// A socket that the old network took with it is found dead at once.
func TestNetworkChangedTriesTheSocket(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.HeartbeatMinMs, w.policy.HeartbeatMaxMs = 600_000, 600_000
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
		pass(30 * time.Second)
		eu.script(func() { eu.dead = true })
		pass(time.Minute)
		if r.took(Disconnected{}) != 0 {
			t.Fatal("it was noticed before")
		}
		w.gateway("e2", "eu")
		r.NetworkChanged()
		eventually(t, pongWait+20*time.Second, "connected elsewhere", func() bool { return r.took(Connected{}) == 2 })
	})
}

// Waiting for its next try, the client tries at once in another network.
func TestNetworkChangedCutsTheWait(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.BackoffBaseMs, w.policy.BackoffCapMs, w.policy.BackoffJitter = 600_000, 600_000, 0.01
		w.policy.PollFallbackMs = 3_600_000
		eu := w.gateway("e1", "eu")
		eu.kill()
		r := w.client(nil)
		defer r.end()
		pass(90 * time.Second)
		eu.revive()
		pass(time.Minute)
		if r.took(Connected{}) != 0 {
			t.Fatal("it did not wait")
		}
		r.NetworkChanged()
		eventually(t, time.Second, "connected", func() bool { return r.took(Connected{}) == 1 })
	})
}

// From a long poll a WebSocket is tried at once in another network.
func TestNetworkChangedLeavesTheLongPoll(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		eu.script(func() { eu.noSocket = true })
		w.policy.PollFallbackMs = 60_000
		r := w.client(nil)
		defer r.end()
		eventually(t, 10*time.Minute, "it polls", r.polls)
		eu.script(func() { eu.noSocket = false })
		pass(time.Second)
		r.NetworkChanged()
		eventually(t, 5*time.Second, "it has a WebSocket", func() bool { return len(r.connections()) == 2 && !r.polls() })
	})
}

// Where the policy wishes for small frames, pages are as small: not the first, of which nothing is known, but those that follow.
func TestPagesFitTheWish(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.MaxFrameBytes = 1_400
		w.gateway("e1", "eu")
		for i := range 60 {
			w.say("eu", direct, "bob", fmt.Sprint(i, strings.Repeat(" x", 150)))
		}
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Minute, "all is here", func() bool { return len(r.inserted()) == 60 })
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.pages) < 15 {
			t.Errorf("%d pages", len(w.pages))
		}
		for i, size := range w.pages {
			if i > 1 && size > 1_400 {
				t.Errorf("page %d has %d bytes", i, size)
			}
		}
	})
}

func TestPages(t *testing.T) {
	p := new(pages)
	if got := p.limit(200, 0); got != 200 {
		t.Errorf("without a wish: %d", got)
	}
	if got := p.limit(200, 1_400); got != 1_400/pageGuess {
		t.Errorf("at first: %d", got)
	}
	p.came(0, 30)
	p.came(2, 20_000)
	if got := p.limit(200, 1_400); got != 1 {
		t.Errorf("records are larger than a frame: %d at once", got)
	}
	for range 40 {
		p.came(1, 14)
	}
	if got := p.limit(200, 1_400); got < 80 || got > 110 {
		t.Errorf("small records: %d at once", got)
	}
}
