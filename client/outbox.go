package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// ownEcho is how long after an ack the own record may take to come back before it is asked for.
const ownEcho = 3 * time.Second

// outbox holds submits until they are acked or refused: one queue a conversation, each sent in its order.
type outbox struct {
	mu     sync.Mutex
	queues map[im.Conversation]*queue
	total  int
	echoes map[im.Conversation]echo // acked and not heard of yet; the latest of each conversation
}

type echo struct {
	id  im.ID
	due time.Time
}

// queue is the submits of one conversation, oldest first. One goroutine sends them while there are any.
type queue struct {
	conversation im.Conversation
	entries      []*Submission
	wake         chan struct{} // an entry was added
}

// Submission is a submit under way.
type Submission struct {
	conversation im.Conversation
	request      *wire.SubmitRequest // content and ack level
	trace        string
	span         trace.Span // may be nil

	done chan struct{}
	once sync.Once
	ack  im.Ack
	err  error

	sent bool // in this round; guarded by the outbox's mu

	mu       sync.Mutex
	id       im.UUID // chosen when it is first sent: on the server's clock
	attempts int
	unwatch  func() bool
}

// Done is closed when the submission was acked, refused, or given up.
func (s *Submission) Done() <-chan struct{} { return s.done }

// ClientID is the id it is sent under; zero until it is first sent.
func (s *Submission) ClientID() im.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

func (s *Submission) tries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempts
}

// Wait waits for the outcome.
func (s *Submission) Wait() (im.Ack, error) {
	<-s.done
	return s.ack, s.err
}

func (s *Submission) resolve(ack im.Ack, err error) {
	s.once.Do(func() {
		s.ack, s.err = ack, err
		s.mu.Lock()
		attempts, unwatch := s.attempts, s.unwatch
		s.mu.Unlock()
		if unwatch != nil {
			unwatch()
		}
		if s.span != nil {
			endSpan(s.span, attempts, ack, err)
		}
		close(s.done)
	})
}

func (s *Submission) resolved() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// post queues a submit. It is tried until it has an outcome, ctx ends, or the client stops.
func (c *Client) post(ctx context.Context, conversation im.Conversation, request *wire.SubmitRequest) (*Submission, error) {
	if _, err := im.ParseConversation(string(conversation)); err != nil {
		return nil, im.Errorf(im.CodeBadConversation, "%v", err)
	}
	if _, err := wire.Marshal(request); err != nil { // no gateway would ever see it, however often it is tried
		return nil, im.Errorf(im.CodeBadRequest, "the submit cannot be sent: %v", err)
	}
	if c.ctx.Err() != nil {
		return nil, public(context.Cause(c.ctx))
	}
	s := &Submission{conversation: conversation, request: request, done: make(chan struct{})}
	s.trace, s.span = c.startSubmit(ctx, conversation)
	o := &c.outbox
	unwatch := context.AfterFunc(ctx, func() {
		s.resolve(im.Ack{}, fmt.Errorf("submit: %w; whether it was accepted is not known", context.Cause(ctx)))
		o.mu.Lock()
		defer o.mu.Unlock()
		if q := o.queues[conversation]; q != nil && !s.sent {
			o.remove(q, s)
		}
	})
	s.mu.Lock()
	s.unwatch = unwatch
	s.mu.Unlock()
	o.mu.Lock()
	if o.total >= c.cfg.Outbox {
		o.mu.Unlock()
		err := im.Errorf(im.CodeOverloaded, "%d submits wait already; Config.Outbox bounds them", c.cfg.Outbox)
		s.resolve(im.Ack{}, err)
		return nil, err
	}
	o.total++
	q := o.queues[conversation]
	if q == nil {
		q = &queue{conversation: conversation, wake: make(chan struct{}, 1)}
		if !c.spawn(func() { c.drain(q) }) {
			o.total--
			o.mu.Unlock()
			s.resolve(im.Ack{}, ErrClosed)
			return nil, ErrClosed
		}
		o.queues[conversation] = q
	}
	q.entries = append(q.entries, s)
	o.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return s, nil
}

// remove takes a submission out of its queue; mu is held.
func (o *outbox) remove(q *queue, s *Submission) {
	if i := slices.Index(q.entries, s); i >= 0 {
		q.entries = slices.Delete(q.entries, i, i+1)
		o.total--
	}
}

// drain sends a queue until it is empty.
func (c *Client) drain(q *queue) {
	o := &c.outbox
	failures := 0
	for {
		o.mu.Lock()
		for _, s := range slices.Clone(q.entries) {
			s.sent = false
			if s.resolved() {
				o.remove(q, s)
			}
		}
		if len(q.entries) == 0 {
			delete(o.queues, q.conversation)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		way, err := c.await(c.ctx)
		if err != nil {
			c.abandon(q, err)
			return
		}
		progress, err := c.send(q, way)
		if progress {
			failures = 0
		}
		if err == nil || isLost(err) {
			continue // await waits for the next connection, with its own back-off
		}
		failures++
		c.notice(Retried{Conversation: q.conversation, Err: public(err)})
		if sleep(c.ctx, delay(c.endpoints.currentPolicy(), failures, err)) != nil {
			continue
		}
	}
}

// abandon fails what is queued when the client stops.
func (c *Client) abandon(q *queue, err error) {
	o := &c.outbox
	o.mu.Lock()
	entries := q.entries
	q.entries = nil
	o.total -= len(entries)
	delete(o.queues, q.conversation)
	o.mu.Unlock()
	for _, s := range entries {
		s.resolve(im.Ack{}, err)
	}
}

// next returns the oldest submission that was not sent in this round.
func (o *outbox) next(q *queue) *Submission {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range q.entries {
		if !s.sent && !s.resolved() {
			s.sent = true
			return s
		}
	}
	return nil
}

// outcome is a reply to one submission.
type outcome struct {
	s    *Submission
	body []byte
	err  error
}

// send is one round: it sends the queue in order over one way, several at a time, until the queue is empty, the way is
// no longer the one to use, or one fails. After a failure nothing more is sent in this round, and the round ends when
// every answer is in: so the next round starts with the oldest that has no outcome, in order.
func (c *Client) send(q *queue, way caller) (progress bool, failed error) {
	width := c.cfg.Pipeline
	k, socket := way.(*conn)
	if !socket {
		width = 1 // the HTTP fallback keeps no order between calls
	}
	outcomes := make(chan outcome, width)
	var sent []time.Time // of those under way
	timeout := time.NewTimer(c.cfg.CallTimeout)
	defer timeout.Stop()
	for {
		for failed == nil && len(sent) < width && c.current(k) {
			if socket && !k.slot() {
				break
			}
			s := c.outbox.next(q)
			if s == nil {
				if socket {
					k.release()
				}
				break
			}
			body, err := c.encode(s)
			if err != nil {
				if socket {
					k.release()
				}
				_ = c.settle(q, outcome{s, nil, err}) // it returns the error that it was given
				continue
			}
			sent = append(sent, time.Now())
			if len(sent) == 1 {
				timeout.Reset(c.cfg.CallTimeout)
			}
			if socket {
				k.start(wire.MethodSubmit, string(q.conversation), body, s.trace, func(b []byte, err error) {
					k.release()
					outcomes <- outcome{s, b, err}
				})
				continue
			}
			ctx, cancel := context.WithTimeout(c.ctx, c.cfg.CallTimeout)
			b, err := way.call(ctx, wire.MethodSubmit, string(q.conversation), body)
			cancel()
			outcomes <- outcome{s, b, err}
		}
		if len(sent) == 0 {
			if failed == nil && socket && c.current(k) && c.outbox.waiting(q) {
				failed = im.Errorf(im.CodeOverloaded, "too many calls are under way") // no slot: soon
			}
			return progress, failed
		}
		select {
		case r := <-outcomes:
			sent = sent[1:]
			if err := c.settle(q, r); err == nil {
				progress = true
			} else if failed == nil || im.CodeOf(failed) == im.CodeQueueFailed {
				failed = err // the one that made the others fail says when to come back
			}
			if len(sent) > 0 {
				timeout.Reset(time.Until(sent[0].Add(c.cfg.CallTimeout)))
			}
		case <-q.wake:
		case <-timeout.C:
			if socket { // its calls fail now
				k.fail(&im.Error{Code: im.CodeUnavailable, Detail: fmt.Sprintf("gateway %s did not answer within %v", k.endpoint.ID, c.cfg.CallTimeout)})
			}
		}
	}
}

// waiting tells whether there is anything to send.
func (o *outbox) waiting(q *queue) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(q.entries, func(s *Submission) bool { return !s.sent && !s.resolved() })
}

// encode returns a submission's request, which gets its client_id here at the first time.
func (c *Client) encode(s *Submission) ([]byte, error) {
	var seen im.Stamp
	c.with(s.conversation, func(t *timeline.Timeline) { seen = t.Seen() })
	s.mu.Lock()
	s.attempts++
	if s.id.IsZero() {
		s.id = im.NewUUID(c.now())
	}
	s.request.ClientId = s.id.String()
	s.mu.Unlock()
	s.request.Conversation = string(s.conversation)
	s.request.Seen = uint64(seen)
	return wire.Marshal(s.request)
}

// settle takes a reply. It returns an error if the submission must be sent again.
func (c *Client) settle(q *queue, r outcome) error {
	err := r.err
	var ack im.Ack
	if err == nil {
		ack, err = c.acked(r.s, r.body)
	}
	if err != nil && actionOf(err) != im.ActionStop {
		return err
	}
	if err == nil {
		c.with(q.conversation, func(t *timeline.Timeline) { t.See(ack.Stamp) })
	}
	o := &c.outbox
	o.mu.Lock()
	o.remove(q, r.s)
	if err == nil {
		if o.echoes == nil {
			o.echoes = map[im.Conversation]echo{}
		}
		o.echoes[q.conversation] = echo{ack.ID, time.Now().Add(ownEcho)}
	}
	o.mu.Unlock()
	if err == nil {
		c.nudge()
	}
	r.s.resolve(ack, public(err))
	return nil
}

func (c *Client) acked(s *Submission, body []byte) (im.Ack, error) {
	var r wire.SubmitResponse
	if err := wire.Unmarshal(body, &r); err != nil {
		return im.Ack{}, im.Errorf(im.CodeUnavailable, "the ack does not decode: %v", err)
	}
	if r.ClientId != s.ClientID().String() || r.Conversation != string(s.conversation) {
		return im.Ack{}, im.Errorf(im.CodeUnavailable, "the ack is of %s in %q", r.ClientId, r.Conversation)
	}
	return im.Ack{
		ID:    im.ID{Conversation: s.conversation, Sender: c.UID(), ClientID: s.ClientID()},
		Stamp: im.Stamp(r.Stamp), Origin: im.Origin(r.Origin), Global: r.Global,
	}, nil
}

// echoDue is when the first own record that was not heard of yet is asked for.
func (o *outbox) echoDue() (due time.Time, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.echoes {
		if !ok || e.due.Before(due) {
			due, ok = e.due, true
		}
	}
	return due, ok
}

// echoMissing forgets the own records that are due, and tells whether any was not heard of.
func (o *outbox) echoMissing(has func(im.ID) bool) bool {
	o.mu.Lock()
	var due []im.ID
	now := time.Now()
	for conversation, e := range o.echoes {
		if !e.due.After(now) {
			due = append(due, e.id)
			delete(o.echoes, conversation)
		}
	}
	o.mu.Unlock()
	return slices.ContainsFunc(due, func(id im.ID) bool { return !has(id) })
}
