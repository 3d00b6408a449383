package imserver

import (
	"context"
	"sync"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/owner"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// shards are those that this instance owns, by database and number.
type shards struct {
	mu    sync.RWMutex
	owned []map[int]*owner.Shard
}

func newShards(databases int) shards { return shards{owned: make([]map[int]*owner.Shard, databases)} }

func (s *shards) get(number int) *owner.Shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.owned[number%len(s.owned)][number]
}

func (s *shards) set(database int, owned map[int]*owner.Shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owned[database] = owned
}

func (s *shards) numbers() []int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var numbers []int
	for _, owned := range s.owned {
		for n := range owned {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

func (s *Server) number(c im.Conversation) int { return wire.Partition(string(c), s.cfg.Partitions) }

// group calls look with a group as this region knows it: from memory where this instance owns its partition, else from
// the store. A group of which nothing is known is empty. look must not keep the group.
func (s *Server) group(ctx context.Context, c im.Conversation, look func(*view.Group)) error {
	sh := s.shards.get(s.number(c))
	before := uint64(0)
	if sh != nil {
		changes, ok := sh.Group(c, look)
		if ok {
			return nil
		}
		before = changes
	}
	facts, err := s.deps.Store.Known(ctx, view.Ask{Groups: []im.Conversation{c}})
	if err != nil {
		return err
	}
	g := facts.Groups[c]
	if g == nil {
		g = &view.Group{}
	}
	if sh == nil {
		look(g)
		return nil
	}
	sh.Learn(c, g, before, look)
	return nil
}

// heads returns what this region applied of a conversation, of the origins asked.
func (s *Server) heads(ctx context.Context, c im.Conversation, origins im.Cursor) (im.Cursor, error) {
	heads := im.Cursor{}
	var missing []view.HeadKey
	sh := s.shards.get(s.number(c))
	for o := range origins {
		k := view.HeadKey{Conversation: c, Origin: o}
		if sh != nil {
			if seq, ok := sh.Last(k); ok {
				heads[o] = seq
				continue
			}
		}
		missing = append(missing, k)
	}
	if len(missing) == 0 {
		return heads, nil
	}
	facts, err := s.deps.Store.Known(ctx, view.Ask{Heads: missing})
	if err != nil {
		return nil, err
	}
	for k, seq := range facts.Heads {
		heads[k.Origin] = seq
	}
	return heads, nil
}

// watermark is the origin's clock at its last heartbeat that this region applied, in the partition where the group's
// records stand. 0: nothing was heard.
func (s *Server) watermark(ctx context.Context, c im.Conversation, o im.Origin) (im.Stamp, error) {
	p := im.Partition{Topic: im.MsgTopic(o, c.Lane()), Number: s.number(c)}
	if sh := s.shards.get(p.Number); sh != nil {
		return sh.Watermark(p.Topic), nil
	}
	positions, err := s.deps.Store.Positions(ctx, p.Number)
	if err != nil {
		return 0, err
	}
	for _, at := range positions {
		if at.Partition == p {
			return at.Watermark, nil
		}
	}
	return 0, nil
}

// own tells whether an origin is this region's.
func (s *Server) own(o im.Origin) bool { return o.Region() == s.cfg.Region }
