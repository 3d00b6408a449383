package replicator

import (
	"github.com/antipode-im/antipode/im"
)

// Standing is what a copy says about itself: where a link is to go on, and by what the other end tells that its log is the
// one that the copy is of.
type Standing struct {
	im.Follower
	Name     im.LogName // zero if no record among those looked at tells
	Checksum uint64     // of the last record taken; 0 if it is not known
}

// Stand reads a copy's standing off the entries at its end. whole tells that they are all of it; applied is the next
// offset that a view needs, 0 if unknown. The link is asked for Next: max(applied position, tail of the copy) + 1.
func Stand(entries []im.Entry, whole bool, applied int64) Standing {
	to := tail(entries, whole, applied)
	s := Standing{Follower: to.follower, Name: to.name}
	if to.last.known && to.last.offset == to.follower.Next-1 {
		s.Checksum = to.last.checksum
	}
	return s
}
