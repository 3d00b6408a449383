package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// linger is how long a socket is read on after the close frame, so that the client gets to see it: a socket closed with
// unread bytes is reset, and a reset may overtake what was sent.
const linger = time.Second

// conn is one socket. One goroutine reads it (read), one writes it (write).
type conn struct {
	g     *Gateway
	ws    *websocket.Conn
	codec *wire.Codec
	ip    netip.Addr

	session *session  // set by the reader before the writer starts
	expires time.Time // of the token
	limiter *rate.Limiter
	strikes int // frames over the limit since the limit was last kept for a second; the reader's
	struck  time.Time

	sent uint64 // the highest push number that was put on this socket; under session.mu

	wake    chan struct{} // capacity 1: something is to be written
	gone    chan struct{} // closed when the socket is done for
	heard   chan struct{} // closed when the reader has ended
	over    atomic.Bool   // gone is closed or a close is under way: new work is pointless
	greeted atomic.Bool   // hello was read

	mu       sync.Mutex
	out      [][]byte // encoded frames to write, in order
	outBytes int
	closing  *im.Error // once set, out is flushed and the socket closed with its code
	calls    int       // under way
	queued   int       // submits that wait for an earlier one of their key
	queues   map[string][]*work
	once     sync.Once
}

func (g *Gateway) newConn(ws *websocket.Conn, codec *wire.Codec, ip netip.Addr) *conn {
	return &conn{
		g: g, ws: ws, codec: codec, ip: ip,
		limiter: rate.NewLimiter(rate.Limit(g.cfg.Rate), g.cfg.Burst),
		wake:    make(chan struct{}, 1), gone: make(chan struct{}), heard: make(chan struct{}),
	}
}

// poke tells the writer that there is something to do.
func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// drop closes the socket without a word.
func (c *conn) drop() {
	c.once.Do(func() {
		c.over.Store(true)
		close(c.gone)
		c.ws.NetConn().Close()
	})
}

// send queues a frame.
func (c *conn) send(f *wire.Frame) {
	b, err := c.codec.Encode(f)
	if err != nil {
		c.g.log.Error("a frame does not encode", "err", err)
		return
	}
	c.sendEncoded(b)
}

func (c *conn) sendEncoded(b []byte) {
	c.mu.Lock()
	if c.closing != nil {
		c.mu.Unlock()
		return
	}
	size := c.outBytes + len(b)
	full := size > c.g.cfg.MaxSendBytes
	if !full {
		c.out = append(c.out, b)
		c.outBytes += len(b)
	}
	c.mu.Unlock()
	if full {
		c.g.metrics.shed("replies")
		c.close(im.Errorf(im.CodeSlowConsumer, "%d bytes of answers wait to be read; at most %d are kept", size, c.g.cfg.MaxSendBytes))
		return
	}
	c.poke()
}

// sendError queues an error frame that does not end the connection.
func (c *conn) sendError(err error) { c.send(wire.FrameOf(wire.ErrorFrame(err))) }

// close ends the connection with a code: what is queued is written, then an error frame, then the close frame. An error
// whose code has no close number becomes unavailable.
func (c *conn) close(err error) {
	e, ok := errors.AsType[*im.Error](err)
	switch {
	case !ok:
		e = im.Errorf(im.CodeInternal, "")
	case e.Code.Spec().Close == 0:
		e = &im.Error{Code: im.CodeUnavailable, Detail: e.Error(), RetryAfter: e.RetryAfter}
	}
	c.mu.Lock()
	first := c.closing == nil
	if first {
		c.closing = e
	}
	c.mu.Unlock()
	if first {
		c.over.Store(true)
		c.poke()
	}
}

// take returns what is queued, and why the connection is to be closed once it is written.
func (c *conn) take() ([][]byte, *im.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.out
	c.out, c.outBytes = nil, 0
	return out, c.closing
}

// writeBatch is how many pushes are taken from the session at once.
const writeBatch = 16

// write is the writer goroutine. It closes the socket when it ends.
func (c *conn) write() {
	defer c.drop()
	for {
		select {
		case <-c.gone:
			return
		case <-c.wake:
		}
		for more := true; more; {
			out, closing := c.take()
			for _, b := range out {
				if !c.put(b) {
					return
				}
			}
			if closing != nil {
				c.farewell(closing)
				select { // the reader hears the client's answer, or its deadline passes
				case <-c.heard:
				case <-c.gone:
				}
				return
			}
			sent, ok := c.writePushes()
			if !ok {
				return
			}
			more = sent > 0 || len(out) > 0
		}
	}
}

// writePushes writes what the session has for this socket, a batch at most. False: the socket is done for.
func (c *conn) writePushes() (sent int, ok bool) {
	var batch [writeBatch]numberedPush
	behind, pushes := c.session.next(c, batch[:0])
	if behind > 0 {
		b, err := c.codec.Encode(wire.FrameOf(&wire.Behind{Number: behind}))
		if err != nil || !c.put(b) {
			return 0, false
		}
		sent++
	}
	if len(pushes) == 0 {
		return sent, true
	}
	scratch := c.g.scratch.Get().(*[]byte)
	defer c.g.scratch.Put(scratch)
	for i := range pushes {
		p := &pushes[i]
		b, err := p.push.Append((*scratch)[:0], c.codec, p.number)
		if err != nil {
			c.g.log.Error("a push's body is not of its type: sent without it", "err", err)
		}
		*scratch = b
		if !c.put(b) {
			return 0, false
		}
		if !p.at.IsZero() {
			c.g.traceDelivered(p, c)
		}
	}
	c.g.metrics.pushed(len(pushes))
	return sent + len(pushes), true
}

// put writes one message. False: the socket is done for.
func (c *conn) put(b []byte) bool {
	c.ws.SetWriteDeadline(time.Now().Add(c.g.cfg.WriteTimeout))
	if err := c.ws.WriteMessage(c.codec.MessageType(), b); err != nil {
		if isTimeout(err) {
			c.g.metrics.closed(im.CodeSlowConsumer)
		}
		return false
	}
	c.g.metrics.wrote(len(b))
	return true
}

// farewell writes the error frame and the close frame, and gives the client a moment to answer. Leaving with bye is no
// error: a normal close answers it.
func (c *conn) farewell(e *im.Error) {
	message := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye")
	if e != errSaidBye {
		c.g.metrics.closed(e.Code)
		message = websocket.FormatCloseMessage(e.Code.Spec().Close, string(e.Code))
		if b, err := c.codec.Encode(wire.FrameOf(wire.ErrorFrame(e))); err == nil && !c.put(b) {
			return
		}
	}
	until := time.Now().Add(linger)
	if c.ws.WriteControl(websocket.CloseMessage, message, until) != nil {
		return
	}
	c.ws.SetReadDeadline(until)
}

// alive moves the read deadline: the client was heard. A token that expires first ends the wait.
func (c *conn) alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing == nil { // farewell has set a nearer one
		c.ws.SetReadDeadline(c.deadline(time.Now()))
	}
}

func (c *conn) deadline(now time.Time) time.Time {
	d := now.Add(c.g.cfg.IdleTimeout)
	if !c.expires.IsZero() && c.expires.Before(d) {
		return c.expires
	}
	return d
}

// receive reads one message into a buffer of the pool; the caller gives it back. The error is *im.Error if the client
// is to be told, and another one if the socket is gone.
func (c *conn) receive() (*bytes.Buffer, error) {
	typ, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	b := c.g.buffers.Get().(*bytes.Buffer)
	b.Reset()
	n, err := b.ReadFrom(io.LimitReader(r, int64(c.g.cfg.MaxFrame)+1))
	c.g.metrics.read(int(n))
	switch {
	case err != nil:
	case int(n) > c.g.cfg.MaxFrame:
		err = im.Errorf(im.CodeFrameTooLarge, "the frame has more than %d bytes", c.g.cfg.MaxFrame)
	case typ != c.codec.MessageType():
		err = im.Errorf(im.CodeBadFrame, "%s travels in %s messages", c.codec.Subprotocol(), messageName(c.codec.MessageType()))
	default:
		return b, nil
	}
	c.g.buffers.Put(b)
	return nil, err
}

func messageName(typ int) string {
	if typ == wire.TextMessage {
		return "text"
	}
	return "binary"
}

// decode reads one frame. With a frame, the error concerns the frame's body only.
func (c *conn) decode() (*wire.Frame, error) {
	b, err := c.receive()
	if err != nil {
		return nil, err
	}
	defer c.g.buffers.Put(b)
	return c.codec.Decode(b.Bytes())
}

// read is the reader goroutine, after the handshake. It returns when nothing more is to be heard.
func (c *conn) read() {
	for {
		c.alive()
		f, err := c.decode()
		if c.over.Load() {
			c.discard()
			return
		}
		if f != nil {
			c.handle(f, err)
			continue
		}
		_, tell := errors.AsType[*im.Error](err)
		switch {
		case im.CodeOf(err) == im.CodeUnknownFrame: // a newer client's: it is told, and goes on
			if c.limit(nil) {
				c.sendError(err)
			}
		case tell:
			c.close(err)
			c.discard()
			return
		case isTimeout(err):
			c.close(c.timeout())
			return
		default:
			return
		}
	}
}

// timeout is why the read deadline passed.
func (c *conn) timeout() *im.Error {
	if !c.expires.IsZero() && !time.Now().Before(c.expires) {
		return im.Errorf(im.CodeTokenExpired, "the token has expired: log in with a new one")
	}
	return im.Errorf(im.CodeIdle, "nothing was heard for %v", c.g.cfg.IdleTimeout)
}

// discard reads on after a close until the client has closed too, or its time is up: farewell sets the deadline.
func (c *conn) discard() {
	for {
		_, r, err := c.ws.NextReader()
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// handle takes a frame. bodyErr says that its body does not fit its method's type.
func (c *conn) handle(f *wire.Frame, bodyErr error) {
	if !c.limit(f) {
		return
	}
	switch k := f.Kind.(type) {
	case *wire.FramePing:
		c.send(wire.FrameOf(&wire.Pong{}))
	case *wire.FrameCall:
		c.call(k.Call, bodyErr)
	case *wire.FramePushAck:
		if !c.session.acked(c, k.PushAck.Number) {
			c.sendError(im.Errorf(im.CodeBadRequest, "push_ack names push %d, which was not sent on this connection", k.PushAck.Number))
		}
	case *wire.FrameBye:
		// A resume may have taken the session to another socket, which did not say bye.
		c.g.endSession(c.session, errSaidBye, func(s *session) bool { return s.conn == c })
		c.close(errSaidBye)
	case *wire.FramePong, *wire.FrameError: // nothing to do; it was heard
	case *wire.FrameHello:
		c.sendError(im.Errorf(im.CodeBadRequest, "this connection has said hello"))
	default:
		c.sendError(im.Errorf(im.CodeUnknownFrame, "frames of this kind are sent by gateways only"))
	}
}

// errSaidBye closes a conn at the client's wish.
var errSaidBye = im.Errorf(im.CodeSessionExpired, "the client said bye")

// limit takes a frame off the conn's allowance. A frame over it is answered if it is a call and dropped otherwise, except
// acknowledgements, which cost less than what they free; a client that keeps on is closed.
func (c *conn) limit(f *wire.Frame) bool {
	now := time.Now()
	if c.limiter.AllowN(now, 1) {
		if c.strikes > 0 && now.Sub(c.struck) > time.Second {
			c.strikes = 0
		}
		return true
	}
	c.strikes++
	c.struck = now
	c.g.metrics.shed("rate")
	err := im.Errorf(im.CodeTooManyRequests, "more than %v frames a second", c.g.cfg.Rate)
	err.RetryAfter = time.Duration(float64(time.Second) * max(1, float64(c.g.cfg.Burst)/2) / c.g.cfg.Rate)
	if c.strikes > c.g.cfg.Burst {
		c.close(err)
		return false
	}
	if f == nil {
		return false
	}
	switch k := f.Kind.(type) {
	case *wire.FrameCall:
		c.refuse(k.Call, err)
	case *wire.FramePushAck, *wire.FrameBye:
		return true
	}
	return false
}
