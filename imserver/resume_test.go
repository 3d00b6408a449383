package imserver

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
	"github.com/antipode-im/antipode/wire"
)

// world is a region's logs and copies, full of made-up records, with a store that imservers apply them to.
type world struct {
	logs   *viewtest.Logs
	log    *fakeLog
	store  *fakeStore
	router *fakeRouter
	model  *view.View // what must come out
	rng    *rand.Rand
}

func newWorld(t *testing.T, seed uint64, records int) *world {
	t.Helper()
	logs := viewtest.Make(seed, records)
	w := &world{
		logs: logs, log: newFakeLog(), store: newFakeStore(logs.Count), router: &fakeRouter{},
		model: view.NewView(logs.Count), rng: rand.New(rand.NewPCG(seed, 4)),
	}
	for _, p := range logs.Partitions() {
		copied := logs.Entries[p]
		if p.Origin() != "eu" {
			copied = logs.Copy(w.rng, p)
		}
		w.log.put(p, copied...)
		tail, err := view.NewTail(view.Position{Position: im.Position{Partition: p}}, logs.Count)
		if err != nil {
			t.Fatal(err)
		}
		for i := range copied {
			if _, err := tail.Take(&copied[i]); err != nil {
				t.Fatal(err)
			}
		}
		part := tail.Cut()
		view.Number(part.Records, w.model.Last)
		if err := w.model.Apply([]view.Part{part}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) server(t *testing.T, owns *fakeOwnership) *Server {
	t.Helper()
	s, err := New(Config{Region: "eu", Origins: w.logs.Origins, Partitions: w.logs.Count, BatchRows: 7, Heartbeat: 1000 * time.Hour}, Deps{
		Log: w.log, NewReader: w.log.newReader, Store: w.store, Deliver: w.router, Held: &fakeHolder{}, Ownership: owns, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) numbers() []int {
	var numbers []int
	for n := range w.logs.Count {
		numbers = append(numbers, n)
	}
	return numbers
}

// done tells whether everything was applied.
func (w *world) done() bool {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for _, p := range w.logs.Partitions() {
		if w.store.view.Position(p).Next < w.model.Position(p).Next {
			return false
		}
	}
	return true
}

// verdict compares what came out with what must: the view, and what the routers were told.
func (w *world) verdict() string {
	if got, want := w.store.view.Digest(), w.model.Digest(); !maps.Equal(got, want) {
		return fmt.Sprintf("digests %v, want %v", got, want)
	}
	delivered := map[string]bool{}
	for _, d := range w.router.take() {
		var e wire.Event
		if err := proto.Unmarshal(d.Body, &e); err != nil {
			return fmt.Sprintf("a delivery does not decode: %v", err)
		}
		if r, ok := e.Event.(*wire.EventRecord); ok {
			place := wire.RecordPlace(r.Record)
			delivered[fmt.Sprintf("%s %v %s", r.Record.Conversation, place, r.Record.ClientId)] = true
			if d.Notify != (place.Origin == "eu") {
				return fmt.Sprintf("notify of %v is %v", place, d.Notify)
			}
		}
	}
	for _, c := range w.logs.Conversations() {
		for _, o := range w.logs.Origins {
			for seq := uint64(1); seq <= w.model.Last(view.HeadKey{Conversation: c, Origin: o}); seq++ {
				r := w.model.Record(view.HeadKey{Conversation: c, Origin: o}, seq)
				k := fmt.Sprintf("%s %v %s", c, r.Place, r.ClientID)
				if !r.Opaque && (r.Shown || !r.Known()) && !delivered[k] && c.Members() != nil {
					return fmt.Sprintf("%s was never delivered", k)
				}
				delete(delivered, k)
			}
		}
	}
	if len(delivered) > 0 {
		return fmt.Sprintf("delivered under a place that does not exist: %v", slices.Sorted(maps.Keys(delivered)))
	}
	return ""
}

// Whatever the moment at which the process dies, the next one goes on exactly: nothing is applied twice or skipped (I2,
// I8), and nothing is left undelivered or delivered under a wrong seq.
func TestCrashAndResume(t *testing.T) {
	seeds := uint64(80)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 80)
			crashes := 0
			for lives := 0; ; lives++ {
				ctx, kill := context.WithCancelCause(t.Context())
				left := 3 + w.rng.IntN(30) // steps until the crash
				var mu sync.Mutex
				step := func(ctx context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					if left--; left <= 0 && lives < 20 {
						kill(im.ErrKilled)
						<-ctx.Done() // whoever asked is dead and hears no answer
						return ctx.Err()
					}
					if w.rng.IntN(12) == 0 {
						return errDown
					}
					return nil
				}
				w.store.step = func(ctx context.Context, _ string) error { return step(ctx) }
				w.router.step = step
				end := make(chan struct{})
				go func() {
					defer close(end)
					_ = w.server(t, newFakeOwnership(w.numbers()...)).Run(ctx) // may not start while the store is down
				}()
				ended := func() bool {
					select {
					case <-end:
						return true
					default:
						return false
					}
				}
				for i := 0; !ended() && !w.done(); i++ {
					if i > 100_000 {
						t.Fatalf("seed %d: not applied", seed)
					}
					pass(time.Millisecond)
				}
				for i := 0; !ended() && i < 4000; i++ {
					pass(time.Millisecond) // deliveries land, and how far was sent is saved
				}
				crashed := ended()
				kill(nil)
				<-end
				if !crashed && w.done() {
					break
				}
				crashes++
			}
			if why := w.verdict(); why != "" {
				t.Fatalf("seed %d, after %d crashes: %s", seed, crashes, why)
			}
		})
	}
}

// Two instances that both believe to own everything, each paused at random, leave what one alone would have: whoever is
// late is fenced (I8).
func TestTwoOwners(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 80)
			var mu sync.Mutex
			pause := func() {
				mu.Lock()
				d := time.Duration(w.rng.IntN(30)) * time.Millisecond
				mu.Unlock()
				pass(d)
			}
			w.store.step = func(context.Context, string) error { pause(); return nil }
			w.router.step = func(context.Context) error { pause(); return nil }
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 2 {
				s := w.server(t, newFakeOwnership(w.numbers()...))
				wg.Go(func() {
					if err := s.Run(ctx); err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
				})
			}
			for i := 0; !w.done(); i++ {
				if i > 100_000 {
					t.Fatalf("seed %d: two owners keep each other from going on", seed)
				}
				pass(10 * time.Millisecond)
			}
			pass(5 * time.Second)
			stop()
			wg.Wait()
			if why := w.verdict(); why != "" {
				t.Fatalf("seed %d: %s", seed, why)
			}
		})
	}
}

// Partitions move between two instances while records are applied.
func TestOwnersChange(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 120)
			w.store.step = func(context.Context, string) error { pass(3 * time.Millisecond); return nil }
			all := w.numbers()
			owners := []*fakeOwnership{newFakeOwnership(all...), newFakeOwnership()}
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for _, o := range owners {
				s := w.server(t, o)
				wg.Go(func() {
					if err := s.Run(ctx); err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
				})
			}
			for i := 0; !w.done(); i++ {
				if i > 10_000 {
					t.Fatalf("seed %d: not applied", seed)
				}
				cut := w.rng.IntN(len(all) + 1)
				owners[0].set(all[:cut]...)
				pass(time.Duration(w.rng.IntN(5)) * time.Millisecond) // the other hears of it later
				owners[1].set(all[cut:]...)
				pass(time.Duration(w.rng.IntN(60)) * time.Millisecond)
			}
			pass(5 * time.Second)
			stop()
			wg.Wait()
			if why := w.verdict(); why != "" {
				t.Fatalf("seed %d: %s", seed, why)
			}
		})
	}
}
