package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
)

// Client is one login of one device.
//
// Lock order: mu, timelines.mu, outbox.mu, pulls.mu and marks.mu are never held together.
type Client struct {
	cfg       Config
	endpoints *endpoints
	streams   streams
	events    chan Event
	notices   chan Event    // of the connection; the applier puts them into events
	inbox     chan inbound  // pushes to apply
	work      chan work     // pulls' answers to apply
	sync      chan string   // asks for a list, with the reason; at most one is waiting
	recheck   chan struct{} // nudges the syncer: when it is due may have changed
	moved     chan struct{} // tells the connect loop that the network is another one
	closing   chan struct{}
	applied   chan struct{} // closed when the applier is done
	closeOnce sync.Once

	ctx  context.Context // ends with the client; its cause says why
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	spawning sync.Mutex // no goroutine is added while Close waits
	closed   bool

	mu      sync.Mutex
	cur     *conn         // nil while there is none
	changed chan struct{} // closed when cur changes
	lostAt  time.Time     // when cur became nil
	session *session
	state   State
	uid     im.UID
	origin  im.Origin     // of the last welcome
	offset  time.Duration // server clock minus own, by the last welcome
	known   bool          // offset is
	heard   time.Time     // when a record last came

	carrier   carrier // of the connect loop
	heart     heart
	timelines timelines
	outbox    outbox
	pulls     pulls
	marks     marks
	records   pages // of pulls
	rows      pages // of lists
	typing    typing
}

type timelines struct {
	mu   sync.Mutex
	of   map[im.Conversation]*timeline.Timeline
	mine map[im.Conversation]*mine // of groups
}

// mine is what this client knows of its own membership of a group.
type mine struct {
	timeline.Membership
	ended im.Region // a list of this region said that the client is no member
	again im.Cursor // of additions that stand before one that was known: to be pulled from the beginning
}

// New returns a Client that connects in the background, until Close. It fails only on a bad Config.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, endpoints: newEndpoints(&cfg),
		events: make(chan Event, cfg.EventBuffer), notices: make(chan Event, 64),
		inbox: make(chan inbound, cfg.Inbox), work: make(chan work), sync: make(chan string, 1), recheck: make(chan struct{}, 1),
		moved: make(chan struct{}, 1), closing: make(chan struct{}), applied: make(chan struct{}), changed: make(chan struct{}), lostAt: time.Now(), heard: time.Now(), uid: cfg.UID,
	}
	c.timelines.of = map[im.Conversation]*timeline.Timeline{}
	c.timelines.mine = map[im.Conversation]*mine{}
	c.outbox.queues = map[im.Conversation]*queue{}
	c.pulls.running = map[im.Conversation]*pulling{}
	c.pulls.slots = make(chan struct{}, pullSlots)
	c.marks.of = map[im.Conversation]*mark{}
	c.marks.wake = make(chan struct{}, 1)
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	c.wg.Go(c.connectLoop)
	c.wg.Go(c.syncLoop)
	c.wg.Go(c.markLoop)
	// The applier outlives the others, so that none of them blocks on it; it closes events.
	go c.apply()
	return c, nil
}

// Dial is New, and waits until the first gateway took the login.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.Ready(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Ready waits until the client is connected.
func (c *Client) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		cur, changed := c.cur, c.changed
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return public(context.Cause(c.ctx))
		}
		if cur != nil && cur.cause() == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("client: not connected: %w", context.Cause(ctx))
		case <-c.ctx.Done():
			return public(context.Cause(c.ctx))
		}
	}
}

// Events returns what happens; it is closed after Stopped. It must be read: while its buffer is full, nothing is applied.
func (c *Client) Events() <-chan Event { return c.events }

// Close says goodbye, ends every goroutine of the client and closes Events. Submits under way return ErrClosed.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		close(c.closing)
		c.mu.Lock()
		cur := c.cur
		c.mu.Unlock()
		if cur != nil && c.ctx.Err() == nil {
			cur.bye()
		}
		c.stop(ErrClosed)
		c.spawning.Lock()
		c.closed = true
		c.spawning.Unlock()
		c.wg.Wait()
		<-c.applied
		c.cfg.HTTP.CloseIdleConnections()
	})
	return nil
}

// await returns the way to call: the socket, or after a long time without one the HTTP fallback.
func (c *Client) await(ctx context.Context) (caller, error) {
	for {
		c.mu.Lock()
		cur, changed, lost := c.cur, c.changed, c.lostAt
		c.mu.Unlock()
		if cur != nil && cur.cause() == nil {
			return cur, nil
		}
		wait := time.Until(lost.Add(ms(c.endpoints.currentPolicy().PollFallbackMs)))
		if cur != nil { // it is dead, and about to be replaced by nil
			wait = time.Second
		} else if wait <= 0 {
			if f := c.fallbackTo(""); f != nil {
				return f, nil
			}
			wait = time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
		t.Stop()
		if c.ctx.Err() != nil {
			return nil, public(context.Cause(c.ctx))
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// current tells whether a conn is the one to use.
func (c *Client) current(k *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur == k
}

// notice tells of the connection; one that nobody takes for long is dropped.
func (c *Client) notice(e Event) {
	select {
	case c.notices <- e:
	default:
	}
}

// now is the server's clock, as far as it is known: by a welcome, else by an ipconf.
func (c *Client) now() time.Time {
	c.mu.Lock()
	offset, known := c.offset, c.known
	c.mu.Unlock()
	if !known {
		offset = c.endpoints.clock()
	}
	return time.Now().Add(offset)
}

// spawn runs fn in a goroutine that Close waits for; false after Close.
func (c *Client) spawn(fn func()) bool {
	c.spawning.Lock()
	defer c.spawning.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(fn)
	return true
}

// UID returns who this is, once connected.
func (c *Client) UID() im.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.uid
}

// Region returns the region that serves this client, and the origin under which it accepts; empty before the first
// connection.
func (c *Client) Region() (im.Region, im.Origin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.origin.Region(), c.origin
}

// Messages returns the messages kept of a conversation, in place order.
func (c *Client) Messages(conversation im.Conversation) []Message {
	c.timelines.mu.Lock()
	defer c.timelines.mu.Unlock()
	if t := c.timelines.of[conversation]; t != nil {
		return t.Messages()
	}
	return nil
}

// Cursor returns what the client has of a conversation without a gap.
func (c *Client) Cursor(conversation im.Conversation) im.Cursor {
	c.timelines.mu.Lock()
	defer c.timelines.mu.Unlock()
	if t := c.timelines.of[conversation]; t != nil {
		return t.Cursor()
	}
	return nil
}

// with runs fn on a conversation's timeline, which it makes if need be. fn must not block.
func (c *Client) with(conversation im.Conversation, fn func(t *timeline.Timeline)) {
	c.timelines.mu.Lock()
	defer c.timelines.mu.Unlock()
	t := c.timelines.of[conversation]
	if t == nil {
		t = timeline.New(conversation, timeline.Limits{Keep: c.cfg.Keep})
		c.timelines.of[conversation] = t
	}
	fn(t)
}

// missing lists the gaps of a conversation.
func (c *Client) missing(conversation im.Conversation) (gaps []timeline.Gap) {
	c.with(conversation, func(t *timeline.Timeline) { gaps = t.Missing() })
	return gaps
}

// ask runs one method by whichever way there is, with the call timeout.
func (c *Client) ask(ctx context.Context, method string, conversation im.Conversation, body []byte) ([]byte, error) {
	way, err := c.await(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	b, err := way.call(ctx, method, string(conversation), body)
	return b, public(err)
}
