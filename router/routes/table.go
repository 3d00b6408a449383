package routes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// MaxAge is how long a claim lives. Live routes are claimed anew every hour, and route logs are kept for three.
const MaxAge = 2 * time.Hour

// keep is how far behind its partition's watermark a dead row is still held: no later claim may find a row that was
// removed where another table still has it alive, and stamps of one log are at most clock skew out of order.
const keep = 3 * time.Hour

// Table holds the routes of every origin it follows. It is safe for concurrent use.
type Table struct {
	self    im.Region
	silence time.Duration
	limits  map[im.Platform]int // devices that a user may have routes of
	shards  []shard             // by partition number

	// A row names its origin by its place here. Places are taken once and not given back: one below places does not change.
	origins [maxOrigins]im.Origin
	links   [maxOrigins]link
	places  atomic.Int32
	shape   sync.Mutex // held while all shards change alike: Follow, Load; before that of a shard
}

// maxOrigins is how many origins a table follows in its life.
const maxOrigins = 255

// New returns an empty table for a router of region self that follows origins, each with the same number of partitions.
// A region other than self that was silent for longer than silence does not count (0: silence is not judged).
func New(self im.Region, origins []im.Origin, partitions int, silence time.Duration) (*Table, error) {
	if partitions < 1 {
		return nil, fmt.Errorf("routes: %d partitions: want at least 1", partitions)
	}
	current := Current(origins)
	if len(current) > maxOrigins {
		return nil, fmt.Errorf("routes: %d regions: at most %d are supported", len(current), maxOrigins)
	}
	t := &Table{self: self, silence: silence, shards: make([]shard, partitions)}
	copy(t.origins[:], current)
	t.places.Store(int32(len(current)))
	for i := range t.shards {
		empty := t.emptyShard()
		t.shards[i].store, t.shards[i].logs = empty.store, empty.logs
	}
	return t, nil
}

func (t *Table) emptyShard() *shard {
	s := &shard{store: newStore()}
	for _, origin := range t.known() {
		s.logs = append(s.logs, newLog(origin))
	}
	return s
}

func newLog(o im.Origin) log {
	return log{region: o.Region(), lives: make(map[im.Gateway]uint32), fences: make(map[string]fence), expect: -1}
}

// Limit sets how many devices of a platform a user may have routes of; a platform that is not in it has no limit. It is
// called before the first Apply, and every region's tables must be told the same.
func (t *Table) Limit(devices map[im.Platform]int) { t.limits = maps.Clone(devices) }

// Current returns the latest origin of each region, sorted.
func Current(origins []im.Origin) []im.Origin {
	latest := make(map[im.Region]im.Origin)
	for _, o := range origins {
		if have, ok := latest[o.Region()]; !ok || have.Epoch() < o.Epoch() {
			latest[o.Region()] = o
		}
	}
	current := make([]im.Origin, 0, len(latest))
	for _, o := range latest {
		current = append(current, o)
	}
	slices.Sort(current)
	return current
}

// shard is one partition number, of every origin: a uid's rows are all in one.
type shard struct {
	mu sync.RWMutex
	store
	logs []log // by origin
}

// log is the state of one origin's partition beside its rows.
type log struct {
	region    im.Region
	gone      bool // not followed any more: it takes nothing, and nobody asks for it
	tail      Tail
	expect    int64                 // rows count once everything below this local offset was read; -1: not known yet
	watermark im.Stamp              // the highest stamp seen: the origin's clock as this region has heard it
	reach     reach                 // whether the region was cut off
	mark      Mark                  // the last record taken whose checksum is known
	lives     map[im.Gateway]uint32 // numbers of the gateways that have rows
	fences    map[string]fence      // by gateway id; those that keep nobody out any more are pruned
}

// fence is what a gateway_down leaves behind: the gateway's epochs up to this one are down.
//
// It keeps claims out for as long as a route lives. What it voided is dead by then, and a router that reads the log from where
// retention has left it knows nothing of it, so it must not count for others either. A gateway that comes back under its old
// epoch after that claims everything anew, as at each attach.
type fence struct {
	epoch uint64
	at    im.Stamp // when it was declared
}

// down tells whether an epoch is down at a stamp. No gateway has epoch 0.
func (f fence) down(epoch uint64, at im.Stamp) bool {
	return epoch == 0 || epoch <= f.epoch && !aged(f.at, at)
}

// read tells whether the log was read up to the end seen at start.
func (l *log) read() bool { return l.expect >= 0 && l.tail.Read() >= l.expect }

// route is the row as others know it.
func (t *Table) route(s *shard, r row) im.Route {
	l := &s.store.lives[r.life()]
	return im.Route{
		UID: im.UID(r.uid()), Device: r.device(), Platform: s.platformOf(r), Region: t.origins[l.origin].Region(), Gateway: l.gateway,
		Conn: r.conn(), Login: r.login(), Offset: r.offset(), Claimed: r.claimed(), Offline: r.offline(),
	}
}

// origin is the place of a row's origin.
func (s *shard) origin(r row) int { return int(s.store.lives[r.life()].origin) }

// compare orders rows of one device as im.Route.Compare does.
func (t *Table) compare(s *shard, a, b row) int {
	return cmp.Or(cmp.Compare(a.login(), b.login()),
		cmp.Compare(t.origins[s.origin(a)].Region(), t.origins[s.origin(b)].Region()),
		cmp.Compare(a.offset(), b.offset()))
}

// aged tells whether a claim of that stamp is dead at now.
func aged(claimed, now im.Stamp) bool { return older(claimed, now, MaxAge) }

// Number is the partition number of a user.
func (t *Table) Number(uid im.UID) int { return wire.Partition(string(uid), len(t.shards)) }

// known are the origins that have a place, followed or not.
func (t *Table) known() []im.Origin { return t.origins[:t.places.Load()] }

// Origins lists the origins that are followed, one a region.
func (t *Table) Origins() []im.Origin {
	s := &t.shards[0]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var followed []im.Origin
	for o := range s.logs {
		if !s.logs[o].gone {
			followed = append(followed, t.origins[o])
		}
	}
	return followed
}

// Partitions lists every partition of an origin's route log.
func (t *Table) Partitions(o im.Origin) []im.Partition {
	all := make([]im.Partition, len(t.shards))
	for i := range all {
		all[i] = im.Partition{Topic: im.RouteTopic(o), Number: i}
	}
	return all
}

// at returns the shard and the place of a partition's origin.
func (t *Table) at(p im.Partition) (*shard, int, bool) {
	o := slices.Index(t.known(), p.Origin())
	if o < 0 || p.Number < 0 || p.Number >= len(t.shards) || p.Topic != im.RouteTopic(t.origins[o]) {
		return nil, 0, false
	}
	return &t.shards[p.Number], o, true
}

// Expect makes the partition's rows count only once everything below a local offset was read: the end of the log seen at
// start. Until it is called nothing of the partition counts.
func (t *Table) Expect(p im.Partition, local int64) {
	if s, o, ok := t.at(p); ok {
		s.mu.Lock()
		if !s.logs[o].gone {
			s.logs[o].expect = local
		}
		s.mu.Unlock()
	}
}

// Jump drops an origin's rows of a partition and takes whatever comes next, from local on.
func (t *Table) Jump(p im.Partition, local int64) {
	s, o, ok := t.at(p)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[o].gone {
		return
	}
	s.logs[o].tail.Jump(local)
	s.logs[o].mark = Mark{}
	s.forget(func(r row) bool { return s.origin(r) == o })
}

// Prune forgets rows that have been dead for long, by their own partition's watermark, and fences likewise. It returns how
// many rows.
func (t *Table) Prune() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += s.forget(func(r row) bool { return older(r.claimed(), s.logs[s.origin(r)].watermark, keep) })
		for o := range s.logs {
			l := &s.logs[o]
			maps.DeleteFunc(l.fences, func(_ string, f fence) bool { return older(f.at, l.watermark, keep) })
		}
		s.mu.Unlock()
	}
	return n
}

// forget deletes the rows that match. The lock is held.
func (s *shard) forget(match func(row) bool) int {
	return s.remove(match, func(r row) { s.leave(r.life()) })
}

// live returns the number of a gateway's life, with one row more.
func (s *shard) live(o int, gw im.Gateway) uint32 {
	lives := s.logs[o].lives
	n, ok := lives[gw]
	if !ok {
		if last := len(s.unused) - 1; last >= 0 {
			n, s.unused = s.unused[last], s.unused[:last]
		} else {
			n = uint32(len(s.store.lives))
			s.store.lives = append(s.store.lives, life{})
		}
		s.store.lives[n] = life{gateway: gw, origin: uint8(o)}
		lives[gw] = n
	}
	s.store.lives[n].rows++
	return n
}

// leave takes a row off its gateway's count.
func (s *shard) leave(n uint32) {
	l := &s.store.lives[n]
	if l.rows--; l.rows == 0 {
		delete(s.logs[l.origin].lives, l.gateway)
		l.gateway = im.Gateway{}
		s.unused = append(s.unused, n)
	}
}
