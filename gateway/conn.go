package gateway

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/gateway/poll"
	"github.com/antipode-im/antipode/gateway/wheel"
	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// linger is how long a socket is read on after the close frame, so that the client gets to see it: a socket closed with
// unread bytes is reset, and a reset may overtake what was sent.
const linger = time.Second

// The life of a conn.
const (
	connNew     = iota // waits for hello
	connJoining        // its login is under way on a goroutine of its own; nothing is read
	connOpen
)

// conn is one socket. It has no goroutine: what comes is handled on its poller's loop (input.go), what goes out on its
// flusher (output.go), what is due on its timing wheel (check). An idle conn holds no buffer.
//
// Lock order: session.mu before conn.mu before those of flusher, wheel and socket.
type conn struct {
	g        *Gateway
	socket   poll.Socket
	codec    *wire.Codec // shared: a gateway's codecs remember nothing
	flusher  *flusher
	clock    *wheel.Wheel
	timer    wheel.Timer
	limiter  *rate.Limiter
	returned *rate.Limiter           // bounds what taken back calls give back; nil: none was taken back
	session  atomic.Pointer[session] // set once, at the end of the login
	ip       netip.Addr
	opened   int64 // all such times are nanoseconds of the gateway's clock
	expires  int64 // of the token; 0: never

	state   atomic.Int32
	heard   atomic.Int64 // when the last frame came
	blocked atomic.Int64 // since when the socket takes no more; 0: it does
	lingers atomic.Int64 // when the socket is closed, the close frame having been sent; 0: not yet
	dirty   atomic.Bool  // it is queued at its flusher
	over    atomic.Bool  // a close is under way: new work is pointless
	gone    atomic.Bool  // the socket is closed

	// The loop's.
	parser  ws.Parser
	rest    []byte // came behind hello, while the login was under way; lent
	strikes int    // frames over the limit since the limit was last kept for a second
	struck  int64

	// The flusher's.
	tail   []byte // of what was begun to be written, what the socket did not take; lent
	parted bool   // the close frame was written, or is in tail

	sent uint64 // the highest push number that was put on this socket; under session.mu

	mu      sync.Mutex
	out     []byte    // WebSocket frames to write; lent
	closing *im.Error // once set, out is written and the socket closed with its code
	goodbye int       // the status of the client's own close frame, to be answered
	calls   int       // under way
	queued  int       // submits that wait for an earlier one of their key
	queues  map[string][]*work
	running map[uint32]context.CancelCauseFunc // of calls that may be cancelled; nil without any
}

func (g *Gateway) newConn(codec *wire.Codec, ip netip.Addr) *conn {
	n := g.connTurn.Add(1)
	now := g.elapsed()
	c := &conn{
		g: g, codec: codec, ip: ip, limiter: rate.NewLimiter(rate.Limit(g.cfg.Rate), g.cfg.Burst), opened: now,
		flusher: g.flushers[n%uint64(len(g.flushers))], clock: g.clocks[n%uint64(len(g.clocks))],
	}
	c.heard.Store(now)
	return c
}

// elapsed is the gateway's clock: monotonic, from its start.
func (g *Gateway) elapsed() int64 { return int64(time.Since(g.began)) }

// serve gives a conn its socket and makes it known. It was counted in by its address.
func (g *Gateway) serve(c *conn, nc net.Conn) {
	known := false
	err := g.poller.Add(nc, c, func(s poll.Socket) {
		c.socket = s
		if known = g.conns.add(c); known {
			g.metrics.conns(1)
			c.arm()
		}
	})
	switch {
	case !known: // the gateway has stopped
		g.conns.release(c.ip)
		nc.Close()
		if err == nil {
			c.gone.Store(true)
			c.socket.Close()
		}
	case err != nil:
		g.log.Warn("a socket could not be watched", "err", err)
		c.drop()
		nc.Close()
	}
}

// drop closes the socket without a word.
func (c *conn) drop() {
	if c.gone.Swap(true) {
		return
	}
	c.over.Store(true)
	c.socket.Close()
	c.mu.Lock()
	c.clock.Stop(&c.timer)
	c.g.buffers.Put(c.out)
	c.out = nil
	c.mu.Unlock()
	c.g.removeConn(c)
	if s := c.session.Load(); s != nil {
		c.g.detach(c, s)
	}
}

// Closed implements poll.Handler: the client left, or its network did.
func (c *conn) Closed(error) { c.drop() }

// send queues a frame.
func (c *conn) send(f *wire.Frame) {
	b, err := c.codec.Encode(f)
	if err != nil {
		c.g.log.Error("a frame does not encode", "err", err)
		return
	}
	c.sendEncoded(b)
}

func (c *conn) sendEncoded(b []byte) { c.queue(ws.Opcode(c.codec.MessageType()), b) }

// queue queues a message or control frame.
func (c *conn) queue(op ws.Opcode, b []byte) {
	if size := c.enqueue(op, b); size > c.g.cfg.MaxSendBytes {
		c.g.metrics.shed("replies")
		c.close(im.Errorf(im.CodeSlowConsumer, "%d bytes of answers wait to be read; at most %d are kept", size, c.g.cfg.MaxSendBytes))
		return
	}
	c.poke()
}

// enqueue queues a message or control frame for the next flush, and returns how many bytes wait with it. With more than
// MaxSendBytes it was not queued.
func (c *conn) enqueue(op ws.Opcode, b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil || c.gone.Load() {
		return 0
	}
	size := len(c.out) + len(b)
	if size > c.g.cfg.MaxSendBytes {
		return size
	}
	if c.out == nil {
		c.out = c.g.buffers.Get(len(b) + 16)
	}
	var header [16]byte
	c.out = c.g.buffers.Append(c.out, ws.AppendHeader(header[:0], op, len(b)))
	c.out = c.g.buffers.Append(c.out, b)
	return size
}

// sendError queues an error frame that does not end the connection.
func (c *conn) sendError(err error) { c.send(wire.FrameOf(wire.ErrorFrame(err))) }

// Reasons to close that have no code of their own.
var (
	errSaidBye      = im.Errorf(im.CodeSessionExpired, "the client said bye")
	errClientClosed = im.Errorf(im.CodeSessionExpired, "the client closed")
	errBadStream    = im.Errorf(im.CodeBadFrame, "this is no WebSocket stream")
)

// close ends the connection with a code: what is queued is written, then an error frame, then the close frame. An error
// whose code has no close number becomes unavailable.
func (c *conn) close(err error) {
	e, ok := errors.AsType[*im.Error](err)
	switch {
	case !ok:
		e = im.Errorf(im.CodeInternal, "")
	case e == errSaidBye || e == errClientClosed || e == errBadStream:
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
func (c *conn) take() ([]byte, *im.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.out
	c.out = nil
	return out, c.closing
}

// arm sets the timer to the next time at which check has something to do.
func (c *conn) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() {
		return
	}
	if at := c.deadline(); at < math.MaxInt64 {
		c.clock.Set(&c.timer, c.g.began.Add(time.Duration(at)), c.due)
	}
}

func (c *conn) due(*wheel.Timer) { c.check(c.g.elapsed()) }

// deadline is when the conn's time is up as it is now.
func (c *conn) deadline() int64 {
	at := int64(math.MaxInt64)
	if blocked := c.blocked.Load(); blocked > 0 {
		at = blocked + int64(c.g.cfg.WriteTimeout)
	}
	switch {
	case c.lingers.Load() > 0:
		at = min(at, c.lingers.Load())
	case c.over.Load(): // its flusher is at it
	case c.state.Load() == connNew:
		at = min(at, c.opened+int64(c.g.cfg.HelloTimeout))
	case c.state.Load() == connOpen:
		at = min(at, c.heard.Load()+int64(c.g.cfg.IdleTimeout))
		if c.expires > 0 {
			at = min(at, c.expires)
		}
	}
	return at
}

// check does what is due. The timer is not moved with every frame: when it fires it is set again for what is left.
func (c *conn) check(now int64) {
	if c.g.frozen.Load() { // the conn is being moved
		c.clock.Set(&c.timer, time.Now().Add(linger), c.due)
		return
	}
	if now < c.deadline() {
		c.arm()
		return
	}
	switch {
	case c.gone.Load():
	case c.lingers.Load() > 0:
		c.drop()
	case c.blocked.Load() > 0 && now >= c.blocked.Load()+int64(c.g.cfg.WriteTimeout):
		c.g.metrics.closed(im.CodeSlowConsumer)
		c.drop()
	case c.state.Load() == connNew:
		c.refuseLogin(im.Errorf(im.CodeHelloExpected, "no hello came within %v", c.g.cfg.HelloTimeout))
	case c.expires > 0 && now >= c.expires:
		c.close(im.Errorf(im.CodeTokenExpired, "the token has expired: log in with a new one"))
	default:
		c.close(im.Errorf(im.CodeIdle, "nothing was heard for %v", c.g.cfg.IdleTimeout))
	}
}
