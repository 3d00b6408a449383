package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// patience is for a machine that is busy.
const patience = 30 * time.Second

// await polls until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// behind returns a network, and a dialer through it to a server that sends back what it gets and tells of its connections'
// ends.
func behind(t *testing.T, profile Profile) (n *Network, dial func() net.Conn, ended chan error) {
	t.Helper()
	ended = make(chan error, 100)
	p := serve(t, func(c net.Conn) {
		_, err := io.Copy(c, c)
		ended <- err
	})
	n = NewNetwork(profile)
	t.Cleanup(func() { n.Close() })
	return n, func() net.Conn {
		c, err := n.Dial(t.Context(), "tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}, ended
}

// works fails the test unless a byte comes back.
func works(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := trip(c, patience); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// dead fails the test unless a byte is lost and nothing is heard.
func dead(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := trip(c, 50*time.Millisecond); !silent(err) {
		t.Fatalf("%s: want silence, got %v", what, err)
	}
}

func quiet(t *testing.T, ended chan error, what string) {
	t.Helper()
	select {
	case err := <-ended:
		t.Fatalf("%s: the server heard that the connection ended: %v", what, err)
	default:
	}
}

func TestStrandedConnectionsAreDeadInSilence(t *testing.T) {
	n, dial, ended := behind(t, Profile{})
	closed, reset, old := dial(), dial(), dial()
	for _, c := range []net.Conn{closed, reset, old} {
		works(t, c, "before")
	}
	for _, p := range n.proxies {
		p.Strand()
	}
	dead(t, old, "stranded")
	closed.Close()
	_ = reset.(*net.TCPConn).SetLinger(0)
	reset.Close()
	works(t, dial(), "a new connection")
	dead(t, old, "still stranded")
	quiet(t, ended, "stranded")
	if s := n.Stats(); s.Stranded != 3 || s.Lost[Up] != 2 || s.Lost[Down] != 0 {
		t.Errorf("stranded 3 connections with 2 bytes sent on them, counted %+v", s)
	}
}

func TestStrandedWhileItIsMade(t *testing.T) {
	n, dial, _ := behind(t, Profile{})
	works(t, dial(), "before")
	for _, p := range n.proxies {
		p.Stall()
		c := dial()
		await(t, "the connection is taken", func() bool { return p.Stats().Accepted == 2 && p.Stats().Conns == 2 })
		p.Strand()
		p.Heal()
		dead(t, c, "stranded before it led anywhere")
	}
	works(t, dial(), "a new connection")
}

func TestNATForgetsQuietConnections(t *testing.T) {
	const forgets = 300 * time.Millisecond
	n, dial, ended := behind(t, ForgetfulNAT(forgets))
	var idle net.Conn
	again := func() bool { // a busy machine may be quiet for as long, so it tries more than once
		idle = dial()
		_, err := trip(idle, time.Second)
		return err == nil
	}
	await(t, "a connection works at first", again)
	old, began := idle, time.Now()
	await(t, "it is quiet for so long", func() bool { return time.Since(began) > forgets })
	dead(t, old, "forgotten")
	await(t, "a new connection works", again)
	dead(t, old, "forgotten for good")
	quiet(t, ended, "forgotten")
	n.Calm()
	dead(t, old, "forgotten before the network was calm")
	works(t, dial(), "after")
}

func TestTwoGIsSlowAndHoldsLittle(t *testing.T) {
	profile := TwoG()
	profile.Up.Rate, profile.Down.Rate = 100_000, 100_000
	profile.Up.Delay, profile.Down.Delay = 20*time.Millisecond, 20*time.Millisecond
	n, dial, _ := behind(t, profile)
	c := dial()
	sent := bytes.Repeat([]byte("2g"), 20_000)
	began := time.Now()
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes came back: %v", len(got), len(sent), err)
	}
	if took, least := time.Since(began), 440*time.Millisecond; took < least {
		t.Errorf("40,000 bytes at 100,000 a second over 40 ms took %v, want at least %v", took, least)
	}
	n.Close()
	if _, err := n.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed network connects: %v", err)
	}
}

func TestAFullBufferHoldsTheSenderBack(t *testing.T) {
	took := make(chan struct{})
	release := make(chan struct{})
	p := serve(t, func(c net.Conn) {
		close(took)
		<-release
		io.Copy(io.Discard, c)
	})
	defer close(release)
	p.Set(Up, Fault{Buffer: 8 << 10})
	c := dial(t, p)
	<-took
	p.Set(Up, Fault{State: Stalled, Buffer: 8 << 10})
	_ = c.(*net.TCPConn).SetWriteBuffer(8 << 10)
	c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := c.Write(make([]byte, 16<<20))
	if !silent(err) {
		t.Errorf("a stalled direction with a buffer of 8 KiB took %d bytes: %v", n, err)
	}
}

// What each profile does is waited for: a trip that is answered, one that is not, and one that is again.
func TestProfilesComeAndGo(t *testing.T) {
	for _, profile := range []Profile{
		LossBursts(300*time.Millisecond, 200*time.Millisecond),
		Flapping(450 * time.Millisecond),
		Handover(300*time.Millisecond, 100*time.Millisecond),
		OneSided(600 * time.Millisecond),
	} {
		t.Run(profile.Name, func(t *testing.T) {
			t.Parallel()
			n, dial, _ := behind(t, profile)
			for _, want := range []bool{true, false, true} {
				await(t, "good and bad take turns", func() bool {
					c := dial()
					defer c.Close()
					for range 10 {
						if _, err := trip(c, 50*time.Millisecond); (err == nil) == want {
							return true
						}
					}
					return false
				})
			}
			await(t, "a round is over", func() bool { return n.Rounds() > 0 })
			n.Calm()
			works(t, dial(), "calm")
			stranding := n.Stats().Stranded > 0
			if want := profile.Name == "handover"; stranding && !want {
				t.Errorf("connections were stranded")
			}
		})
	}
}

func TestNoWebSockets(t *testing.T) {
	n, dial, _ := behind(t, NoWebSockets(100*time.Millisecond))
	plain, upgraded := dial(), dial()
	works(t, plain, "a plain connection")
	ask := []byte("GET /v1/ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if _, err := upgraded.Write(ask); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(ask))
	if _, err := io.ReadFull(upgraded, got); err != nil {
		t.Fatalf("it lives for a while: %v", err)
	}
	if err := upgraded.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := upgraded.Read(got); err == nil || silent(err) {
		t.Fatalf("it was not reset: %v", err)
	}
	works(t, plain, "a plain connection, later")
	if s := n.Stats(); s.Ended != 1 {
		t.Errorf("%+v", s)
	}
	n.Calm()
	upgraded = dial()
	if _, err := upgraded.Write(ask); err != nil {
		t.Fatal(err)
	}
	works(t, plain, "when it is calm")
}
