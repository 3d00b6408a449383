package owner

import (
	"sync"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Shard is what the owner of a partition number remembers: seqs and groups as they are with everything that was read,
// committed or about to be. It is good only while the owner's positions hold, and is dropped when a commit is fenced.
//
// Group, Learn, Last, Watermark and Next may be called by anybody; the rest belongs to the one that applies.
type Shard struct {
	Number int
	Tails  map[string]*view.Tail // by topic
	batch  uint64                // that is being numbered

	mu         sync.Mutex
	seqs       memory[view.HeadKey, uint64]
	groups     memory[im.Conversation, *view.Group] // a group of which nothing is known is there, empty
	changes    uint64                               // grows with every change of a group
	watermarks map[string]im.Stamp                  // by topic: the origin's clock at its last heartbeat
	next       map[string]int64                     // by topic: everything below it was read
}

// New returns the shard of a partition number, which remembers about as many conversations as cached tells.
func New(number, cached int) *Shard {
	size := max(1, cached)
	return &Shard{
		Number: number, Tails: map[string]*view.Tail{}, watermarks: map[string]im.Stamp{}, next: map[string]int64{},
		seqs: newMemory[view.HeadKey, uint64](size), groups: newMemory[im.Conversation, *view.Group](size),
	}
}

// Group calls look with a group as it is with everything that was read; false if it is not remembered. changes tells
// Learn whether the group may have changed since. look must not keep the group.
func (sh *Shard) Group(c im.Conversation, look func(*view.Group)) (changes uint64, ok bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	g, ok := sh.groups.get(c)
	if ok {
		look(g)
	}
	return sh.changes, ok
}

// Learn remembers a group that was read from the store after Group told changes, and calls look with what is known now.
func (sh *Shard) Learn(c im.Conversation, g *view.Group, changes uint64, look func(*view.Group)) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if known, ok := sh.groups.get(c); ok {
		g = known
	} else if sh.changes == changes { // else what was read may be older than what apply knows
		sh.groups.add(c, g)
	}
	look(g)
}

// Last is the last seq of a stream with everything that was read; false if it is not remembered.
func (sh *Shard) Last(k view.HeadKey) (seq uint64, ok bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.seqs.get(k)
}

// Held is how many heads and groups are held until what changed them is committed.
func (sh *Shard) Held() int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return len(sh.seqs.held) + len(sh.groups.held)
}

// Watermark is the origin's clock at its last heartbeat in a topic, 0 if none was heard.
func (sh *Shard) Watermark(topic string) im.Stamp {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.watermarks[topic]
}

// Next is the offset of the origin's log below which everything of a topic was read and numbered.
func (sh *Shard) Next(topic string) int64 {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.next[topic]
}

// Follow begins a topic at a stored position.
func (sh *Shard) Follow(t *view.Tail) {
	at := t.At()
	sh.Tails[at.Partition.Topic] = t
	sh.mu.Lock()
	sh.watermarks[at.Partition.Topic], sh.next[at.Partition.Topic] = at.Watermark, at.Next
	sh.mu.Unlock()
}

// Missing begins a batch: it is what its records need that is not remembered. The rest is held from here on.
func (sh *Shard) Missing(parts []view.Part, batch uint64) view.Ask {
	sh.batch = batch
	var ask view.Ask
	askedHead, askedGroup := map[view.HeadKey]bool{}, map[im.Conversation]bool{}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	group := func(c im.Conversation) {
		if c.Lane() == im.LaneDirect || askedGroup[c] {
			return
		}
		askedGroup[c] = true
		if g, ok := sh.groups.get(c); ok {
			sh.groups.hold(c, g, batch)
		} else {
			ask.Groups = append(ask.Groups, c)
		}
	}
	var last view.HeadKey
	for i := range parts {
		for j := range parts[i].Records {
			r := &parts[i].Records[j]
			k := r.Stream()
			if k == last { // a stream's records often stand together
				continue
			}
			last = k
			group(r.Conversation)
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

// Remember takes the answer to what was missing. What the store does not have begins here.
func (sh *Shard) Remember(ask view.Ask, facts view.Facts) {
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

// Take gives the parts' records their seqs and their groups what they change, and makes the deliveries. Everything
// that they need was remembered. region is the own one. interest: large groups are delivered to whoever is interested.
func (sh *Shard) Take(parts []view.Part, region im.Region, interest bool) []im.Delivery {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rows := 0
	for i := range parts {
		rows += len(parts[i].Records) + len(parts[i].Cursors)
	}
	deliveries := make([]im.Delivery, 0, rows)
	for i := range parts {
		p := &parts[i]
		view.Number(p.Records, func(k view.HeadKey) uint64 {
			seq, _ := sh.seqs.get(k)
			return seq
		})
		for j := range p.Records {
			r := &p.Records[j]
			if j+1 == len(p.Records) || r.Stream() != p.Records[j+1].Stream() {
				sh.seqs.hold(r.Stream(), r.Place.Seq, sh.batch)
			}
			deliveries = sh.deliver(deliveries, r, region, interest)
		}
		for _, c := range p.Cursors {
			deliveries = sh.receipt(deliveries, c, p.Partition, region)
		}
		sh.watermarks[p.Partition.Topic], sh.next[p.Partition.Topic] = p.To.Watermark, p.To.Next
	}
	return deliveries
}

// Again makes the deliveries of a part that was applied before: its records are the last of their streams, so their
// seqs end at the heads.
func (sh *Shard) Again(part view.Part, region im.Region, interest bool) []im.Delivery {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	count := map[view.HeadKey]uint64{}
	for i := range part.Records {
		count[part.Records[i].Stream()]++
	}
	view.Number(part.Records, func(k view.HeadKey) uint64 {
		head, _ := sh.seqs.get(k)
		return head - count[k]
	})
	var deliveries []im.Delivery
	for i := range part.Records {
		deliveries = sh.deliver(deliveries, &part.Records[i], region, interest)
	}
	for _, c := range part.Cursors {
		deliveries = sh.receipt(deliveries, c, part.Partition, region)
	}
	return deliveries
}

// Committed says that the store has everything up to and including a batch.
func (sh *Shard) Committed(batch uint64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.seqs.release(batch)
	sh.groups.release(batch)
}
