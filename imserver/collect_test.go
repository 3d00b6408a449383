package imserver

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// applying is an imserver that applies one partition of its own log, whose store hangs in Apply while told to.
type applying struct {
	log     *fakeLog
	store   *fakeStore
	router  *fakeRouter
	hangs   atomic.Bool
	commits atomic.Int32
	stop    func()
}

func apply(t *testing.T, change func(*Config)) *applying {
	t.Helper()
	a := &applying{log: newFakeLog(), store: newFakeStore(1), router: &fakeRouter{}}
	a.log.create("eu", 1)
	a.store.step = func(ctx context.Context, what string) error {
		if what == "before apply" {
			a.commits.Add(1)
		}
		for a.hangs.Load() && what == "before apply" && ctx.Err() == nil {
			pass(time.Millisecond)
		}
		return ctx.Err()
	}
	cfg, deps := minimal(a.log, a.store, newFakeOwnership(0))
	cfg.Heartbeat = 1000 * time.Hour
	change(&cfg)
	deps.Deliver = a.router
	_, end := running(t, cfg, deps)
	a.stop = func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	pass(time.Second)
	a.commits.Store(0)
	return a
}

// send appends the n-th message of a conversation.
func (a *applying) send(n int) {
	a.log.put(im.Partition{Topic: "msg.eu.direct"}, wire.EncodeRecord(&im.Record{
		ID:   im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: im.UUID{6: 0x70, 8: 0x80, 15: byte(n)}},
		Kind: im.KindMessage, Version: 1,
	}))
}

func (a *applying) applied() uint64 {
	a.store.mu.Lock()
	defer a.store.mu.Unlock()
	return a.store.view.Last(view.HeadKey{Conversation: "d:ann:bob", Origin: "eu"})
}

// A delivery waits for no commit; what is delivered ahead of the commit is bounded by a batch; and when the commit lands,
// everything collected meanwhile goes in one more.
func TestDeliversWhileACommitHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := apply(t, func(c *Config) { c.BatchRows = 10 })
		defer a.stop()
		a.hangs.Store(true)
		var places []string
		for n := range 20 {
			a.send(n)
			pass(10 * time.Millisecond)
			for _, d := range a.router.take() {
				place, _, _ := strings.Cut(event(t, d.Body), " ")
				places = append(places, place)
				if want := fmt.Sprintf("eu/%d", len(places)); place != want {
					t.Errorf("delivered %s, want %s", place, want)
				}
			}
		}
		// The first is in the commit that hangs; ten more are collected.
		if len(places) != 11 {
			t.Errorf("delivered %v while a commit hung, want 11", places)
		}
		if n := a.applied(); n != 0 {
			t.Errorf("%d records are applied while the commit hangs", n)
		}
		a.hangs.Store(false)
		pass(time.Second)
		if n := a.applied(); n != 20 {
			t.Errorf("%d of 20 records are applied", n)
		}
		if n := len(a.router.take()); n != 9 {
			t.Errorf("%d more were delivered, want 9", n)
		}
		if n := a.commits.Load(); n > 4 {
			t.Errorf("20 records took %d commits: what came while one hung was not collected", n)
		}
	})
}

// With a pace, commits are few however often records come, and deliveries are as quick as ever.
func TestCommitPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := apply(t, func(c *Config) { c.CommitPace = 100 * time.Millisecond })
		defer a.stop()
		for n := range 100 {
			a.send(n)
			pass(10 * time.Millisecond)
			if got := len(a.router.take()); got != 1 {
				t.Fatalf("record %d: %d deliveries after 10 ms", n, got)
			}
		}
		if n := a.commits.Load(); n < 10 || n > 12 {
			t.Errorf("%d commits in a second at a pace of 100 ms", n)
		}
		pass(time.Second)
		if n := a.applied(); n != 100 {
			t.Errorf("%d of 100 records are applied", n)
		}
	})
}

// A reign that ends commits what it numbered: nothing is delivered under a seq that its successor gives to another record.
func TestChangedOwnersCommitWhatWasCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owns := newFakeOwnership(0)
		log, store := newFakeLog(), newFakeStore(1)
		log.create("eu", 1)
		cfg, deps := minimal(log, store, owns)
		cfg.CommitPace = time.Hour
		router := &fakeRouter{}
		deps.Deliver = router
		_, end := running(t, cfg, deps)
		pass(time.Second)
		a := &applying{log: log, store: store}
		for n := range 3 {
			a.send(n)
			pass(time.Second)
		}
		if n := len(router.take()); n != 3 || a.applied() != 0 {
			t.Fatalf("%d delivered, %d applied; want 3 delivered ahead of the commit", n, a.applied())
		}
		owns.set()
		pass(time.Second)
		if n := a.applied(); n != 3 {
			t.Errorf("the owner left with %d of 3 records applied", n)
		}
		if err := end(); err != nil {
			t.Error(fmt.Errorf("run: %w", err))
		}
	})
}

// Routers that take nothing hold apply up once, not at every batch, so that a backlog is applied at the speed of the database;
// when they answer again, deliveries go on.
func TestAppliesWithoutRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, fail := range map[string]func(context.Context) error{
			"gone": func(context.Context) error { return errDown },
			"hung": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		} {
			a := apply(t, func(c *Config) { c.BatchRows, c.DeliverTimeout = 10, 5*time.Second })
			var down atomic.Bool
			a.router.step = func(ctx context.Context) error {
				if down.Load() {
					return fail(ctx)
				}
				return nil
			}
			down.Store(true)
			begun := time.Now()
			for n := range 200 {
				a.send(n)
			}
			for a.applied() < 200 {
				if time.Since(begun) > 10*time.Minute {
					t.Fatalf("%s: %d of 200 records are applied", name, a.applied())
				}
				pass(10 * time.Millisecond)
			}
			if took := time.Since(begun); took > 8*time.Second {
				t.Errorf("with the routers %s, 20 batches took %v: want one timeout of 5 s and hardly more", name, took)
			}
			down.Store(false)
			pass(6 * time.Second) // a hand-over that still tries may be through by now
			a.router.take()
			a.send(200)
			pass(6 * time.Second)
			a.router.take()
			for n := range 3 {
				a.send(201 + n)
				pass(100 * time.Millisecond)
				if got := len(a.router.take()); got != 1 {
					t.Errorf("with the routers back after they were %s, %d deliveries came of one record", name, got)
				}
			}
			a.stop()
		}
	})
}
