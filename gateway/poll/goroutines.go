package poll

import (
	"net"
	"sync"
	"time"
)

// goBuffer is how much of a busy stream a goroutine reads at once, and how much of what was written is kept for the next
// time. An idle one waits with idleBuffer.
const (
	goBuffer   = 4 << 10
	idleBuffer = 256
)

// lastWrite is how long a closed socket may take to write what it was given before.
const lastWrite = time.Second

// Goroutines is a Poller with a goroutine for each socket, and another while it has something to write.
type Goroutines struct {
	running sync.WaitGroup
	busy    sync.Pool // of *[goBuffer]byte: lent to streams that bring more than one small frame at once
}

// Add implements Poller.
func (p *Goroutines) Add(c net.Conn, h Handler, start func(Socket)) error {
	s := &goSocket{conn: c, handler: h, poller: p, resumed: make(chan struct{}, 1), closed: make(chan struct{})}
	start(s)
	p.running.Go(s.read)
	return nil
}

// Close implements Poller.
func (p *Goroutines) Close() { p.running.Wait() }

type goSocket struct {
	conn    net.Conn
	handler Handler
	poller  *Goroutines
	resumed chan struct{} // capacity 1
	closed  chan struct{}
	once    sync.Once
	paused  bool // the reader's

	mu     sync.Mutex
	out    []byte // to be written
	writes bool   // a writer is at it
	refuse bool   // a Write did not fit
}

func (s *goSocket) read() {
	idle := make([]byte, idleBuffer)
	var lent *[goBuffer]byte
	defer func() {
		if lent != nil {
			s.poller.busy.Put(lent)
		}
	}()
	for b := idle; ; {
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
		switch {
		case err != nil:
			s.handler.Closed(err)
			return
		case n == len(b) && lent == nil: // more is there, most likely
			if lent, _ = s.poller.busy.Get().(*[goBuffer]byte); lent == nil {
				lent = new([goBuffer]byte)
			}
			b = lent[:]
		case n < idleBuffer && lent != nil:
			s.poller.busy.Put(lent)
			lent, b = nil, idle
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

// write writes until there is nothing left. On a closed socket it is also the one to close the connection: what Write took is
// written first, within lastWrite.
func (s *goSocket) write() {
	var b []byte
	for {
		s.mu.Lock()
		over := s.over()
		b, s.out = s.out, b[:0]
		tell := s.refuse
		s.refuse = false
		if len(b) == 0 && !tell && !over {
			s.writes = false
			if cap(s.out) > goBuffer {
				s.out = nil
			}
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if tell && !over {
			s.handler.Writable() // there is room behind what is written now
		}
		if len(b) > 0 {
			if _, err := s.conn.Write(b); err != nil {
				closed := s.over()
				s.Close()
				if !closed {
					s.handler.Closed(err)
				}
				cut(s.conn)
				return // still the writer: there is to be no other
			}
		}
		if over && len(b) == 0 {
			s.conn.Close()
			return
		}
	}
}

// cut closes a connection to which nothing can be written: TLS would try to say goodbye.
func cut(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		t.NetConn().Close()
	}
	c.Close()
}

// Write implements Socket.
func (s *goSocket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return 0, ErrClosed
	}
	n := 0
	if len(s.out) == 0 { // one portion behind the one that is being written
		n = min(len(b), readSize)
		s.out = append(s.out, b[:n]...)
	}
	s.refuse = s.refuse || n < len(b)
	s.start()
	return n, nil
}

// start has a writer at work. The caller holds mu.
func (s *goSocket) start() {
	if !s.writes {
		s.writes = true
		s.poller.running.Go(s.write)
	}
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
		s.mu.Lock()
		close(s.closed)
		now := time.Now()
		if s.conn.SetReadDeadline(now) != nil || s.conn.SetWriteDeadline(now.Add(lastWrite)) != nil {
			s.conn.Close() // it is broken
		}
		s.start()
		s.mu.Unlock()
	})
}
