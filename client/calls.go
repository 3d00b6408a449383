package client

import (
	"context"
	"errors"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// SubmitOption changes a submit.
type SubmitOption func(*wire.SubmitRequest)

// WithAck asks for an ack level (default im.AckRegion). An ack with Global false after im.AckGlobal means that no peer
// took it in time: accepted in region only.
func WithAck(l im.AckLevel) SubmitOption { return func(r *wire.SubmitRequest) { r.Ack = string(l) } }

// Submit sends a text and waits for its ack, trying again under the same client_id wherever that may help, on any gateway
// of any region, until ctx ends. An *im.Error says why it is refused for good; with ctx's error it may have landed.
//
// Submits of one conversation are sent in the order of the calls. To send without waiting, use Post.
func (c *Client) Submit(ctx context.Context, conversation im.Conversation, text string, opts ...SubmitOption) (im.Ack, error) {
	s, err := c.Post(ctx, conversation, text, opts...)
	if err != nil {
		return im.Ack{}, err
	}
	return s.Wait()
}

// Post queues a text and returns at once. Its Submission ends like a Submit; ctx bounds the whole of it.
func (c *Client) Post(ctx context.Context, conversation im.Conversation, text string, opts ...SubmitOption) (*Submission, error) {
	if text == "" {
		return nil, im.Errorf(im.CodeBadText, "the text is empty")
	}
	if limit := c.maxText(); limit > 0 && len(text) > limit {
		return nil, im.Errorf(im.CodeTextTooLong, "the text has %d bytes; at most %d are allowed", len(text), limit)
	}
	r := &wire.SubmitRequest{Ack: string(im.AckRegion), Content: &wire.SubmitText{Text: &wire.Text{Text: text}}}
	for _, opt := range opts {
		opt(r)
	}
	return c.post(ctx, conversation, r)
}

// maxText is the limit that the last welcome told, 0 if there was none.
func (c *Client) maxText() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur == nil {
		return 0
	}
	return int(c.cur.welcome.MaxTextBytes)
}

// createTries bounds how often a group's origin is asked over HTTP after the client has moved to another region.
const createTries = 5

// CreateGroup creates a group of the caller and members, and returns its id once the record is durable.
//
// A group is created in the origin that its id names: the one of the region that serves this client at the time. If the
// client is moved to another region before it has the ack, that one answers wrong_region. Then, if the record cannot have
// landed, it is created anew there; if it may have, the region of the first try is asked over HTTP with the same ids, and
// wrong_region is returned when it does not answer: the group may exist, and appears in the list if it does.
//
// A group begins within about 2 minutes of the making of its id. If no try reaches the region in that time, the error is
// bad_conversation: there is no such group and never will be, and calling again makes another.
func (c *Client) CreateGroup(ctx context.Context, title string, members []im.UID) (im.Conversation, error) {
	for {
		if err := c.Ready(ctx); err != nil {
			return "", err
		}
		region, origin := c.Region()
		group := im.Group(origin, im.NewUUID(c.now()))
		create := &wire.Create{Title: title}
		for _, m := range members {
			create.Members = append(create.Members, string(m))
		}
		s, err := c.post(ctx, group, &wire.SubmitRequest{Ack: string(im.AckRegion), Content: &wire.SubmitCreate{Create: create}})
		if err != nil {
			return "", err
		}
		_, err = s.Wait()
		switch {
		case im.CodeOf(err) != im.CodeWrongRegion:
			return group, err
		case s.tries() <= 1:
			continue
		}
		return group, c.createAt(ctx, region, s, err)
	}
}

// createAt repeats a create in the region that its id names.
func (c *Client) createAt(ctx context.Context, region im.Region, s *Submission, refused error) error {
	for try := 1; try <= createTries; try++ {
		if f := c.fallbackTo(region); f != nil {
			body, err := c.encode(s)
			if err != nil {
				return err
			}
			b, err := f.call(ctx, wire.MethodSubmit, string(s.conversation), body)
			if err == nil {
				_, err = c.acked(s, b)
				return err
			}
			if actionOf(err) == im.ActionStop {
				return public(err)
			}
		}
		if err := sleep(ctx, delay(c.endpoints.currentPolicy(), try, nil)); err != nil {
			return errors.Join(err, refused)
		}
	}
	return refused
}

// AddMembers adds members to a group.
func (c *Client) AddMembers(ctx context.Context, group im.Conversation, uids ...im.UID) (im.Ack, error) {
	return c.change(ctx, group, &wire.SubmitMember{Member: &wire.Member{Add: texts(uids)}})
}

// RemoveMembers removes members from a group; a member may remove itself.
func (c *Client) RemoveMembers(ctx context.Context, group im.Conversation, uids ...im.UID) (im.Ack, error) {
	return c.change(ctx, group, &wire.SubmitMember{Member: &wire.Member{Remove: texts(uids)}})
}

func (c *Client) change(ctx context.Context, group im.Conversation, m *wire.SubmitMember) (im.Ack, error) {
	s, err := c.post(ctx, group, &wire.SubmitRequest{Ack: string(im.AckRegion), Content: m})
	if err != nil {
		return im.Ack{}, err
	}
	return s.Wait()
}

func texts(uids []im.UID) []string {
	t := make([]string, len(uids))
	for i, u := range uids {
		t[i] = string(u)
	}
	return t
}

// Members returns the title and current members of a conversation, as the serving region knows them.
func (c *Client) Members(ctx context.Context, conversation im.Conversation) (title string, uids []im.UID, err error) {
	body, err := wire.Marshal(&wire.MembersRequest{Conversation: string(conversation)})
	if err != nil {
		return "", nil, err
	}
	b, err := c.ask(ctx, wire.MethodMembers, conversation, body)
	if err != nil {
		return "", nil, err
	}
	var r wire.MembersResponse
	if err := wire.Unmarshal(b, &r); err != nil {
		return "", nil, err
	}
	for _, m := range r.Members {
		uids = append(uids, im.UID(m))
	}
	return r.Title, uids, nil
}

// Receipts returns how far each member of a conversation is, as the serving region knows it.
func (c *Client) Receipts(ctx context.Context, conversation im.Conversation) ([]Receipt, error) {
	body, err := wire.Marshal(&wire.ReceiptsRequest{Conversation: string(conversation)})
	if err != nil {
		return nil, err
	}
	b, err := c.ask(ctx, wire.MethodReceipts, conversation, body)
	if err != nil {
		return nil, err
	}
	var r wire.ReceiptsResponse
	if err := wire.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	receipts := make([]Receipt, 0, len(r.Receipts))
	for _, w := range r.Receipts {
		if w.Conversation == "" {
			w.Conversation = string(conversation)
		}
		receipt, err := receiptOf(w)
		if err != nil {
			return nil, err
		}
		receipts = append(receipts, receipt)
	}
	return receipts, nil
}

// List returns one page of the conversation list; pass the cursor of the last page to go on ("" begins).
func (c *Client) List(ctx context.Context, cursor string, limit int) (*wire.ListResponse, error) {
	way, err := c.await(ctx)
	if err != nil {
		return nil, err
	}
	page, err := c.list(ctx, way, cursor, limit)
	return page, public(err)
}

// Sync asks the serving region now for what this client misses, instead of at the next connection or silence. CaughtUp
// tells when it is done.
func (c *Client) Sync() { c.resync("asked for") }
