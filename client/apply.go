package client

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// inbound is a push on its way to the applier.
type inbound struct {
	conn  *conn
	push  uint64
	event *wire.Event
}

// work is a pull's answer on its way to the applier, which closes done.
type work struct {
	conversation im.Conversation
	page         *wire.PullResponse
	again        bool // a pull from the beginning
	from         im.Region
	err          *error
	done         chan struct{}
}

// onPush counts a push and hands it on. A push that finds the inbox full is dropped: the list that is asked for then
// brings what it carried.
func (c *Client) onPush(k *conn, p *wire.Push) {
	if p.Number == 0 { // ephemeral
		event := new(wire.Event)
		if wire.Unmarshal(p.Body, event) == nil && event.GetTyping() != nil {
			select {
			case c.inbox <- inbound{conn: k, event: event}:
			default:
			}
		}
		return
	}
	c.mu.Lock()
	s := k.session
	next := s.pushed + 1
	if p.Number >= next {
		s.pushed = p.Number
	}
	c.heard = time.Now()
	c.mu.Unlock()
	if p.Number < next { // sent again: the ack was lost
		k.pushAck(p.Number)
		return
	}
	if p.Number > next {
		c.resync("pushes are missing")
	}
	event := new(wire.Event)
	if p.Service != "" && p.Service != wire.ServiceIM || p.Method != wire.MethodEvent || wire.Unmarshal(p.Body, event) != nil {
		k.pushAck(p.Number) // of a service or version that this client does not know
		return
	}
	select {
	case c.inbox <- inbound{k, p.Number, event}:
	default:
		c.resync("the inbox is full")
	}
}

func (c *Client) onBehind(k *conn, b *wire.Behind) {
	c.mu.Lock()
	k.session.pushed = max(k.session.pushed, b.Number)
	c.mu.Unlock()
	k.pushAck(b.Number)
	c.resync("the gateway dropped pushes")
}

// apply is the one goroutine that changes timelines and emits their changes, so that events have the order of the
// changes.
func (c *Client) apply() {
	defer close(c.applied)
	defer close(c.events)
	typists := newTypists()
	defer typists.end()
	for {
		select {
		case e := <-c.notices: // what the connection does comes before what it brings
			c.emit(e)
			continue
		default:
		}
		select {
		case e := <-c.notices:
			c.emit(e)
		case in := <-c.inbox:
			c.applyPush(in, typists)
		case w := <-c.work:
			c.applyPage(w, typists)
		case <-typists.due.C:
			for _, t := range typists.expired(time.Now()) {
				c.emit(t)
			}
		case <-c.ctx.Done():
			for {
				select {
				case e := <-c.notices:
					c.emitLast(e)
					continue
				default:
				}
				break
			}
			c.emitLast(Stopped{Err: public(context.Cause(c.ctx))})
			return
		}
	}
}

func (c *Client) emit(e Event) {
	select {
	case c.events <- e:
	case <-c.ctx.Done():
	}
}

// emitLast waits for the reader even after the client stopped, but not after Close.
func (c *Client) emitLast(e Event) {
	select {
	case c.events <- e:
		return
	default:
	}
	select {
	case c.events <- e:
	case <-c.closing:
	}
}

func (c *Client) applyPush(in inbound, typists *typists) {
	defer in.conn.pushAck(in.push)
	from := im.Region(in.event.From)
	switch e := in.event.Event.(type) {
	case *wire.EventRecord:
		r := e.Record
		conversation, err := im.ParseConversation(r.GetConversation())
		if err != nil {
			return
		}
		var changes []timeline.Change
		gap, again := false, c.hearOfMe(conversation, r)
		c.with(conversation, func(t *timeline.Timeline) {
			changes, err = t.Add(r)
			c.skipHistory(t)
			gap = !t.Complete()
		})
		if err != nil {
			c.cfg.Logger.Warn("a pushed record is malformed", "gateway", in.conn.endpoint.ID, "error", err)
		}
		c.emitChanges(conversation, changes, from, typists)
		if gap || again {
			c.pull(conversation, cause{gap: true})
		}
	case *wire.EventReceipt:
		c.applyReceipt(e.Receipt)
	case *wire.EventTyping:
		if e.Typing.Uid == string(c.UID()) { // another device of the own
			return
		}
		if t, news := typists.hear(e.Typing, time.Now()); news {
			c.emit(t)
		}
	}
}

func (c *Client) applyReceipt(r *wire.Receipt) {
	if receipt, err := receiptOf(r); err == nil {
		c.emit(receipt)
	}
}

func receiptOf(r *wire.Receipt) (Receipt, error) {
	conversation, err := im.ParseConversation(r.GetConversation())
	if err != nil {
		return Receipt{}, err
	}
	delivered, err := im.ParseCursor(r.Delivered)
	if err != nil {
		return Receipt{}, err
	}
	read, err := im.ParseCursor(r.Read)
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{conversation, im.UID(r.Uid), delivered, read}, nil
}

func (c *Client) applyPage(w work, typists *typists) {
	defer close(w.done)
	var changes []timeline.Change
	again := c.hearOfMe(w.conversation, w.page.Records...)
	c.with(w.conversation, func(t *timeline.Timeline) {
		if w.again {
			changes, *w.err = t.AddAgain(w.page)
		} else {
			changes, *w.err = t.AddPage(w.page)
		}
	})
	c.emitChanges(w.conversation, changes, w.from, typists)
	if again {
		c.pull(w.conversation, cause{gap: true})
	}
}

// applyPull hands a pull's answer to the applier and waits until it is in the timeline.
func (c *Client) applyPull(ctx context.Context, conversation im.Conversation, page *wire.PullResponse, again bool, from im.Region) error {
	var err error
	w := work{conversation, page, again, from, &err, make(chan struct{})}
	select {
	case c.work <- w:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	<-w.done // the applier ends only after what it took
	return err
}

func (c *Client) emitChanges(conversation im.Conversation, changes []timeline.Change, from im.Region, typists *typists) {
	if len(changes) == 0 {
		return
	}
	me := c.UID()
	others := false
	for _, ch := range changes {
		switch ch.Kind {
		case timeline.Inserted:
			others = others || ch.Message.Sender != me
			c.received(ch.Message, from)
			c.emit(Inserted{conversation, ch.Message, ch.Index, from})
			if t, news := typists.stop(conversation, ch.Message.Sender); news {
				c.emit(t)
			}
		case timeline.Moved:
			c.emit(Moved{conversation, ch.Message, ch.From, ch.Index})
		case timeline.Trimmed:
			c.emit(Trimmed{conversation, ch.Count})
		}
	}
	c.mu.Lock()
	c.heard = time.Now()
	c.mu.Unlock()
	if others {
		c.mark(conversation, false)
	}
}

// received makes the span receive of a sampled record: the end of the trace that its submit began.
func (c *Client) received(m Message, from im.Region) {
	if m.Trace == "" {
		return
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": m.Trace})
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return
	}
	region, _ := c.Region()
	_, span := c.cfg.Tracer.Start(ctx, "receive", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("conversation", string(m.Conversation)), attribute.String("place", m.Place.String()),
		attribute.String("region", string(region)), attribute.String("from", string(from))))
	span.End()
}
