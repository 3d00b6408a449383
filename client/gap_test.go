package client

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
)

// A notify names a seq that the own region does not have yet: the gap comes from the origin at once, while the own region
// lags by seconds.
func TestGapFromOrigin(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu, us := w.gateway("e1", "eu"), w.gateway("u1", "us")
		w.say("us", direct, "bob", "1")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		w.holds("eu", direct, im.Cursor{"us": 1}) // the link to eu is cut
		eu.script(func() { eu.onPull = func(bool) time.Duration { return 3 * time.Second } })
		w.say("us", direct, "bob", "2")
		w.say("us", direct, "bob", "3")
		eu.push(w.say("us", direct, "bob", "4"), "us") // the notifies of 2 and 3 are lost
		took := eventually(t, time.Second, "the gap is filled", func() bool { return r.Cursor(direct)["us"] == 4 })
		if took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if got := textsOf(r.Messages(direct)); !slices.Equal(got, []string{"1", "2", "3", "4"}) {
			t.Errorf("shown %q", got)
		}
		if got := r.inserted(); !slices.Equal(got, []string{"1", "4", "2", "3"}) {
			t.Errorf("inserted %q: a notify shows at once", got)
		}
		w.mu.Lock()
		fromOrigin := w.pulls["us"]
		w.mu.Unlock()
		if fromOrigin != 1 || len(us.logins()) != 0 {
			t.Errorf("%d pulls and %d logins in us, want a pull over HTTP", fromOrigin, len(us.logins()))
		}
		synctest.Wait()
		eu.script(func() {
			if eu.cancels != 1 {
				t.Errorf("the own region was told of %d cancelled calls, want its pull", eu.cancels)
			}
		})
		// The own region's late push is a duplicate.
		eu.push(w.log(direct, "us")[1], "eu")
		synctest.Wait()
		if got := r.inserted(); len(got) != 4 {
			t.Errorf("inserted %q", got)
		}
		pass(4 * time.Second) // the cancelled pull ends at the server
	})
}

// A gap that a notify shows is not for a slow pull of something else to wait for.
func TestGapDuringAnotherPull(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		w.gateway("u1", "us")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		eu.script(func() { eu.onPull = func(bool) time.Duration { return 5 * time.Second } })
		w.say("eu", direct, "bob", "a")
		w.holds("eu", direct, im.Cursor{"eu": 1})
		r.Sync()
		pass(100 * time.Millisecond) // the own region is being asked for a
		w.say("us", direct, "bob", "1")
		eu.push(w.say("us", direct, "bob", "2"), "us")
		took := eventually(t, 10*time.Second, "the gap is filled", func() bool { return r.Cursor(direct)["us"] == 2 })
		if took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		eventually(t, 10*time.Second, "all is here", func() bool { return len(r.Messages(direct)) == 3 })
		pass(6 * time.Second)
	})
}

// What a push shows to be missing while a pull gives up is pulled.
func TestGapWhileAPullGivesUp(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.FallbackPullMs = 600_000
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		w.say("us", direct, "bob", "1")
		w.say("eu", direct, "bob", "a")
		w.holds("eu", direct, im.Cursor{}) // us cannot be reached, and eu is behind
		tries := 0
		eu.script(func() {
			eu.onPull = func(bool) time.Duration {
				tries++
				if tries == pullTries {
					eu.push(w.say("eu", direct, "bob", "b"), "eu") // the push of a is lost
				}
				return time.Second
			}
		})
		eu.push(w.say("us", direct, "bob", "2"), "us")
		eventually(t, 5*time.Minute, "the last try", func() bool { return len(r.inserted()) == 2 })
		pass(1500 * time.Millisecond)
		w.holds("eu", direct, im.Cursor{"eu": 2}) // it has caught up with itself
		eventually(t, 10*time.Second, "the gap is filled", func() bool { return r.Cursor(direct)["eu"] == 2 })
	})
}

// A policy that lets nobody race has regions asked one after the other.
func TestGapWithoutRace(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		w.policy.RaceWidth = 1
		eu := w.gateway("e1", "eu")
		w.gateway("u1", "us")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		w.holds("eu", direct, im.Cursor{})
		eu.script(func() { eu.onPull = func(bool) time.Duration { return 3 * time.Second } })
		w.say("us", direct, "bob", "1")
		eu.push(w.say("us", direct, "bob", "2"), "us")
		pass(2 * time.Second)
		w.mu.Lock()
		if n := w.pulls["us"]; n != 0 {
			t.Errorf("%d pulls in us beside the one in eu", n)
		}
		w.mu.Unlock()
		took := eventually(t, 5*time.Second, "the gap is filled", func() bool { return r.Cursor(direct)["us"] == 2 })
		if took > 1200*time.Millisecond {
			t.Errorf("took %v", 2*time.Second+took)
		}
	})
}

// A gap that the own region can fill comes from there; nobody else is needed.
func TestGapFromOwnRegion(t *testing.T) {
	scenario(t, func(t *testing.T, w *world) {
		eu := w.gateway("e1", "eu")
		r := w.client(nil)
		defer r.end()
		eventually(t, time.Second, "caught up", func() bool { return r.took(CaughtUp{}) == 1 })
		w.say("eu", direct, "bob", "1")
		eu.push(w.say("eu", direct, "bob", "2"), "eu")
		eventually(t, time.Second, "both", func() bool { return r.Cursor(direct)["eu"] == 2 })
		// Neither region has the seq: it is tried until one has.
		w.holds("eu", direct, im.Cursor{"eu": 2})
		w.say("eu", direct, "bob", "3")
		eu.push(w.say("eu", direct, "bob", "4"), "eu")
		pass(3 * time.Second)
		synctest.Wait()
		if got := r.Cursor(direct)["eu"]; got != 2 {
			t.Fatalf("cursor %d", got)
		}
		w.holds("eu", direct, nil)
		eventually(t, 3*time.Second, "the gap is filled", func() bool { return r.Cursor(direct)["eu"] == 4 })
	})
}
