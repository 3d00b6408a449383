package poll_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/antipode-im/antipode/gateway/poll"
)

// gathering keeps what is written until it is told to send all of it at once.
type gathering struct {
	net.Conn
	gathers bool
	kept    []byte
}

func (g *gathering) Write(b []byte) (int, error) {
	if g.gathers {
		g.kept = append(g.kept, b...)
		return len(b), nil
	}
	return g.Conn.Write(b)
}

func (g *gathering) send() error {
	_, err := g.Conn.Write(g.kept)
	g.gathers, g.kept = false, nil
	return err
}

// What TLS read ahead before the poller took the connection is not forgotten, though the kernel tells nothing of it.
func TestWhatTLSReadAheadIsHeard(t *testing.T) {
	p, err := poll.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.DialTimeout("tcp", l.Addr().String(), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	dialled.SetDeadline(time.Now().Add(2 * time.Minute))
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := trusted()
	ahead := &gathering{Conn: dialled}
	c, server := tls.Client(ahead, theirs), tls.Server(poll.NewBottom(accepted), ours)
	shaken := make(chan error, 1)
	go func() { shaken <- c.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	ahead.gathers = true
	for _, s := range []string{"1", "2"} { // a record each
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ahead.send(); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := server.Read(one); err != nil || one[0] != '1' {
		t.Fatalf("read %q %v", one, err)
	}
	e := echo{closed: make(chan error, 1), paused: make(chan struct{}, 1)}
	if err := p.Add(server, &e, func(s poll.Socket) { e.socket = s }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(one); err != nil || one[0] != '2' {
		t.Fatalf("read %q %v", one, err)
	}
	c.Close()
	if err := e.end(t); err != io.EOF {
		t.Fatal(err)
	}
}

// A close says goodbye, so that the client can tell it from a stream that was cut.
func TestCloseSaysGoodbye(t *testing.T) {
	each(t, func(t *testing.T, p kind) {
		var e echo
		c := pair(t, p, &e)
		if n, err := e.socket.Write([]byte("all")); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		e.socket.Close()
		if got, err := io.ReadAll(c); string(got) != "all" || err != nil {
			t.Fatalf("%q %v", got, err)
		}
		c.Close()
	})
}
