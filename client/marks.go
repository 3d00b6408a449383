package client

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// marks are the delivered and read cursors to tell. Delivered is told by itself when something of others arrives; read
// when the caller says so. Both only grow, so only the latest is sent, and it is sent again while the region cuts it off
// because it has not applied as much yet (a notify, or another region's answer, was faster).
type marks struct {
	mu   sync.Mutex
	of   map[im.Conversation]*mark
	wake chan struct{}
}

type mark struct {
	want, took cursors
	due        time.Time // when to send next; zero: nothing to send
	after      time.Time // not before
	failures   int
}

type cursors struct{ delivered, read im.Cursor }

func (c cursors) covers(d cursors) bool {
	return c.delivered.CoversAll(d.delivered) && c.read.CoversAll(d.read)
}

// Read marks what the client has of a conversation now as read. It is told soon, and until the region has taken it.
func (c *Client) Read(conversation im.Conversation) { c.mark(conversation, true) }

// mark wants the conversation's cursor told as delivered, and as read too if read is set.
func (c *Client) mark(conversation im.Conversation, read bool) {
	cursor := c.Cursor(conversation)
	if len(cursor) == 0 {
		return
	}
	k := &c.marks
	k.mu.Lock()
	m := k.entry(conversation)
	m.want.delivered = m.want.delivered.Merge(cursor)
	if read {
		m.want.read = m.want.read.Merge(cursor)
	}
	if m.due.IsZero() && !m.took.covers(m.want) {
		m.due = time.Now()
		if m.due.Before(m.after) {
			m.due = m.after
		}
	}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *marks) entry(conversation im.Conversation) *mark {
	m := k.of[conversation]
	if m == nil {
		m = new(mark)
		k.of[conversation] = m
	}
	return m
}

// taken notes what the servers are known to have.
func (k *marks) taken(conversation im.Conversation, delivered, read string) {
	d, err1 := im.ParseCursor(delivered)
	r, err2 := im.ParseCursor(read)
	if err1 != nil || err2 != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.entry(conversation)
	m.took = cursors{m.took.delivered.Merge(d), m.took.read.Merge(r)}
}

// next returns a conversation whose mark is due, or when the next one is.
func (k *marks) next(now time.Time) (conversation im.Conversation, want cursors, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait = time.Hour
	for id, m := range k.of {
		if m.due.IsZero() {
			continue
		}
		if !m.due.After(now) {
			return id, m.want, 0
		}
		wait = min(wait, m.due.Sub(now))
	}
	return "", cursors{}, wait
}

// markLoop tells marks, one call at a time, each conversation at most once per interval.
func (c *Client) markLoop() {
	for c.ctx.Err() == nil {
		conversation, want, wait := c.marks.next(time.Now())
		if conversation == "" {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-c.marks.wake:
			case <-c.ctx.Done():
			}
			t.Stop()
			continue
		}
		took, err := c.tell(conversation, want)
		c.marks.told(conversation, took, err, func(failures int) time.Time {
			p := c.endpoints.currentPolicy()
			if failures == 0 {
				return time.Now().Add(ms(p.MarkIntervalMs))
			}
			return time.Now().Add(max(ms(p.MarkIntervalMs), delay(p, failures, err)))
		})
	}
}

// told takes the answer to a mark, and says when the conversation's next one may go.
func (k *marks) told(conversation im.Conversation, took cursors, err error, next func(failures int) time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.entry(conversation)
	if err != nil && actionOf(err) == im.ActionStop {
		m.due, m.took = time.Time{}, m.want // refused: not again until there is more to tell
		return
	}
	before := m.took
	m.took = cursors{m.took.delivered.Merge(took.delivered), m.took.read.Merge(took.read)}
	m.failures++
	if err == nil && (!before.covers(m.took) || m.took.covers(m.want)) {
		m.failures = 0
	}
	m.after = next(m.failures)
	m.due = m.after
	if m.took.covers(m.want) {
		m.due = time.Time{}
	}
}

func (c *Client) tell(conversation im.Conversation, want cursors) (cursors, error) {
	body, err := wire.Marshal(&wire.MarkRequest{
		Conversation: string(conversation), Delivered: want.delivered.String(), Read: want.read.String(),
	})
	if err != nil {
		return cursors{}, err
	}
	way, err := c.await(c.ctx)
	if err != nil {
		return cursors{}, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.CallTimeout)
	defer cancel()
	b, err := way.call(ctx, wire.MethodMark, string(conversation), body)
	if err != nil {
		return cursors{}, err
	}
	var r wire.MarkResponse
	if err := wire.Unmarshal(b, &r); err != nil {
		return cursors{}, err
	}
	delivered, err := im.ParseCursor(r.Delivered)
	if err != nil {
		return cursors{}, err
	}
	read, err := im.ParseCursor(r.Read)
	return cursors{delivered, read}, err
}
