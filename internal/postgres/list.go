package postgres

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// List returns the rows of a user's list that changed, the latest first. Direct conversations are found in the user's
// inbox; groups by joining what says that the user is a member with the groups' heads. Each database lists its own
// conversations; a list cursor says how far the list is in each partition, and a partition is in one database.
func (t *Timelines) List(ctx context.Context, q view.ListQuery) (page view.ListPage, err error) {
	err = t.everywhere(ctx, "list", func(txs []pgx.Tx) error {
		page, err = t.list(ctx, q, txs)
		return err
	})
	return page, err
}

func (t *Timelines) list(ctx context.Context, q view.ListQuery, txs []pgx.Tx) (view.ListPage, error) {
	listers := make([]lister, len(txs))
	if err := each(len(txs), func(i int) error {
		l := &listers[i]
		*l = lister{ctx: ctx, tx: txs[i], uid: q.UID, intervals: map[im.Conversation][]view.Interval{}}
		return explain(t.dbs[i].addr, "list", l.look(q))
	}); err != nil {
		return view.ListPage{}, err
	}
	var touches []view.Touch
	next := map[im.Partition]int64{}
	for i := range listers {
		touches = append(touches, listers[i].touches...)
		maps.Copy(next, listers[i].next)
	}
	picked, cursor, more := q.CutList(touches, next)
	if err := each(len(txs), func(i int) error {
		var own []im.Conversation
		for _, c := range picked {
			if t.home(c) == t.dbs[i] {
				own = append(own, c)
			}
		}
		return explain(t.dbs[i].addr, "list", listers[i].fill(own))
	}); err != nil {
		return view.ListPage{}, err
	}
	page := view.ListPage{Cursor: cursor, More: more}
	for i := range listers {
		page.Rows = append(page.Rows, listers[i].rows...)
		page.Groups = append(page.Groups, listers[i].current...)
	}
	view.SortRows(page.Rows)
	slices.Sort(page.Groups)
	return page, nil
}

// lister is one database's part of a list.
type lister struct {
	ctx       context.Context
	tx        pgx.Tx
	uid       im.UID
	intervals map[im.Conversation][]view.Interval // of the groups that the user ever was in
	next      map[im.Partition]int64              // how far the view is
	current   []im.Conversation                   // of these, those that the user is in now
	touches   []view.Touch                        // what changed at or past the query's cursor
	rows      []view.ListRow
}

// look finds what changed.
func (l *lister) look(q view.ListQuery) error {
	if err := l.readNext(); err != nil {
		return err
	}
	return l.readTouches(q)
}

func (l *lister) readNext() error {
	rows, err := l.tx.Query(l.ctx, `SELECT topic, part, next FROM positions`)
	if err != nil {
		return err
	}
	l.next = map[im.Partition]int64{}
	var p im.Partition
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&p.Topic, &p.Number, &n}, func() error {
		l.next[p] = n
		return nil
	})
	return err
}

func (l *lister) readTouches(q view.ListQuery) error {
	var topics []string
	var parts []int32
	var offsets []int64
	for p, offset := range q.Cursor {
		topics, parts, offsets = append(topics, p.Topic), append(parts, int32(p.Number)), append(offsets, offset)
	}
	var t view.Touch
	fields := []any{(*string)(&t.Conversation), &t.Partition.Topic, &t.Partition.Number, &t.Offset}
	take := func() error {
		l.touches = append(l.touches, t)
		return nil
	}
	rows, err := l.tx.Query(l.ctx, `
		SELECT i.conversation, i.topic, i.part, i.log_offset FROM inbox i
		LEFT JOIN unnest($2::text[], $3::int[], $4::bigint[]) AS c(topic, part, seen) ON c.topic = i.topic AND c.part = i.part
		WHERE i.uid = $1 AND i.log_offset >= coalesce(c.seen, 0)`, string(l.uid), topics, parts, offsets)
	if err != nil {
		return err
	}
	if _, err := pgx.ForEachRow(rows, fields, take); err != nil {
		return err
	}

	events := map[im.Conversation][]view.Event{}
	var e view.Event
	rows, err = l.tx.Query(l.ctx, `
		SELECT m.conversation, h.topic, h.part, m.origin, m.seq, m.stamp, m.log_offset, m.sender, m.client_id, m.added
		FROM members m JOIN heads h ON h.conversation = m.conversation AND h.origin = m.origin
		WHERE m.uid = $1`, string(l.uid))
	if err != nil {
		return err
	}
	if _, err := pgx.ForEachRow(rows, append(fields[:3:3], eventFields(&e)...), func() error {
		events[t.Conversation] = append(events[t.Conversation], e)
		t.Offset = e.Offset // one who left hears of the leaving and nothing after it
		return take()
	}); err != nil {
		return err
	}
	for c, of := range events {
		l.intervals[c] = view.Spell(of)
		if view.Current(l.intervals[c]) {
			l.current = append(l.current, c)
		}
	}
	rows, err = l.tx.Query(l.ctx, `SELECT conversation, topic, part, log_offset FROM heads WHERE conversation = ANY($1)`, texts(l.current))
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, fields, take)
	return err
}

// fill makes the rows of the picked conversations, a statement for each thing that rows show.
func (l *lister) fill(picked []im.Conversation) error {
	if len(picked) == 0 {
		return nil
	}
	list := make([]view.ListRow, len(picked))
	row := make(map[im.Conversation]*view.ListRow, len(picked))
	var groups, members []im.Conversation
	ends := map[im.Conversation]im.Place{} // of those who left: what they may have missed came before
	for i, c := range picked {
		intervals, group := l.intervals[c]
		if group {
			groups = append(groups, c)
		} else {
			l.intervals[c] = view.Everything()
			intervals = l.intervals[c]
		}
		list[i] = view.ListRow{Conversation: c, Member: view.Current(intervals)}
		row[c] = &list[i]
		if list[i].Member {
			members = append(members, c)
		} else if n := len(intervals); n > 0 {
			ends[c] = intervals[n-1].To
		}
	}
	titles := map[im.Conversation][]view.Title{}
	if err := readTitles(l.ctx, l.tx, groups, func(c im.Conversation, t view.Title) { titles[c] = append(titles[c], t) }); err != nil {
		return err
	}
	for c, of := range titles {
		row[c].Title = view.TitleFor(of, l.intervals[c])
	}
	heads, err := headsOf(l.ctx, l.tx, members)
	if err != nil {
		return err
	}
	for c, head := range heads {
		row[c].Head = head
	}
	if len(ends) > 0 {
		if heads, err = lastUpTo(l.ctx, l.tx, ends); err != nil {
			return err
		}
		for c, head := range heads {
			row[c].Head = head
		}
	}
	if err := l.own(picked, row); err != nil {
		return err
	}
	if err := l.last(members, row); err != nil {
		return err
	}
	if err := l.unread(members, row); err != nil {
		return err
	}
	l.rows = list
	return nil
}

// own reads the user's own cursors.
func (l *lister) own(picked []im.Conversation, row map[im.Conversation]*view.ListRow) error {
	rows, err := l.tx.Query(l.ctx, `
		SELECT conversation, origin, delivered, read FROM cursors WHERE conversation = ANY($1) AND uid = $2`, texts(picked), string(l.uid))
	if err != nil {
		return err
	}
	own := map[im.Conversation]*view.Receipt{}
	if err := scanReceipts(rows, func(c im.Conversation) *view.Receipt {
		if own[c] == nil {
			own[c] = &view.Receipt{}
		}
		return own[c]
	}); err != nil {
		return err
	}
	for c, r := range own {
		row[c].Delivered, row[c].Read = r.Delivered, r.Read
	}
	return nil
}

// spans are the intervals of members as columns: conversation, from and to. An open end is past every place.
func (l *lister) spans(members []im.Conversation) []any {
	var conversations, fromOrigins, toOrigins []string
	var fromStamps, fromSeqs, toStamps, toSeqs []int64
	for _, c := range members {
		for _, i := range l.intervals[c] {
			if i.Open() {
				i.To = im.Place{Stamp: 1<<63 - 1, Origin: "~", Seq: 1<<63 - 1}
			}
			conversations = append(conversations, string(c))
			fromStamps, fromOrigins, fromSeqs = append(fromStamps, int64(i.From.Stamp)), append(fromOrigins, string(i.From.Origin)), append(fromSeqs, int64(i.From.Seq))
			toStamps, toOrigins, toSeqs = append(toStamps, int64(i.To.Stamp)), append(toOrigins, string(i.To.Origin)), append(toSeqs, int64(i.To.Seq))
		}
	}
	return []any{conversations, fromStamps, fromOrigins, fromSeqs, toStamps, toOrigins, toSeqs}
}

// spansSQL names those columns. What a member may see of messages m: inside the span, a text that this build can show,
// and at its id's lowest place.
const spansSQL = `unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[])
	AS s(conversation, from_stamp, from_origin, from_seq, to_stamp, to_origin, to_seq)`

// With "+ 0" no index is chosen for the sake of the span alone, which is nearly always everything: the planner takes it
// for a hundredth, and would read a conversation from its beginning to count what is unread at its end.
const visibleSQL = `m.shown AND m.kind = 'message'
	AND (m.stamp + 0, m.origin, m.seq) >= (s.from_stamp, s.from_origin COLLATE "C", s.from_seq)
	AND (m.stamp + 0, m.origin, m.seq) <= (s.to_stamp, s.to_origin COLLATE "C", s.to_seq)
	AND NOT EXISTS (
		SELECT FROM messages i WHERE ` + sameID + ` AND (i.client_id, i.conversation, i.stamp) <= (m.client_id, m.conversation, m.stamp)
			AND (i.stamp, i.origin, i.seq) < (m.stamp, m.origin, m.seq))`

// sameID is how messages i of the id of m are found: by the primary key and by nothing else. Were the conversations said to
// be equal, which comes to the same, the planner would think any index that begins with the conversation as good, and read
// the whole of it for each message.
const sameID = `i.client_id = m.client_id AND i.sender = m.sender
	AND (i.client_id, i.conversation) >= (m.client_id, m.conversation) AND (i.client_id, i.conversation) <= (m.client_id, m.conversation)`

// last reads the visible message with the highest place of each conversation.
func (l *lister) last(members []im.Conversation, row map[im.Conversation]*view.ListRow) error {
	rows, err := l.tx.Query(l.ctx, `
		SELECT m.conversation, m.origin, m.seq, m.stamp, m.log_offset, m.kind, m.version, m.sender, m.client_id, m.trace, m.opaque, m.shown, m.body
		FROM `+spansSQL+`
		CROSS JOIN LATERAL (
			SELECT * FROM messages m
			WHERE m.conversation = s.conversation COLLATE "C" AND m.stamp >= s.from_stamp AND m.stamp <= s.to_stamp AND `+visibleSQL+`
			ORDER BY m.stamp DESC, m.origin DESC, m.seq DESC LIMIT 1) m`, l.spans(members)...)
	if err != nil {
		return err
	}
	var c im.Conversation
	var r view.Record
	_, err = pgx.ForEachRow(rows, append([]any{(*string)(&c)}, recordFields(&r)...), func() error {
		r.Conversation = c
		if last := row[c].Last; last == nil || last.Place.Before(r.Place) {
			found := r.Record
			row[c].Last = &found
		}
		r.Body = nil
		return nil
	})
	return err
}

// unread counts the visible messages of others of which no record is covered by the user's read cursor.
func (l *lister) unread(members []im.Conversation, row map[im.Conversation]*view.ListRow) error {
	rows, err := l.tx.Query(l.ctx, `
		SELECT s.conversation, count(*)
		FROM `+spansSQL+`
		CROSS JOIN LATERAL (
			SELECT FROM heads h
			LEFT JOIN cursors c ON c.conversation = h.conversation AND c.origin = h.origin AND c.uid = $8
			JOIN messages m ON m.conversation = h.conversation AND m.origin = h.origin AND m.seq > coalesce(c.read, 0)
			WHERE h.conversation = s.conversation COLLATE "C" AND h.seq > coalesce(c.read, 0) AND m.sender <> $8 AND `+visibleSQL+`
				AND NOT EXISTS (
					SELECT FROM messages i JOIN cursors r ON r.conversation = i.conversation AND r.origin = i.origin AND r.uid = $8
					WHERE `+sameID+` AND i.seq <= r.read)
			LIMIT $9) counted
		GROUP BY s.conversation`, append(l.spans(members), string(l.uid), view.UnreadLimit)...)
	if err != nil {
		return err
	}
	var c im.Conversation
	var n int
	_, err = pgx.ForEachRow(rows, []any{(*string)(&c), &n}, func() error {
		row[c].Unread = min(n, view.UnreadLimit)
		return nil
	})
	return err
}
