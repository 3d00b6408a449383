package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router"
	"github.com/antipode-im/antipode/wire"
)

// slowLog is a log whose appends take their time, or wait for a gate.
type slowLog struct {
	*kafka
	takes time.Duration
	gate  chan struct{} // nil: open
}

func (l *slowLog) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	if l.gate != nil {
		select {
		case <-l.gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	pass(l.takes)
	return l.kafka.Append(ctx, p, entries)
}

// records counts the records of a kind in the own route log.
func records(r *region, kind im.Kind) (n int) {
	for i := range partitions {
		for _, e := range r.kafka.entries(im.Partition{Topic: im.RouteTopic(im.Origin(r.name)), Number: i}) {
			if wire.DecodeHead(&e).Kind == kind {
				n++
			}
		}
	}
	return n
}

// TestStorm has four gateways claim 100,000 routes at once of a router that may hold 8,000 and whose log takes 20 ms an
// append. What it cannot hold it refuses by name, with a time to come back at, and in the end every route is there.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gateways, each, queue, message = 4, 25_000, 2_000, 100
		eu := newRegion(t, "eu")
		cfg, deps := eu.config(), eu.deps()
		cfg.ClaimQueue = queue
		deps.Log = &slowLog{kafka: eu.kafka, takes: 20 * time.Millisecond}
		r, stop := run(t, cfg, deps)
		defer stop()
		ready(t, r)

		var mu sync.Mutex
		open, most, refused := 0, 0, 0
		waits := make(map[time.Duration]bool)
		uid := func(g, i int) im.UID { return im.UID(fmt.Sprintf("u%d-%d", g, i)) }
		storm := func() {
			var all sync.WaitGroup
			for g := range gateways {
				a, _ := attach(t, r, im.Gateway{ID: fmt.Sprint("g", g), Epoch: 1})
				all.Go(func() {
					left := make([]im.Claim, each)
					for i := range left {
						left[i] = im.Claim{UID: uid(g, i), Device: "phone", Conn: uint64(i), Login: 1}
					}
					for len(left) > 0 {
						a.Heartbeat()
						var answered sync.WaitGroup
						answered.Add(len(left))
						var again []im.Claim
						wait := time.Duration(0)
						for first := 0; first < len(left); first += message {
							claims := left[first:min(first+message, len(left))]
							mu.Lock()
							open += len(claims)
							mu.Unlock()
							a.Submit(claims, func(i int, err error) {
								defer answered.Done()
								mu.Lock()
								defer mu.Unlock()
								open--
								if err == nil {
									return
								}
								e, ok := errors.AsType[*im.Error](err)
								if !ok || e.Code != im.CodeOverloaded || e.RetryAfter <= 0 || e.RetryAfter > 10*time.Second {
									t.Errorf("a refused claim: %#v", err)
									return
								}
								refused++
								waits[e.RetryAfter] = true
								again, wait = append(again, claims[i]), max(wait, e.RetryAfter)
							})
							mu.Lock()
							most = max(most, open)
							mu.Unlock()
						}
						answered.Wait()
						left = again
						for until := time.Now().Add(wait); time.Now().Before(until); { // as gateways do meanwhile
							pass(min(time.Second, time.Until(until)))
							a.Heartbeat()
						}
					}
				})
			}
			all.Wait()
		}
		began := time.Now()
		storm()
		t.Logf("%d claims took %v; %d refusals", gateways*each, time.Since(began), refused)
		if most > partitions*queue+gateways*message { // what is being handed over is counted before it is refused
			t.Errorf("%d claims waited at once, %d may", most, partitions*queue)
		}
		if refused == 0 || len(waits) < refused/100 {
			t.Errorf("%d refusals with %d different times to come back at", refused, len(waits))
		}
		if got := records(eu, im.KindClaim); got != gateways*each {
			t.Errorf("%d claims in the log, want %d", got, gateways*each)
		}
		for g := range gateways {
			for i := range each {
				if live, _ := r.Routes(uid(g, i)); len(live) != 1 || live[0].Gateway.ID != fmt.Sprint("g", g) {
					t.Fatalf("routes of %s: %+v", uid(g, i), live)
				}
			}
		}
		// The gateways lose their streams and claim everything anew, as they do at each router that starts.
		before, began := refused, time.Now()
		storm()
		if got := records(eu, im.KindClaim); got != gateways*each || refused-before > 3*gateways*each {
			t.Errorf("%d claims in the log after all was claimed anew, want %d; %d refusals", got, gateways*each, refused-before)
		}
		t.Logf("claimed anew in %v", time.Since(began))
	})
}

// held runs fn while the log of a router takes nothing, and then opens it and waits for every claim's answer.
func held(t *testing.T, log *slowLog, fn func(submit func(*router.Attachment, im.Claim))) {
	t.Helper()
	log.gate = make(chan struct{})
	var answered sync.WaitGroup
	fn(func(a *router.Attachment, c im.Claim) {
		answered.Add(1)
		a.Submit([]im.Claim{c}, func(_ int, err error) {
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			answered.Done()
		})
	})
	close(log.gate)
	answered.Wait()
	synctest.Wait()
}

// TestSpared: what would change nothing is answered and not written, and nothing else is left out.
func TestSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		deps := eu.deps()
		log := &slowLog{kafka: eu.kafka}
		deps.Log = log
		r, stop := run(t, eu.config(), deps)
		defer stop()
		ready(t, r)
		a1, out := attach(t, r, g1)
		a2, _ := attach(t, r, g2)
		first := im.Claim{UID: "ann", Device: "first", Conn: 99, Login: 1} // holds the log while the others queue up
		written := func(claims, releases int) {
			t.Helper()
			if c, r := records(eu, im.KindClaim), records(eu, im.KindRelease); c != claims || r != releases {
				t.Fatalf("%d claims and %d releases in the log, want %d and %d", c, r, claims, releases)
			}
		}
		in := func(c im.Claim, change func(*im.Claim)) im.Claim { change(&c); return c }
		release := func(c *im.Claim) { c.Release = true }
		offline := func(c *im.Claim) { c.Offline = true }

		// A device that came and went: nothing. (ann's other device shows that the pair had to wait.)
		phone := im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 1, Login: 1}
		held(t, log, func(submit func(*router.Attachment, im.Claim)) {
			submit(a1, first)
			synctest.Wait()
			submit(a1, phone)
			submit(a1, in(phone, offline))
			submit(a1, in(phone, release))
		})
		written(1, 0)

		// One that lost its socket and came back: the last of it.
		held(t, log, func(submit func(*router.Attachment, im.Claim)) {
			submit(a1, in(first, offline))
			synctest.Wait()
			submit(a1, phone)
			submit(a1, in(phone, offline))
			submit(a1, phone)
		})
		written(3, 0)
		if live, _ := r.Routes("ann"); len(live) != 2 || live[0].Offline == live[1].Offline {
			t.Fatalf("routes of ann: %+v", live)
		}

		// One that came and went elsewhere while it has a route here: the pair is written, or nobody would be kicked.
		other := im.Claim{UID: "ann", Device: "phone", Platform: "ios", Conn: 5, Login: 2}
		held(t, log, func(submit func(*router.Attachment, im.Claim)) {
			submit(a1, first)
			synctest.Wait()
			submit(a2, other)
			submit(a2, in(other, release))
		})
		written(5, 1)
		if _, kicks, _ := out.got(); len(kicks) != 1 || kicks[0].Conn != 1 {
			t.Fatalf("kicks: %+v", kicks)
		}

		// Claimed anew as it stands: nothing, until it is half an hour old; a change is always written.
		claim(t, a1, first)
		written(5, 1)
		claim(t, a1, in(first, offline))
		written(6, 1)
		claim(t, a1, first)
		written(7, 1)
		for range 31 * 60 {
			pass(time.Second)
			a1.Heartbeat()
			a2.Heartbeat()
		}
		claim(t, a1, first)
		written(8, 1)

		// A login that lost is told again, however young: its kick may have been lost.
		claim(t, a2, im.Claim{UID: "ann", Device: "first", Conn: 6, Login: 2})
		written(9, 1)
		claim(t, a1, first)
		synctest.Wait()
		if _, kicks, _ := out.got(); len(kicks) != 3 || kicks[2].Conn != 99 {
			t.Fatalf("kicks: %+v", kicks)
		}
	})
}

// TestDeviceLimits: of two devices in two regions where one may be, the one that logged in first is kicked, by its own
// region, and a claim anew does not make it the younger.
func TestDeviceLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu, us := newRegion(t, "eu"), newRegion(t, "us")
		start := func(r *region) (*router.Attachment, *outbox) {
			cfg := r.config()
			cfg.DeviceLimits = map[im.Platform]int{"ios": 1}
			run, stop := run(t, cfg, r.deps())
			t.Cleanup(stop)
			ready(t, run)
			return attach(t, run, im.Gateway{ID: "g-" + string(r.name), Epoch: 1})
		}
		ae, oe := start(eu)
		au, ou := start(us)
		both := func() {
			ship(t, eu, us)
			ship(t, us, eu)
			synctest.Wait()
		}
		claim(t, ae, im.Claim{UID: "ann", Device: "old", Platform: "ios", Conn: 1, Login: 50})
		both()
		pass(time.Second)
		claim(t, au, im.Claim{UID: "ann", Device: "new", Platform: "ios", Conn: 2, Login: 1})
		both()
		want := im.Kick{Conn: 1, Login: 50, Code: im.CodeDeviceLimit}
		if _, kicks, _ := oe.got(); len(kicks) != 1 || kicks[0] != want {
			t.Fatalf("kicks in eu: %+v, want %+v", kicks, want)
		}
		// It is not gone (the kick was lost), and is claimed anew.
		claim(t, ae, im.Claim{UID: "ann", Device: "old", Platform: "ios", Conn: 1, Login: 50})
		both()
		if _, kicks, _ := oe.got(); len(kicks) != 2 || kicks[1] != want {
			t.Fatalf("kicks in eu after a claim anew: %+v", kicks)
		}
		if _, kicks, _ := ou.got(); len(kicks) != 0 {
			t.Fatalf("kicks in us, where nobody lost: %+v", kicks)
		}
	})
}
