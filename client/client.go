package client

import (
	"context"
	"errors"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// ErrClosed is what calls return after Close.
var ErrClosed = errors.New("client: closed")

// Client is one login of one device.
type Client struct {
	cfg    Config
	events chan Event
}

// New returns a Client that connects in the background, until Close. It fails only on a bad Config.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, events: make(chan Event, cfg.EventBuffer)}, nil
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
func (c *Client) Ready(ctx context.Context) error { return ErrClosed }

// Events returns what happens, in order; it is closed after Stopped. It must be read: while its buffer is full, nothing
// is applied.
func (c *Client) Events() <-chan Event { return c.events }

// Close says goodbye, ends every goroutine of the client and closes Events.
func (c *Client) Close() error { return nil }

// SubmitOption changes a submit.
type SubmitOption func(*submitOptions)

type submitOptions struct{ ack im.AckLevel }

// WithAck asks for an ack level (default im.AckRegion).
func WithAck(l im.AckLevel) SubmitOption { return func(o *submitOptions) { o.ack = l } }

// Submit sends a text and waits for its ack, trying again wherever a retry may help until ctx ends. An *im.Error says
// why the servers refuse it; any other error is ctx's, and the message may have landed.
func (c *Client) Submit(ctx context.Context, conversation im.Conversation, text string, opts ...SubmitOption) (im.Ack, error) {
	return im.Ack{}, ErrClosed
}

// Group operations, like Submit.

// CreateGroup creates a group in the region that serves this client; the creator is a member.
func (c *Client) CreateGroup(ctx context.Context, title string, members []im.UID) (im.Conversation, error) {
	return "", ErrClosed
}

// AddMembers adds members to a group.
func (c *Client) AddMembers(ctx context.Context, group im.Conversation, uids ...im.UID) (im.Ack, error) {
	return im.Ack{}, ErrClosed
}

// RemoveMembers removes members from a group; a member may remove itself.
func (c *Client) RemoveMembers(ctx context.Context, group im.Conversation, uids ...im.UID) (im.Ack, error) {
	return im.Ack{}, ErrClosed
}

// Members returns the title and current members of a conversation, as the serving region knows them.
func (c *Client) Members(ctx context.Context, conversation im.Conversation) (title string, uids []im.UID, err error) {
	return "", nil, ErrClosed
}

// Receipts returns how far each member is.
func (c *Client) Receipts(ctx context.Context, conversation im.Conversation) ([]Receipt, error) {
	return nil, ErrClosed
}

// List returns one page of the conversation list; pass the cursor of the last page to go on ("" begins).
func (c *Client) List(ctx context.Context, cursor string, limit int) (*wire.ListResponse, error) {
	return nil, ErrClosed
}

// Read marks what the client has of a conversation as read; it is sent soon, and again until the region has taken it.
func (c *Client) Read(conversation im.Conversation) {}

// Messages returns the messages kept of a conversation, in place order.
func (c *Client) Messages(conversation im.Conversation) []Message { return nil }

// Cursor returns what the client has of a conversation without a gap.
func (c *Client) Cursor(conversation im.Conversation) im.Cursor { return nil }

// UID returns who this is, once connected.
func (c *Client) UID() im.UID { return "" }
