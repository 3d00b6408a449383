package imserver

import (
	"context"
	"slices"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// submission is a submit that passed every check of form.
type submission struct {
	record im.Record
	global bool
	create *wire.Create
	member *wire.Member
}

// submit accepts a record: checks, stamps and appends it. The answer says that it is durable in the origin's log (I1).
func (s *Server) submit(ctx context.Context, c im.Call) (_ im.CallResult, err error) {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		var span trace.Span
		ctx, span = s.deps.Tracer.Start(ctx, "submit", trace.WithAttributes(s.attributes(c.Key)...))
		defer span.End()
	}
	var request wire.SubmitRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	sub, err := s.check(c, &request)
	if err != nil {
		return im.CallResult{}, err
	}
	if !s.allow(c.UID) {
		return im.CallResult{}, &im.Error{Code: im.CodeTooManyRequests, Detail: "over the rate limit of one user", RetryAfter: time.Duration(float64(time.Second) / s.cfg.Rate)}
	}
	if err := s.authorise(ctx, sub); err != nil {
		return s.landed(ctx, sub, err)
	}
	r := &sub.record
	r.Seen = max(im.Stamp(request.Seen), c.Seen)
	if r.Place.Stamp, err = s.stamp(r.Seen); err != nil {
		return im.CallResult{}, err
	}
	r.Trace = traceparent(ctx)
	p := im.Partition{Topic: im.MsgTopic(s.cfg.Origin, r.Conversation.Lane()), Number: s.number(r.Conversation)}
	offset, err := s.append(ctx, p, wire.EncodeRecord(r), r.Conversation.Lane())
	if err != nil {
		return im.CallResult{}, err
	}
	return s.acked(ctx, sub, offset)
}

// acked answers a submit whose record is in the log of its place's origin.
func (s *Server) acked(ctx context.Context, sub *submission, offset int64) (im.CallResult, error) {
	r := &sub.record
	global := false
	switch {
	case !sub.global:
	case r.Place.Origin != s.cfg.Origin: // it is here and there
		global = true
	default:
		wait, cancel := context.WithTimeout(ctx, s.cfg.GlobalTimeout)
		global = s.deps.Held.Wait(wait, im.Partition{Topic: im.MsgTopic(s.cfg.Origin, r.Conversation.Lane()), Number: s.number(r.Conversation)}, offset) == nil
		cancel()
	}
	body, err := wire.Marshal(&wire.SubmitResponse{
		Conversation: string(r.Conversation), ClientId: r.ClientID.String(), Stamp: uint64(r.Place.Stamp),
		Origin: string(r.Place.Origin), Global: global,
	})
	return im.CallResult{Body: body, Stamp: r.Place.Stamp}, err
}

// landed answers a submit that is refused for good. If its record was accepted before and the answer was lost, what the
// sender may by now says nothing about it: whoever leaves a group would never hear that they left.
func (s *Server) landed(ctx context.Context, sub *submission, refused error) (im.CallResult, error) {
	r := &sub.record
	if im.CodeOf(refused).Spec().Action != im.ActionStop || r.Conversation.Members() != nil { // those of two never change
		return im.CallResult{}, refused
	}
	read, cancel := context.WithTimeout(ctx, s.cfg.ReadTimeout)
	defer cancel()
	found, ok, err := s.deps.Store.Find(read, r.ID)
	switch {
	case err != nil:
		return im.CallResult{}, unavailable(s, "whether the record was accepted before cannot be read", err)
	case !ok:
		return im.CallResult{}, refused
	}
	r.Place = found.Place
	return s.acked(ctx, sub, found.Offset)
}

func (s *Server) append(ctx context.Context, p im.Partition, e im.Entry, lane im.Lane) (int64, error) {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		var span trace.Span
		ctx, span = s.deps.Tracer.Start(ctx, "append", trace.WithAttributes(s.attributes(string(e.Key))...))
		defer span.End()
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AppendTimeout)
	defer cancel()
	begun := s.deps.Now()
	offset, err := s.deps.Log.Append(ctx, p, []im.Entry{e})
	if err != nil {
		if im.CodeOf(err) != im.CodeInternal {
			return 0, err
		}
		s.deps.Logger.Warn("append failed", "partition", p, "error", err)
		return 0, im.Errorf(im.CodeUnavailable, "the log of region %s did not take the record in time; sending again is safe", s.cfg.Region)
	}
	s.meter.appended(ctx, s.deps.Now().Sub(begun), lane)
	return offset, nil
}

// check looks at everything that can be judged from the request alone.
func (s *Server) check(c im.Call, r *wire.SubmitRequest) (*submission, error) {
	conversation, err := s.conversation(r.Conversation, c.Key)
	if err != nil {
		return nil, err
	}
	id, err := s.clientID(r.ClientId)
	if err != nil {
		return nil, err
	}
	sub := &submission{record: im.Record{
		ID: im.ID{Conversation: conversation, Sender: c.UID, ClientID: id}, Version: im.CurrentVersion,
		Place: im.Place{Origin: s.cfg.Origin},
	}}
	switch im.AckLevel(r.Ack) {
	case "", im.AckRegion:
	case im.AckGlobal:
		sub.global = true
	default:
		return nil, im.Errorf(im.CodeBadRequest, "ack %q: want region or global", r.Ack)
	}
	group := conversation.Members() == nil
	switch content := r.Content.(type) {
	case *wire.SubmitText:
		limit := s.cfg.MaxText
		if c.MaxText > 0 {
			limit = min(limit, c.MaxText)
		}
		if err := checkText("text", content.Text.GetText(), limit); err != nil {
			return nil, err
		}
	case *wire.SubmitCreate:
		sub.create = content.Create
		if err := checkText("title", content.Create.GetTitle(), s.cfg.MaxTitle); err != nil {
			return nil, err
		}
		if err := s.checkUIDs("members", content.Create.GetMembers()); err != nil {
			return nil, err
		}
		named := append([]string{string(c.UID)}, content.Create.GetMembers()...) // the creator is a member
		slices.Sort(named)
		if conversation.Lane() == im.LaneGroup && len(slices.Compact(named)) > s.cfg.MaxMembers {
			return nil, im.Errorf(im.CodeBadRequest, "a group has at most %d members", s.cfg.MaxMembers)
		}
	case *wire.SubmitMember:
		sub.member = content.Member
		if len(content.Member.GetAdd())+len(content.Member.GetRemove()) == 0 {
			return nil, im.Errorf(im.CodeBadRequest, "member names nobody to add or remove")
		}
		for _, named := range [][]string{content.Member.GetAdd(), content.Member.GetRemove()} {
			if err := s.checkUIDs("member", named); err != nil {
				return nil, err
			}
		}
	case *wire.SubmitSettings:
		if err := checkText("title", content.Settings.GetTitle(), s.cfg.MaxTitle); err != nil {
			return nil, err
		}
	}
	if sub.record.Kind, sub.record.Body, err = wire.SubmitContent(r); err != nil {
		return nil, err
	}
	if sub.record.Kind != im.KindMessage && !group {
		return nil, im.Errorf(im.CodeBadRequest, "only groups take %q; %q is none", sub.record.Kind, conversation)
	}
	return sub, nil
}

func (s *Server) conversation(name, key string) (im.Conversation, error) {
	c, err := im.ParseConversation(name)
	if err != nil {
		return "", im.Errorf(im.CodeBadConversation, "%v", err)
	}
	if key != "" && key != name {
		return "", im.Errorf(im.CodeBadRequest, "the call's key %q is not its conversation %q", key, name)
	}
	return c, nil
}

func (s *Server) clientID(text string) (im.UUID, error) {
	if text == "" {
		return im.UUID{}, im.Errorf(im.CodeBadClientID, "client_id is empty")
	}
	id, err := im.ParseUUID(text)
	if err != nil {
		return id, im.Errorf(im.CodeBadClientID, "%v", err)
	}
	if !id.IsV7() {
		return id, im.Errorf(im.CodeBadClientID, "client_id %s is no UUID of version 7", id)
	}
	now := s.deps.Now().UnixMilli()
	switch made := id.Millis(); {
	case made < now-s.cfg.MaxAge.Milliseconds():
		return id, im.Errorf(im.CodeBadClientID, "client_id %s is older than %v: take a new one and show the message as unsent", id, s.cfg.MaxAge)
	case made > now+s.cfg.MaxSkew.Milliseconds():
		return id, im.Errorf(im.CodeBadClientID, "client_id %s is %d ms ahead of this region's clock; at most %d are allowed", id, made-now, s.cfg.MaxSkew.Milliseconds())
	}
	return id, nil
}

func checkText(what, text string, limit int) error {
	switch {
	case text == "":
		return im.Errorf(im.CodeBadText, "the %s is empty", what)
	case len(text) > limit:
		return im.Errorf(im.CodeTextTooLong, "the %s has %d bytes; at most %d are allowed", what, len(text), limit)
	case !utf8.ValidString(text):
		return im.Errorf(im.CodeBadText, "the %s is not valid UTF-8", what)
	}
	return nil
}

func (s *Server) checkUIDs(what string, names []string) error {
	if len(names) > s.cfg.MaxMembers {
		return im.Errorf(im.CodeBadRequest, "%s names %d users; at most %d are allowed", what, len(names), s.cfg.MaxMembers)
	}
	for _, name := range names {
		if _, err := im.ParseUID(name); err != nil {
			return im.Errorf(im.CodeBadRequest, "%s: %v", what, err)
		}
	}
	return nil
}

// authorise decides with this region's view whether the sender may.
func (s *Server) authorise(ctx context.Context, sub *submission) error {
	c, uid := sub.record.Conversation, sub.record.Sender
	if members := c.Members(); members != nil {
		if !slices.Contains(members, uid) {
			return im.Errorf(im.CodeNotMember, "you are not in this conversation")
		}
		return nil
	}
	origin, created, ok := c.Created()
	if !ok {
		return im.Errorf(im.CodeBadConversation, "%q names no origin and time", c)
	}
	if sub.create != nil && origin != s.cfg.Origin {
		return im.Errorf(im.CodeWrongRegion, "the group's id names origin %q; this region creates groups of %q", origin, s.cfg.Origin)
	}
	var refused error
	known, begun := false, false
	err := s.group(ctx, c, func(g *view.Group) {
		known = g.Known()
		if known {
			_, _, begun = g.CreatedBy()
			refused = s.allowed(g, sub)
		}
	})
	switch {
	case err != nil:
		return unavailable(s, "the group's members cannot be read", err)
	case sub.create != nil && !begun:
		return s.timely(ctx, c, created)
	case known:
		return refused
	}
	return s.unheardOf(ctx, c)
}

// timely lets a group begin near the time in its id (Unix ms) only: once that is past, every region says for certain that
// there is no such group. An earlier try may be in the log and not applied yet, so a late one waits until it would be.
func (s *Server) timely(ctx context.Context, c im.Conversation, created int64) error {
	switch age := s.deps.Now().UnixMilli() - created; {
	case -age > s.cfg.MaxSkew.Milliseconds():
		return im.Errorf(im.CodeBadConversation, "the group's id is %d ms ahead of this region's clock; at most %d are allowed", -age, s.cfg.MaxSkew.Milliseconds())
	case age > s.cfg.CreateWindow.Milliseconds():
		if err := s.unheardOf(ctx, c); im.CodeOf(err) != im.CodeUnknownConversation {
			return err
		}
		return im.Errorf(im.CodeBadConversation, "the group's id was made more than %v ago and no group has it: make another id", s.cfg.CreateWindow)
	}
	return nil
}

// allowed decides on a group that this region has heard of. It must not keep g.
func (s *Server) allowed(g *view.Group, sub *submission) error {
	if sub.create != nil {
		sender, id, ok := g.CreatedBy()
		if ok && (sender != sub.record.Sender || id != sub.record.ClientID) {
			return im.Errorf(im.CodeBadRequest, "this group exists")
		}
		return nil // the creator tries again, or a record about the group was here before the one that makes it
	}
	if !g.Member(sub.record.Sender) {
		return im.Errorf(im.CodeNotMember, "you are not in this conversation")
	}
	if sub.member != nil && sub.record.Conversation.Lane() == im.LaneGroup && s.crowds(g, sub.member.Add) {
		return im.Errorf(im.CodeBadRequest, "a group has at most %d members", s.cfg.MaxMembers)
	}
	return nil
}

// crowds tells whether adding users makes a group too large. Who is a member already adds nothing: a resend must get the
// answer of its first try. A group that regions made too large at once can still be left.
func (s *Server) crowds(g *view.Group, add []string) bool {
	members := g.Members()
	fresh := 0
	for _, uid := range add {
		if _, member := slices.BinarySearch(members, im.UID(uid)); !member {
			fresh++
		}
	}
	return fresh > 0 && len(members)+fresh > s.cfg.MaxMembers
}

// unheardOf answers for a group that this region has not heard of: not yet, as long as its origin's log may hold it
// beyond what was applied here; else never.
func (s *Server) unheardOf(ctx context.Context, c im.Conversation) error {
	origin, created, _ := c.Created()
	if slices.Contains(s.cfg.Origins, origin) {
		watermark, err := s.watermark(ctx, c, origin)
		if err != nil {
			return unavailable(s, "how far this region is cannot be read", err)
		}
		// A create is accepted until CreateWindow after the time in the id, and is in the log AppendTimeout later at most. The
		// heartbeat's clock may be ahead of that of who accepted, by the skew that is allowed.
		if last := s.cfg.CreateWindow + s.cfg.AppendTimeout + s.cfg.MaxSkew; watermark.Millis() <= created+last.Milliseconds() {
			return &im.Error{Code: im.CodeNotYetHere, Detail: "this region has not heard of the group yet", RetryAfter: time.Second}
		}
	}
	return im.Errorf(im.CodeUnknownConversation, "no such group")
}

func unavailable(s *Server, what string, err error) error {
	s.deps.Logger.Warn(what, "error", err)
	return im.Errorf(im.CodeUnavailable, "%s at the moment; sending again is safe", what)
}

// stamp gives the next stamp above what the sender has seen (I4).
func (s *Server) stamp(seen im.Stamp) (im.Stamp, error) {
	s.clockMu.Lock()
	defer s.clockMu.Unlock()
	return s.clock.Next(s.deps.Now(), seen, s.cfg.MaxSkew)
}

// allow takes one submit of the user's allowance.
func (s *Server) allow(uid im.UID) bool {
	limit, ok := s.limits.Get(uid)
	if !ok {
		fresh := rate.NewLimiter(rate.Limit(s.cfg.Rate), s.cfg.Burst)
		if limit, ok, _ = s.limits.PeekOrAdd(uid, fresh); !ok {
			limit = fresh
		}
	}
	return limit.AllowN(s.deps.Now(), 1)
}
