package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Op is one message of a traffic, from its sending on.
type Op struct {
	ID           im.ID
	Conversation im.Conversation
	From         im.Region // the sender's home
	Sent, Acked  time.Time // Acked is zero while it is not
	Ack          im.Ack
	Shown        []Showing // to each member; At is zero for who was not yet
}

// Showing is when a member of a conversation was first shown a message.
type Showing struct {
	UID    im.UID
	Region im.Region // the member's home
	At     time.Time
}

// Claim is a delivered cursor that somebody was told: UID is said to have all of the conversation that it covers.
type Claim struct {
	UID          im.UID
	Conversation im.Conversation
	Delivered    im.Cursor
	At           time.Time // when it was told
}

// maxClaims bounds what is kept of one user's receipts.
const maxClaims = 10_000

// Ops lists what was sent so far, in the order of sending.
func (t *Traffic) Ops() []Op {
	t.mu.Lock()
	defer t.mu.Unlock()
	ops := make([]Op, 0, len(t.submits))
	for _, s := range t.submits {
		op := Op{ID: s.ID, Conversation: s.in.conversation, From: s.by.region, Sent: s.sent, Acked: s.acked, Ack: s.Ack}
		if s.Acked {
			for _, u := range s.in.members {
				op.Shown = append(op.Shown, Showing{u.uid, u.region, u.when(s.ID)})
			}
		}
		ops = append(ops, op)
	}
	return ops
}

// Claims lists the delivered cursors that users were told so far.
func (t *Traffic) Claims() []Claim {
	var all []Claim
	for _, u := range t.users {
		u.mu.Lock()
		all = append(all, u.claims...)
		u.mu.Unlock()
	}
	return all
}

// Codes counts the answers that made clients send a submit again, since the beginning; NoAnswer is among them.
func (t *Traffic) Codes() map[im.Code]int { return t.Seen(time.Time{}).Retried }

// ErrLeak is wrapped by an error of Pry: somebody who must not read was given something.
var ErrLeak = errors.New("was let read")

// Pry has a stranger, by a token of their own, and somebody without a valid token pull from each conversation through a
// gateway of a region. Being refused is nil; an error that does not wrap ErrLeak means that nobody answered.
func (t *Traffic) Pry(ctx context.Context, region im.Region) error {
	base, err := gatewayOf(ctx, t.cluster.IPConf(region), region)
	if err != nil {
		return err
	}
	stranger, _, err := t.cluster.Token(im.UID(t.cfg.Name + "-stranger"))
	if err != nil {
		return err
	}
	for _, c := range t.chats {
		for who, token := range map[string]string{"a stranger": stranger, "somebody without a valid token": stranger + "x"} {
			_, err := pullPage(ctx, base, token, &wire.PullRequest{Conversation: string(c.conversation), Limit: 1})
			var refused *refusal
			switch {
			case err == nil:
				return fmt.Errorf("%s %w of %s in %s", who, ErrLeak, c.conversation, region)
			case !errors.As(err, &refused):
				return err
			}
		}
	}
	return nil
}
