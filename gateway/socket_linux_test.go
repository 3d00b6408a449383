package gateway

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/antipode-im/antipode/gateway/poll"
	"github.com/antipode-im/antipode/wire"
)

// options reads back what the kernel has of the one socket that is open.
func (r *rig) options() (noDelay, keepAlive, idle, userTimeout, send, receive int) {
	r.t.Helper()
	conns := r.g.conns.all()
	if len(conns) != 1 {
		r.t.Fatalf("%d conns are open, want 1", len(conns))
	}
	fd, ok := poll.FD(conns[0].socket)
	if !ok {
		r.t.Fatal("the conn has no descriptor")
	}
	get := func(level, option int) int {
		v, err := unix.GetsockoptInt(fd, level, option)
		if err != nil {
			r.t.Fatal(err)
		}
		return v
	}
	return get(unix.IPPROTO_TCP, unix.TCP_NODELAY), get(unix.SOL_SOCKET, unix.SO_KEEPALIVE), get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
		get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT), get(unix.SOL_SOCKET, unix.SO_SNDBUF), get(unix.SOL_SOCKET, unix.SO_RCVBUF)
}

func TestSocketOptions(t *testing.T) {
	for _, c := range []struct {
		name                         string
		change                       func(*Config)
		keepAlive, idle, userTimeout int
		send, receive                int // 0: not looked at. The kernel doubles what it is asked for (socket(7))
	}{
		{"by default", func(*Config) {}, 1, 120, 30_000, 0, 0},
		{"as configured", func(c *Config) {
			c.KeepAlive, c.UserTimeout, c.SendBuffer, c.ReceiveBuffer = 77*time.Second, 5*time.Second, 64<<10, 32<<10
		}, 1, 77, 5_000, 128 << 10, 64 << 10},
		{"none", func(c *Config) { c.KeepAlive, c.UserTimeout = -1, -1 }, 0, 0, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.change)
			r.login(wire.SubprotocolProtobuf, "ann", 1)
			noDelay, keepAlive, idle, userTimeout, send, receive := r.options()
			if noDelay != 1 || keepAlive != c.keepAlive || keepAlive == 1 && idle != c.idle || userTimeout != c.userTimeout {
				t.Errorf("nodelay %d, keepalive %d after %d s, user timeout %d ms", noDelay, keepAlive, idle, userTimeout)
			}
			if c.send > 0 && (send != c.send || receive != c.receive) {
				t.Errorf("buffers of %d and %d bytes, want %d and %d", send, receive, c.send, c.receive)
			}
		})
	}
}

// A socket keeps its options when the next process takes it over; sockets which that accepts, from a listener that it was
// given, have the options of its own configuration.
func TestSocketOptionsAfterHotRestart(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, handoffAt(t), func(c *Config) { c.KeepAlive, c.UserTimeout = 77*time.Second, 7*time.Second })
	before, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.g.cfg.KeepAlive, r.g.cfg.UserTimeout = 88*time.Second, 8*time.Second // what next starts with
	n := r.next(t)
	eventually(t, "the next process took over", func() bool { return r.g.successor.has() && n.g.conns.size.Load() == 1 })
	before.expectAlive()
	if noDelay, keepAlive, idle, userTimeout, _, _ := n.options(); noDelay != 1 || keepAlive != 1 || idle != 77 || userTimeout != 7_000 {
		t.Errorf("a socket that was taken over: nodelay %d, keepalive %d after %d s, user timeout %d ms", noDelay, keepAlive, idle, userTimeout)
	}
	before.ws.Close()
	eventually(t, "it has left", func() bool { return n.g.conns.size.Load() == 0 })
	after, _ := n.login(wire.SubprotocolProtobuf, "bob", 1)
	after.expectAlive()
	if noDelay, keepAlive, idle, userTimeout, _, _ := n.options(); noDelay != 1 || keepAlive != 1 || idle != 88 || userTimeout != 8_000 {
		t.Errorf("a socket accepted after: nodelay %d, keepalive %d after %d s, user timeout %d ms", noDelay, keepAlive, idle, userTimeout)
	}
	r.ended()
}
