package routes

import "github.com/antipode-im/antipode/im"

// Entry is one record as it stands in this region's Kafka.
type Entry struct {
	im.RouteRecord        // Route.Offset is the origin offset, Route.Claimed the record's stamp, for every kind
	Local          int64  // the offset in this region's log or copy
	Generation     uint32 // the link generation
	Checksum       uint64 // of what ships unchanged; 0: not computed, and one record of a batch is enough
}

// Tail is where a reader stands in one partition of one origin: im.Follower, and what a reader of a route topic adds to
// it. It may begin anywhere (a log from before is not needed: routes die of age), and it jumps over a gap that lasts.
// The zero value takes the first entry it sees.
type Tail struct {
	follower im.Follower
	started  bool
	jumped   bool  // nothing was taken since a jump
	local    int64 // the next local offset to read
	floor    int64 // no row claimed below it counts: it was claimed before a jump
	gap      *Gap
}

// Gap is a hole in a copy: entries from Local on are ahead of the next one to take.
type Gap struct {
	Partition im.Partition
	Next      int64    // the origin offset that is missing
	Local     int64    // of the first entry past the hole
	Since     im.Stamp // when it was seen
}

// NewTail continues from a stored position.
func NewTail(p im.RoutePosition) Tail {
	return Tail{
		follower: im.Follower{Next: p.Next, Generation: p.Generation}, started: true, local: p.Local, floor: p.Floor,
	}
}

// See judges an entry and advances past it when it is to be taken.
func (t *Tail) See(e *Entry, now im.Stamp) im.Verdict {
	marker := e.Kind == im.KindHold
	if seal, final := im.SealAt(e.Route.Offset); marker && final && !t.started {
		t.follower.Next = seal // retention took everything before the final marker
	}
	if !t.started && !marker {
		t.started, t.follower.Next = true, e.Route.Offset
		if t.jumped {
			t.jumped, t.floor = false, e.Route.Offset
		}
	}
	v := t.follower.See(e.Route.Offset, e.Generation, marker)
	switch v {
	case im.Take:
		t.gap = nil
	case im.Gap:
		if t.gap == nil {
			t.gap = &Gap{Next: t.follower.Next, Local: e.Local, Since: now}
		}
	}
	t.local = e.Local + 1
	return v
}

// Position is what to store beside what was taken. Its local offset stays before a gap: what is past it was not taken.
func (t *Tail) Position() (p im.RoutePosition, ok bool) {
	p = im.RoutePosition{
		Next: t.follower.Next, Local: t.local, Generation: t.follower.Generation, Floor: t.floor,
	}
	if t.gap != nil {
		p.Local = t.gap.Local
	}
	return p, t.started
}

// Read is the next local offset to read, past gaps.
func (t *Tail) Read() int64 { return t.local }

// Gap returns the hole that the tail stands before, if any.
func (t *Tail) Gap() (Gap, bool) {
	if t.gap == nil {
		return Gap{}, false
	}
	return *t.gap, true
}

// Jump gives up what is missing: the next entry seen is taken, and rows claimed before it no longer count. The caller
// seeks to local, removes the rows, and says so, loudly.
func (t *Tail) Jump(local int64) {
	*t = Tail{follower: im.Follower{Generation: t.follower.Generation}, jumped: true, local: local, floor: t.floor}
}
