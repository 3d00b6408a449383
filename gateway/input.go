package gateway

import (
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Data implements poll.Handler.
func (c *conn) Data(b []byte) {
	if len(c.rest) == 0 {
		c.consume(b)
		return
	}
	held := c.g.buffers.Append(c.rest, b)
	c.rest = nil
	c.consume(held)
	c.g.buffers.Put(held)
}

// consume reads frames. What follows hello waits until the login is done.
func (c *conn) consume(b []byte) {
	for len(b) > 0 && !c.gone.Load() {
		if c.state.Load() == connJoining {
			c.rest = append(c.g.buffers.Get(len(b)), b...)
			return
		}
		m, n, err := c.parser.Next(b, c.g.cfg.MaxFrame, &c.g.buffers)
		b = b[n:]
		if err != nil {
			c.unreadable(err)
			return
		}
		switch m.Op {
		case 0:
		case ws.Ping: // a client's keepalive below the protocol counts as life
			c.heard.Store(c.g.elapsed())
			if c.state.Load() == connNew || c.limit(nil) {
				c.queue(ws.Pong, m.Payload)
			}
		case ws.Pong:
			c.heard.Store(c.g.elapsed())
		case ws.Close:
			c.left(m.Payload)
			return
		default:
			c.message(m)
		}
	}
}

// left answers the client's close frame, unless it is itself an answer.
func (c *conn) left(payload []byte) {
	c.mu.Lock()
	answer := c.closing != nil
	if !answer {
		c.goodbye, _, _ = ws.ParseClose(payload) // the parser has checked it
	}
	c.mu.Unlock()
	if answer {
		c.drop()
		return
	}
	c.close(errClientClosed)
}

// unreadable ends a conn whose stream cannot be read on.
func (c *conn) unreadable(err error) {
	failed, ok := errors.AsType[*ws.Error](err)
	switch {
	case !ok: // it has failed before
		return
	case failed.Status == ws.StatusTooBig:
		c.ends(im.Errorf(im.CodeFrameTooLarge, "the frame has more than %d bytes", c.g.cfg.MaxFrame))
	case failed.Status == ws.StatusInvalidData:
		c.ends(im.Errorf(im.CodeBadFrame, "%s", failed.Detail))
	default:
		c.ends(errBadStream)
	}
}

// ends closes with an error, in whatever state.
func (c *conn) ends(err *im.Error) {
	if c.state.Load() == connNew {
		c.refuseLogin(err)
		return
	}
	c.close(err)
}

// message takes a whole message.
func (c *conn) message(m ws.Message) {
	c.g.metrics.read(len(m.Payload))
	if c.over.Load() {
		return
	}
	var f *wire.Frame
	var err error
	if int(m.Op) == c.codec.MessageType() {
		f, err = c.codec.Decode(m.Payload)
	} else {
		err = im.Errorf(im.CodeBadFrame, "%s travels in %s messages", c.codec.Subprotocol(), messageName(c.codec.MessageType()))
	}
	c.heard.Store(c.g.elapsed())
	if c.state.Load() == connNew {
		c.greet(f, err)
		return
	}
	// With a frame, the error concerns the frame's body only.
	_, tell := errors.AsType[*im.Error](err)
	switch {
	case f != nil:
		c.handle(f, err)
	case im.CodeOf(err) == im.CodeUnknownFrame: // a newer client's: it is told, and goes on
		if c.limit(nil) {
			c.sendError(err)
		}
	case tell:
		c.close(err)
	default:
		c.close(errBadStream)
	}
}

func messageName(typ int) string {
	if typ == wire.TextMessage {
		return "text"
	}
	return "binary"
}

// handle takes a frame. bodyErr says that its body does not fit its method's type.
func (c *conn) handle(f *wire.Frame, bodyErr error) {
	if k, ok := f.Kind.(*wire.FrameCancel); ok && c.cancel(k.Cancel.Id) {
		c.giveBack()
		return
	}
	if !c.limit(f) {
		return
	}
	s := c.session.Load()
	switch k := f.Kind.(type) {
	case *wire.FramePing:
		c.sendEncoded(c.g.pongs[c.codec.MessageType()])
	case *wire.FrameCall:
		c.call(k.Call, bodyErr)
	case *wire.FramePushAck:
		if !s.acked(c, k.PushAck.Number) {
			c.sendError(im.Errorf(im.CodeBadRequest, "push_ack names push %d, which was not sent on this connection", k.PushAck.Number))
		}
	case *wire.FrameBye:
		// A resume may have taken the session to another socket, which did not say bye.
		c.g.endSession(s, errSaidBye, func(s *session) bool { return s.conn == c })
		c.close(errSaidBye)
	case *wire.FramePong, *wire.FrameError, *wire.FrameCancel: // nothing to do; it was heard
	case *wire.FrameHello:
		c.sendError(im.Errorf(im.CodeBadRequest, "this connection has said hello"))
	default:
		c.sendError(im.Errorf(im.CodeUnknownFrame, "frames of this kind are sent by gateways only"))
	}
}

// giveBack returns what a call that was taken back took of the conn's allowance, so that who loses a race is not charged. No more than
// a quarter of the rate is returned: what does nothing but take calls back is held, too.
func (c *conn) giveBack() {
	if c.returned == nil {
		c.returned = rate.NewLimiter(rate.Limit(c.g.cfg.Rate/4), max(1, c.g.cfg.Burst/4))
	}
	if now := time.Now(); c.returned.AllowN(now, 1) {
		c.limiter.AllowN(now, -1)
	}
}

// limit takes a frame off the conn's allowance. A frame over it is answered if it is a call and dropped otherwise, except
// acknowledgements, which cost less than what they free; a client that keeps on is closed.
func (c *conn) limit(f *wire.Frame) bool {
	now := time.Now()
	if c.limiter.AllowN(now, 1) {
		if c.strikes > 0 && c.g.elapsed()-c.struck > int64(time.Second) {
			c.strikes = 0
		}
		return true
	}
	c.strikes++
	c.struck = c.g.elapsed()
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
