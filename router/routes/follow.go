package routes

import (
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Follow makes the origins that are followed the latest of each region among those that are named. It returns those that are
// new: nothing of them counts before Jump and Expect say where they are read from and up to where. Rows of those that are not
// followed any more are dropped.
func (t *Table) Follow(origins []im.Origin) (fresh []im.Origin, err error) {
	t.shape.Lock()
	defer t.shape.Unlock()
	current := Current(origins)
	known := t.known()
	for _, o := range current {
		if !slices.Contains(known, o) {
			fresh = append(fresh, o)
		}
	}
	if len(known)+len(fresh) > maxOrigins {
		return nil, fmt.Errorf("routes: %d origins were followed in this process's life, and %d are new: at most %d are supported: restart it",
			len(known), len(fresh), maxOrigins)
	}
	for i, o := range fresh {
		t.origins[len(known)+i] = o
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for o, origin := range known {
			s.logs[o].gone = !slices.Contains(current, origin)
		}
		s.forget(func(r row) bool { return s.logs[s.origin(r)].gone })
		for o := range s.logs {
			if s.logs[o].gone && !s.logs[o].dropped() {
				s.logs[o] = newLog(known[o])
				s.logs[o].gone = true
			}
		}
		for _, o := range fresh {
			s.logs = append(s.logs, newLog(o))
		}
		s.mu.Unlock()
	}
	t.places.Store(int32(len(known) + len(fresh)))
	for _, o := range current { // one that was dropped, and is named again
		if p := t.Partitions(o)[0]; slices.Contains(known, o) && t.unread(p) {
			fresh = append(fresh, o)
		}
	}
	return fresh, nil
}

// dropped tells whether a log was emptied.
func (l *log) dropped() bool { return l.expect < 0 && l.watermark == 0 && len(l.lives) == 0 }

// unread tells whether nobody said yet from where a partition is read.
func (t *Table) unread(p im.Partition) bool {
	s, o, ok := t.at(p)
	if !ok {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.logs[o].dropped()
}
