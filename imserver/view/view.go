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
	count         int // partitions of every topic
	rules         rules
	positions     map[im.Partition]Position
	conversations map[im.Conversation]*conversation
}

// conversation is what there is of one.
type conversation struct {
	streams []*stream // sorted by origin
	ids     map[idKey]*idRow
	group   *Group // nil: no change of it was applied
	cursors map[im.UID]Receipt
}

// stream is what came from one origin.
type stream struct {
	origin  im.Origin
	records []row // [seq-1]
}

// row is a record, which belongs to the part that was applied.
type row struct {
	*Record
	id *idRow // nil of an opaque one
}

// idKey is an id without its conversation.
type idKey struct {
	sender im.UID
	client im.UUID
}

// idRow is what is known of an id from one origin.
type idRow struct {
	lowest im.Place
	first  uint64
	next   *idRow // from another
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
		positions:     map[im.Partition]Position{},
		conversations: map[im.Conversation]*conversation{},
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
func (v *View) Last(k HeadKey) uint64 { return uint64(len(v.stream(k).records)) }

// Record is the record with a seq of a stream, from 1 to Last.
func (v *View) Record(k HeadKey, seq uint64) *Record { return v.stream(k).records[seq-1].Record }

// of is what there is of a conversation, if need be nothing.
func (v *View) of(c im.Conversation) *conversation {
	if has := v.conversations[c]; has != nil {
		return has
	}
	return &none
}

// What there is of what the view does not have. They never change.
var (
	none  conversation
	empty stream
)

func (v *View) stream(k HeadKey) *stream {
	for _, s := range v.of(k.Conversation).streams {
		if s.origin == k.Origin {
			return s
		}
	}
	return &empty
}

// Find returns where the record of an id is, at its lowest place.
func (v *View) Find(id im.ID) (found Found, ok bool) {
	known := v.of(id.Conversation).ids[idKey{id.Sender, id.ClientID}]
	if known == nil {
		return Found{}, false
	}
	found.Place = known.place()
	found.Offset = v.Record(HeadKey{id.Conversation, found.Place.Origin}, found.Place.Seq).Offset
	return found, true
}

// place is where an id shows: at the lowest place from all origins.
func (r *idRow) place() im.Place {
	low := r.lowest
	for r = r.next; r != nil; r = r.next {
		if r.lowest.Before(low) {
			low = r.lowest
		}
	}
	return low
}

// Group returns the changes of a group, nil if none was applied.
func (v *View) Group(c im.Conversation) *Group { return v.of(c).group }

// Apply adds parts, all or none. Their records belong to the view from then on.
func (v *View) Apply(parts []Part) error {
	heads := map[HeadKey]uint64{}
	var k HeadKey
	var last uint64
	for i := range parts {
		p := &parts[i]
		if v.Position(p.Partition).Next != p.From {
			return ErrFenced
		}
		for j := range p.Records {
			r := &p.Records[j]
			if next := r.Stream(); next != k { // a stream's records often stand together
				heads[k] = last
				head, known := heads[next]
				if !known {
					head = v.Last(next)
				}
				k, last = next, head
			}
			if r.Place.Seq != last+1 {
				return fmt.Errorf("%v: seq %d of %v comes after %d", p.Partition, r.Place.Seq, k, last)
			}
			last++
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

// open returns what there is of a conversation, to add to it.
func (v *View) open(c im.Conversation) *conversation {
	has := v.conversations[c]
	if has == nil {
		has = &conversation{ids: map[idKey]*idRow{}, cursors: map[im.UID]Receipt{}}
		v.conversations[c] = has
	}
	return has
}

func (v *View) record(r *Record) {
	c := v.open(r.Conversation)
	i, ok := slices.BinarySearchFunc(c.streams, r.Place.Origin, func(s *stream, o im.Origin) int { return cmp.Compare(s.origin, o) })
	if !ok {
		c.streams = slices.Insert(c.streams, i, &stream{origin: r.Place.Origin})
	}
	s := c.streams[i]
	if r.Opaque {
		s.records = append(s.records, row{r, nil})
	} else {
		s.records = append(s.records, row{r, c.identify(r, v.rules.lower)})
	}
	if change, ok := ChangeOf(r); ok {
		if c.group == nil {
			c.group = &Group{}
		}
		c.group.Add(change)
	}
}

// identify notes a record of an id, and returns what is known of the id from the first of its origins.
func (c *conversation) identify(r *Record, lower func(old, new im.Place) im.Place) *idRow {
	k := idKey{r.Sender, r.ClientID}
	known := c.ids[k]
	for at := known; at != nil; at = at.next {
		switch {
		case at.lowest.Origin == r.Place.Origin:
			at.lowest, at.first = lower(at.lowest, r.Place), min(at.first, r.Place.Seq)
			return known
		case at.next == nil:
			at.next = &idRow{lowest: r.Place, first: r.Place.Seq}
			return known
		}
	}
	known = &idRow{lowest: r.Place, first: r.Place.Seq}
	c.ids[k] = known
	return known
}

func (v *View) mark(c wire.Cursors) {
	has := v.open(c.Conversation)
	old := has.cursors[c.UID]
	has.cursors[c.UID] = Receipt{c.UID, v.rules.cursor(old.Delivered, c.Delivered), v.rules.cursor(old.Read, c.Read)}
}

func (v *View) intervals(c im.Conversation, uid im.UID) []Interval {
	if c.Names(uid) {
		return Everything()
	}
	if g := v.Group(c); g != nil {
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
	for _, has := range v.of(q.Conversation).streams {
		after, upto := q.Range(has.origin)
		s := Stream{Origin: has.origin}
		records := has.records
		records = records[min(after, uint64(len(records))):min(max(after, upto), uint64(len(records)))]
		if n := q.Fetch(); len(records) > n {
			records, s.More = records[:n], true
		}
		s.Rows = make([]Row, 0, len(records))
		for i := range records {
			r := &records[i]
			s.Rows = append(s.Rows, Row{r.Record, r.shows()})
		}
		streams = append(streams, s)
	}
	return q.Assemble(streams, intervals)
}

// shows tells whether the record stands at its id's place.
func (r *row) shows() bool { return r.id != nil && r.id.place() == r.Place }

// lastUpTo returns, per origin, the last seq whose place is not past end.
func (v *View) lastUpTo(c im.Conversation, end im.Place) im.Cursor {
	last := im.Cursor{}
	for _, s := range v.of(c).streams {
		for i := len(s.records) - 1; i >= 0 && last[s.origin] == 0; i-- { // places of a stream are not in order
			if s.records[i].Place.Compare(end) <= 0 {
				last[s.origin] = s.records[i].Place.Seq
			}
		}
	}
	return last
}

// List returns the rows of a user's list that changed, the latest first.
func (v *View) List(q ListQuery) ListPage {
	var touches []Touch
	var groups []im.Conversation
	for c, has := range v.conversations {
		var events []Event
		if has.group != nil {
			events = has.group.events[q.UID]
		}
		in := Current(Spell(events))
		if in {
			groups = append(groups, c)
		}
		if c.Names(q.UID) || in {
			for _, s := range has.streams {
				touches = append(touches, Touch{c, v.partition(HeadKey{c, s.origin}), s.last()})
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
	slices.Sort(groups)
	page := ListPage{Cursor: cursor, More: more, Groups: groups}
	for _, c := range picked {
		page.Rows = append(page.Rows, v.row(q.UID, c))
	}
	SortRows(page.Rows)
	return page
}

// last is the offset of the last record.
func (s *stream) last() int64 { return s.records[len(s.records)-1].Offset }

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
	has := v.of(c)
	if has.group != nil {
		row.Title = TitleFor(has.group.titles, intervals)
	}
	mine := has.cursors[uid]
	row.Delivered, row.Read = mine.Delivered, mine.Read
	if !row.Member {
		if n := len(intervals); n > 0 { // what a pull of theirs ends at: they may have missed what came before the removal
			row.Head = v.lastUpTo(c, intervals[n-1].To)
		}
		return row
	}
	row.Head = im.Cursor{}
	for _, s := range has.streams {
		row.Head[s.origin] = uint64(len(s.records))
		for i := range s.records {
			r := &s.records[i]
			if r.Kind != im.KindMessage || !r.Shown || !r.shows() || !Within(intervals, r.Place) {
				continue
			}
			if row.Last == nil || row.Last.Place.Before(r.Place) {
				last := r.Record.Record
				row.Last = &last
			}
			if r.Sender != uid && !r.id.read(mine.Read) && row.Unread < UnreadLimit {
				row.Unread++
			}
		}
	}
	return row
}

// read tells whether any record of the id is covered.
func (r *idRow) read(by im.Cursor) bool {
	for ; r != nil; r = r.next {
		if by.Covers(r.lowest.Origin, r.first) {
			return true
		}
	}
	return false
}

// Receipts returns the cursors of those of the users who have any, sorted by uid.
func (v *View) Receipts(c im.Conversation, users []im.UID) []Receipt {
	var receipts []Receipt
	for uid, r := range v.of(c).cursors {
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
	for c, has := range v.conversations {
		members := c.Members()
		for _, s := range has.streams {
			for i := range s.records {
				d.Record(s.records[i].Record)
			}
			k := HeadKey{c, s.origin}
			d.Head(k, uint64(len(s.records)), s.last())
			for _, uid := range members { // of whose inboxes this is a row
				d.Inbox(uid, k, s.last())
			}
		}
		for k, row := range has.ids {
			for ; row != nil; row = row.next {
				d.ID(im.ID{Conversation: c, Sender: k.sender, ClientID: k.client}, row.lowest, row.first)
			}
		}
		if has.group != nil {
			for uid, events := range has.group.events {
				for _, e := range events {
					d.Member(c, uid, e)
				}
			}
			for _, t := range has.group.titles {
				d.Title(c, t)
			}
		}
		for uid, r := range has.cursors {
			for o := range r.Delivered.Merge(r.Read) {
				d.Cursor(HeadKey{c, o}, uid, r.Delivered[o], r.Read[o])
			}
		}
	}
	return d.Sums()
}
