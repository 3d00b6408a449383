package client

import (
	"context"
	"slices"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// hearOfMe takes what records say of this client's own membership. It tells whether one makes readable what a pull may have
// covered as hidden before: then the conversation is to be pulled from the beginning.
func (c *Client) hearOfMe(conversation im.Conversation, records ...*wire.Record) (again bool) {
	if !isGroup(conversation) {
		return false
	}
	me := c.UID()
	c.timelines.mu.Lock()
	defer c.timelines.mu.Unlock()
	m := c.timelines.own(conversation)
	added, earlier := m.Hear(me, records...)
	if added {
		m.ended = ""
	}
	for _, p := range earlier {
		m.again = m.again.Merge(im.Cursor{p.Origin: p.Seq})
	}
	return len(earlier) > 0
}

func isGroup(c im.Conversation) bool {
	lane := c.Lane()
	return lane == im.LaneGroup || lane == im.LaneSuper
}

// own returns what is known of the client's membership; mu is held.
func (t *timelines) own(conversation im.Conversation) *mine {
	m := t.mine[conversation]
	if m == nil {
		m = new(mine)
		t.mine[conversation] = m
	}
	return m
}

// belongs takes a list's word: ended is the region that said that the client is no member, or empty if it is one. The lock of
// the timelines is held.
func (c *Client) belongs(conversation im.Conversation, ended im.Region) {
	if m := c.timelines.mine[conversation]; m != nil || ended != "" {
		c.timelines.own(conversation).ended = ended
	}
}

// ended tells that a region has given all it has of a conversation. If it is the one that said that this client is no member, what
// is missing will not come: an earlier list, or a push, promised what now lies past the removal.
func (c *Client) ended(conversation im.Conversation, from im.Region) {
	c.with(conversation, func(t *timeline.Timeline) {
		if m := c.timelines.mine[conversation]; m != nil && m.ended != "" && m.ended == from {
			t.Unwant()
			m.again = nil
		}
	})
}

// again is what a pull from the beginning must cover, if there is to be one.
func (c *Client) again(conversation im.Conversation) im.Cursor {
	c.timelines.mu.Lock()
	defer c.timelines.mu.Unlock()
	if m := c.timelines.mine[conversation]; m != nil {
		return m.again.Clone()
	}
	return nil
}

// pullAgain pulls a conversation from its beginning: from the own region if it has heard of the additions that want names, else from
// where they were made. done tells whether there was one that has.
func (c *Client) pullAgain(conversation im.Conversation, want im.Cursor) (done bool, err error) {
	select {
	case c.pulls.slots <- struct{}{}:
		defer func() { <-c.pulls.slots }()
	case <-c.ctx.Done():
		return false, context.Cause(c.ctx)
	}
	own, err := c.await(c.ctx)
	if err != nil {
		return false, err
	}
	ways := []caller{own}
	asked := []im.Region{own.region()}
	for o := range want {
		if f := c.fallbackTo(o.Region()); f != nil && !slices.Contains(asked, o.Region()) {
			ways, asked = append(ways, f), append(asked, o.Region())
		}
	}
	target := want.Merge(c.Cursor(conversation)) // all that was covered may have been hidden
	var errs []error
	for _, way := range ways {
		covered, err := c.pullAll(way, conversation, target)
		if covered {
			c.timelines.mu.Lock()
			if m := c.timelines.mine[conversation]; m != nil && want.CoversAll(m.again) {
				m.again = nil
			}
			c.timelines.mu.Unlock()
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, worst(errs)
}

// pullAll pulls everything that a region has, from the beginning. It tells whether that covers target.
func (c *Client) pullAll(way caller, conversation im.Conversation, target im.Cursor) (bool, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.CallTimeout)
	defer cancel()
	var cursor im.Cursor
	c.with(conversation, func(t *timeline.Timeline) { cursor = t.Skipped() })
	for {
		page, err := c.pullPage(ctx, way, conversation, cursor, true)
		if err != nil {
			return false, err
		}
		next, err := im.ParseCursor(page.Cursor)
		if err != nil {
			return false, err
		}
		if !page.More {
			c.ended(conversation, way.region())
			return next.CoversAll(target), nil
		}
		if cursor.CoversAll(next) {
			return false, im.Errorf(im.CodeInternal, "a pull of %s from %s says more and goes no further", conversation, way.region())
		}
		cursor = next
	}
}
