package imserver

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

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
	now, err := s.now()
	if err != nil {
		return im.CallResult{}, err
	}
	sub, err := s.rules.Load().Check(c, &request, now)
	if err != nil {
		return im.CallResult{}, err
	}
	if !s.allow(c.UID) {
		return im.CallResult{}, &im.Error{Code: im.CodeTooManyRequests, Detail: "over the rate limit of one user", RetryAfter: time.Duration(float64(time.Second) / s.cfg.Rate)}
	}
	if err := s.authorise(ctx, sub); err != nil {
		return s.landed(ctx, sub, err)
	}
	r := &sub.Record
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
func (s *Server) acked(ctx context.Context, sub *accept.Submission, offset int64) (im.CallResult, error) {
	r := &sub.Record
	global := false
	switch {
	case !sub.Global:
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
func (s *Server) landed(ctx context.Context, sub *accept.Submission, refused error) (im.CallResult, error) {
	r := &sub.Record
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
	offset, err := s.write(ctx, p, []im.Entry{e})
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

// authorise decides with this region's view whether the sender may.
func (s *Server) authorise(ctx context.Context, sub *accept.Submission) error {
	done, err := s.rules.Load().Named(sub)
	if done {
		return err
	}
	c := sub.Record.Conversation
	var v accept.Verdict
	if err := s.group(ctx, c, func(g *view.Group) { v = s.rules.Load().Look(g, sub) }); err != nil {
		return unavailable(s, "the group's members cannot be read", err)
	}
	return s.rules.Load().Settle(sub, v, s.deps.Now(), func() (im.Stamp, error) { return s.heardOf(ctx, c) })
}

// unheardOf answers for a group that this region has not heard of.
func (s *Server) unheardOf(ctx context.Context, c im.Conversation) error {
	return s.rules.Load().Unheard(c, func() (im.Stamp, error) { return s.heardOf(ctx, c) })
}

// heardOf is how far this region has heard the origin in a group's id.
func (s *Server) heardOf(ctx context.Context, c im.Conversation) (im.Stamp, error) {
	origin, _, _ := c.Created()
	watermark, err := s.watermark(ctx, c, origin)
	if err != nil {
		return 0, unavailable(s, "how far this region is cannot be read", err)
	}
	return watermark, nil
}

func unavailable(s *Server, what string, err error) error {
	s.deps.Logger.Warn(what, "error", err)
	return im.Errorf(im.CodeUnavailable, "%s at the moment; sending again is safe", what)
}

// stamp gives the next stamp above what the sender has seen (I4).
func (s *Server) stamp(seen im.Stamp) (im.Stamp, error) {
	s.clockMu.Lock()
	defer s.clockMu.Unlock()
	now, err := s.now()
	if err != nil {
		return 0, err // a stamp of a wrong clock would hold up everybody who sees it
	}
	return s.clock.Next(now, seen, s.cfg.MaxSkew)
}

// distrusted is how soon a sender may try again when this clock cannot be believed.
const distrusted = time.Second

// now is what the clock says, or CodeUnready if it cannot be believed.
func (s *Server) now() (time.Time, error) {
	now := s.deps.Now()
	if err := s.deps.Trust(now); err != nil {
		return now, &im.Error{Code: im.CodeUnready, Detail: err.Error(), RetryAfter: distrusted}
	}
	return now, nil
}

// allow takes one submit of the user's allowance.
func (s *Server) allow(uid im.UID) bool {
	return allowed(s.limits, uid, s.cfg.Rate, s.cfg.Burst, s.deps.Now())
}

// allowed takes one of what a user may do at a rate.
func allowed(limits *lru.Cache[im.UID, *rate.Limiter], uid im.UID, perSecond float64, burst int, now time.Time) bool {
	limit, ok := limits.Get(uid)
	if !ok {
		fresh := rate.NewLimiter(rate.Limit(perSecond), burst)
		if limit, ok, _ = limits.PeekOrAdd(uid, fresh); !ok {
			limit = fresh
		}
	}
	return limit.AllowN(now, 1)
}
