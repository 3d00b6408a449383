package accept

import (
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Named decides by the conversation's id and the region alone, where that is enough: then done is true.
func (r *Rules) Named(sub *Submission) (done bool, err error) {
	c := sub.Record.Conversation
	if members := c.Members(); members != nil {
		if !slices.Contains(members, sub.Record.Sender) {
			return true, im.Errorf(im.CodeNotMember, "you are not in this conversation")
		}
		return true, nil
	}
	origin, _, ok := c.Created()
	if !ok {
		return true, im.Errorf(im.CodeBadConversation, "%q names no origin and time", c)
	}
	if sub.Create != nil && origin != r.Origin {
		return true, im.Errorf(im.CodeWrongRegion, "the group's id names origin %q; this region creates groups of %q", origin, r.Origin)
	}
	return false, nil
}

// Verdict is what a group, as the region knows it, says of a submission.
type Verdict struct {
	known, begun bool
	refused      error
}

// Look asks the group. It does not keep it.
func (r *Rules) Look(g *view.Group, sub *Submission) Verdict {
	v := Verdict{known: g.Known()}
	if v.known {
		_, _, v.begun = g.CreatedBy()
		v.refused = r.allowed(g, sub)
	}
	return v
}

// Settle decides by what the group said. watermark tells how far the region has heard the origin in the group's id, and is
// asked only where that matters.
func (r *Rules) Settle(sub *Submission, v Verdict, now time.Time, watermark func() (im.Stamp, error)) error {
	switch {
	case sub.Create != nil && !v.begun:
		return r.timely(sub.Record.Conversation, now, watermark)
	case v.known:
		return v.refused
	}
	return r.Unheard(sub.Record.Conversation, watermark)
}

// timely lets a group begin near the time in its id only: once that is past, every region says for certain that there is
// no such group. An earlier try may be in the log and not applied yet, so a late one waits until it would be.
func (r *Rules) timely(c im.Conversation, now time.Time, watermark func() (im.Stamp, error)) error {
	_, created, _ := c.Created()
	switch age := now.UnixMilli() - created; {
	case -age > r.MaxSkew.Milliseconds():
		return im.Errorf(im.CodeBadConversation, "the group's id is %d ms ahead of this region's clock; at most %d ms are allowed", -age, r.MaxSkew.Milliseconds())
	case age > r.CreateWindow.Milliseconds():
		if err := r.Unheard(c, watermark); im.CodeOf(err) != im.CodeUnknownConversation {
			return err
		}
		return im.Errorf(im.CodeBadConversation, "the group's id was made more than %v ago and no group has it: make another id", r.CreateWindow)
	}
	return nil
}

// allowed decides on a group that the region has heard of. It must not keep g.
func (r *Rules) allowed(g *view.Group, sub *Submission) error {
	if sub.Create != nil {
		sender, id, ok := g.CreatedBy()
		if ok && (sender != sub.Record.Sender || id != sub.Record.ClientID) {
			return im.Errorf(im.CodeBadRequest, "this group exists")
		}
		return nil // the creator tries again, or a record about the group was here before the one that makes it
	}
	if !g.Member(sub.Record.Sender) {
		return im.Errorf(im.CodeNotMember, "you are not in this conversation")
	}
	if sub.Member != nil && sub.Record.Conversation.Lane() == im.LaneGroup && r.crowds(g, sub.Member.Add) {
		return im.Errorf(im.CodeBadRequest, "a group has at most %d members", r.MaxMembers)
	}
	return nil
}

// crowds tells whether adding users makes a group too large. Who is a member already adds nothing: a resend must get the
// answer of its first try. A group that regions made too large at once can still be left.
func (r *Rules) crowds(g *view.Group, add []string) bool {
	members := g.Members()
	fresh := 0
	for _, uid := range add {
		if _, member := slices.BinarySearch(members, im.UID(uid)); !member {
			fresh++
		}
	}
	return fresh > 0 && len(members)+fresh > r.MaxMembers
}

// Unheard answers for a group that the region has not heard of: not yet, as long as its origin's log may hold it beyond
// what was applied here; else never.
func (r *Rules) Unheard(c im.Conversation, watermark func() (im.Stamp, error)) error {
	origin, created, _ := c.Created()
	if slices.Contains(r.Origins, origin) {
		heard, err := watermark()
		if err != nil {
			return err
		}
		// A create is accepted until CreateWindow after the time in the id, and is in the log AppendTimeout later at most. The
		// heartbeat's clock may be ahead of that of who accepted, by the skew that is allowed.
		if last := r.CreateWindow + r.AppendTimeout + r.MaxSkew; heard.Millis() <= created+last.Milliseconds() {
			return &im.Error{Code: im.CodeNotYetHere, Detail: "this region has not heard of the group yet", RetryAfter: time.Second}
		}
	}
	return im.Errorf(im.CodeUnknownConversation, "no such group")
}
