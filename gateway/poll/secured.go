package poll

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Bottom is what TLS is spoken over. Until a Poller takes the connection it is the socket, and waits as sockets do. From then
// on it never waits: TLS reads what a loop has read, and writes what the socket takes, the rest of which is kept.
type Bottom struct {
	net.Conn          // until then; a *net.TCPConn when a Poller is to take it without a goroutine
	over     *secured // nil until then
}

// NewBottom lets TLS be spoken over c.
func NewBottom(c net.Conn) *Bottom { return &Bottom{Conn: c} }

func (b *Bottom) bottom() *Bottom { return b }

// bottomOf is the Bottom of a TLS connection, also where it is embedded in another type.
func bottomOf(c net.Conn) (*tls.Conn, *Bottom) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	b, ok := t.NetConn().(interface{ bottom() *Bottom })
	if !ok {
		return nil, nil
	}
	return t, b.bottom()
}

// Read implements net.Conn.
func (b *Bottom) Read(p []byte) (int, error) {
	if b.over != nil {
		return b.over.taken(p)
	}
	return b.Conn.Read(p)
}

// Write implements net.Conn.
func (b *Bottom) Write(p []byte) (int, error) {
	if b.over != nil {
		return b.over.put(p)
	}
	return b.Conn.Write(p)
}

// Close implements net.Conn.
func (b *Bottom) Close() error {
	if b.over != nil {
		b.over.part()
		return nil
	}
	return b.Conn.Close()
}

// errNotYet ends a read for which not enough has come. TLS takes it for a deadline that has passed, after which reading goes on
// where it was.
var errNotYet net.Error = notYet{}

type notYet struct{}

func (notYet) Error() string   { return "poll: more has to come first" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

const (
	// record is the most that TLS encrypts at once.
	record = 16 << 10
	// maxPending bounds what was encrypted and not taken by the socket: records of one write, and what TLS itself says.
	maxPending = 4 * record
)

var errPending = errors.New("poll: the other end has TLS answer, and does not read")

// secured is a TLS connection whose socket is in a loop: the Socket of one Handler, and itself the Handler of the socket.
type secured struct {
	tls     *tls.Conn
	handler Handler
	raw     Socket
	records *sync.Pool // of *[record]byte: lent to who is being read
	closed  atomic.Bool

	// The loop's.
	in     []byte // came, and was not read by TLS yet
	paused bool

	mu      sync.Mutex
	pending []byte // encrypted, and not taken by the socket yet
}

// Data implements Handler. With none, it is resumed, or has just been taken over: TLS may have read ahead.
func (s *secured) Data(b []byte) {
	if s.closed.Load() {
		return
	}
	if s.paused {
		s.paused = false
		s.handler.Data(nil)
	}
	if len(b) > 0 {
		s.in = b
	}
	s.read()
	switch {
	case s.closed.Load():
		s.in = nil
	case len(s.in) > 0: // paused meanwhile; b is the loop's
		s.in = bytes.Clone(s.in)
	}
}

// read decrypts what there is.
func (s *secured) read() {
	lent, ok := s.records.Get().(*[record]byte)
	if !ok {
		lent = new([record]byte)
	}
	defer s.records.Put(lent)
	for !s.paused && !s.closed.Load() {
		n, err := s.tls.Read(lent[:])
		if n > 0 {
			s.handler.Data(lent[:n])
		}
		switch err {
		case nil:
		case errNotYet:
			return
		default:
			if !s.closed.Load() {
				s.handler.Closed(err)
			}
			s.in = nil
			return
		}
	}
}

// taken is how TLS reads.
func (s *secured) taken(p []byte) (int, error) {
	n := copy(p, s.in)
	if s.in = s.in[n:]; len(s.in) == 0 {
		s.in = nil
	}
	if n == 0 {
		return 0, errNotYet
	}
	return n, nil
}

// put is how TLS writes.
func (s *secured) put(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	if len(s.pending) == 0 {
		var err error
		if n, err = s.raw.Write(p); err != nil {
			return n, err
		}
	}
	if len(s.pending)+len(p)-n > maxPending {
		return n, errPending
	}
	s.pending = append(s.pending, p[n:]...)
	return len(p), nil
}

// full tells whether the socket has yet to take what was encrypted before.
func (s *secured) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending) > 0
}

// Writable implements Handler.
func (s *secured) Writable() {
	drained, err := s.flush()
	switch {
	case s.closed.Load():
		if drained || err != nil {
			s.raw.Close()
		}
	case err != nil:
		s.handler.Closed(err)
	case drained:
		s.handler.Writable()
	}
}

// flush writes what is pending, or as much as the socket takes.
func (s *secured) flush() (drained bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) > 0 {
		var n int
		n, err = s.raw.Write(s.pending)
		s.pending = s.pending[n:]
	}
	if drained = len(s.pending) == 0; drained {
		s.pending = nil
	}
	return drained, err
}

// part closes the socket, once it has taken what is pending or lastWrite has passed.
func (s *secured) part() {
	if s.full() {
		time.AfterFunc(lastWrite, s.raw.Close)
		return
	}
	s.raw.Close()
}

// Closed implements Handler.
func (s *secured) Closed(err error) {
	if s.closed.Load() {
		s.raw.Close()
		return
	}
	s.handler.Closed(err)
}

// Write implements Socket.
func (s *secured) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) && !s.full() {
		if s.closed.Load() {
			return n, ErrClosed
		}
		wrote, err := s.tls.Write(b[n:min(n+record, len(b))])
		n += wrote
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Pause implements Socket.
func (s *secured) Pause() {
	s.paused = true
	s.raw.Pause()
}

// Resume implements Socket.
func (s *secured) Resume() { s.raw.Resume() }

// Close implements Socket. What Write took is written first, and TLS's goodbye.
func (s *secured) Close() {
	if !s.closed.Swap(true) {
		s.tls.Close()
	}
}
