package poll_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/gateway/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo writes what it reads, and pauses at each '!' until it is told.
type echo struct {
	socket poll.Socket
	paused chan struct{}
	closed chan error

	mu   sync.Mutex
	out  []byte
	held []byte
	stop bool
}

func (e *echo) Data(b []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b = append(e.held, b...)
	e.held = nil
	if e.stop {
		if i := bytes.IndexByte(b, '!'); i >= 0 {
			e.held = bytes.Clone(b[i+1:])
			b = b[:i]
			e.socket.Pause()
			e.paused <- struct{}{}
		}
	}
	e.out = append(e.out, b...)
	e.flush()
}

func (e *echo) flush() {
	for len(e.out) > 0 {
		n, err := e.socket.Write(e.out)
		if err != nil {
			return
		}
		if n < len(e.out) {
			e.out = e.out[n:]
			return
		}
		e.out = nil
	}
}

func (e *echo) Writable() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flush()
}

func (e *echo) Closed(err error) {
	e.socket.Close()
	e.closed <- err
}

// kind is a poller, and what is spoken over its sockets.
type kind struct {
	poll.Poller
	secure bool
}

// each runs a test with both kinds of poller, without and with TLS.
func each(t *testing.T, f func(t *testing.T, p kind)) {
	for name, make := range map[string]func() (poll.Poller, error){
		"best":       func() (poll.Poller, error) { return poll.New(2) },
		"goroutines": func() (poll.Poller, error) { return &poll.Goroutines{}, nil },
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tls=%v", name, secure), func(t *testing.T) {
				p, err := make()
				if err != nil {
					t.Fatal(err)
				}
				f(t, kind{p, secure})
				p.Close()
			})
		}
	}
}

// client is the other end: a *net.TCPConn or a *tls.Conn.
type client interface {
	net.Conn
	CloseWrite() error
}

// trusted is the two sides of TLS between strangers who trust each other.
var trusted = sync.OnceValues(func() (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil) // for its certificate
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "example.com"}
})

// pair adds one end of a connection to a poller and returns the other.
func pair(t *testing.T, p kind, e *echo) client {
	t.Helper()
	e.closed, e.paused = make(chan error, 1), make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.DialTimeout("tcp", l.Addr().String(), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	dialled.SetDeadline(time.Now().Add(2 * time.Minute))
	c, served := client(dialled.(*net.TCPConn)), accepted
	if p.secure {
		ours, theirs := trusted()
		secured := tls.Client(dialled, theirs)
		server := tls.Server(poll.NewBottom(accepted), ours)
		shaken := make(chan error, 1)
		go func() { shaken <- server.Handshake() }()
		if err := errors.Join(secured.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		c, served = secured, server
	}
	if err := p.Add(served, e, func(s poll.Socket) { e.socket = s }); err != nil {
		t.Fatal(err)
	}
	return c
}

func (e *echo) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.closed:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("never told that the socket closed")
		return nil
	}
}

// More than any buffer holds goes both ways and comes back in order, while the client is slow to read.
func TestEchoUnderPressure(t *testing.T) {
	each(t, func(t *testing.T, p kind) {
		var e echo
		c := pair(t, p, &e)
		sent := make([]byte, 24<<20)
		rand.Read(sent)
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(sent)
			wrote <- err
		}()
		got := make([]byte, len(sent))
		if err := <-wrote; err != nil { // the echo has nowhere to go until now
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, sent) {
			t.Fatal("came back different")
		}
		c.CloseWrite()
		if err := e.end(t); err != io.EOF {
			t.Fatal(err)
		}
	})
}

func TestPause(t *testing.T) {
	each(t, func(t *testing.T, p kind) {
		e := echo{stop: true}
		c := pair(t, p, &e)
		for _, s := range []string{"a!b", "c!", "d!"} {
			if _, err := c.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, 1)
		for _, want := range []string{"a", "bc", "d"} {
			select {
			case <-e.paused:
			case <-time.After(2 * time.Minute):
				t.Fatal("not paused")
			}
			for i := range len(want) {
				if _, err := io.ReadFull(c, got); err != nil || got[0] != want[i] {
					t.Fatalf("%q %v, want %q", got, err, want)
				}
			}
			e.socket.Resume()
		}
		c.Close()
		e.end(t)
	})
}

// What was sent before the end is heard before it.
func TestDataThenEnd(t *testing.T) {
	each(t, func(t *testing.T, p kind) {
		for range 50 {
			var e echo
			c := pair(t, p, &e)
			if _, err := c.Write(bytes.Repeat([]byte("x"), 200_000)); err != nil {
				t.Fatal(err)
			}
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if len(got) != 200_000 {
				// The echo closes when it hears of the end; what the kernel did not take by then is lost with it.
				e.mu.Lock()
				left := len(e.out)
				e.mu.Unlock()
				if len(got)+left != 200_000 {
					t.Fatalf("%d bytes came back, %d are left: %v", len(got), left, err)
				}
			}
			e.end(t)
		}
	})
}

func TestCloseFromElsewhere(t *testing.T) {
	each(t, func(t *testing.T, p kind) {
		var e echo
		c := pair(t, p, &e)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 100 {
					if _, err := e.socket.Write([]byte("x")); err != nil {
						return
					}
				}
				e.socket.Close()
			})
		}
		_, _ = io.Copy(io.Discard, c)
		all.Wait()
		if _, err := e.socket.Write([]byte("x")); err != poll.ErrClosed {
			t.Fatal(err)
		}
	})
}
