package rpc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/wire"
)

// fakeReplicator passes on what the test puts in.
type fakeReplicator struct {
	giving
	updates chan im.Held
	mu      sync.Mutex
	to      im.Region
	ds      []im.Delivery
	clocks  map[im.Region]time.Duration
}

func (f *fakeReplicator) ClockOffsets() map[im.Region]time.Duration { return f.clocks }

func (f *fakeReplicator) Link(context.Context, im.Region, wire.LinkSender) error {
	return im.Errorf(im.CodeUnready, "no links here")
}

func (f *fakeReplicator) Notify(_ context.Context, to im.Region, ds []im.Delivery) error {
	if to == "ap" {
		return im.Errorf(im.CodeOverloaded, "congested")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.to, f.ds = to, ds
	return nil
}

func (f *fakeReplicator) Held(ctx context.Context, send func(im.Held) error) error {
	for {
		select {
		case h, ok := <-f.updates:
			if !ok {
				return im.Errorf(im.CodeUnavailable, "stopping")
			}
			if err := send(h); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func replicatorServerOf(t *testing.T, ca *certs.Authority, f *fakeReplicator) *Server {
	t.Helper()
	id, err := ca.Identity("replicator", "eu")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ServerConfig{Addr: "127.0.0.1:0", TLS: id.Server(), Drain: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	RegisterReplicator(s, f, ReplicatorAccess{Region: "eu", Identify: certs.Identify})
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(im.ErrKilled); <-done })
	return s
}

func TestHeld(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeReplicator{updates: make(chan im.Held)}
	s := replicatorServerOf(t, ca, f)
	id, err := ca.Identity("imserver", "eu")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(s.Addr(), DialConfig{TLS: id.Client("replicator", "eu")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h := NewHeld(conn)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); h.Run(ctx) }()
	defer func() { cancel(); <-ran }()

	p, q := im.Partition{Topic: "msg.eu.direct", Number: 1}, im.Partition{Topic: "msg.eu.direct", Number: 2}
	wait := func(p im.Partition, offset int64) chan error {
		c := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			c <- h.Wait(ctx, p, offset)
		}()
		return c
	}
	five, six := wait(p, 5), wait(p, 6)
	f.updates <- im.Held{Offsets: map[im.Partition]int64{p: 6, q: 3}, Peers: 2}
	if err := <-five; err != nil {
		t.Fatalf("the record at 5 is held once everything below 6 is: %v", err)
	}
	select {
	case err := <-six:
		t.Fatalf("the record at 6 is not held: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if n := h.Peers(); n != 2 {
		t.Errorf("%d peers", n)
	}
	f.updates <- im.Held{Offsets: map[im.Partition]int64{p: 4}, Peers: 1} // never goes back
	f.updates <- im.Held{Offsets: map[im.Partition]int64{p: 7}, Peers: 1}
	if err := <-six; err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if err := h.Wait(short, q, 3); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nobody holds it: %v", err)
	}
	h.mu.Lock()
	left := len(h.waiting[q])
	h.mu.Unlock()
	if left != 0 {
		t.Errorf("%d waiters are left behind", left)
	}
	if err := h.Wait(ctx, p, 5); err != nil {
		t.Fatal(err)
	}

	// The replicator goes: no peers. It comes back: the stream is opened again.
	close(f.updates)
	for end := time.Now().Add(time.Minute); h.Peers() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("peers are still counted without a replicator")
		}
	}
}

// TestClock: both ends of this test have the same clock, so what the replicator measured arrives as it was, but for the way.
func TestClock(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeReplicator{clocks: map[im.Region]time.Duration{"us": 3 * time.Second, "ap": -time.Hour}}
	s := replicatorServerOf(t, ca, f)
	ask := func(r im.Region) (map[im.Region]time.Duration, error) {
		id, err := ca.Identity("imserver", r)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := Dial(s.Addr(), DialConfig{TLS: id.Client("replicator", "eu")})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return NewReplicator(conn, "eu").Clock(ctx)
	}
	begun := time.Now()
	got, err := ask("eu")
	way := time.Since(begun)
	if err != nil || len(got) != len(f.clocks) {
		t.Fatalf("%v, %v", got, err)
	}
	for region, want := range f.clocks {
		if d := got[region] - want; d.Abs() > way {
			t.Errorf("%s is %v ahead, want %v", region, got[region], want)
		}
	}
	if _, err := ask("us"); err == nil {
		t.Error("another region may ask for clocks")
	}
}

func TestReplicatorAccess(t *testing.T) {
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeReplicator{updates: make(chan im.Held)}
	s := replicatorServerOf(t, ca, f)
	client := func(service string, r im.Region) *Replicator {
		id, err := ca.Identity(service, r)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := Dial(s.Addr(), DialConfig{TLS: id.Client("replicator", "eu")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return NewReplicator(conn, r)
	}
	ds := []im.Delivery{{Key: "d:ann:bob", Recipients: []im.UID{"bob"}}}
	if err := client("router", "eu").Notify(t.Context(), "us", ds); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	if f.to != "us" || len(f.ds) != 1 || f.ds[0].Key != "d:ann:bob" {
		t.Errorf("to %s: %v", f.to, f.ds)
	}
	f.mu.Unlock()
	if err := client("router", "eu").Notify(t.Context(), "ap", ds); im.CodeOf(err) != im.CodeOverloaded {
		t.Errorf("a congested link: %v", err)
	}
	if err := client("router", "us").Notify(t.Context(), "ap", ds); im.CodeOf(err) != im.CodeBadToken {
		t.Errorf("a router of another region may not notify: %v", err)
	}
	us, err := ca.Identity("replicator", "us")
	if err != nil {
		t.Fatal(err)
	}
	links := NewLinks(func(peer im.Region) (LinkTarget, error) {
		if peer != "eu" {
			return LinkTarget{}, errors.New("no address")
		}
		return LinkTarget{Addr: s.Addr(), TLS: us.Client("replicator", "eu")}, nil
	})
	l, err := links.Link(t.Context(), "eu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recv(); im.CodeOf(err) != im.CodeUnready {
		t.Errorf("the service's own error comes through: %v", err)
	}
	l.Close()
	if _, err := links.Link(t.Context(), "xx"); err == nil {
		t.Error("a link without an address")
	}
}

func (f *fakeReplicator) CopyDigest(_ context.Context, p im.Partition, from, to int64, piece int) (im.CopyDigest, error) {
	return im.CopyDigest{First: from, Next: to, Sums: []uint64{uint64(p.Number), uint64(piece)}}, nil
}
