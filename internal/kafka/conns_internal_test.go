package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
)

// lossy is a connection that can be made to lead nowhere, as one does whose other end has gone without a word.
type lossy struct {
	net.Conn
	nowhere net.Conn
	lost    atomic.Bool
	closed  atomic.Bool
	writes  chan struct{} // one for each that began between
}

func (l *lossy) Read(b []byte) (int, error) {
	if l.lost.Load() {
		return l.nowhere.Read(b)
	}
	return l.Conn.Read(b)
}

func (l *lossy) Write(b []byte) (int, error) {
	if l.lost.Load() {
		if !l.closed.Load() {
			l.writes <- struct{}{}
		}
		return l.nowhere.Write(b)
	}
	return l.Conn.Write(b)
}

func (l *lossy) SetDeadline(t time.Time) error {
	return errors.Join(l.nowhere.SetDeadline(t), l.Conn.SetDeadline(t))
}

func (l *lossy) SetWriteDeadline(t time.Time) error {
	return errors.Join(l.nowhere.SetWriteDeadline(t), l.Conn.SetWriteDeadline(t))
}

func (l *lossy) Close() error {
	l.closed.Store(true)
	return errors.Join(l.nowhere.Close(), l.Conn.Close())
}

// asking opens a cluster of one broker, and returns what asks it something.
func asking(t *testing.T, secure *tls.Config, opts ...kfake.Opt) (*Cluster, func(context.Context) error) {
	t.Helper()
	fake, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		end, _ := net.Pipe()
		return &lossy{Conn: conn, nowhere: end, writes: make(chan struct{}, 8)}, nil
	}
	c, err := Open(t.Context(), Config{Brokers: fake.ListenAddrs(), Embedded: true, TLS: secure}, Deps{Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, func(ctx context.Context) error {
		var leader int32
		for leader = range c.lay.layout().brokers {
		}
		_, err := c.askLeader(ctx, 0, time.Minute, leader, func(func(im.Partition) bool) {}, &apiversions.Request{})
		return err
	}
}

// idle makes so many conns that are not in use.
func idle(t *testing.T, c *Cluster, count int) (all []*lossy) {
	t.Helper()
	ns := make([]*conn, count)
	for i := range ns {
		n, err := c.conns.get(t.Context(), c.cfg.Brokers[0])
		if err != nil {
			t.Fatal(err)
		}
		ns[i] = n
		all = append(all, n.sock.(*socket).Conn.(*lossy))
	}
	for _, n := range ns {
		c.conns.put(n)
	}
	return all
}

func (s *conns) unused() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, all := range s.idle {
		n += len(all)
	}
	return n
}

// A conn that is silent is not the only one: nobody waits for each of them in turn.
func TestSilentConns(t *testing.T) {
	c, ask := asking(t, nil)
	for _, l := range idle(t, c, 3) {
		l.lost.Store(true)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- ask(ctx) }()
	for end := time.Now().Add(30 * time.Second); c.conns.unused() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d conns wait beside the silent one", c.conns.unused())
		}
	}
	if err := ask(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that was silent: %v", err)
	}
}

// What is asked of a broker that hangs ends with its context: nothing more is said to it, by TLS either.
func TestInterruptSaysNothing(t *testing.T) {
	cert, _, err := certs.Brief(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, ask := asking(t, &tls.Config{InsecureSkipVerify: true}, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{*cert}}))
	l := idle(t, c, 1)[0]
	l.lost.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- ask(ctx) }()
	<-l.writes
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(l.writes) > 0 {
		t.Error("more was written after the end")
	}
}
