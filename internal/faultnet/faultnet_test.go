package faultnet

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo serves a proxy whose target sends back what it gets.
func echo(t *testing.T) *Proxy {
	return serve(t, func(c net.Conn) { io.Copy(c, c) })
}

func serve(t *testing.T, handle func(net.Conn)) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Listen("127.0.0.1:0", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				handle(c)
				c.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		p.Close()
		<-done
	})
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// trip sends a byte and waits for it to come back.
func trip(c net.Conn, within time.Duration) (time.Duration, error) {
	began := time.Now()
	if _, err := c.Write([]byte{1}); err != nil {
		return 0, err
	}
	c.SetReadDeadline(time.Now().Add(within))
	_, err := io.ReadFull(c, make([]byte, 1))
	return time.Since(began), err
}

func silent(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func TestPassesEverythingInOrder(t *testing.T) {
	p := echo(t)
	p.Delay(5 * time.Millisecond)
	c := dial(t, p)
	sent := make([]byte, 2<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

func TestDelayIsOneWayAndAccurate(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	p.Set(Up, Fault{Delay: 30 * time.Millisecond})
	p.Set(Down, Fault{Delay: 50 * time.Millisecond})
	best := time.Hour
	for range 8 {
		d, err := trip(c, patience)
		if err != nil {
			t.Fatal(err)
		}
		if d < 80*time.Millisecond {
			t.Fatalf("a trip of 30 + 50 ms took %v", d)
		}
		best = min(best, d)
	}
	if best > 150*time.Millisecond { // twice would be 160; the best of eight, so that a busy machine does not fail it
		t.Errorf("a trip of 30 + 50 ms took %v at best", best)
	}
}

func TestDelayDoesNotLimitThroughput(t *testing.T) {
	const size = 32 << 20
	send := func(delay time.Duration) time.Duration {
		got := make(chan int64, 1)
		p := serve(t, func(c net.Conn) {
			n, _ := io.Copy(io.Discard, c)
			got <- n
		})
		p.Delay(delay)
		c := dial(t, p)
		began := time.Now()
		b := make([]byte, 1<<20)
		for range size >> 20 {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		if n := <-got; n != size {
			t.Fatalf("%d bytes arrived, %d were sent", n, size)
		}
		return time.Since(began)
	}
	near, far := send(0), send(100*time.Millisecond)
	t.Logf("32 MiB in %v, over 100 ms one way in %v", near, far)
	// With a window of 64 KiB a round trip it would take 512 × 0.2 s.
	if far > 3*near+5*time.Second {
		t.Errorf("took %v, without a delay %v", far, near)
	}
}

func TestCutLosesAndHealResets(t *testing.T) {
	p := echo(t)
	idle, busy := dial(t, p), dial(t, p)
	for _, c := range []net.Conn{idle, busy} {
		if _, err := trip(c, patience); err != nil {
			t.Fatal(err)
		}
	}
	p.Cut()
	if _, err := trip(busy, 50*time.Millisecond); !silent(err) {
		t.Fatalf("across a cut: %v", err)
	}
	fresh := dial(t, p) // taken, but leads nowhere
	if _, err := trip(fresh, 50*time.Millisecond); !silent(err) {
		t.Fatalf("a new connection across a cut: %v", err)
	}
	p.Heal()
	if _, err := trip(busy, patience); err == nil || silent(err) {
		t.Fatalf("a connection that lost bytes must be reset when the cut heals, got %v", err)
	}
	if _, err := trip(idle, patience); err != nil {
		t.Fatalf("a connection that lost nothing must live on: %v", err)
	}
	fresh.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(fresh, make([]byte, 1)); err != nil {
		t.Fatalf("a connection made during the cut must go on: %v", err)
	}
	if s := p.Stats(); s.Lost[Up] == 0 {
		t.Error("nothing is counted as lost")
	}
}

func TestOneWayStall(t *testing.T) {
	received := make(chan byte, 16)
	p := serve(t, func(c net.Conn) {
		b := make([]byte, 1)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			received <- b[0]
			c.Write(b)
		}
	})
	c := dial(t, p)
	if _, err := trip(c, patience); err != nil { // a connection is not made across a stall
		t.Fatal(err)
	}
	<-received
	p.Stall(Down)
	if _, err := trip(c, 50*time.Millisecond); !silent(err) {
		t.Fatalf("the way back is stalled: %v", err)
	}
	select {
	case <-received:
	case <-time.After(patience):
		t.Fatal("the way there is open, yet nothing arrived")
	}
	p.Heal()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("what was stalled must pass: %v", err)
	}
	p.Stall(Up)
	if _, err := c.Write([]byte{2}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-received:
		t.Fatal("something passed the stalled direction")
	case <-time.After(50 * time.Millisecond):
	}
	if f := p.Fault(Up); f.State != Stalled || p.Fault(Down).State != Open {
		t.Errorf("faults are %v and %v", f, p.Fault(Down))
	}
}

func TestOneWayCut(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	if _, err := trip(c, patience); err != nil { // a connection is not made across a cut
		t.Fatal(err)
	}
	p.Cut(Down)
	if _, err := trip(c, 50*time.Millisecond); !silent(err) {
		t.Fatal(err)
	}
	p.Heal()
	if _, err := trip(c, patience); err == nil || silent(err) {
		t.Fatalf("a torn connection goes on: %v", err)
	}
}

func TestReset(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	if _, err := trip(c, patience); err != nil {
		t.Fatal(err)
	}
	p.Reset()
	if _, err := trip(c, patience); err == nil || silent(err) {
		t.Fatalf("after a reset: %v", err)
	}
	if _, err := trip(dial(t, p), patience); err != nil {
		t.Fatalf("new connections are taken: %v", err)
	}
}

func TestKill(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	if _, err := trip(c, patience); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	waiting := dial(t, p)
	p.Kill()
	for _, c := range []net.Conn{c, waiting} {
		if _, err := trip(c, patience); err == nil || silent(err) {
			t.Fatalf("after a kill: %v", err)
		}
	}
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		c.Close()
		t.Fatal("a killed proxy takes connections")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if n := p.Stats().Conns; n != 0 {
		t.Fatalf("%d connections are left", n)
	}
}

func TestTargetGoneAndBack(t *testing.T) {
	p, err := Listen("127.0.0.1:0", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if c, err := net.Dial("tcp", p.Addr()); err == nil { // the reset may come as early as that
		defer c.Close()
		if _, err := trip(c, patience); err == nil || silent(err) {
			t.Fatalf("without a target: %v", err)
		}
	}
	other := echo(t)
	p.SetTarget(other.Addr())
	if _, err := trip(dial(t, p), patience); err != nil {
		t.Fatal(err)
	}
}
