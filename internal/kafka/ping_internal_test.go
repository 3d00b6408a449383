package kafka

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// pinged opens a cluster of so many brokers, and returns what makes one unreachable.
func pinged(t *testing.T, brokers int) (_ *Cluster, cut func(addr string)) {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	var gone sync.Map
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		if _, ok := gone.Load(addr); ok {
			return nil, syscall.ECONNREFUSED
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	c, err := Open(t.Context(), Config{Brokers: fake.ListenAddrs(), Embedded: true}, Deps{Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, func(addr string) {
		gone.Store(addr, nil)
		c.socks.mu.Lock()
		defer c.socks.mu.Unlock()
		for k := range c.socks.open {
			if k.RemoteAddr().String() == addr {
				k.(*socket).Conn.Close()
			}
		}
	}
}

func (k *layoutKeeper) current() *route {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.route
}

// A probe leaves the conns of those who append and fetch alone.
func TestPingKeepsConns(t *testing.T) {
	c, _ := pinged(t, 1)
	const tries = 100 // a broker that is slow to answer, on a machine that is busy, is asked anew
	for range tries {
		before := c.lay.current()
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.lay.current() == before {
			return
		}
	}
	t.Errorf("each of %d probes had all conns be opened anew", tries)
}

// A probe whose broker is gone finds another, and goes on with that.
func TestPingFindsAnother(t *testing.T) {
	c, cut := pinged(t, 3)
	asked := c.lay.current()
	cut(asked.addr.String())
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := c.lay.current(); now.addr.String() == asked.addr.String() {
		t.Errorf("%v is gone, and is asked still", now.addr)
	}
}

// A probe that nobody answers says so.
func TestPingOfNobody(t *testing.T) {
	c, cut := pinged(t, 1)
	cut(c.cfg.Brokers[0])
	if err := c.Ping(t.Context()); err == nil {
		t.Error("a cluster without a broker is said to answer")
	}
}
