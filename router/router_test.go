package router_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/router"
	"github.com/antipode-im/antipode/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	g1 = im.Gateway{ID: "g1", Epoch: 1}
	g2 = im.Gateway{ID: "g2", Epoch: 1}
)

func TestDeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		r, stop := run(t, eu.config(), eu.deps())
		defer stop()
		if _, err := r.Deliver(t.Context(), nil); im.CodeOf(err) != im.CodeUnready {
			t.Fatalf("deliver before the log was read: %v, want unready", err)
		}
		ready(t, r)
		a1, out1 := attach(t, r, g1)
		a2, out2 := attach(t, r, g2)
		claim(t, a1,
			im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1},
			im.Claim{UID: "bob", Device: "phone", Conn: 2, Login: 1},
			im.Claim{UID: "eve", Device: "phone", Conn: 3, Login: 1, Offline: true})
		claim(t, a2, im.Claim{UID: "ann", Device: "web", Conn: 7, Login: 1})

		n, err := r.Deliver(t.Context(), []im.Delivery{
			{Service: "im", Method: "event", Key: "k1", Recipients: []im.UID{"ann", "bob", "eve", "nobody"}, Body: []byte("1"), Notify: true},
			{Service: "im", Method: "event", Key: "k2", Recipients: []im.UID{"bob"}, Body: []byte("2")},
		})
		if err != nil || n != 4 {
			t.Fatalf("deliver: %d, %v; want 4 pushes", n, err)
		}
		pushes, _, _ := out1.got()
		// Eve's session gets it too, for when it resumes, and does not count.
		if len(pushes) != 2 || !slices.Equal(pushes[0].Conns, []uint64{1, 2, 3}) || string(pushes[1].Body) != "2" {
			t.Fatalf("pushes to g1: %+v", pushes)
		}
		pushes, _, _ = out2.got()
		if len(pushes) != 1 || !slices.Equal(pushes[0].Conns, []uint64{7}) {
			t.Fatalf("pushes to g2: %+v", pushes)
		}

		// What is ephemeral is for sockets.
		if _, err := r.Deliver(t.Context(), []im.Delivery{{Recipients: []im.UID{"bob", "eve"}, Ephemeral: true}}); err != nil {
			t.Fatal(err)
		}
		if pushes, _, _ = out1.got(); len(pushes) != 3 || !slices.Equal(pushes[2].Conns, []uint64{2}) || !pushes[2].Ephemeral {
			t.Fatalf("ephemeral pushes to g1: %+v", pushes)
		}

		// A slow gateway and one that is not attached cost their own pushes only.
		out1.mu.Lock()
		out1.full = true
		out1.mu.Unlock()
		n, err = r.Deliver(t.Context(), []im.Delivery{{Recipients: []im.UID{"ann"}}})
		if err != nil || n != 1 {
			t.Fatalf("deliver with one slow gateway: %d, %v; want 1 push", n, err)
		}
		a2.Close()
		n, err = r.Deliver(t.Context(), []im.Delivery{{Recipients: []im.UID{"ann"}}})
		if err != nil || n != 0 {
			t.Fatalf("deliver without a gateway: %d, %v; want none", n, err)
		}

		claim(t, a1, im.Claim{UID: "bob", Device: "phone", Conn: 2, Login: 1, Release: true})
		if live, unknown := r.Routes("bob"); len(live) != 0 || !slices.Equal(unknown, []im.Region{"us"}) {
			t.Fatalf("routes of bob: %v, unknown %v; want none, us unknown", live, unknown)
		}
	})
}

// TestTwoRegions: what one region claims the other knows, whoever loses is kicked at home, and digests agree.
func TestTwoRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu, us := newRegion(t, "eu"), newRegion(t, "us")
		re, stopEU := run(t, eu.config(), eu.deps())
		defer stopEU()
		ru, stopUS := run(t, us.config(), us.deps())
		defer stopUS()
		ready(t, re)
		ready(t, ru)
		ae, oe := attach(t, re, g1)
		au, ou := attach(t, ru, g1)
		both := func() {
			ship(t, eu, us)
			ship(t, us, eu)
			synctest.Wait()
		}
		claim(t, ae, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1}, im.Claim{UID: "bob", Device: "web", Conn: 2, Login: 5})
		claim(t, au, im.Claim{UID: "ann", Device: "phone", Conn: 9, Login: 2}, im.Claim{UID: "bob", Device: "web", Conn: 8, Login: 5})
		both()
		_, kicks, _ := oe.got()
		slices.SortFunc(kicks, func(a, b im.Kick) int { return int(a.Conn) - int(b.Conn) })
		want := []im.Kick{{Conn: 1, Login: 1, Code: im.CodeReplaced}, {Conn: 2, Login: 5, Code: im.CodeLoginTie}}
		if !slices.Equal(kicks, want) {
			t.Fatalf("kicks in eu: %+v, want %+v", kicks, want)
		}
		if _, kicks, _ := ou.got(); len(kicks) != 0 {
			t.Fatalf("kicks in us, where nobody lost: %+v", kicks)
		}

		// Ann is in us now: eu notifies, us pushes.
		n, err := re.Deliver(t.Context(), []im.Delivery{
			{Key: "k", Recipients: []im.UID{"ann", "bob", "eve"}, Body: []byte("x"), Notify: true},
			{Key: "k", Recipients: []im.UID{"ann"}, Body: []byte("quiet")},
		})
		synctest.Wait()
		if err != nil || n != 0 {
			t.Fatalf("deliver in eu: %d, %v", n, err)
		}
		sent := eu.peers.to("us")
		if len(sent) != 1 || !slices.Equal(sent[0].Recipients, []im.UID{"ann", "bob"}) || sent[0].Notify {
			t.Fatalf("notifies to us: %+v", sent)
		}
		if err := ru.Notify(t.Context(), "eu", sent); err != nil {
			t.Fatal(err)
		}
		if pushes, _, _ := ou.got(); len(pushes) != 1 || string(pushes[0].Body) != "x" {
			t.Fatalf("pushes in us: %+v", pushes)
		}
		if len(us.peers.to("eu")) != 0 {
			t.Fatal("a notify was notified on")
		}

		de, _ := re.Digest(t.Context())
		du, _ := ru.Digest(t.Context())
		if de["routes"] != du["routes"] {
			t.Fatalf("digests differ: %v, %v", de, du)
		}
		claim(t, ae, im.Claim{UID: "eve", Device: "phone", Conn: 3, Login: 1})
		if de2, _ := re.Digest(t.Context()); de2["routes"] == du["routes"] {
			t.Fatal("a claim does not show in the digest")
		}
		both()
		de, _ = re.Digest(t.Context())
		du, _ = ru.Digest(t.Context())
		if de["routes"] != du["routes"] {
			t.Fatalf("digests differ after catching up: %v, %v", de, du)
		}

		// The link is silent for longer than counts: us is unknown, and eu does not use its routes (I10).
		beats := func() { ae.Heartbeat(); au.Heartbeat() }
		for range 35 {
			pass(time.Second)
			beats()
		}
		if live, unknown := re.Routes("ann"); len(unknown) != 1 || unknown[0] != "us" || len(live) != 1 || live[0].Region != "eu" {
			t.Fatalf("routes of ann with the link cut: %+v, unknown %v", live, unknown)
		}
		both()
		if _, unknown := re.Routes("ann"); len(unknown) != 1 {
			t.Fatalf("us counts again before it is known that its log was read to the end: unknown %v", unknown)
		}
		for range 15 { // clocks may differ by 5 s, and us says its own every 5 s
			pass(time.Second)
			beats()
			both()
		}
		if live, unknown := re.Routes("ann"); len(unknown) != 0 || len(live) != 1 || live[0].Region != "us" {
			t.Fatalf("routes of ann with the link healed: %+v, unknown %v", live, unknown)
		}
	})
}

func downs(t *testing.T, r *region) (n int) {
	t.Helper()
	for i := range partitions {
		for _, e := range r.kafka.entries(im.Partition{Topic: im.RouteTopic(im.Origin(r.name)), Number: i}) {
			if wire.DecodeHead(&e).Kind == im.KindGatewayDown {
				n++
			}
		}
	}
	return n
}

func TestHeartbeatsStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		r, stop := run(t, eu.config(), eu.deps())
		defer stop()
		ready(t, r)
		a1, out1 := attach(t, r, g1)
		a2, out2 := attach(t, r, g2)
		claim(t, a1, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
		claim(t, a2, im.Claim{UID: "bob", Device: "phone", Conn: 1, Login: 1})
		for range 10 { // both beat
			pass(time.Second)
			a1.Heartbeat()
			a2.Heartbeat()
		}
		if n := downs(t, eu); n != 0 {
			t.Fatalf("%d gateway_down records for gateways that beat", n)
		}
		for range 2 { // one stops, not for long enough
			pass(time.Second)
			a2.Heartbeat()
		}
		if live, _ := r.Routes("ann"); len(live) != 1 {
			t.Fatal("the route went before its gateway was silent for 3 s")
		}
		for range 3 {
			pass(time.Second)
			a2.Heartbeat()
		}
		synctest.Wait()
		if live, _ := r.Routes("ann"); len(live) != 0 {
			t.Fatalf("routes of a silent gateway: %+v", live)
		}
		if live, _ := r.Routes("bob"); len(live) != 1 {
			t.Fatal("the other gateway lost its route")
		}
		if n := downs(t, eu); n != partitions {
			t.Fatalf("%d gateway_down records, want one a partition", n)
		}
		if _, _, fenced := out1.got(); !slices.Contains(fenced, 1) {
			t.Fatal("the gateway was not told that it is fenced")
		}
		if _, _, fenced := out2.got(); len(fenced) != 0 {
			t.Fatal("the wrong gateway was fenced")
		}

		// It comes back under the same epoch: refused. Its claims on the old stream are, too.
		again := &outbox{}
		if _, err := r.Attach(g1, again); im.CodeOf(err) != im.CodeGatewayFenced {
			t.Fatalf("attach of a fenced gateway: %v", err)
		}
		if _, _, fenced := again.got(); !slices.Equal(fenced, []uint64{1}) {
			t.Fatalf("fenced: %v, want epoch 1", fenced)
		}
		if err := a1.Claim(t.Context(), []im.Claim{{UID: "ann", Device: "phone", Conn: 1, Login: 1}})[0]; im.CodeOf(err) != im.CodeGatewayFenced {
			t.Fatalf("claim of a fenced gateway: %v", err)
		}
		a3, _ := attach(t, r, im.Gateway{ID: "g1", Epoch: 2})
		claim(t, a3, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
		if live, _ := r.Routes("ann"); len(live) != 1 || live[0].Gateway.Epoch != 2 {
			t.Fatalf("routes under the new epoch: %+v", live)
		}
	})
}

func TestDiscoveryKnowsBetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		r, stop := run(t, eu.config(), eu.deps())
		defer stop()
		ready(t, r)
		a, _ := attach(t, r, g1)
		claim(t, a, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
		eu.alive.set(g1, true)
		pass(time.Minute)
		if live, _ := r.Routes("ann"); len(live) != 1 {
			t.Fatal("a gateway that discovery calls alive was declared down")
		}
		eu.alive.set(g1, false)
		pass(time.Second)
		synctest.Wait()
		if live, _ := r.Routes("ann"); len(live) != 0 {
			t.Fatal("a silent gateway that discovery calls gone was not declared down")
		}
	})
}

// hanging is a discovery that answers nothing for as long as it may take.
type hanging struct{}

func (hanging) Alive(im.Gateway) (alive, known bool) {
	pass(time.Second)
	return false, false
}

// TestDiscoveryHangs: heartbeats alone decide, of many gateways as soon as of one.
func TestDiscoveryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		deps := eu.deps()
		deps.Alive = hanging{}
		r, stop := run(t, eu.config(), deps)
		defer stop()
		ready(t, r)
		for i := range 30 {
			gw := im.Gateway{ID: fmt.Sprint("g", i), Epoch: 1}
			a, _ := attach(t, r, gw)
			claim(t, a, im.Claim{UID: im.UID(gw.ID), Device: "phone", Conn: 1, Login: 1})
		}
		pass(8 * time.Second)
		synctest.Wait()
		for i := range 30 {
			if live, _ := r.Routes(im.UID(fmt.Sprint("g", i))); len(live) != 0 {
				t.Fatalf("5 s after its time was up, a gateway still has routes: %+v", live)
			}
		}
	})
}

// TestNextLife: after a restart the gateways of before are waited for, those that do not come are declared down, and one
// that comes with a later epoch ends its earlier life at once.
func TestNextLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		r, stop := run(t, eu.config(), eu.deps())
		ready(t, r)
		a1, _ := attach(t, r, g1)
		a2, _ := attach(t, r, g2)
		claim(t, a1, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1}, im.Claim{UID: "eve", Device: "phone", Conn: 2, Login: 1})
		claim(t, a2, im.Claim{UID: "bob", Device: "phone", Conn: 1, Login: 1})
		stop()

		r, stop = run(t, eu.config(), eu.deps())
		defer stop()
		pass(time.Second)
		if err := r.Ready(); im.CodeOf(err) != im.CodeUnready {
			t.Fatalf("ready without the gateways that the log names: %v", err)
		}
		attach(t, r, im.Gateway{ID: "g1", Epoch: 2})
		a2, _ = attach(t, r, g2)
		pass(time.Second)
		synctest.Wait()
		if live, _ := r.Routes("ann"); len(live) != 0 {
			t.Fatal("the earlier life of a gateway still has routes")
		}
		if err := r.Ready(); err != nil {
			t.Fatal(err)
		}
		if live, _ := r.Routes("bob"); len(live) != 1 {
			t.Fatal("a gateway that came back lost its routes")
		}
		_ = a2
		stop()

		r, stop = run(t, eu.config(), eu.deps())
		defer stop()
		pass(9 * time.Second)
		if live, _ := r.Routes("bob"); len(live) != 1 {
			t.Fatal("the gateway was not waited for")
		}
		pass(3 * time.Second)
		synctest.Wait()
		if live, _ := r.Routes("bob"); len(live) != 0 {
			t.Fatal("a gateway that did not come back still has routes")
		}
		if err := r.Ready(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLogFails: a claim fails with a code that says retry, and what was claimed stays.
func TestLogFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		r, stop := run(t, eu.config(), eu.deps())
		defer stop()
		ready(t, r)
		a, out := attach(t, r, g1)
		claim(t, a, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
		eu.kafka.breakWith(errors.New("no leader"))
		if err := a.Claim(t.Context(), []im.Claim{{UID: "bob", Device: "phone", Conn: 2, Login: 1}})[0]; im.CodeOf(err) != im.CodeUnavailable {
			t.Fatalf("claim without Kafka: %v, want unavailable", err)
		}
		if n, err := r.Deliver(t.Context(), []im.Delivery{{Recipients: []im.UID{"ann"}}}); n != 1 || err != nil {
			t.Fatalf("deliver without Kafka: %d, %v", n, err)
		}
		eu.kafka.breakWith(nil)
		for range 5 {
			pass(time.Second)
			a.Heartbeat()
		}
		claim(t, a, im.Claim{UID: "bob", Device: "phone", Conn: 2, Login: 1})
		if _, _, fenced := out.got(); len(fenced) != 0 {
			t.Fatal("a gateway was fenced because Kafka was away")
		}
		if err := a.Claim(t.Context(), []im.Claim{{Device: "phone"}})[0]; im.CodeOf(err) != im.CodeBadRequest {
			t.Fatalf("claim without a uid: %v", err)
		}
	})
}

// TestRetention: a reader that is behind the log's start, and a copy whose link jumped, drop that origin's rows only.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu, us := newRegion(t, "eu"), newRegion(t, "us")
		re, stopEU := run(t, eu.config(), eu.deps())
		defer stopEU()
		ru, stopUS := run(t, us.config(), us.deps())
		defer stopUS()
		ready(t, re)
		ready(t, ru)
		ae, _ := attach(t, re, g1)
		au, _ := attach(t, ru, g1)
		claim(t, ae, im.Claim{UID: "ann", Device: "web", Conn: 1, Login: 1})
		claim(t, au, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
		ship(t, us, eu)
		synctest.Wait()
		if live, _ := re.Routes("ann"); len(live) != 2 {
			t.Fatalf("routes: %+v", live)
		}
		// The link lost a part of us's log for good: the copy goes on past it.
		claim(t, au, im.Claim{UID: "ann", Device: "tab", Conn: 2, Login: 1})
		claim(t, au, im.Claim{UID: "ann", Device: "desk", Conn: 3, Login: 1})
		n := wire.Partition("ann", partitions)
		p := im.Partition{Topic: "route.us", Number: n}
		all := us.kafka.entries(p)
		last := all[len(all)-1]
		if _, err := eu.kafka.Append(t.Context(), p, []im.Entry{wire.AsCopy(last, last.Offset, 1)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if live, _ := re.Routes("ann"); len(live) != 2 {
			t.Fatalf("what is past a gap was taken, or more: %+v", live)
		}
		for range 45 {
			pass(time.Second)
			ae.Heartbeat()
			au.Heartbeat()
		}
		all = us.kafka.entries(p)
		last = all[len(all)-1]
		copies := []im.Entry{}
		for _, e := range all[last.Offset-8:] { // heartbeats of us
			copies = append(copies, wire.AsCopy(e, e.Offset, 1))
		}
		if _, err := eu.kafka.Append(t.Context(), p, copies); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var devices []im.DeviceID
		live, _ := re.Routes("ann")
		for _, route := range live {
			devices = append(devices, route.Device)
		}
		slices.Sort(devices)
		if !slices.Equal(devices, []im.DeviceID{"desk", "web"}) {
			t.Fatalf("devices after the jump: %v", devices)
		}
	})
}

// TestCopyCreatedAnew: a copy that is shorter than what was read of it is read from its start, and counts at its end: not only
// once it is as long as the one before.
func TestCopyCreatedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu, us := newRegion(t, "eu"), newRegion(t, "us")
		ru, stopUS := run(t, us.config(), us.deps())
		defer stopUS()
		ready(t, ru)
		au, _ := attach(t, ru, g1)
		for login := range uint64(9) {
			claim(t, au, im.Claim{UID: "ann", Device: "phone", Conn: 1 + login, Login: 1 + login})
		}
		ship(t, us, eu)
		re, stopEU := run(t, eu.config(), eu.deps())
		defer stopEU()
		ready(t, re)
		p := im.Partition{Topic: "route.us", Number: wire.Partition("ann", partitions)}
		all := eu.kafka.entries(p)
		eu.kafka.create(p)
		synctest.Wait()
		if _, err := eu.kafka.Append(t.Context(), p, all[len(all)-2:]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if live, unknown := re.Routes("ann"); len(live) != 1 || live[0].Login != 9 || len(unknown) != 0 {
			t.Fatalf("routes %+v, unknown %v", live, unknown)
		}
	})
}

// handing is a Redis that another owner still writes: each look at its positions finds it as far as the log is by then.
type handing struct {
	k       *kafka
	mu      sync.Mutex
	written []im.RouteBatch
}

func (s *handing) Positions(ctx context.Context, number int) (map[im.Origin]im.RoutePosition, error) {
	p := im.Partition{Topic: "route.eu", Number: number}
	name := im.LogName{Origin: "eu", ID: im.NewUUID(time.Now())}
	first, err := s.k.Append(ctx, p, []im.Entry{wire.EncodeLogName(im.KindHeartbeat, name, im.StampAt(time.Now()))})
	return map[im.Origin]im.RoutePosition{"eu": {Next: first + 1, Local: first + 1}}, err
}

func (s *handing) Apply(_ context.Context, b im.RouteBatch) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = append(s.written, b)
	return true, nil
}

// TestRedisIsHandedOver: who takes a partition over goes on from where the owner before stands, and does not take that for a
// position in another log.
func TestRedisIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu := newRegion(t, "eu")
		store := &handing{k: eu.kafka}
		owner := newOwner()
		deps := eu.deps()
		deps.Store, deps.Ownership = store, owner
		r, stop := run(t, eu.config(), deps)
		defer stop()
		ready(t, r)
		a, _ := attach(t, r, g1)
		const many = 300 // more than one step in Redis
		for login := range uint64(many) {
			claim(t, a, im.Claim{UID: "ann", Device: "phone", Conn: 1 + login, Login: 1 + login})
		}
		owner.set(0, 1, 2, 3)
		synctest.Wait()
		claim(t, a, im.Claim{UID: "ann", Device: "phone", Conn: 1 + many, Login: 1 + many})
		synctest.Wait()
		store.mu.Lock()
		defer store.mu.Unlock()
		if len(store.written) == 0 {
			t.Fatal("nothing was written")
		}
		for _, b := range store.written {
			for _, rec := range b.Records {
				if b.From != nil && rec.Route.Offset < b.From.Next {
					t.Errorf("%v stood at %d, and record %d was written again", b.Partition, b.From.Next, rec.Route.Offset)
				}
			}
		}
	})
}

// TestRedis: owned partitions are written, a Redis that lost its memory is filled again, one that is gone stops nobody.
func TestRedis(t *testing.T) {
	eu := newRegion(t, "eu")
	eu.alive.set(g1, true) // its heartbeats may be late
	server := miniredis.RunT(t)
	client := goredis.NewClient(&goredis.Options{Addr: server.Addr(), MaxRetries: -1})
	defer client.Close()
	store := redis.NewRoutes(client, "eu:")
	deps := eu.deps()
	deps.Store = store
	owner := newOwner(0, 1, 2, 3)
	deps.Ownership = owner
	r, stop := run(t, eu.config(), deps)
	defer stop()
	ready(t, r)
	a, _ := attach(t, r, g1)
	stored := func(uid im.UID) int {
		rows, err := store.Lookup(t.Context(), wire.Partition(string(uid), partitions), uid)
		if err != nil {
			return -1
		}
		return len(rows)
	}
	claim(t, a, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1})
	wait(t, "ann is in Redis", func() bool { return stored("ann") == 1 })

	server.FlushAll()
	claim(t, a, im.Claim{UID: "ann", Device: "web", Conn: 2, Login: 1})
	wait(t, "an empty Redis is filled again", func() bool { return stored("ann") == 2 })

	addr := server.Addr()
	server.Close()
	claim(t, a, im.Claim{UID: "ann", Device: "tab", Conn: 3, Login: 1})
	if live, _ := r.Routes("ann"); len(live) != 3 {
		t.Fatalf("routes without Redis: %+v", live)
	}
	if err := server.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	wait(t, "Redis catches up", func() bool { return stored("ann") == 3 })

	// Without the partition nothing is written.
	mine := wire.Partition("ann", partitions)
	owner.set()
	wait(t, "the router knows", owner.heard)
	claim(t, a, im.Claim{UID: "ann", Device: "desk", Conn: 4, Login: 1})
	if n := stored("ann"); n != 3 {
		t.Fatalf("%d rows of a partition that is not owned", n)
	}
	owner.set(mine)
	wait(t, "the new owner goes on", func() bool { return stored("ann") == 4 })
	pos, err := store.Positions(t.Context(), mine)
	if err != nil || pos["eu"].Next == 0 {
		t.Fatalf("positions: %+v, %v", pos, err)
	}
}

// TestKicksWhileNobodyOwns: where the owner of a partition has died and no other knows yet that it is its turn, a session
// that another one replaces is ended all the same: at once by the router that took the claim, else by the next owner.
func TestKicksWhileNobodyOwns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eu, us := newRegion(t, "eu"), newRegion(t, "us")
		nobody := newOwner()
		deps := eu.deps()
		deps.Ownership = nobody
		re, stopEU := run(t, eu.config(), deps)
		defer stopEU()
		ru, stopUS := run(t, us.config(), us.deps())
		defer stopUS()
		ready(t, re)
		ready(t, ru)
		a1, o1 := attach(t, re, g1)
		a2, o2 := attach(t, re, g2)
		au, _ := attach(t, ru, g1)
		claim(t, a1,
			im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 1},
			im.Claim{UID: "bob", Device: "web", Conn: 2, Login: 5},
			im.Claim{UID: "eve", Device: "web", Conn: 3, Login: 5})

		claim(t, a2, im.Claim{UID: "ann", Device: "phone", Conn: 1, Login: 2})
		if _, kicks, _ := o1.got(); !slices.Equal(kicks, []im.Kick{{Conn: 1, Login: 1, Code: im.CodeReplaced}}) {
			t.Errorf("kicks at the gateway that lost: %+v, want one of ann's conn", kicks)
		}

		claim(t, au, im.Claim{UID: "bob", Device: "web", Conn: 8, Login: 6}, im.Claim{UID: "eve", Device: "web", Conn: 9, Login: 4})
		ship(t, us, eu)
		synctest.Wait()
		nobody.set(0, 1, 2, 3)
		synctest.Wait()
		if _, kicks, _ := o1.got(); len(kicks) != 2 || kicks[1] != (im.Kick{Conn: 2, Login: 5, Code: im.CodeReplaced}) {
			t.Errorf("kicks once the partitions have an owner: %+v, want one of bob's conn, too", kicks)
		}
		if _, kicks, _ := o2.got(); len(kicks) != 0 {
			t.Errorf("kicks at the gateway that won: %+v", kicks)
		}
	})
}

func TestConfig(t *testing.T) {
	eu := newRegion(t, "eu")
	for name, change := range map[string]func(*router.Config, *router.Deps){
		"no partitions":      func(c *router.Config, _ *router.Deps) { c.Partitions = 0 },
		"foreign origin":     func(c *router.Config, _ *router.Deps) { c.Origin = "us" },
		"origin not listed":  func(c *router.Config, _ *router.Deps) { c.Origin = "eu.2" },
		"superseded origin":  func(c *router.Config, _ *router.Deps) { c.Origins = []im.Origin{"eu", "eu.2"} },
		"no log":             func(_ *router.Config, d *router.Deps) { d.Log = nil },
		"no reader":          func(_ *router.Config, d *router.Deps) { d.NewReader = nil },
		"no range predicate": func(_ *router.Config, d *router.Deps) { d.OutOfRange = nil },
	} {
		cfg, deps := eu.config(), eu.deps()
		change(&cfg, &deps)
		if _, err := router.New(cfg, deps); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
