package replicator

import (
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
)

const (
	// shelfQuantum is what a lane may send when its turn comes, bytes; what it does not use up it keeps while it waits.
	shelfQuantum = 128 << 10
	// shelfBytes is how much of a lane is read ahead of the link; then the lane's partitions are read on only when half of
	// it is gone.
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

// shelf holds what was read of the own log until the link takes it. Lanes take turns by bytes (deficit round robin), so
// that a crowd in one delays no other, however much of it waits; within a lane it is first come, first served, and a
// reader's answers hold a bounded piece of each partition.
type shelf struct {
	mu    sync.Mutex
	lanes []*shelfLane
	turn  int
	fresh bool          // the lane whose turn it is has not got its quantum yet
	more  chan struct{} // capacity 1: something came
}

type shelfLane struct {
	items   []item
	bytes   int
	deficit int
	full    bool // its partitions are not read at present
}

func newShelf(lanes int) *shelf {
	s := &shelf{more: make(chan struct{}, 1), fresh: true}
	for range lanes {
		s.lanes = append(s.lanes, &shelfLane{})
	}
	return s
}

// put adds what one read brought, and tells which lanes are full now and were not before.
func (s *shelf) put(items []item) (full []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range items {
		it := &items[i]
		l := s.lanes[it.lane]
		l.items = append(l.items, *it)
		l.bytes += it.bytes
		if !l.full && l.bytes > shelfBytes {
			l.full = true
			full = append(full, it.lane)
		}
	}
	if len(items) > 0 {
		wake(s.more)
	}
	return full
}

// purge forgets what waits of a part: it is to be sent from elsewhere, or not at all. It tells whether the lane was full
// and is to be read on.
func (s *shelf) purge(lane, part int) (roomy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[lane]
	kept := l.items[:0]
	for _, it := range l.items {
		if it.part != part {
			kept = append(kept, it)
			continue
		}
		l.bytes -= it.bytes
		endAll(it.spans, nil)
	}
	clear(l.items[len(kept):])
	l.items = kept
	return l.drained()
}

// drained tells whether a lane that was full has room again.
func (l *shelfLane) drained() bool {
	if !l.full || l.bytes > shelfBytes/2 {
		return false
	}
	l.full = false
	return true
}

// take returns what goes into the next message: up to a number of bytes, or one item if that is larger. Lanes that may not
// send so many bytes more, the message's and the lane's in it, are passed over. roomy are the lanes that were full and are to be read on.
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
		for len(l.items) > 0 {
			it := &l.items[0]
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
			items = append(items, *it)
			size += it.bytes
			ofLane[s.turn] += it.bytes
			l.deficit -= it.bytes
			l.bytes -= it.bytes
			l.items[0] = item{}
			l.items = l.items[1:]
			if l.drained() {
				roomy = append(roomy, s.turn)
			}
			waits = len(l.items) > 0
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
