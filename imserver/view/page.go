package view

import (
	"cmp"
	"maps"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Row is a stored record with what a reader must know of its id.
type Row struct {
	*Record
	Lowest bool // its place is its id's
}

// Stream is one origin's records of a conversation, from just past the query's cursor on, without holes.
type Stream struct {
	Origin im.Origin
	Rows   []Row
	More   bool // there are further rows that were not fetched
}

// Fetch is how many rows of each stream a page can need.
func (q *PullQuery) Fetch() int { return q.Limit + 1 }

// Range are the seqs of an origin that the query asks for: after < seq <= upto.
func (q *PullQuery) Range(o im.Origin) (after, upto uint64) {
	if q.Upto == nil {
		return q.Cursor[o], 1<<63 - 1
	}
	return q.Cursor[o], q.Upto[o]
}

// Ended cuts the query at what the caller may still read after their removal: up to, in each origin, the last record
// whose place is not past it. What lies beyond is not covered. Should they be added again, by a record that is on its
// way and stands before some of it, nothing that they may read was skipped.
func (q PullQuery) Ended(last im.Cursor) PullQuery {
	upto := im.Cursor{} // not nil: that would be everything
	for o, seq := range last {
		if q.Upto != nil {
			seq = min(seq, q.Upto[o])
		}
		upto[o] = seq
	}
	q.Upto = upto
	return q
}

// Assemble makes a page of streams for a caller who may read what lies within intervals. It takes the streams' rows in
// about place order, each stream in seq order, so that a page is a contiguous piece of every stream. Hidden rows are
// covered.
func (q *PullQuery) Assemble(streams []Stream, intervals []Interval) Page {
	page := Page{Cursor: q.Cursor.Clone()}
	if len(intervals) == 0 {
		return page
	}
	streams = slices.Clone(streams)
	rows := 0
	for i := range streams {
		rows += len(streams[i].Rows)
	}
	page.Records = slices.Grow(page.Records, min(rows, q.Limit))
	bytes := 0
	for {
		next := -1
		for i := range streams {
			s := &streams[i]
			if len(s.Rows) > 0 && (next < 0 || s.Rows[0].Place.Before(streams[next].Rows[0].Place)) {
				next = i
			}
		}
		if next < 0 {
			page.More = slices.ContainsFunc(streams, func(s Stream) bool { return s.More })
			return page
		}
		s := &streams[next]
		r := &s.Rows[0]
		visible := r.Shown && Within(intervals, r.Place)
		if visible {
			size := 0
			if r.Lowest {
				size = len(r.Body)
			}
			taken := len(page.Records) + len(page.Repeats)
			if taken >= q.Limit || taken > 0 && q.Bytes > 0 && bytes+size > q.Bytes {
				page.More = true
				return page
			}
			bytes += size
			if r.Lowest {
				page.Records = append(page.Records, r.Record.Record)
			} else {
				repeat := r.Record.Record
				repeat.Body = nil
				page.Repeats = append(page.Repeats, repeat)
			}
		}
		if page.Cursor == nil {
			page.Cursor = im.Cursor{}
		}
		page.Cursor[s.Origin] = r.Place.Seq
		s.Rows = s.Rows[1:]
		if len(s.Rows) == 0 && s.More { // what comes next is not known: going on with other streams would be out of order
			page.More = true
			return page
		}
	}
}

// Touch says that a user's list row of a conversation changed last at an offset of an origin's log.
type Touch struct {
	Conversation im.Conversation
	Partition    im.Partition
	Offset       int64
}

// CutList picks the conversations of a page from what touched a user's list, and the list cursor that covers them. next
// tells how far the view is: the cursor never passes it.
//
// Touches are taken partition by partition, in offset order, because a list cursor can only say "up to here" in each.
func (q *ListQuery) CutList(touches []Touch, next map[im.Partition]int64) (picked []im.Conversation, cursor im.ListCursor, more bool) {
	touches = slices.DeleteFunc(slices.Clone(touches), func(t Touch) bool { return t.Offset < q.Cursor[t.Partition] })
	slices.SortFunc(touches, func(a, b Touch) int {
		return cmp.Or(a.Partition.Compare(b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	taken := map[im.Conversation]struct{}{}
	var stop *Touch
	for i, t := range touches {
		if _, ok := taken[t.Conversation]; ok {
			continue
		}
		if len(taken) == q.Limit {
			stop = &touches[i]
			break
		}
		taken[t.Conversation] = struct{}{}
		picked = append(picked, t.Conversation)
	}
	cursor = maps.Clone(q.Cursor)
	if cursor == nil {
		cursor = im.ListCursor{}
	}
	for p, n := range next {
		if family, _, err := im.ParseTopic(p.Topic); err != nil || family != im.FamilyMsg || n == 0 {
			continue
		}
		if stop != nil {
			switch c := p.Compare(stop.Partition); {
			case c > 0:
				continue
			case c == 0:
				n = stop.Offset
			}
		}
		cursor[p] = max(cursor[p], n)
	}
	return picked, cursor, stop != nil
}
