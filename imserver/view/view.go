package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// View is a region's view in memory: what the timelines in PostgreSQL are held to. It keeps the rows that they keep,
// merged by the same rules, and is otherwise simple on purpose. It is not safe for concurrent use.
type View struct {
	count     int // partitions of every topic
	rules     rules
	positions map[im.Partition]Position
	streams   map[HeadKey][]Record // records[seq-1]
	origins   map[im.Conversation][]im.Origin
	ids       map[im.ID][]idRow // one an origin
	groups    map[im.Conversation]*Group
	inbox     map[im.UID]map[HeadKey]int64
	cursors   map[im.Conversation]map[im.UID]Receipt
}

type idRow struct {
	lowest im.Place // in one origin
	first  uint64
}

// rules are the merges. Tests replace them to see that a wrong one is found.
type rules struct {
	lower  func(old, new im.Place) im.Place
	cursor func(old, new im.Cursor) im.Cursor
}

func trueRules() rules {
	return rules{
		lower: func(old, new im.Place) im.Place {
			if new.Before(old) {
				return new
			}
			return old
		},
		cursor: im.Cursor.Merge,
	}
}

// NewView returns an empty view of logs with count partitions a topic.
func NewView(count int) *View {
	return &View{
		count: count, rules: trueRules(),
		positions: map[im.Partition]Position{},
		streams:   map[HeadKey][]Record{},
		origins:   map[im.Conversation][]im.Origin{},
		ids:       map[im.ID][]idRow{},
		groups:    map[im.Conversation]*Group{},
		inbox:     map[im.UID]map[HeadKey]int64{},
		cursors:   map[im.Conversation]map[im.UID]Receipt{},
	}
}

// Position is how far the view is in a partition.
func (v *View) Position(p im.Partition) Position {
	at, ok := v.positions[p]
	if !ok {
		at.Partition = p
	}
	return at
}

// Positions are all of them, sorted.
func (v *View) Positions() []Position {
	return slices.SortedFunc(maps.Values(v.positions), func(a, b Position) int { return a.Partition.Compare(b.Partition) })
}

// Last is the last seq of a stream.
func (v *View) Last(k HeadKey) uint64 { return uint64(len(v.streams[k])) }

// Record is the record with a seq of a stream, from 1 to Last.
func (v *View) Record(k HeadKey, seq uint64) *Record { return &v.streams[k][seq-1] }

// Find returns where the record of an id is, at its lowest place.
func (v *View) Find(id im.ID) (found Found, ok bool) {
	for _, row := range v.ids[id] {
		if !ok || row.lowest.Before(found.Place) {
			found.Place, ok = row.lowest, true
		}
	}
	if ok {
		found.Offset = v.Record(HeadKey{id.Conversation, found.Place.Origin}, found.Place.Seq).Offset
	}
	return found, ok
}

// Group returns the changes of a group, nil if none was applied.
func (v *View) Group(c im.Conversation) *Group { return v.groups[c] }

// Apply adds parts, all or none.
func (v *View) Apply(parts []Part) error {
	heads := map[HeadKey]uint64{}
	for i := range parts {
		p := &parts[i]
		if v.Position(p.Partition).Next != p.From {
			return ErrFenced
		}
		for j := range p.Records {
			r := &p.Records[j]
			k := HeadKey{r.Conversation, r.Place.Origin}
			last, ok := heads[k]
			if !ok {
				last = v.Last(k)
			}
			if r.Place.Seq != last+1 {
				return fmt.Errorf("%v: seq %d of %v comes after %d", p.Partition, r.Place.Seq, k, last)
			}
			heads[k] = r.Place.Seq
		}
	}
	for i := range parts {
		p := &parts[i]
		v.positions[p.Partition] = p.To
		for j := range p.Records {
			v.record(&p.Records[j])
		}
		for _, c := range p.Cursors {
			v.mark(c)
		}
	}
	return nil
}

func (v *View) record(r *Record) {
	k := HeadKey{r.Conversation, r.Place.Origin}
	if len(v.streams[k]) == 0 {
		v.origins[r.Conversation] = append(v.origins[r.Conversation], r.Place.Origin)
		slices.Sort(v.origins[r.Conversation])
	}
	v.streams[k] = append(v.streams[k], *r)
	if !r.Opaque {
		rows := v.ids[r.ID]
		i := slices.IndexFunc(rows, func(row idRow) bool { return row.lowest.Origin == r.Place.Origin })
		if i < 0 {
			v.ids[r.ID] = append(rows, idRow{r.Place, r.Place.Seq})
		} else {
			rows[i] = idRow{v.rules.lower(rows[i].lowest, r.Place), min(rows[i].first, r.Place.Seq)}
		}
	}
	for _, uid := range r.Conversation.Members() {
		if v.inbox[uid] == nil {
			v.inbox[uid] = map[HeadKey]int64{}
		}
		v.inbox[uid][k] = r.Offset
	}
	if c, ok := ChangeOf(r); ok {
		if v.groups[r.Conversation] == nil {
			v.groups[r.Conversation] = &Group{}
		}
		v.groups[r.Conversation].Add(c)
	}
}

func (v *View) mark(c wire.Cursors) {
	if v.cursors[c.Conversation] == nil {
		v.cursors[c.Conversation] = map[im.UID]Receipt{}
	}
	old := v.cursors[c.Conversation][c.UID]
	v.cursors[c.Conversation][c.UID] = Receipt{c.UID, v.rules.cursor(old.Delivered, c.Delivered), v.rules.cursor(old.Read, c.Read)}
}

// lowest is the place at which an id shows.
func (v *View) lowest(id im.ID) im.Place {
	var low im.Place
	for _, row := range v.ids[id] {
		if low.IsZero() || row.lowest.Before(low) {
			low = row.lowest
		}
	}
	return low
}

func (v *View) intervals(c im.Conversation, uid im.UID) []Interval {
	if members := c.Members(); members != nil {
		if slices.Contains(members, uid) {
			return Everything()
		}
		return nil
	}
	if g := v.groups[c]; g != nil {
		return g.Intervals(uid)
	}
	return nil
}

// Pull returns a page.
func (v *View) Pull(q PullQuery) Page {
	intervals := v.intervals(q.Conversation, q.UID)
	if n := len(intervals); n > 0 && !intervals[n-1].Open() {
		q = q.Ended(v.lastUpTo(q.Conversation, intervals[n-1].To))
	}
	var streams []Stream
	for _, o := range v.origins[q.Conversation] {
		after, upto := q.Range(o)
		s := Stream{Origin: o}
		records := v.streams[HeadKey{q.Conversation, o}]
		records = records[min(after, uint64(len(records))):min(max(after, upto), uint64(len(records)))]
		if n := q.Fetch(); len(records) > n {
			records, s.More = records[:n], true
		}
		s.Rows = make([]Row, 0, len(records))
		for i := range records {
			r := &records[i]
			s.Rows = append(s.Rows, Row{*r, !r.Opaque && v.lowest(r.ID) == r.Place})
		}
		streams = append(streams, s)
	}
	return q.Assemble(streams, intervals)
}

// lastUpTo returns, per origin, the last seq whose place is not past end.
func (v *View) lastUpTo(c im.Conversation, end im.Place) im.Cursor {
	last := im.Cursor{}
	for _, o := range v.origins[c] {
		records := v.streams[HeadKey{c, o}]
		for i := len(records) - 1; i >= 0 && last[o] == 0; i-- { // places of a stream are not in order
			if records[i].Place.Compare(end) <= 0 {
				last[o] = records[i].Place.Seq
			}
		}
	}
	return last
}

// List returns the rows of a user's list that changed, the latest first.
func (v *View) List(q ListQuery) ListPage {
	var touches []Touch
	for k, offset := range v.inbox[q.UID] {
		touches = append(touches, Touch{k.Conversation, v.partition(k), offset})
	}
	for c, g := range v.groups {
		events := g.events[q.UID]
		if Current(Spell(events)) {
			for _, o := range v.origins[c] {
				k := HeadKey{c, o}
				touches = append(touches, Touch{c, v.partition(k), v.streams[k][v.Last(k)-1].Offset})
			}
		}
		for _, e := range events { // one who left hears of the leaving and nothing after it
			touches = append(touches, Touch{c, v.partition(HeadKey{c, e.Place.Origin}), e.Offset})
		}
	}
	next := map[im.Partition]int64{}
	for p, at := range v.positions {
		next[p] = at.Next
	}
	picked, cursor, more := q.CutList(touches, next)
	page := ListPage{Cursor: cursor, More: more}
	for _, c := range picked {
		page.Rows = append(page.Rows, v.row(q.UID, c))
	}
	SortRows(page.Rows)
	return page
}

// SortRows puts the latest conversations first.
func SortRows(rows []ListRow) {
	place := func(r ListRow) im.Place {
		if r.Last == nil {
			return im.Place{}
		}
		return r.Last.Place
	}
	slices.SortFunc(rows, func(a, b ListRow) int {
		return cmp.Or(-place(a).Compare(place(b)), cmp.Compare(a.Conversation, b.Conversation))
	})
}

func (v *View) partition(k HeadKey) im.Partition {
	return PartitionOf(k, v.count)
}

// PartitionOf is the partition in which a stream's records stand, count being how many its topic has.
func PartitionOf(k HeadKey, count int) im.Partition {
	return im.Partition{Topic: im.MsgTopic(k.Origin, k.Conversation.Lane()), Number: wire.Partition(string(k.Conversation), count)}
}

func (v *View) row(uid im.UID, c im.Conversation) ListRow {
	intervals := v.intervals(c, uid)
	row := ListRow{Conversation: c, Member: Current(intervals)}
	if g := v.groups[c]; g != nil {
		row.Title = TitleFor(g.titles, intervals)
	}
	mine := v.cursors[c][uid]
	row.Delivered, row.Read = mine.Delivered, mine.Read
	if !row.Member {
		if n := len(intervals); n > 0 { // what a pull of theirs ends at: they may have missed what came before the removal
			row.Head = v.lastUpTo(c, intervals[n-1].To)
		}
		return row
	}
	row.Head = im.Cursor{}
	for _, o := range v.origins[c] {
		row.Head[o] = v.Last(HeadKey{c, o})
		for _, r := range v.streams[HeadKey{c, o}] {
			if r.Kind != im.KindMessage || !r.Shown || r.Place != v.lowest(r.ID) || !Within(intervals, r.Place) {
				continue
			}
			if row.Last == nil || row.Last.Place.Before(r.Place) {
				last := r.Record
				row.Last = &last
			}
			if r.Sender != uid && !v.read(r.ID, mine.Read) && row.Unread < UnreadLimit {
				row.Unread++
			}
		}
	}
	return row
}

// read tells whether any record of the id is covered.
func (v *View) read(id im.ID, by im.Cursor) bool {
	for _, row := range v.ids[id] {
		if by.Covers(row.lowest.Origin, row.first) {
			return true
		}
	}
	return false
}

// Receipts returns the cursors of those of the users who have any, sorted by uid.
func (v *View) Receipts(c im.Conversation, users []im.UID) []Receipt {
	var receipts []Receipt
	for uid, r := range v.cursors[c] {
		if slices.Contains(users, uid) {
			receipts = append(receipts, r)
		}
	}
	slices.SortFunc(receipts, func(a, b Receipt) int { return cmp.Compare(a.UID, b.UID) })
	return receipts
}

// Digest returns a digest of each part of the view.
func (v *View) Digest() map[string]string {
	d := NewDigest()
	for k, records := range v.streams {
		for i := range records {
			d.Record(&records[i])
		}
		d.Head(k, v.Last(k), records[len(records)-1].Offset)
	}
	for id, rows := range v.ids {
		for _, row := range rows {
			d.ID(id, row.lowest, row.first)
		}
	}
	for uid, rows := range v.inbox {
		for k, offset := range rows {
			d.Inbox(uid, k, offset)
		}
	}
	for c, g := range v.groups {
		for uid, events := range g.events {
			for _, e := range events {
				d.Member(c, uid, e)
			}
		}
		for _, t := range g.titles {
			d.Title(c, t)
		}
	}
	for c, users := range v.cursors {
		for uid, r := range users {
			for o := range r.Delivered.Merge(r.Read) {
				d.Cursor(HeadKey{c, o}, uid, r.Delivered[o], r.Read[o])
			}
		}
	}
	return d.Sums()
}
