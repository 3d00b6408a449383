package poll

import (
	"net"
	"sync"
	"time"
)

// goBuffer is how much of a stream a goroutine reads at once, and how much may wait to be written by one.
const goBuffer = 4 << 10

// lastWrite is how long a closed socket may take to write what it was given before.
const lastWrite = time.Second

// Goroutines is a Poller with two goroutines for each socket.
type Goroutines struct{ running sync.WaitGroup }

// Add implements Poller.
func (p *Goroutines) Add(c net.Conn, h Handler, start func(Socket)) error {
	s := &goSocket{conn: c, handler: h, wake: make(chan struct{}, 1), resumed: make(chan struct{}, 1), closed: make(chan struct{})}
	start(s)
	p.running.Go(s.read)
	p.running.Go(s.write)
	return nil
}

// Close implements Poller.
func (p *Goroutines) Close() { p.running.Wait() }

type goSocket struct {
	conn    net.Conn
	handler Handler
	wake    chan struct{} // capacity 1: there is something to write
	resumed chan struct{} // capacity 1
	closed  chan struct{}
	once    sync.Once
	paused  bool // the reader's

	mu     sync.Mutex
	out    []byte // to be written
	refuse bool   // a Write did not fit
}

func (s *goSocket) read() {
	b := make([]byte, goBuffer)
	for {
		if s.paused {
			select {
			case <-s.resumed:
				s.paused = false
				s.handler.Data(nil)
				continue
			case <-s.closed:
				return
			}
		}
		n, err := s.conn.Read(b)
		if s.over() {
			return
		}
		if n > 0 {
			s.handler.Data(b[:n])
		}
		if err != nil {
			s.handler.Closed(err)
			return
		}
	}
}

func (s *goSocket) over() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// write is the writer, which is also the one to close: what Write took is written first, within lastWrite.
func (s *goSocket) write() {
	defer s.conn.Close()
	var b []byte
	for {
		over := false
		select {
		case <-s.closed:
			over = true
			if s.conn.SetWriteDeadline(time.Now().Add(lastWrite)) != nil {
				return
			}
		case <-s.wake:
		}
		s.mu.Lock()
		b, s.out = s.out, b[:0]
		s.mu.Unlock()
		if len(b) > 0 {
			if _, err := s.conn.Write(b); err != nil {
				if !s.over() {
					s.Close()
					s.handler.Closed(err)
				}
				return
			}
			b = b[:0]
			if cap(b) > goBuffer {
				b = nil
			}
		}
		if over {
			return
		}
		s.mu.Lock()
		tell := s.refuse
		s.refuse = false
		s.mu.Unlock()
		if tell {
			s.handler.Writable()
		}
	}
}

// Write implements Socket.
func (s *goSocket) Write(b []byte) (int, error) {
	if s.over() {
		return 0, ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	if len(s.out) == 0 { // one portion behind the one that is being written
		n = min(len(b), readSize)
		s.out = append(s.out, b[:n]...)
	}
	s.refuse = s.refuse || n < len(b)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return n, nil
}

func (s *goSocket) Pause() { s.paused = true }

func (s *goSocket) Resume() {
	select {
	case s.resumed <- struct{}{}:
	default:
	}
}

// Close implements Socket.
func (s *goSocket) Close() {
	s.once.Do(func() {
		close(s.closed)
		now := time.Now()
		if s.conn.SetReadDeadline(now) != nil || s.conn.SetWriteDeadline(now.Add(lastWrite)) != nil {
			s.conn.Close() // it is broken
		}
	})
}
