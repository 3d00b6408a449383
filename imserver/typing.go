package imserver

import (
	"context"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/wire"
)

const (
	// typingMembers is how many a group may have for them to hear who types: beyond it too many do at once to be shown.
	typingMembers = 100
	// typingRate is how often a second one user may say so, in all conversations: each time costs a delivery to every region.
	typingRate  = 2
	typingBurst = 10
	// typingTime is how long routers may take. What comes later is of no use.
	typingTime = time.Second
)

// typing tells the others in a conversation that the caller types, by whatever sockets they have. It is in no log, so that it
// takes no seq, and nobody hears of it later. Routers that are away are no error: the caller would only say it again.
func (s *Server) typing(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.TypingRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	conversation, err := accept.Conversation(request.Conversation, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	if lane := conversation.Lane(); lane == im.LaneSuper {
		return im.CallResult{}, im.Errorf(im.CodeBadRequest, "super groups do not tell who types")
	}
	if !allowed(s.typists, c.UID, typingRate, typingBurst, s.deps.Now()) {
		return im.CallResult{}, &im.Error{Code: im.CodeTooManyRequests, Detail: "over the rate at which one user may tell of typing", RetryAfter: time.Second / typingRate}
	}
	_, members, _, err := s.present(ctx, conversation, c.UID)
	if err != nil {
		return im.CallResult{}, err
	}
	others := slices.DeleteFunc(slices.Clone(members), func(uid im.UID) bool { return uid == c.UID })
	if len(others) > 0 && len(members) <= typingMembers && !s.routers.seenAway() {
		ctx, cancel := context.WithTimeout(ctx, typingTime)
		defer cancel()
		if _, err := s.deps.Deliver.Deliver(ctx, []im.Delivery{{
			Service: wire.ServiceIM, Method: wire.MethodEvent, Key: string(conversation), Recipients: others,
			Body: wire.EncodeTypingEvent(conversation, c.UID, request.Stopped, s.cfg.Region), Notify: true, Ephemeral: true,
		}}); err != nil {
			s.meter.gaveUp(context.WithoutCancel(ctx), 1)
		}
	}
	return answer(wire.Marshal(&wire.TypingResponse{}))
}
