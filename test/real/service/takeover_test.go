//go:build real

package service_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/test/real/mirror"
	"github.com/antipode-im/antipode/wire"
)

// takeOverWithin is the promise: while Consul answers, a dead owner's partitions are with others after this time.
const takeOverWithin = 3 * time.Second

func fleet(t *testing.T, kind string, n int, over settings) []*service {
	var all []*service
	for i := range n {
		all = append(all, start(t, kind, fmt.Sprintf("%s-%d", kind, i+1), over))
	}
	return all
}

func without(all []*service, s *service) []*service {
	return slices.DeleteFunc(slices.Clone(all), func(x *service) bool { return x == s })
}

// TestTakeOver kills owners, and starts them again.
func TestTakeOver(t *testing.T) {
	over := settings{"timelines.urls": database(t)}
	migrate(t, over)
	for _, kind := range []string{"imserver", "router"} {
		t.Run(kind, func(t *testing.T) {
			all := fleet(t, kind, 3, over)
			t.Logf("%v of %d partitions", share(t, all...), partitions)
			for n := range 2 {
				victim := all[n%len(all)]
				others := without(all, victim)
				began := time.Now()
				if err := victim.Kill(); err != nil {
					t.Fatal(err)
				}
				share(t, others...)
				took := world.env.Since(began)
				if took > takeOverWithin {
					t.Errorf("kill -9: the others took over after %v; want %v at most", took, takeOverWithin)
				}
				began = time.Now()
				victim.start()
				shares := share(t, all...)
				t.Logf("kill -9: taken over after %v; started again, and %v owned after %v",
					took.Round(time.Millisecond), shares, time.Since(began).Round(time.Millisecond))
			}
			began := time.Now()
			if err := all[0].Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := all[0].Err(); err != nil {
				t.Errorf("SIGTERM: it ended with %v", err)
			}
			share(t, all[1:]...)
			t.Logf("SIGTERM: it ended, and the others took over, within %v", time.Since(began).Round(time.Millisecond))
		})
	}
}

// writer appends messages to the region's own log, as accept does, until it is stopped.
type writer struct {
	mu    sync.Mutex
	count map[im.Conversation]uint64
	err   error
	stop  func()
}

func write(t *testing.T, log *kafka.Cluster) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{count: map[im.Conversation]uint64{}}
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	body := []byte(strings.Repeat("x", 100))
	for n := range 4 {
		wg.Go(func() {
			pace := time.NewTicker(15 * time.Millisecond) // more than the machine applies would test something else
			defer pace.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				now := <-pace.C
				c := im.Direct(im.UID(fmt.Sprintf("ann-%d-%d", n, i%50)), "bob")
				e := wire.EncodeRecord(&im.Record{
					ID:   im.ID{Conversation: c, Sender: "bob", ClientID: im.NewUUID(now)},
					Kind: im.KindMessage, Version: 1, Body: body, Place: im.Place{Stamp: im.StampAt(now), Origin: "eu"},
				})
				p := im.Partition{Topic: im.MsgTopic("eu", im.LaneDirect), Number: wire.Partition(string(c), partitions)}
				_, err := log.Append(context.WithoutCancel(ctx), p, []im.Entry{e})
				w.mu.Lock()
				if err != nil {
					w.err = err
				} else {
					w.count[c]++
				}
				w.mu.Unlock()
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

// TestPausedOwner: an owner that hangs loses its partitions, and what it had in hand when it wakes up is not committed,
// nor does it do any harm. The timelines live in two databases, and must be equal to those of one.
func TestPausedOwner(t *testing.T) {
	over := settings{"timelines.urls": database(t) + "," + database(t)}
	migrate(t, over)
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{world.kafka.Addr()}}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	share(t, start(t, "router", "router-1", over)) // else deliveries hold up apply
	all := fleet(t, "imserver", 2, over)
	t.Logf("%v of %d partitions", share(t, all...), partitions)
	w := write(t, log)
	paused, other := all[0], all[1]
	fenced := 0.0
	for round := range 10 { // it may hang between two batches, with nothing in hand
		began := time.Now()
		if err := paused.Pause(); err != nil {
			t.Fatal(err)
		}
		share(t, other)
		took := time.Since(began)
		applied, _ := other.metric("antipode_imserver_applied_total")
		eventually(t, "the other applies all", func() error {
			now, _ := other.metric("antipode_imserver_applied_total")
			if now < applied+300 {
				return fmt.Errorf("%v records", now-applied)
			}
			return nil
		})
		if err := paused.Resume(); err != nil {
			t.Fatal(err)
		}
		shares := share(t, all...)
		fenced, _ = paused.labelled("antipode_imserver_fenced_total", `at="commit"`)
		t.Logf("round %d: taken over after %v, %v owned after it woke up, %v batches fenced", round+1, took.Round(time.Millisecond), shares, fenced)
		if fenced > 0 {
			break
		}
	}
	if fenced == 0 {
		t.Error("it never tried to commit what was no longer its own: the fence was not tested")
	}
	w.stop()
	if w.err != nil {
		t.Fatalf("append: %v", w.err)
	}

	// Another view of the same log, made without any of this, must be the same.
	eventually(t, "all is applied", func() error { return applied(t, log, over["timelines.urls"]) })
	for _, s := range all {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	plain := settings{"timelines.urls": database(t)}
	migrate(t, plain)
	single := start(t, "imserver", "imserver-9", plain)
	share(t, single)
	digest := func(url string) map[string]string {
		store, err := postgres.Open(t.Context(), postgres.Config{URLs: strings.Split(url, ","), Partitions: partitions}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		d, err := store.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	eventually(t, "all is applied again", func() error { return applied(t, log, plain["timelines.urls"]) })
	if want, got := digest(plain["timelines.urls"]), digest(over["timelines.urls"]); !maps.Equal(want, got) {
		t.Errorf("digests are\n%v\nof the view that one imserver made, and\n%v\nof the view that changed hands", want, got)
	}
	t.Logf("%d records were written in %d conversations", w.total(), len(w.count))
}

// TestPausedRouter: a router that hangs loses its partitions, and what it had in hand for Redis when it wakes up is refused.
// Redis then holds what the logs spell.
func TestPausedRouter(t *testing.T) {
	over := settings{"timelines.urls": database(t)}
	migrate(t, over)
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{world.kafka.Addr()}}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	all := fleet(t, "router", 2, over)
	t.Logf("%v of %d partitions", share(t, all...), partitions)
	stop := claim(t, log)
	paused, other := all[0], all[1]
	fenced := 0.0
	for round := range 10 { // it may hang with nothing in hand
		if err := paused.Pause(); err != nil {
			t.Fatal(err)
		}
		share(t, other)
		written(t)
		if err := paused.Resume(); err != nil {
			t.Fatal(err)
		}
		shares := share(t, all...)
		fenced, _ = paused.metric("antipode_router_fenced_total")
		t.Logf("round %d: %v owned after it woke up, %v batches refused", round+1, shares, fenced)
		if fenced > 0 {
			break
		}
	}
	if fenced == 0 {
		t.Error("it never tried to write what was no longer its own: the fence was not tested")
	}
	stop()
	client := goredis.NewClient(&goredis.Options{Addr: world.redis.Addr(), Password: redisWord})
	defer client.Close()
	routes := mirror.Region{Origins: []im.Origin{"eu"}, Partitions: partitions, Log: log, Redis: redis.NewRoutes(client, "eu"), Prefix: "eu"}
	eventually(t, "Redis holds what the logs spell", func() error {
		rows, err := routes.Differs(t.Context())
		if err == nil && rows == 0 { // the last epoch was declared down since: let there be one that holds
			err = errors.Join(errors.New("no routes are held"), claimOnce(t.Context(), log, 0, time.Now()))
		}
		return err
	})
}

// claim appends claims of devices to the route log until it is stopped.
func claim(t *testing.T, log *kafka.Cluster) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			if err := claimOnce(context.WithoutCancel(ctx), log, i%200, <-pace.C); err != nil {
				failed <- err
				return
			}
		}
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-failed; err != nil {
				t.Errorf("append: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// claimOnce appends the claim of a device, at a gateway that no other test starts. Routers hear nothing of it and declare it down some
// 10 s after they read of it; so it is another epoch of it every 2 s, and there are claims that hold.
func claimOnce(ctx context.Context, log *kafka.Cluster, device int, now time.Time) error {
	r := im.Route{
		UID: im.UID(fmt.Sprintf("carol-%d", device)), Device: "phone", Platform: "ios",
		Gateway: im.Gateway{ID: "gateway-of-claims", Epoch: uint64(now.Unix()) / 2},
		Conn:    uint64(now.UnixMicro()), Login: uint64(now.UnixMicro()), Claimed: im.StampAt(now),
	}
	p := im.Partition{Topic: im.RouteTopic("eu"), Number: wire.Partition(string(r.UID), partitions)}
	_, err := log.Append(ctx, p, []im.Entry{wire.EncodeRoute(im.KindClaim, r, "eu")})
	return err
}

// written waits until Redis was written in every partition after now.
func written(t *testing.T) {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: world.redis.Addr(), Password: redisWord})
	defer client.Close()
	store := redis.NewRoutes(client, "eu")
	at := func(n int) (int64, error) {
		positions, err := store.Positions(t.Context(), n)
		return positions["eu"].Next, err
	}
	for n := range partitions {
		first, err := at(n)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("partition %d is written", n), func() error {
			next, err := at(n)
			if err == nil && next == first {
				err = fmt.Errorf("it stands at %d", next)
			}
			return err
		})
	}
}

func (w *writer) total() (n uint64) {
	for _, c := range w.count {
		n += c
	}
	return n
}

// applied tells what a view lacks of the log.
func applied(t testing.TB, log *kafka.Cluster, url string) error {
	var all []im.Partition
	for n := range partitions {
		all = append(all, im.Partition{Topic: im.MsgTopic("eu", im.LaneDirect), Number: n})
	}
	bounds, err := log.Bounds(t.Context(), all)
	if err != nil {
		return err
	}
	store, err := postgres.Open(t.Context(), postgres.Config{URLs: strings.Split(url, ","), Partitions: partitions}, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	positions, err := store.Positions(t.Context())
	if err != nil {
		return err
	}
	for _, p := range positions {
		if end := bounds[p.Partition].End; p.Next < end {
			return fmt.Errorf("%v is at %d of %d", p.Partition, p.Next, end)
		}
		delete(bounds, p.Partition)
	}
	if len(bounds) > 0 {
		return fmt.Errorf("%d partitions have not begun", len(bounds))
	}
	return nil
}
