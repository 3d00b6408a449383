package replicator

import (
	"slices"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

const (
	// shelfQuantum is what a lane may send when its turn comes, bytes; what it does not use up it keeps while it waits.
	shelfQuantum = 128 << 10
	// partQuantum is the same of a partition within its lane.
	partQuantum = 16 << 10
	// shelfBytes is how much of a lane is read ahead of the link; then those of the lane's partitions that have more than their
	// share of it are read on only when half of it is gone.
	shelfBytes = 2 << 20
)

// item is records of one partition that wait to be sent: entries already encoded, or packed.
type item struct {
	lane    int
	part    int // place in the link's list
	first   int64
	records int
	bytes   int // of the window
	raw     []byte
	packed  *im.Packed
	spans   []trace.Span
}

// shelf holds what was read of the own log until the link takes it. Lanes take turns by bytes (deficit round robin), and so do
// the partitions of a lane: a crowd in one delays no other, however much of it waits. It holds shelfBytes of each lane and one
// answer of the reader for each partition, which is a bounded piece, at most.
type shelf struct {
	mu    sync.Mutex
	lanes []*shelfLane
	turn  int
	fresh bool          // the lane whose turn it is has not got its quantum yet
	more  chan struct{} // capacity 1: something came
}

type shelfLane struct {
	queues  map[int]*queue // by part, of those that have something
	turns   []*queue       // the same; the first one's turn it is
	bytes   int
	deficit int
	stopped map[int]bool // parts that are not read at present
}

// queue is what waits of one partition.
type queue struct {
	part    int
	items   []item
	bytes   int
	deficit int
	fed     bool // it got its quantum for this turn
}

func newShelf(lanes int) *shelf {
	s := &shelf{more: make(chan struct{}, 1), fresh: true}
	for range lanes {
		s.lanes = append(s.lanes, &shelfLane{queues: map[int]*queue{}, stopped: map[int]bool{}})
	}
	return s
}

// put adds what one read brought, and tells which parts are not to be read on: they have more than their share of a full lane. Those
// that were stopped before are named again, since they may have been read on meanwhile.
func (s *shelf) put(items []item) (full []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range items {
		s.lanes[items[i].lane].add(&items[i])
	}
	for _, l := range s.lanes {
		if l.bytes <= shelfBytes {
			continue
		}
		for _, q := range l.turns {
			if q.bytes > shelfBytes/len(l.turns) {
				l.stopped[q.part] = true
				full = append(full, q.part)
			}
		}
	}
	if len(items) > 0 {
		wake(s.more)
	}
	return full
}

// purge forgets what waits of a part: it is to be sent from elsewhere, or not at all. It tells whether parts of the lane were
// stopped and are to be read on.
func (s *shelf) purge(lane, part int) (roomy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[lane]
	if q := l.queues[part]; q != nil {
		for _, it := range q.items {
			endAll(it.spans, nil)
		}
		l.bytes -= q.bytes
		l.drop(q)
	}
	return l.drained()
}

// drained tells whether a lane of which parts were stopped has room again.
func (l *shelfLane) drained() bool {
	if len(l.stopped) == 0 || l.bytes > shelfBytes/2 {
		return false
	}
	clear(l.stopped)
	return true
}

func (l *shelfLane) add(it *item) {
	q := l.queues[it.part]
	if q == nil {
		q = &queue{part: it.part}
		l.queues[it.part] = q
		l.turns = append(l.turns, q)
	}
	q.items = append(q.items, *it)
	q.bytes += it.bytes
	l.bytes += it.bytes
}

// drop forgets a queue; if it has something again, its turn comes after all others'.
func (l *shelfLane) drop(q *queue) {
	delete(l.queues, q.part)
	l.turns = slices.DeleteFunc(l.turns, func(o *queue) bool { return o == q })
}

// next is the item that goes next; nil if nothing waits. It stays the same until pop.
func (l *shelfLane) next() *item {
	for len(l.turns) > 0 {
		q := l.turns[0]
		if !q.fed {
			q.fed = true
			q.deficit += partQuantum
		}
		if it := &q.items[0]; it.bytes <= q.deficit || len(l.turns) == 1 {
			return it
		}
		q.fed = false
		l.turns = append(l.turns[1:], q)
	}
	return nil
}

// pop takes the next item off.
func (l *shelfLane) pop() item {
	q := l.turns[0]
	it := q.items[0]
	q.items[0] = item{}
	q.items = q.items[1:]
	q.bytes -= it.bytes
	q.deficit = max(0, q.deficit-it.bytes)
	l.bytes -= it.bytes
	l.deficit -= it.bytes
	if len(q.items) == 0 {
		l.drop(q)
	}
	return it
}

// take returns what goes into the next message: up to a number of bytes, or one item if that is larger. Lanes that may not
// send so many bytes more, the message's and the lane's in it, are passed over. roomy are the lanes of which parts were stopped that are
// to be read on.
func (s *shelf) take(most int, may func(lane, bytes, ofLane int) bool) (items []item, roomy []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, ofLane := 0, make([]int, len(s.lanes))
	for idle := 0; idle < len(s.lanes); { // turns in a row in which a lane had nothing that may go
		l := s.lanes[s.turn]
		if s.fresh {
			s.fresh = false
			l.deficit += shelfQuantum
		}
		waits := false
		for {
			it := l.next()
			if it == nil {
				break
			}
			if !may(s.turn, size+it.bytes, ofLane[s.turn]+it.bytes) {
				break
			}
			waits = true
			if it.bytes > l.deficit {
				break
			}
			if len(items) > 0 && size+it.bytes > most {
				return items, roomy // the lane goes on with its turn in the next message
			}
			size += it.bytes
			ofLane[s.turn] += it.bytes
			items = append(items, l.pop())
			if l.drained() {
				roomy = append(roomy, s.turn)
			}
			waits = len(l.turns) > 0
		}
		if waits {
			idle = 0
		} else {
			l.deficit = 0
			idle++
		}
		s.turn = (s.turn + 1) % len(s.lanes)
		s.fresh = true
	}
	return items, roomy
}
