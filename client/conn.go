package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	writeTimeout = 10 * time.Second
	sendQueue    = 256 // frames
	ackEvery     = 64  // pushes are acknowledged at once when so many are not, at most
	submitSlots  = 48  // submits under way on one socket; the rest of a gateway's limit is for other calls
)

// session is a login that survives sockets, and gateways. While it moves, two conns have it: the one that is left may still
// bring pushes that the other one brings again.
type session struct {
	id, secret string
	region     im.Region
	gateway    string // wire.Endpoint.Key of the one that holds it
	window     time.Duration
	lost       time.Time // when its socket went
	pushed     uint64    // the highest push number received without a gap
}

// conn is one socket that was welcomed. One goroutine reads, one writes; calls come from anywhere.
type conn struct {
	socket   socket
	polled   bool // by long poll: its requests show that it lives, so there are no pings
	codec    *wire.Codec
	endpoint wire.Endpoint
	welcome  *wire.Welcome
	session  *session
	policy   wire.Policy

	heart    *heart
	beats    chan struct{} // asks for a ping now
	activity atomic.Int64  // Unix ns at which something last went either way
	pinged   atomic.Int64  // the silence before the ping that is not answered yet; 0: none is
	out      chan *wire.Frame
	acks     chan struct{} // nudges the writer: ack has grown
	ack      atomic.Uint64
	goaway   chan *wire.Goaway // at most one
	done     chan struct{}     // closed when the socket is gone; err then says why
	since    time.Time
	slots    chan struct{} // submits under way

	mu    sync.Mutex
	calls map[uint32]func([]byte, error) // called once, by the reader or by fail; never block
	next  uint32
	err   error       // why it ended
	said  *wire.Error // the last error frame: it says more than the close code that follows
}

// handler takes what a gateway sends on its own. It is called by the reader and must not block.
type handler interface {
	onPush(*conn, *wire.Push)
	onBehind(*conn, *wire.Behind)
}

func newConn(carries socket, codec *wire.Codec, e wire.Endpoint, w *wire.Welcome, s *session, p wire.Policy) *conn {
	h := new(heart)
	h.welcome(w, p)
	_, polled := carries.(*pollSocket)
	return &conn{
		socket: carries, polled: polled, codec: codec, endpoint: e, welcome: w, session: s, policy: p, heart: h, beats: make(chan struct{}, 1),
		out: make(chan *wire.Frame, sendQueue), acks: make(chan struct{}, 1), goaway: make(chan *wire.Goaway, 1),
		done: make(chan struct{}), since: time.Now(), calls: map[uint32]func([]byte, error){},
		slots: make(chan struct{}, submitSlots),
	}
}

// heard notes that something came: a ping that waited for it is answered.
func (c *conn) heard() {
	c.activity.Store(time.Now().UnixNano())
	if quiet := c.pinged.Swap(0); quiet > 0 {
		c.heart.outcome(time.Duration(quiet), true)
	}
	if !c.polled {
		silence := c.heart.longest() // until the next ping
		c.socket.SetReadDeadline(time.Now().Add(silence + min(silence, pongWait)))
	}
}

// timedOut notes why a read failed, if that is a ping without an answer.
func (c *conn) timedOut(err error) {
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		return
	}
	if quiet := c.pinged.Swap(0); quiet > 0 {
		c.heart.outcome(time.Duration(quiet), false)
	}
}

// read reads until the socket ends.
func (c *conn) read(h handler) {
	for {
		c.heard()
		_, b, err := c.socket.ReadMessage()
		if err != nil {
			c.timedOut(err)
			c.fail(c.ended(err))
			return
		}
		f, err := c.codec.Decode(b)
		if f == nil {
			if im.CodeOf(err) == im.CodeUnknownFrame {
				continue // of a newer gateway
			}
			c.fail(fmt.Errorf("gateway %s sent: %w", c.endpoint.ID, err))
			return
		}
		switch k := f.Kind.(type) {
		case *wire.FrameReply:
			if fn := c.take(k.Reply.Id); fn != nil {
				if err == nil {
					err = remoteError(k.Reply.Error)
				}
				fn(k.Reply.Body, err)
			}
		case *wire.FramePush:
			h.onPush(c, k.Push)
		case *wire.FrameBehind:
			h.onBehind(c, k.Behind)
		case *wire.FrameGoaway:
			select {
			case c.goaway <- k.Goaway:
			default:
			}
		case *wire.FrameError:
			c.mu.Lock()
			c.said = k.Error
			c.mu.Unlock()
		}
	}
}

// ended says why a read failed, in the wire's codes.
func (c *conn) ended(err error) error {
	closed, ok := errors.AsType[*websocket.CloseError](err)
	if _, coded := asError(err); coded && !ok { // a poll was refused
		return err
	}
	if !ok {
		return &im.Error{Code: im.CodeUnavailable, Detail: fmt.Sprintf("gateway %s: %v", c.endpoint.ID, err)}
	}
	c.mu.Lock()
	said := c.said
	c.mu.Unlock()
	code := im.CodeOfClose(closed.Code)
	if said != nil && im.Code(said.Code) == code {
		return remoteError(said)
	}
	return &im.Error{Code: code, Detail: closed.Text}
}

// write writes until the socket ends.
func (c *conn) write() {
	ping := time.NewTimer(c.heart.next())
	defer ping.Stop()
	if c.polled {
		ping.Stop()
	}
	ackDue := time.NewTimer(time.Hour)
	ackDue.Stop()
	defer ackDue.Stop()
	var acked uint64
	waiting := false // ackDue runs
	many, within := nextAck(c.policy, rand.Float64())
	for {
		var f *wire.Frame
		select {
		case f = <-c.out:
		case <-c.acks:
			if !waiting {
				waiting = true
				ackDue.Reset(within)
			}
			if c.ack.Load()-acked < many {
				continue
			}
		case <-ackDue.C:
			waiting = false
			if c.ack.Load() == acked {
				continue
			}
		case <-c.beats:
			if p, ok := c.socket.(*pollSocket); ok {
				p.poke()
				continue
			}
			f = c.ping()
		case <-ping.C:
			f = c.ping()
		case <-c.done:
			return
		}
		if f == nil {
			acked = c.ack.Load()
			many, within = nextAck(c.policy, rand.Float64())
			f = wire.FrameOf(&wire.PushAck{Number: acked})
		}
		if err := c.send(f); err != nil {
			c.fail(&im.Error{Code: im.CodeUnavailable, Detail: fmt.Sprintf("gateway %s: %v", c.endpoint.ID, err)})
			return
		}
		if _, bye := f.Kind.(*wire.FrameBye); bye {
			c.socket.farewell()
			c.fail(ErrClosed)
			return
		}
		c.activity.Store(time.Now().UnixNano())
		if !c.polled {
			ping.Reset(c.heart.next())
		}
	}
}

// ping makes a ping, and notes the silence that it ends. The socket then has as long as an answer may take.
func (c *conn) ping() *wire.Frame {
	quiet := time.Now().UnixNano() - c.activity.Load()
	c.pinged.CompareAndSwap(0, max(quiet, 1))
	c.socket.SetReadDeadline(time.Now().Add(min(c.heart.longest(), pongWait)))
	return wire.FrameOf(&wire.Ping{})
}

func (c *conn) send(f *wire.Frame) error {
	b, err := c.codec.Encode(f)
	if err != nil {
		return err
	}
	c.socket.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.socket.WriteMessage(c.codec.MessageType(), b)
}

// fail ends the socket: every call under way fails.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	calls := c.calls
	c.calls = nil
	c.mu.Unlock()
	close(c.done)
	c.socket.Close()
	for _, fn := range calls {
		fn(nil, errLost)
	}
}

// cause says why it ended; nil while it has not.
func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// bye says goodbye and ends, in a second at most.
func (c *conn) bye() {
	select {
	case c.out <- wire.FrameOf(&wire.Bye{}):
	default:
		c.fail(ErrClosed)
		return
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		c.fail(ErrClosed)
	}
}

// nextAck tells after how many pushes, and how long at most, the next ones are acknowledged: half of the most, or up to all of it by
// r, which is random in [0, 1). All members of a group get their pushes at one time, and are not to answer at one time.
func nextAck(p wire.Policy, r float64) (many uint64, within time.Duration) {
	part := (1 + r) / 2
	return uint64(part * ackEvery), time.Duration(part * float64(ms(p.PushAckMs)))
}

func (c *conn) pushAck(number uint64) {
	for {
		old := c.ack.Load()
		if number <= old {
			return
		}
		if c.ack.CompareAndSwap(old, number) {
			break
		}
	}
	select {
	case c.acks <- struct{}{}:
	default:
	}
}

func (c *conn) take(id uint32) func([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn := c.calls[id]
	delete(c.calls, id)
	return fn
}

// slot takes one of the places for submits, if there is one.
func (c *conn) slot() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (c *conn) release() { <-c.slots }

// busy tells whether calls are under way.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) > 0
}

// start sends a call; fn is called once with its reply, or with the reason why there will be none. fn must not block.
// forget takes the call back; fn is then not called any more.
func (c *conn) start(method, key string, body []byte, trace string, fn func([]byte, error)) (forget func()) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		fn(nil, errLost)
		return func() {}
	}
	c.next++
	id := c.next
	c.calls[id] = fn
	c.mu.Unlock()
	f := wire.FrameOf(&wire.Call{Id: id, Service: wire.ServiceIM, Method: method, Key: key, Body: body, Trace: trace})
	select {
	case c.out <- f:
	default:
		if fn := c.take(id); fn != nil {
			fn(nil, im.Errorf(im.CodeOverloaded, "%d frames wait to be sent", sendQueue))
		}
	}
	return func() {
		if c.take(id) == nil {
			return
		}
		select { // the gateway need not go on with it
		case c.out <- wire.FrameOf(&wire.Cancel{Id: id}):
		default:
		}
	}
}

// call sends a call and waits for its reply.
func (c *conn) call(ctx context.Context, method, key string, body []byte) ([]byte, error) {
	type answer struct {
		body []byte
		err  error
	}
	got := make(chan answer, 1)
	forget := c.start(method, key, body, "", func(b []byte, err error) { got <- answer{b, err} })
	select {
	case a := <-got:
		return a.body, a.err
	case <-ctx.Done():
		forget()
		return nil, context.Cause(ctx)
	}
}

func (c *conn) region() im.Region { return im.Region(c.welcome.Region) }
