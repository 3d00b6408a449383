package poll_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
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

// each runs a test with both kinds of poller.
func each(t *testing.T, f func(t *testing.T, p poll.Poller)) {
	for name, make := range map[string]func() (poll.Poller, error){
		"best":       func() (poll.Poller, error) { return poll.New(2) },
		"goroutines": func() (poll.Poller, error) { return &poll.Goroutines{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			p, err := make()
			if err != nil {
				t.Fatal(err)
			}
			f(t, p)
			p.Close()
		})
	}
}

// pair adds one end of a connection to a poller and returns the other.
func pair(t *testing.T, p poll.Poller, e *echo) *net.TCPConn {
	t.Helper()
	e.closed, e.paused = make(chan error, 1), make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Add(server, e, func(s poll.Socket) { e.socket = s }); err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(20 * time.Second))
	return client.(*net.TCPConn)
}

func (e *echo) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.closed:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("never told that the socket closed")
		return nil
	}
}

// More than any buffer holds goes both ways and comes back in order, while the client is slow to read.
func TestEchoUnderPressure(t *testing.T) {
	each(t, func(t *testing.T, p poll.Poller) {
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
	each(t, func(t *testing.T, p poll.Poller) {
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
			case <-time.After(30 * time.Second):
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
	each(t, func(t *testing.T, p poll.Poller) {
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
	each(t, func(t *testing.T, p poll.Poller) {
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
