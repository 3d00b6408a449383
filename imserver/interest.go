package imserver

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// interest tells whether large groups are delivered to whoever is interested, instead of by uids. They are once the routers have
// said for a while that every gateway of the region takes it: by then gateways know of all of their sessions which groups
// they are in. When a router says that one does not, they are delivered by uids again, which everybody takes at any time.
type interest struct {
	mu   sync.Mutex
	from time.Time // when they are; zero: a gateway does not take it
}

func (i *interest) seen(taken bool, now time.Time, after time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case !taken:
		i.from = time.Time{}
	case i.from.IsZero():
		i.from = now.Add(after)
	}
}

func (i *interest) trusted(now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.from.IsZero() && !now.Before(i.from)
}

// maxRoll bounds the users of one roll.
const maxRoll = 10_000

// roll answers a gateway that has sessions in a large group, and a push for it: who of their users is in, as far as this region
// knows by now.
func (s *Server) roll(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.RollRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	if len(request.Uids) > maxRoll {
		return im.CallResult{}, im.Errorf(im.CodeBadRequest, "a roll of %d users; at most %d are allowed", len(request.Uids), maxRoll)
	}
	conversation, err := accept.Conversation(c.Key, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	var roll im.Roll
	if err := s.group(ctx, conversation, func(g *view.Group) {
		roll = im.Roll{Changes: g.Changes(), Members: make(map[im.UID]im.Place, len(request.Uids))}
		for _, text := range request.Uids {
			if since, in := g.Since(im.UID(text)); in {
				roll.Members[im.UID(text)] = since
			}
		}
	}); err != nil {
		return im.CallResult{}, unavailable(s, "the group's members cannot be read", err)
	}
	return answer(wire.EncodeRoll(roll))
}

// joins are the large groups among conversations, as gateways know them.
func joins(all []im.Conversation) (groups []im.UID) {
	for _, c := range all {
		if c.Lane() == im.LaneSuper {
			groups = append(groups, im.InterestIn(c))
		}
	}
	return groups
}
