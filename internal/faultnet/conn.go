package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection through a proxy: two sockets and a pipe each way.
type conn struct {
	client net.Conn
	torn   [2]atomic.Bool // bytes of the direction were lost

	once sync.Once
	done chan struct{} // closed by reset

	stranding sync.Once
	gone      chan struct{} // closed when it is stranded
	used      atomic.Int64  // Unix ns at which something was last sent either way

	mu     sync.Mutex
	target net.Conn // nil until dialled
}

// stranded tells whether it is dead in silence.
func (c *conn) stranded() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

func (p *Proxy) strand(c *conn) {
	c.stranding.Do(func() {
		p.stranded.Add(1)
		close(c.gone)
	})
}

// sent notes that an end sent something, and strands the connection if it was quiet for too long before.
func (p *Proxy) sent(c *conn) {
	now := time.Now().UnixNano()
	quiet := now - c.used.Swap(now)
	if limit := p.forgets.Load(); limit > 0 && quiet > limit {
		p.strand(c)
	}
}

// reset drops both sockets, with a reset on the wire.
func (c *conn) reset() { c.close(true) }

func (c *conn) close(reset bool) {
	c.once.Do(func() {
		close(c.done)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range []net.Conn{c.client, c.target} {
			if s == nil {
				continue
			}
			if t, ok := s.(*net.TCPConn); ok && reset {
				_ = t.SetLinger(0) // fails only if it is closed already
			}
			s.Close()
		}
	})
}

// attach sets the target's socket; false if the connection was reset meanwhile.
func (c *conn) attach(s net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
		s.Close()
		return false
	default:
	}
	c.target = s
	return true
}

func (p *Proxy) serve(client net.Conn) {
	c := &conn{client: client, done: make(chan struct{}), gone: make(chan struct{})}
	c.used.Store(time.Now().UnixNano())
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	defer func() {
		c.reset()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	if p.ctx.Err() != nil { // killed between accept and here
		return
	}
	if !p.passes(c) {
		if c.stranded() { // before it led anywhere: the client finds out by itself
			n, _ := io.Copy(io.Discard, client)
			p.lost[Up].Add(uint64(n))
		}
		return
	}
	p.mu.Lock()
	addr := p.target
	p.mu.Unlock()
	dialer := net.Dialer{Timeout: dialTimeout}
	target, err := dialer.DialContext(p.ctx, "tcp", addr)
	if err != nil || !c.attach(target) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.pipe(c, Up, client, target) })
	wg.Go(func() { p.pipe(c, Down, target, client) })
	wg.Wait()
	c.close(false) // both directions ended in order: what the kernel still holds is to arrive
}

// chunk is bytes on their way; empty at the end of the stream.
type chunk struct {
	b   []byte
	due time.Time
	eof bool
}

// line is the bytes on their way in one direction, bounded by bufferBytes.
type line struct {
	mu     sync.Mutex
	queue  []chunk
	bytes  int
	filled chan struct{} // capacity 1: something was put in
	room   chan struct{} // capacity 1: something was taken out
}

func (l *line) put(c chunk, limit int, done <-chan struct{}) bool {
	if limit <= 0 {
		limit = bufferBytes
	}
	for {
		l.mu.Lock()
		if l.bytes < limit {
			l.queue = append(l.queue, c)
			l.bytes += len(c.b)
			l.mu.Unlock()
			wake(l.filled)
			return true
		}
		l.mu.Unlock()
		select {
		case <-l.room:
		case <-done:
			return false
		}
	}
}

func (l *line) take(done <-chan struct{}) (chunk, bool) {
	for {
		l.mu.Lock()
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue[0] = chunk{}
			l.queue = l.queue[1:]
			l.bytes -= len(c.b)
			l.mu.Unlock()
			wake(l.room)
			return c, true
		}
		l.mu.Unlock()
		select {
		case <-l.filled:
		case <-done:
			return chunk{}, false
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pipe moves one direction until the stream ends, fails, or the connection is reset. The end of the stream is delayed
// like bytes and passed on as a half close.
func (p *Proxy) pipe(c *conn, d Direction, from, to net.Conn) {
	l := &line{filled: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.write(c, d, l, to) })
	b := make([]byte, chunkBytes)
	upgraded := false
	for {
		f, _ := p.fault(d)
		size := chunkBytes
		if f.Rate > 0 {
			size = segmentBytes
		}
		n, err := from.Read(b[:size])
		p.sent(c)
		if d == Up && !upgraded && asksToUpgrade(b[:n]) {
			upgraded = true
			if after := time.Duration(p.ends.Load()); after > 0 {
				defer time.AfterFunc(after, func() {
					if p.ends.Load() > 0 {
						p.ended.Add(1)
						c.reset()
					}
				}).Stop()
			}
		}
		f, _ = p.fault(d)
		if n > 0 && !l.put(chunk{b: bytes.Clone(b[:n]), due: time.Now().Add(f.Delay)}, f.Buffer, c.done) {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !c.stranded() {
				c.reset()
				return
			}
			l.put(chunk{eof: true, due: time.Now().Add(f.Delay)}, f.Buffer, c.done)
			return
		}
	}
}

// asksToUpgrade tells whether a request for a WebSocket is in what was read at once, as clients write it.
func asksToUpgrade(b []byte) bool {
	return bytes.HasPrefix(b, []byte("GET ")) && bytes.Contains(bytes.ToLower(b), []byte("\r\nupgrade: websocket"))
}

// turn is when so many bytes may leave in a direction with a rate.
func (p *Proxy) turn(d Direction, bytes, rate int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.free[d].Before(now) {
		p.free[d] = now
	}
	p.free[d] = p.free[d].Add(time.Duration(bytes) * time.Second / time.Duration(rate))
	return p.free[d]
}

func (p *Proxy) write(c *conn, d Direction, l *line, to net.Conn) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		k, ok := l.take(c.done)
		if !ok {
			return
		}
		due := k.due
		if f, _ := p.fault(d); f.Rate > 0 && !c.stranded() {
			if t := p.turn(d, len(k.b), f.Rate); t.After(due) {
				due = t
			}
		}
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-c.done:
				return
			}
		}
		f, changed := p.fault(d)
		for f.State == Stalled && !c.stranded() {
			select {
			case <-changed:
			case <-c.gone:
			case <-c.done:
				return
			}
			f, changed = p.fault(d)
		}
		switch {
		case c.stranded():
			p.lost[d].Add(uint64(len(k.b)))
			if k.eof {
				return
			}
		case f.State == Cut || c.torn[d].Load(): // what follows lost bytes is worth nothing
			c.torn[d].Store(true)
			p.lost[d].Add(uint64(len(k.b)))
			if f, _ := p.fault(d); f.State != Cut { // it opened again before it could see that this connection is torn
				c.reset()
				return
			}
			if k.eof {
				<-c.done
				return
			}
		case k.eof:
			if t, ok := to.(*net.TCPConn); ok && t.CloseWrite() == nil {
				return
			}
			c.reset()
			return
		default:
			if _, err := to.Write(k.b); err != nil {
				c.reset()
				return
			}
			p.bytes[d].Add(uint64(len(k.b)))
		}
	}
}
