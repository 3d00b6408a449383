package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/wire"
)

// fakeRouter answers claims at once and remembers everything.
type fakeRouter struct {
	id string

	mu         sync.Mutex
	outs       map[im.Gateway]rpc.Outbox
	claims     []im.Claim
	beats      int
	fail       error                // what claims and deliveries answer
	refuse     func(im.Claim) error // what a claim answers
	fenced     uint64
	deliveries []im.Delivery
	notified   []im.Region
	interest   bool
}

func (r *fakeRouter) Attach(gw im.Gateway, out rpc.Outbox) (rpc.Attachment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gw.Epoch <= r.fenced {
		_ = out.Fenced(gw.Epoch)
		return nil, im.Errorf(im.CodeGatewayFenced, "fenced")
	}
	if r.outs == nil {
		r.outs = make(map[im.Gateway]rpc.Outbox)
	}
	r.outs[gw] = out
	return &fakeAttachment{r, gw, out}, nil
}

type fakeAttachment struct {
	r   *fakeRouter
	gw  im.Gateway
	out rpc.Outbox
}

func (a *fakeAttachment) Submit(claims []im.Claim, done func(int, error)) {
	a.r.mu.Lock()
	errs := make([]error, len(claims))
	for i, c := range claims {
		if errs[i] = a.r.fail; errs[i] == nil && a.r.refuse != nil {
			errs[i] = a.r.refuse(c)
		}
		if errs[i] == nil {
			a.r.claims = append(a.r.claims, c)
		}
	}
	a.r.mu.Unlock()
	for i, err := range errs {
		done(i, err)
	}
}

func (a *fakeAttachment) Heartbeat() {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	a.r.beats++
}

func (a *fakeAttachment) Interest() {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	a.r.interest = true
}

func (r *fakeRouter) Interest() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.interest
}

func (a *fakeAttachment) Close() {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	if a.r.outs[a.gw] == a.out {
		delete(a.r.outs, a.gw)
	}
}

func (r *fakeRouter) out(gw im.Gateway) rpc.Outbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outs[gw]
}

func (r *fakeRouter) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// conns lists the conns claimed here, in order.
func (r *fakeRouter) conns() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []uint64
	for _, c := range r.claims {
		all = append(all, c.Conn)
	}
	return all
}

func (r *fakeRouter) Deliver(_ context.Context, ds []im.Delivery) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	r.deliveries = append(r.deliveries, ds...)
	return len(ds), nil
}

func (r *fakeRouter) Notify(_ context.Context, from im.Region, ds []im.Delivery) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, ds...)
	r.notified = append(r.notified, from)
	return r.fail
}

func (r *fakeRouter) Positions(_ context.Context, origin im.Origin) ([]im.Position, error) {
	return []im.Position{{Partition: im.Partition{Topic: im.RouteTopic(origin), Number: 3}, Next: 9}}, nil
}

func (r *fakeRouter) Digest(context.Context) (map[string]string, error) {
	return map[string]string{"routes": r.id}, nil
}

// serve runs a router's RPC server; stop ends it.
func serve(t *testing.T, r *fakeRouter, addr string) (at string, stop func()) {
	t.Helper()
	s, err := rpc.NewServer(rpc.ServerConfig{Addr: addr, Drain: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	rpc.RegisterRouter(ctx, s, r)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return s.Addr(), stop
}

// routerList is a registry of routers that a test sets.
type routerList struct {
	mu      sync.Mutex
	live    []im.Instance
	changed chan struct{}
}

func (l *routerList) set(live ...im.Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = live
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

func (l *routerList) now() []im.Instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live
}

func (l *routerList) watch(ctx context.Context, fn func([]im.Instance)) error {
	for {
		l.mu.Lock()
		live, changed := l.live, l.changed
		l.mu.Unlock()
		fn(live)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// modulo spreads partitions over the live routers by turns.
func modulo(partition int, live []im.Instance) (im.Instance, bool) {
	if len(live) == 0 {
		return im.Instance{}, false
	}
	return live[partition%len(live)], true
}

// edge is a gateway's end.
type edge struct {
	mu     sync.Mutex
	live   []im.Claim
	pushes []string
	last   im.Push
	kicks  []im.Kick
	fenced []uint64
}

func (e *edge) Push(ps []im.Push) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range ps {
		e.last = p
		e.pushes = append(e.pushes, fmt.Sprint(string(p.Body), " ", p.Ephemeral))
	}
}

func (e *edge) Kick(k im.Kick) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kicks = append(e.kicks, k)
}

func (e *edge) Fenced(epoch uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fenced = append(e.fenced, epoch)
}

func (e *edge) Claims() []im.Claim {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.live)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

const routePartitions = 2

// uidOf returns a uid of a partition.
func uidOf(partition int) im.UID {
	for i := 0; ; i++ {
		if uid := im.UID(fmt.Sprint("u", i)); wire.Partition(string(uid), routePartitions) == partition {
			return uid
		}
	}
}

type routersTest struct {
	list    *routerList
	routers *rpc.Routers
	edge    *edge
	gw      im.Gateway
	ended   chan error
	cancel  func()
}

func startRouters(t *testing.T, cfg rpc.RoutersConfig, live ...im.Instance) *routersTest {
	t.Helper()
	dialer := rpc.NewDialer(rpc.DialConfig{})
	t.Cleanup(func() { dialer.Close() })
	h := &routersTest{list: &routerList{}, edge: &edge{}, gw: im.Gateway{ID: "g1", Epoch: 1}, ended: make(chan error, 1)}
	h.list.set(live...)
	cfg.Partitions, cfg.BackoffMax = routePartitions, 20*time.Millisecond
	h.routers = rpc.NewRouters(cfg, rpc.RoutersDeps{Conns: dialer, Watch: h.list.watch, Owner: modulo})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		h.ended <- h.routers.Attach(ctx, h.gw, h.edge)
		close(done)
	}()
	h.cancel = func() { cancel(); <-done }
	t.Cleanup(h.cancel)
	return h
}

func TestRoutersClaimAtOwner(t *testing.T) {
	r0, r1 := &fakeRouter{id: "r0"}, &fakeRouter{id: "r1"}
	a0, _ := serve(t, r0, "127.0.0.1:0")
	a1, stop1 := serve(t, r1, "127.0.0.1:0")
	i0, i1 := im.Instance{ID: "r0", Addr: a0}, im.Instance{ID: "r1", Addr: a1}
	h := startRouters(t, rpc.RoutersConfig{Heartbeat: 10 * time.Millisecond}, i0, i1)
	eventually(t, "both routers are attached", func() bool { return r0.out(h.gw) != nil && r1.out(h.gw) != nil })

	claims := []im.Claim{
		{UID: uidOf(0), Device: "d", Platform: "web", Conn: 1, Login: 4, Offline: true},
		{UID: uidOf(1), Device: "d", Conn: 2, Login: 1, Release: true},
	}
	// While the stream to the owner is being opened, another router serves: so this may take more than one attempt.
	eventually(t, "each claim is at its owner", func() bool {
		r0.set(func() { r0.claims = nil })
		r1.set(func() { r1.claims = nil })
		for _, err := range h.routers.Claim(t.Context(), claims) {
			if err != nil {
				t.Fatal(err)
			}
		}
		return slices.Equal(r0.conns(), []uint64{1}) && slices.Equal(r1.conns(), []uint64{2})
	})
	if r0.claims[0] != claims[0] || r1.claims[0] != claims[1] {
		t.Fatalf("claims: %+v and %+v", r0.claims, r1.claims)
	}

	// What the router sends arrives in order.
	var want []string
	for i := range 500 {
		body := fmt.Sprint(i)
		want = append(want, fmt.Sprint(body, " ", i%2 == 0))
		if err := r0.out(h.gw).Push([]im.Push{{Conns: []uint64{1}, Body: []byte(body), Ephemeral: i%2 == 0}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r0.out(h.gw).Kick(im.Kick{Conn: 1, Login: 4, Code: im.CodeReplaced}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kick arrives", func() bool { h.edge.mu.Lock(); defer h.edge.mu.Unlock(); return len(h.edge.kicks) == 1 })
	if !slices.Equal(h.edge.pushes, want) || h.edge.kicks[0] != (im.Kick{Conn: 1, Login: 4, Code: im.CodeReplaced}) {
		t.Fatalf("%d pushes, kicks %+v", len(h.edge.pushes), h.edge.kicks)
	}
	eventually(t, "heartbeats arrive", func() bool { r1.mu.Lock(); defer r1.mu.Unlock(); return r1.beats > 5 })

	// A final refusal is returned; one that may pass is tried again until it does.
	r0.set(func() { r0.fail = im.Errorf(im.CodeBadRequest, "no") })
	if err := h.routers.Claim(t.Context(), claims[:1])[0]; im.CodeOf(err) != im.CodeBadRequest {
		t.Fatalf("claim: %v, want bad_request", err)
	}
	r0.set(func() { r0.fail = im.Errorf(im.CodeUnavailable, "later") })
	time.AfterFunc(30*time.Millisecond, func() { r0.set(func() { r0.fail = nil }) })
	if err := h.routers.Claim(t.Context(), claims[:1])[0]; err != nil {
		t.Fatal(err)
	}

	// The owner is away: another serves.
	stop1()
	eventually(t, "another router takes the claim", func() bool {
		return h.routers.Claim(t.Context(), []im.Claim{{UID: uidOf(1), Device: "d", Conn: 77, Login: 2}})[0] == nil && slices.Contains(r0.conns(), 77)
	})
	h.cancel()
	if err := <-h.ended; err != nil {
		t.Fatalf("Attach: %v, want nil when its context ends", err)
	}
}

// TestRoutersClaimInOrder: a claim that is tried again does not come behind the release of its session, which would leave a
// route of nobody.
func TestRoutersClaimInOrder(t *testing.T) {
	r := &fakeRouter{id: "r0"}
	addr, _ := serve(t, r, "127.0.0.1:0")
	h := startRouters(t, rpc.RoutersConfig{ClaimTimeout: 30 * time.Second}, im.Instance{ID: "r0", Addr: addr})
	eventually(t, "the router is attached", func() bool { return r.out(h.gw) != nil })
	offline := im.Claim{UID: "ann", Device: "d", Conn: 1, Login: 4, Offline: true}
	release := im.Claim{UID: "ann", Device: "d", Conn: 1, Login: 4, Release: true}
	other := im.Claim{UID: "ann", Device: "e", Conn: 2, Login: 1}

	full := true
	r.set(func() {
		r.refuse = func(c im.Claim) error {
			if c == offline && full {
				full = false
				return im.Errorf(im.CodeOverloaded, "later")
			}
			return nil
		}
	})
	for i, err := range h.routers.Claim(t.Context(), []im.Claim{offline, other, release}) {
		if err != nil {
			t.Fatalf("claim %d: %v", i, err)
		}
	}
	if n := len(r.claims); r.claims[n-1] != release {
		t.Errorf("the last claim of %d is %+v, want the release", n, r.claims[n-1])
	}
	if n := slices.Index(r.claims, other); slices.Contains(r.claims[n+1:], other) {
		t.Errorf("another device's claim is sent again: %+v", r.claims)
	}

	// Who gives up is told of both, and may try both again.
	r.set(func() {
		r.refuse = func(c im.Claim) error {
			if c == offline {
				return &im.Error{Code: im.CodeOverloaded, Detail: "much later", RetryAfter: time.Minute}
			}
			return nil
		}
	})
	errs := h.routers.Claim(t.Context(), []im.Claim{offline, other, release})
	if im.CodeOf(errs[0]) != im.CodeOverloaded || errs[1] != nil || im.CodeOf(errs[2]) != im.CodeOverloaded {
		t.Errorf("errors: %v, want overloaded for the claim and the release", errs)
	}
}

func TestRoutersReclaim(t *testing.T) {
	r0, r1 := &fakeRouter{id: "r0"}, &fakeRouter{id: "r1"}
	a0, stop0 := serve(t, r0, "127.0.0.1:0")
	a1, _ := serve(t, r1, "127.0.0.1:0")
	i0, i1 := im.Instance{ID: "r0", Addr: a0}, im.Instance{ID: "r1", Addr: a1}
	h := startRouters(t, rpc.RoutersConfig{}, i0)
	h.edge.mu.Lock()
	h.edge.live = []im.Claim{{UID: uidOf(0), Device: "d", Conn: 1, Login: 1}, {UID: uidOf(1), Device: "d", Conn: 2, Login: 1}}
	h.edge.mu.Unlock()
	eventually(t, "the router is attached", func() bool { return r0.out(h.gw) != nil })

	// A second router appears: it gets what it owns now, and only that.
	h.list.set(i0, i1)
	eventually(t, "the new owner gets its claims", func() bool { return len(r1.conns()) > 0 })
	if got := r1.conns(); !slices.Equal(got, []uint64{2}) {
		t.Fatalf("claims at the new router: %v, want 2 only", got)
	}

	// A router comes back: it gets its own again.
	stop0()
	r0 = &fakeRouter{id: "r0"} // the former may still be handed what it had received
	serve(t, r0, a0)
	eventually(t, "the router that came back gets its claims", func() bool { return slices.Contains(r0.conns(), 1) })
	if got := r0.conns(); slices.Contains(got, 2) {
		t.Fatalf("claims at the router that came back: %v, want 1 only", got)
	}

	// An empty list is not believed; one without r1 moves its claims.
	h.list.set()
	h.list.set(i0)
	eventually(t, "claims move to the router that is left", func() bool { return slices.Contains(r0.conns(), 2) })
}

func TestRoutersRenew(t *testing.T) {
	r := &fakeRouter{}
	a, _ := serve(t, r, "127.0.0.1:0")
	h := startRouters(t, rpc.RoutersConfig{Renew: 64 * time.Millisecond}, im.Instance{ID: "r0", Addr: a})
	for conn := range uint64(100) {
		h.edge.mu.Lock()
		h.edge.live = append(h.edge.live, im.Claim{UID: uidOf(int(conn % 2)), Device: "d", Conn: conn, Login: 1})
		h.edge.mu.Unlock()
	}
	eventually(t, "every conn is claimed anew, and again", func() bool {
		times := make(map[uint64]int)
		for _, c := range r.conns() {
			times[c]++
		}
		for conn := range uint64(100) {
			if times[conn] < 3 {
				return false
			}
		}
		return true
	})
}

func TestRoutersFenced(t *testing.T) {
	r := &fakeRouter{}
	a, _ := serve(t, r, "127.0.0.1:0")
	h := startRouters(t, rpc.RoutersConfig{}, im.Instance{ID: "r0", Addr: a})
	eventually(t, "the router is attached", func() bool { return r.out(h.gw) != nil })
	if err := r.out(h.gw).Fenced(1); err != nil {
		t.Fatal(err)
	}
	if err := <-h.ended; im.CodeOf(err) != im.CodeGatewayFenced {
		t.Fatalf("Attach: %v, want gateway_fenced", err)
	}
	if !slices.Equal(h.edge.fenced, []uint64{1}) {
		t.Fatalf("fenced: %v", h.edge.fenced)
	}
	// Attaching under the dead epoch is refused in the same way.
	r.set(func() { r.fenced = 1 })
	if err := h.routers.Attach(t.Context(), h.gw, h.edge); im.CodeOf(err) != im.CodeGatewayFenced {
		t.Fatalf("Attach: %v, want gateway_fenced", err)
	}
	if !slices.Equal(h.edge.fenced, []uint64{1, 1}) {
		t.Fatalf("fenced: %v", h.edge.fenced)
	}
}

func TestRouterPool(t *testing.T) {
	r0, r1 := &fakeRouter{id: "r0"}, &fakeRouter{id: "r1"}
	a0, _ := serve(t, r0, "127.0.0.1:0")
	a1, stop1 := serve(t, r1, "127.0.0.1:0")
	dialer := rpc.NewDialer(rpc.DialConfig{})
	defer dialer.Close()
	list := &routerList{}
	pool := rpc.NewRouterPool(dialer, list.now)
	if _, err := pool.Deliver(t.Context(), []im.Delivery{{Key: "k"}}); im.CodeOf(err) != im.CodeUnavailable {
		t.Fatalf("deliver without routers: %v, want unavailable", err)
	}
	list.set(im.Instance{ID: "r1", Addr: a1}, im.Instance{ID: "r0", Addr: a0})

	var ds []im.Delivery
	for i := range 3000 {
		ds = append(ds, im.Delivery{
			Service: "im", Method: "event", Key: fmt.Sprint("k", i%50), Recipients: []im.UID{"ann", "bob"},
			Body: []byte(fmt.Sprint(i)), Trace: "t", Notify: i%2 == 0, Ephemeral: i%3 == 0,
		})
	}
	n, err := pool.Deliver(t.Context(), ds)
	if err != nil || n != len(ds) {
		t.Fatalf("deliver: %d, %v", n, err)
	}
	if len(r0.deliveries) == 0 || len(r1.deliveries) == 0 || len(r0.deliveries)+len(r1.deliveries) != len(ds) {
		t.Fatalf("spread: %d and %d", len(r0.deliveries), len(r1.deliveries))
	}
	for _, r := range []*fakeRouter{r0, r1} {
		last := make(map[string]int)
		for _, d := range r.deliveries {
			var i int
			fmt.Sscan(string(d.Body), &i)
			if before, ok := last[d.Key]; ok && before > i {
				t.Fatalf("%s: %d came after %d", d.Key, i, before)
			}
			last[d.Key] = i
			if want := ds[i]; d.Key != want.Key || !slices.Equal(d.Recipients, want.Recipients) || d.Notify != want.Notify || d.Ephemeral != want.Ephemeral || d.Trace != "t" {
				t.Fatalf("delivery %+v, want %+v", d, want)
			}
		}
	}

	// One is unready, then gone: the other takes everything.
	r0.set(func() { r0.deliveries = nil })
	r1.set(func() { r1.fail = im.Errorf(im.CodeUnready, "reading") })
	if n, err := pool.Deliver(t.Context(), ds[:100]); err != nil || n != 100 {
		t.Fatalf("deliver past an unready router: %d, %v", n, err)
	}
	stop1()
	if n, err := pool.Deliver(t.Context(), ds[:100]); err != nil || n != 100 {
		t.Fatalf("deliver past a dead router: %d, %v", n, err)
	}
	if err := pool.Notify(t.Context(), "us", ds[:10]); err != nil || !slices.Contains(r0.notified, "us") {
		t.Fatalf("notify: %v, from %v", err, r0.notified)
	}
	r0.set(func() { r0.fail = errors.New("a bug") })
	if _, err := pool.Deliver(t.Context(), ds[:1]); im.CodeOf(err) != im.CodeInternal {
		t.Fatalf("deliver: %v, want internal", err)
	}

	positions, err := pool.Positions(t.Context(), a0, "us")
	if err != nil || len(positions) != 1 || positions[0].Partition.String() != "route.us/3" || positions[0].Next != 9 {
		t.Fatalf("positions: %+v, %v", positions, err)
	}
	digest, err := pool.Digest(t.Context(), a0)
	if err != nil || digest["routes"] != "r0" {
		t.Fatalf("digest: %v, %v", digest, err)
	}
}

// TestInterestIsCarried: a gateway says that it looks who is in a large group, a router's answer to a delivery says whether all
// of its gateways do, and what they need for it arrives as it was, over a link too.
func TestInterestIsCarried(t *testing.T) {
	r := &fakeRouter{id: "r0"}
	addr, _ := serve(t, r, "127.0.0.1:0")
	list := &routerList{}
	list.set(im.Instance{ID: "r0", Addr: addr})
	dialer := rpc.NewDialer(rpc.DialConfig{})
	defer dialer.Close()
	pool := rpc.NewRouterPool(dialer, list.now)
	group := im.UID("s:eu:0199a2c4-7f3e-7d11-8a52-3b6f0c9d1e24")
	d := im.Delivery{
		Service: "im", Method: "event", Key: string(group), Recipients: []im.UID{group}, Body: []byte("x"), Join: []im.UID{group},
		Interest: &im.Interest{
			Place: im.Place{Stamp: 7, Origin: "eu", Seq: 9}, Changes: im.Cursor{"eu": 9, "us": 2}, Before: im.Cursor{"eu": 3, "us": 2},
			Changed: []im.UID{"ann", "bob"},
		},
	}
	deliver := func() {
		t.Helper()
		if _, err := pool.Deliver(t.Context(), []im.Delivery{d}); err != nil {
			t.Fatal(err)
		}
	}
	if pool.Interest() {
		t.Error("a router that said nothing yet is believed to have gateways that take interest")
	}
	deliver()
	if pool.Interest() {
		t.Error("a router of gateways that do not take interest is believed to have others")
	}
	h := startRouters(t, rpc.RoutersConfig{Heartbeat: 10 * time.Millisecond}, im.Instance{ID: "r0", Addr: addr})
	eventually(t, "the gateway says that it takes interest", r.Interest)
	deliver()
	if !pool.Interest() {
		t.Error("the answer does not tell")
	}
	if !reflect.DeepEqual(r.deliveries[0], d) {
		t.Errorf("delivered %+v, want %+v", r.deliveries[0], d)
	}
	if carried := wire.DeliveriesOf(wire.NotifyOf("eu", "us", []im.Delivery{d})); len(carried) != 1 || !reflect.DeepEqual(carried[0], d) {
		t.Errorf("over a link came %+v, want %+v", carried, d)
	}
	push := im.Push{Conns: []uint64{1}, Service: "im", Method: "event", Body: d.Body, Interest: d.Interest, Join: d.Join}
	if err := r.out(h.gw).Push([]im.Push{push}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the push comes as it was", func() bool {
		h.edge.mu.Lock()
		defer h.edge.mu.Unlock()
		return reflect.DeepEqual(h.edge.last, push)
	})
	list.set()
	if pool.Interest() {
		t.Error("routers that are gone are believed")
	}
}
