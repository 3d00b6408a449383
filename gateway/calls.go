package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// work is one call of a conn.
type work struct {
	call *wire.Call
	err  error     // known before it runs: the body does not fit, or a limit was passed
	by   time.Time // when it is given up, waiting included
}

// submitMethod is the method whose calls of one key go in order.
const submitMethod = wire.MethodSubmit

// call takes a client's call. Submits of one key go one by one in the order in which they came (I4), everything else at
// once.
func (c *conn) call(call *wire.Call, bodyErr error) {
	if call.Service == "" {
		call.Service = wire.ServiceIM
	}
	w := &work{call: call, err: bodyErr, by: time.Now().Add(2 * c.g.cfg.CallTimeout)}
	c.mu.Lock()
	if call.Method == submitMethod {
		key := call.Service + "\x00" + call.Key
		if queue, busy := c.queues[key]; busy {
			if c.queued >= c.g.cfg.MaxQueue {
				c.mu.Unlock()
				c.g.metrics.shed("queue")
				c.refuse(call, im.Errorf(im.CodeOverloaded, "%d submits wait on this connection; at most %d may", c.g.cfg.MaxQueue, c.g.cfg.MaxQueue))
				return
			}
			c.queues[key] = append(queue, w)
			c.queued++
			c.mu.Unlock()
			return
		}
		if w.err == nil && c.calls < c.g.cfg.MaxCalls {
			if c.queues == nil {
				c.queues = map[string][]*work{}
			}
			c.queues[key] = nil
			c.calls++
			c.mu.Unlock()
			c.g.call(func() { c.runQueue(key, w) })
			return
		}
	} else if w.err == nil && c.calls < c.g.cfg.MaxCalls {
		c.calls++
		ctx, own := c.cancellable(call.Id)
		c.mu.Unlock()
		c.g.call(func() {
			body, err := c.run(ctx, w)
			c.mu.Lock()
			c.calls--
			cancelled := errors.Is(context.Cause(ctx), errCancelled)
			if own && !cancelled {
				c.forget(call.Id)
			}
			c.mu.Unlock()
			if !cancelled {
				c.reply(w.call, body, err)
			}
		})
		return
	}
	c.mu.Unlock()
	if w.err == nil {
		c.g.metrics.shed("calls")
		w.err = im.Errorf(im.CodeOverloaded, "%d calls are under way on this connection; at most %d may be", c.g.cfg.MaxCalls, c.g.cfg.MaxCalls)
	}
	c.reply(call, nil, w.err)
	c.g.metrics.refused(call, w.err)
}

// errCancelled ends a call that its client took back: nobody waits for the answer.
var errCancelled = errors.New("the client took the call back")

// cancellable returns a call's context, and whether it is its own: a call whose id is that of another under way cannot be
// cancelled. The caller holds mu.
func (c *conn) cancellable(id uint32) (ctx context.Context, own bool) {
	if _, twice := c.running[id]; twice {
		return c.g.base, false
	}
	if c.running == nil {
		c.running = map[uint32]context.CancelCauseFunc{}
	}
	ctx, cancel := context.WithCancelCause(c.g.base)
	c.running[id] = cancel
	return ctx, true
}

// forget lets go of a call that is done or cancelled. The caller holds mu.
func (c *conn) forget(id uint32) {
	if cancel := c.running[id]; cancel != nil {
		delete(c.running, id)
		cancel(nil)
	}
	if len(c.running) == 0 {
		c.running = nil
	}
}

// cancel takes a call back, unless it was answered, or is a submit: that may have happened. False: there is no such call.
func (c *conn) cancel(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	cancel, under := c.running[id]
	if under {
		cancel(errCancelled)
		c.forget(id)
	}
	return under
}

// call runs a call beside the loop.
func (g *Gateway) call(f func()) {
	g.callsUnder.Add(1)
	g.calls.Go(func() {
		defer g.callsUnder.Add(-1)
		f()
	})
}

// refuse answers a call that a limit stopped. A submit takes its place in its key's queue for that: it failed, and so do
// those that came after it and wait.
func (c *conn) refuse(call *wire.Call, err error) {
	if call.Service == "" {
		call.Service = wire.ServiceIM
	}
	if call.Method == submitMethod {
		c.mu.Lock()
		key := call.Service + "\x00" + call.Key
		queue, busy := c.queues[key]
		if busy && c.queued < c.g.cfg.MaxQueue {
			c.queues[key] = append(queue, &work{call: call, err: err})
			c.queued++
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
	c.reply(call, nil, err)
	c.g.metrics.refused(call, err)
}

// runQueue runs a submit and then those that were queued behind it meanwhile. The first that fails fails the rest. What
// the client sends after it heard of the failure is no longer queued behind it.
func (c *conn) runQueue(key string, w *work) {
	for {
		body, err := c.run(c.g.base, w)
		if err == nil {
			c.reply(w.call, body, nil)
		}
		c.mu.Lock()
		queue := c.queues[key]
		if err != nil || len(queue) == 0 || c.over.Load() { // over: nobody hears; the client resends
			delete(c.queues, key)
			c.queued -= len(queue)
			c.calls--
			c.mu.Unlock()
			if err != nil {
				c.reply(w.call, nil, err)
				for _, behind := range queue {
					failed := im.Errorf(im.CodeQueueFailed, "a submit before this one failed: it was not tried")
					c.reply(behind.call, nil, failed)
					c.g.metrics.refused(behind.call, failed)
				}
			}
			return
		}
		w, queue[0] = queue[0], nil
		c.queues[key] = queue[1:]
		c.queued--
		c.mu.Unlock()
	}
}

// run runs a call.
func (c *conn) run(ctx context.Context, w *work) ([]byte, error) {
	if w.err != nil {
		c.g.metrics.refused(w.call, w.err)
		return nil, w.err
	}
	s := c.session.Load()
	result, err := c.g.forward(ctx, w.call.Trace, min(c.g.cfg.CallTimeout, time.Until(w.by)), im.Call{
		Service: w.call.Service, Method: w.call.Method, Key: w.call.Key, Body: w.call.Body,
		UID: s.uid, Device: s.device, Platform: s.platform, Seen: s.seenStamp(), MaxText: c.g.cfg.MaxText,
	})
	if err == nil && result.Stamp > 0 {
		s.raise(result.Stamp)
	}
	if err == nil {
		c.g.interested(s, result.Join, result.All)
	}
	return result.Body, err
}

func (c *conn) reply(call *wire.Call, body []byte, err error) {
	r := &wire.Reply{Id: call.Id, Body: body}
	if err != nil {
		r.Body, r.Error = nil, wire.ErrorFrame(err)
	}
	b, encodeErr := c.codec.EncodeReply(call.Service, call.Method, r)
	if encodeErr != nil {
		c.g.log.Error("a reply does not encode", "service", call.Service, "method", call.Method, "err", encodeErr)
		r.Body, r.Error = nil, wire.ErrorFrame(im.Errorf(im.CodeInternal, "the answer cannot be shown"))
		if b, encodeErr = c.codec.EncodeReply(call.Service, call.Method, r); encodeErr != nil {
			return
		}
	}
	c.sendEncoded(b)
}

// forward calls the backend of a service, with a deadline, a span and the error codes of the wire. A call that ctx ends by
// errCancelled is counted as such.
func (g *Gateway) forward(ctx context.Context, traceparent string, timeout time.Duration, call im.Call) (im.CallResult, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ctx, end := g.traceCall(ctx, traceparent, &call)
	began := time.Now()
	result, err := g.deps.Backend.Call(ctx, call)
	if err != nil && errors.Is(context.Cause(ctx), errCancelled) {
		end(nil)
		g.metrics.cancelled(&call)
		return result, errCancelled
	}
	if err != nil {
		if _, coded := errors.AsType[*im.Error](err); !coded {
			if ctx.Err() != nil {
				err = im.Errorf(im.CodeUnavailable, "%s.%s did not answer in time; a resend is safe", call.Service, call.Method)
			} else {
				g.log.ErrorContext(ctx, "a call failed without a code", "service", call.Service, "method", call.Method, "err", err)
			}
		}
	}
	end(err)
	g.metrics.called(&call, im.CodeOf(err), time.Since(began))
	return result, err
}
