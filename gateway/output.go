package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	// flushBytes is about how much is written at once. What a socket does not take of it is kept, so it also bounds that.
	flushBytes = 16 << 10
	// writeBatch is how many pushes are taken from the session at once.
	writeBatch = 16
)

// flusher writes to the sockets that have something to be written, one after the other. It never waits for one: a socket
// that takes no more is left until its poller says that it does.
type flusher struct {
	wake chan struct{} // capacity 1

	frozen sync.Mutex // held while it writes

	mu    sync.Mutex
	queue []*conn

	// The goroutine's.
	buf     []byte
	scratch []byte
	pushes  [writeBatch]numberedPush
	traced  []numberedPush
	tally   tally
}

// tally is what was written since it was last told: a counter's step costs as much as a frame does.
type tally struct{ pushes, bytes int }

func newFlusher() *flusher { return &flusher{wake: make(chan struct{}, 1)} }

// poke has the conn's flusher look at it. It is called with session.mu held.
func (c *conn) poke() {
	if c.dirty.Swap(true) {
		return
	}
	f := c.flusher
	f.mu.Lock()
	f.queue = append(f.queue, c)
	first := len(f.queue) == 1
	f.mu.Unlock()
	if first {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// run writes until ctx ends.
func (f *flusher) run(ctx context.Context, m *metrics) {
	var batch []*conn
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		for {
			f.mu.Lock()
			batch, f.queue = f.queue, batch[:0]
			f.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			f.frozen.Lock()
			for i, c := range batch {
				c.flush(f)
				batch[i] = nil
			}
			f.frozen.Unlock()
			m.pushed(f.tally.pushes)
			m.wrote(f.tally.bytes)
			f.tally = tally{}
			if cap(batch) > 1<<16 {
				batch = nil
			}
		}
	}
}

// Writable implements poll.Handler.
func (c *conn) Writable() { c.poke() }

// flush writes what there is to write, or as much as the socket takes.
func (c *conn) flush(f *flusher) {
	c.dirty.Store(false) // what comes from here on pokes again
	if c.gone.Load() || len(c.tail) > 0 && !c.writeTail(f) {
		return
	}
	for !c.parted && !c.gone.Load() {
		b := f.buf[:0]
		s := c.session.Load() // before what is queued: the first push comes after the welcome
		out, closing := c.take()
		b = append(b, out...)
		c.g.buffers.Put(out)
		if closing != nil {
			b = c.farewell(b, closing)
		} else {
			b = c.appendPushes(b, s, f)
		}
		f.buf = b
		if cap(f.buf) > 4*flushBytes {
			f.buf = nil
		}
		if len(b) == 0 || !c.write(b, f) {
			return
		}
		for i := range f.traced {
			c.g.traceDelivered(&f.traced[i], c)
		}
		f.traced = f.traced[:0]
	}
}

// write writes b, and keeps what the socket does not take. False: there is nothing more to do now.
func (c *conn) write(b []byte, f *flusher) bool {
	n, err := c.socket.Write(b)
	f.tally.bytes += n
	switch {
	case err != nil:
		c.drop()
		return false
	case n < len(b):
		c.tail = append(c.g.buffers.Get(len(b)-n), b[n:]...)
		c.blocked.Store(max(c.g.elapsed(), 1))
		c.arm()
		return false
	}
	return c.written()
}

// writeTail goes on with what the socket did not take before.
func (c *conn) writeTail(f *flusher) bool {
	n, err := c.socket.Write(c.tail)
	f.tally.bytes += n
	if err != nil {
		c.drop()
		return false
	}
	if n < len(c.tail) {
		c.tail = c.tail[:copy(c.tail, c.tail[n:])]
		return false
	}
	c.g.buffers.Put(c.tail)
	c.tail = nil
	c.blocked.Store(0)
	return c.written()
}

// written is called when the socket took everything. False: that was the last.
func (c *conn) written() bool {
	if !c.parted {
		return true
	}
	if _, closing := c.take(); closing == errClientClosed {
		c.drop() // both close frames are out
		return false
	}
	c.lingers.Store(c.g.elapsed() + int64(linger))
	c.arm()
	return false
}

// appendPushes appends what the session has for this socket, about flushBytes at most.
func (c *conn) appendPushes(b []byte, s *session, f *flusher) []byte {
	if s == nil {
		return b
	}
	op := ws.Opcode(c.codec.MessageType())
	for len(b) < flushBytes {
		behind, pushes := s.next(c, f.pushes[:0])
		if behind > 0 {
			if frame, err := c.codec.Encode(wire.FrameOf(&wire.Behind{Number: behind})); err == nil {
				b = ws.AppendFrame(b, op, frame)
			}
		}
		for i := range pushes {
			p := &pushes[i]
			frame, err := p.push.Append(f.scratch[:0], c.codec, p.number)
			if err != nil {
				c.g.log.Error("a push's body is not of its type: sent without it", "err", err)
			}
			f.scratch = frame
			b = ws.AppendFrame(b, op, frame)
			if !p.at.IsZero() {
				f.traced = append(f.traced, *p)
			}
		}
		f.tally.pushes += len(pushes)
		clear(pushes)
		if behind == 0 && len(pushes) < writeBatch {
			return c.appendPassing(b, s, f)
		}
	}
	return b
}

// appendPassing appends the ephemeral pushes: all others were.
func (c *conn) appendPassing(b []byte, s *session, f *flusher) []byte {
	op := ws.Opcode(c.codec.MessageType())
	for _, p := range s.passed(c, time.Now()) {
		frame, err := p.push.Append(f.scratch[:0], c.codec, 0)
		f.scratch = frame
		if err != nil { // it has no number that would be missed
			c.g.log.Error("an ephemeral push's body is not of its type: dropped", "err", err)
			continue
		}
		b = ws.AppendFrame(b, op, frame)
		f.tally.pushes++
	}
	return b
}

// farewell appends the error frame and the close frame. Leaving with bye is no error: a normal close answers it.
func (c *conn) farewell(b []byte, e *im.Error) []byte {
	c.parted = true
	switch e {
	case errSaidBye:
		return ws.AppendClose(b, ws.StatusNormal, "bye")
	case errClientClosed:
		c.mu.Lock()
		defer c.mu.Unlock()
		return ws.AppendClose(b, c.goodbye, "")
	case errBadStream:
		c.g.metrics.closed(e.Code)
		return ws.AppendClose(b, ws.StatusProtocolError, e.Detail)
	}
	c.g.metrics.closed(e.Code)
	if frame, err := c.codec.Encode(wire.FrameOf(wire.ErrorFrame(e))); err == nil {
		b = ws.AppendFrame(b, ws.Opcode(c.codec.MessageType()), frame)
	}
	return ws.AppendClose(b, e.Code.Spec().Close, string(e.Code))
}
