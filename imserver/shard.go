package imserver

import (
	"context"
	"sync"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// shard is what the owner of a partition number remembers: seqs and groups as they are with everything that was read,
// committed or about to be. It is good only while the owner's positions hold, and is dropped when a commit is fenced.
type shard struct {
	number int
	tails  map[string]*view.Tail // by topic; the apply loop's own
	batch  uint64                // that is being numbered; the apply loop's own

	mu         sync.Mutex
	seqs       memory[view.HeadKey, uint64]
	groups     memory[im.Conversation, *view.Group] // a group of which nothing is known is there, empty
	changes    uint64                               // grows with every change of a group
	watermarks map[string]im.Stamp                  // by topic: the origin's clock at its last heartbeat
}

func newShard(number, cached int) *shard {
	size := max(1, cached)
	return &shard{
		number: number, tails: map[string]*view.Tail{}, watermarks: map[string]im.Stamp{},
		seqs: newMemory[view.HeadKey, uint64](size), groups: newMemory[im.Conversation, *view.Group](size),
	}
}

// shards are those that this instance owns, by database and number.
type shards struct {
	mu    sync.RWMutex
	owned []map[int]*shard
}

func newShards(databases int) shards { return shards{owned: make([]map[int]*shard, databases)} }

func (s *shards) get(number int) *shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.owned[number%len(s.owned)][number]
}

func (s *shards) set(database int, owned map[int]*shard) {
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
		sh.mu.Lock()
		if g, ok := sh.groups.get(c); ok {
			look(g)
			sh.mu.Unlock()
			return nil
		}
		before = sh.changes
		sh.mu.Unlock()
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
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if known, ok := sh.groups.get(c); ok {
		g = known
	} else if sh.changes == before { // else what was read may be older than what apply knows
		sh.groups.add(c, g)
	}
	look(g)
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
			sh.mu.Lock()
			seq, ok := sh.seqs.get(k)
			sh.mu.Unlock()
			if ok {
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
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return sh.watermarks[p.Topic], nil
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

// missing begins a batch: it is what its records need that is not remembered. The rest is held from here on.
func (sh *shard) missing(parts []view.Part, batch uint64) view.Ask {
	sh.batch = batch
	var ask view.Ask
	askedHead, askedGroup := map[view.HeadKey]bool{}, map[im.Conversation]bool{}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	group := func(c im.Conversation) {
		if c.Members() != nil || askedGroup[c] {
			return
		}
		askedGroup[c] = true
		if g, ok := sh.groups.get(c); ok {
			sh.groups.hold(c, g, batch)
		} else {
			ask.Groups = append(ask.Groups, c)
		}
	}
	for i := range parts {
		for j := range parts[i].Records {
			r := &parts[i].Records[j]
			group(r.Conversation)
			k := view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin}
			if askedHead[k] {
				continue
			}
			askedHead[k] = true
			if seq, ok := sh.seqs.get(k); ok {
				sh.seqs.hold(k, seq, batch)
			} else {
				ask.Heads = append(ask.Heads, k)
			}
		}
		for _, c := range parts[i].Cursors {
			group(c.Conversation)
		}
	}
	return ask
}

// remember takes the answer to what was missing. What the store does not have begins here.
func (sh *shard) remember(ask view.Ask, facts view.Facts) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, k := range ask.Heads {
		sh.seqs.hold(k, facts.Heads[k], sh.batch)
	}
	for _, c := range ask.Groups {
		g := facts.Groups[c]
		if g == nil {
			g = &view.Group{}
		}
		if known, ok := sh.groups.get(c); ok {
			g = known // a reader was faster
		}
		sh.groups.hold(c, g, sh.batch)
	}
}

// take gives the parts' records their seqs and their groups what they change, and makes the deliveries. Everything
// that they need was loaded.
func (sh *shard) take(parts []view.Part, s *Server) []im.Delivery {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var deliveries []im.Delivery
	for i := range parts {
		p := &parts[i]
		for k, seq := range view.Number(p.Records, func(k view.HeadKey) uint64 {
			seq, _ := sh.seqs.get(k)
			return seq
		}) {
			sh.seqs.hold(k, seq, sh.batch)
		}
		for j := range p.Records {
			deliveries = sh.deliver(deliveries, &p.Records[j], s)
		}
		for _, c := range p.Cursors {
			deliveries = sh.receipt(deliveries, c, p.Partition, s)
		}
		sh.watermarks[p.Partition.Topic] = p.To.Watermark
	}
	return deliveries
}

// committed says that the store has everything up to and including a batch.
func (sh *shard) committed(batch uint64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.seqs.release(batch)
	sh.groups.release(batch)
}
