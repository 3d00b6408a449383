package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Known returns what the store has of what is asked: what one database holds, in one snapshot of it.
func (t *Timelines) Known(ctx context.Context, ask view.Ask) (view.Facts, error) {
	facts := view.Facts{
		Heads: make(map[view.HeadKey]uint64, len(ask.Heads)), Groups: make(map[im.Conversation]*view.Group, len(ask.Groups)),
		Next: make(map[im.Partition]int64, len(ask.Partitions)),
	}
	asks := make(map[*database]*view.Ask, len(t.dbs))
	of := func(db *database) *view.Ask {
		if asks[db] == nil {
			asks[db] = &view.Ask{}
		}
		return asks[db]
	}
	for _, k := range ask.Heads {
		a := of(t.home(k.Conversation))
		a.Heads = append(a.Heads, k)
	}
	for _, c := range ask.Groups {
		a := of(t.home(c))
		a.Groups = append(a.Groups, c)
	}
	for _, p := range ask.Partitions {
		a := of(t.of(p.Number))
		a.Partitions = append(a.Partitions, p)
	}
	for db, ask := range asks { // one, but for calls that look at several
		if err := db.known(ctx, ask, &facts); err != nil {
			return view.Facts{}, err
		}
	}
	return facts, nil
}

func (d *database) known(ctx context.Context, ask *view.Ask, facts *view.Facts) error {
	return d.snapshot(ctx, "known", func(tx pgx.Tx) error {
		for _, c := range ask.Groups {
			delete(facts.Groups, c) // of an attempt that lost a conflict
		}
		if len(ask.Heads) > 0 {
			if err := readKnownHeads(ctx, tx, ask.Heads, facts.Heads); err != nil {
				return err
			}
		}
		if len(ask.Groups) > 0 {
			if err := readGroups(ctx, tx, ask.Groups, facts.Groups); err != nil {
				return err
			}
		}
		if len(ask.Partitions) > 0 {
			return readNext(ctx, tx, ask.Partitions, facts.Next)
		}
		return nil
	})
}

// Find returns where the record of an id is, at its lowest place; false if the store has none.
func (t *Timelines) Find(ctx context.Context, id im.ID) (found view.Found, ok bool, err error) {
	db := t.home(id.Conversation)
	ctx, cancel := db.bounded(ctx)
	defer cancel()
	var stamp, seq int64
	err = db.pool.QueryRow(ctx, `
		SELECT origin, stamp, seq, log_offset FROM messages
		WHERE conversation = $1 AND client_id = $2 AND sender = $3 AND NOT opaque
		ORDER BY stamp, origin, seq LIMIT 1`,
		string(id.Conversation), uuid(id.ClientID), string(id.Sender)).Scan((*string)(&found.Place.Origin), &stamp, &seq, &found.Offset)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return view.Found{}, false, nil
	case err != nil:
		return view.Found{}, false, explain(db.addr, "find", err)
	}
	found.Place.Stamp, found.Place.Seq = im.Stamp(stamp), uint64(seq)
	return found, true, nil
}

func readKnownHeads(ctx context.Context, tx pgx.Tx, keys []view.HeadKey, heads map[view.HeadKey]uint64) error {
	conversations, origins := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		conversations[i], origins[i] = string(k.Conversation), string(k.Origin)
	}
	rows, err := tx.Query(ctx, `
		SELECT h.conversation, h.origin, h.seq FROM heads h
		JOIN unnest($1::text[], $2::text[]) AS u(conversation, origin) ON h.conversation = u.conversation AND h.origin = u.origin`,
		conversations, origins)
	if err != nil {
		return err
	}
	var k view.HeadKey
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{(*string)(&k.Conversation), (*string)(&k.Origin), &seq}, func() error {
		heads[k] = uint64(seq)
		return nil
	})
	return err
}

func readNext(ctx context.Context, tx pgx.Tx, partitions []im.Partition, next map[im.Partition]int64) error {
	topics, parts := make([]string, len(partitions)), make([]int32, len(partitions))
	for i, p := range partitions {
		topics[i], parts[i] = p.Topic, int32(p.Number)
	}
	rows, err := tx.Query(ctx, `
		SELECT p.topic, p.part, p.next FROM positions p
		JOIN unnest($1::text[], $2::int[]) AS u(topic, part) ON p.topic = u.topic AND p.part = u.part`, topics, parts)
	if err != nil {
		return err
	}
	var p im.Partition
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&p.Topic, &p.Number, &n}, func() error {
		next[p] = n
		return nil
	})
	return err
}

func readGroups(ctx context.Context, tx pgx.Tx, names []im.Conversation, groups map[im.Conversation]*view.Group) error {
	group := func(c im.Conversation) *view.Group {
		if groups[c] == nil {
			groups[c] = &view.Group{}
		}
		return groups[c]
	}
	var c im.Conversation
	var uid im.UID
	var e view.Event
	rows, err := tx.Query(ctx, `
		SELECT conversation, uid, origin, seq, stamp, log_offset, sender, client_id, added FROM members
		WHERE conversation = ANY($1) ORDER BY conversation, uid, origin, seq`, texts(names))
	if err != nil {
		return err
	}
	if _, err := pgx.ForEachRow(rows, append([]any{(*string)(&c), (*string)(&uid)}, eventFields(&e)...), func() error {
		group(c).AddEvent(uid, e)
		return nil
	}); err != nil {
		return err
	}
	return readTitles(ctx, tx, names, func(c im.Conversation, t view.Title) { group(c).AddTitle(t) })
}

func readTitles(ctx context.Context, tx pgx.Tx, names []im.Conversation, add func(im.Conversation, view.Title)) error {
	var c im.Conversation
	var t view.Title
	var text []byte
	rows, err := tx.Query(ctx, `
		SELECT conversation, origin, seq, stamp, sender, client_id, created, title FROM titles
		WHERE conversation = ANY($1) ORDER BY conversation, origin, seq`, texts(names))
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{
		(*string)(&c), (*string)(&t.Place.Origin), (*unsigned)(&t.Place.Seq), (*unsigned)(&t.Place.Stamp),
		(*string)(&t.Sender), (*[16]byte)(&t.ClientID), &t.Create, &text,
	}, func() error {
		t.Text = string(text)
		add(c, t)
		return nil
	})
	return err
}

func eventFields(e *view.Event) []any {
	return []any{
		(*string)(&e.Place.Origin), (*unsigned)(&e.Place.Seq), (*unsigned)(&e.Place.Stamp), &e.Offset,
		(*string)(&e.Sender), (*[16]byte)(&e.ClientID), &e.Add,
	}
}

// Pull returns a page of a conversation. A caller who never was a member gets an empty page.
func (t *Timelines) Pull(ctx context.Context, q view.PullQuery) (page view.Page, err error) {
	err = t.home(q.Conversation).snapshot(ctx, "pull", func(tx pgx.Tx) error {
		intervals, err := readIntervals(ctx, tx, q.UID, q.Conversation)
		if err != nil || len(intervals) == 0 {
			page = view.Page{Cursor: q.Cursor.Clone()}
			return err
		}
		if end := intervals[len(intervals)-1]; !end.Open() {
			last, err := lastUpTo(ctx, tx, map[im.Conversation]im.Place{q.Conversation: end.To})
			if err != nil {
				return err
			}
			q = q.Ended(last[q.Conversation])
		}
		streams, err := readStreams(ctx, tx, q)
		page = q.Assemble(streams, intervals)
		return err
	})
	return page, err
}

func readIntervals(ctx context.Context, tx pgx.Tx, uid im.UID, c im.Conversation) ([]view.Interval, error) {
	if members := c.Members(); members != nil {
		if slices.Contains(members, uid) {
			return view.Everything(), nil
		}
		return nil, nil
	}
	var e view.Event
	var events []view.Event
	rows, err := tx.Query(ctx, `
		SELECT origin, seq, stamp, log_offset, sender, client_id, added FROM members WHERE conversation = $1 AND uid = $2`, string(c), string(uid))
	if err != nil {
		return nil, err
	}
	_, err = pgx.ForEachRow(rows, eventFields(&e), func() error {
		events = append(events, e)
		return nil
	})
	return view.Spell(events), err
}

// lastUpTo returns, per conversation and origin, the last seq whose place is not past the conversation's end. Streams are read
// from their heads down, because places are nearly in the order of seqs.
func lastUpTo(ctx context.Context, tx pgx.Tx, ends map[im.Conversation]im.Place) (map[im.Conversation]im.Cursor, error) {
	var conversations, origins []string
	var stamps, seqs []int64
	for c, end := range ends {
		conversations, origins = append(conversations, string(c)), append(origins, string(end.Origin))
		stamps, seqs = append(stamps, int64(end.Stamp)), append(seqs, int64(end.Seq))
	}
	rows, err := tx.Query(ctx, `
		SELECT h.conversation, h.origin, m.seq
		FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS e(conversation, stamp, origin, seq)
		JOIN heads h ON h.conversation = e.conversation COLLATE "C"
		CROSS JOIN LATERAL (
			SELECT m.seq FROM messages m
			WHERE m.conversation = h.conversation AND m.origin = h.origin
				AND (m.stamp + 0, m.origin, m.seq) <= (e.stamp, e.origin COLLATE "C", e.seq)
			ORDER BY m.seq DESC LIMIT 1) m`, conversations, stamps, origins, seqs)
	if err != nil {
		return nil, err
	}
	return scanHeads(rows)
}

// readStreams fetches, of every origin, as many records past the cursor as a page can need.
func readStreams(ctx context.Context, tx pgx.Tx, q view.PullQuery) ([]view.Stream, error) {
	heads, err := readHeads(ctx, tx, q.Conversation)
	if err != nil {
		return nil, err
	}
	var origins []string
	var after, upto []int64
	for o, head := range heads {
		from, to := q.Range(o)
		if to = min(to, head); from < to {
			origins, after, upto = append(origins, string(o)), append(after, int64(from)), append(upto, int64(to))
		}
	}
	if len(origins) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, `
		SELECT m.origin, m.seq, m.stamp, m.log_offset, m.kind, m.version, m.sender, m.client_id, m.trace, m.opaque, m.shown, m.body,
			NOT m.opaque AND NOT EXISTS (
				SELECT FROM messages i
				WHERE `+sameID+` AND (i.client_id, i.conversation, i.stamp) <= (m.client_id, m.conversation, m.stamp)
					AND (i.stamp, i.origin, i.seq) < (m.stamp, m.origin, m.seq)) AS lowest
		FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS u(origin, after, upto)
		CROSS JOIN LATERAL (
			SELECT * FROM messages
			WHERE conversation = $1 AND origin = u.origin COLLATE "C" AND seq > u.after AND seq <= u.upto
			ORDER BY seq LIMIT $5) m
		ORDER BY m.origin, m.seq`,
		string(q.Conversation), origins, after, upto, q.Fetch())
	if err != nil {
		return nil, err
	}
	var streams []view.Stream
	var r view.Record
	var lowest bool
	if _, err := pgx.ForEachRow(rows, append(recordFields(&r), &lowest), func() error {
		r.Conversation = q.Conversation
		if n := len(streams); n == 0 || streams[n-1].Origin != r.Place.Origin {
			streams = append(streams, view.Stream{Origin: r.Place.Origin})
		}
		s := &streams[len(streams)-1]
		kept := r
		s.Rows = append(s.Rows, view.Row{Record: &kept, Lowest: lowest})
		r.Body = nil // scanning would write into it
		return nil
	}); err != nil {
		return nil, err
	}
	for i := range streams {
		s := &streams[i]
		_, to := q.Range(s.Origin)
		s.More = s.Rows[len(s.Rows)-1].Place.Seq < min(to, heads[s.Origin])
	}
	return streams, nil
}

func recordFields(r *view.Record) []any {
	return []any{
		(*string)(&r.Place.Origin), (*unsigned)(&r.Place.Seq), (*unsigned)(&r.Place.Stamp), &r.Offset, (*string)(&r.Kind), &r.Version,
		(*string)(&r.Sender), (*[16]byte)(&r.ClientID), &r.Trace, &r.Opaque, &r.Shown, &r.Body,
	}
}

func readHeads(ctx context.Context, tx pgx.Tx, c im.Conversation) (im.Cursor, error) {
	heads, err := headsOf(ctx, tx, []im.Conversation{c})
	return heads[c], err
}

func headsOf(ctx context.Context, tx pgx.Tx, names []im.Conversation) (map[im.Conversation]im.Cursor, error) {
	rows, err := tx.Query(ctx, `SELECT conversation, origin, seq FROM heads WHERE conversation = ANY($1)`, texts(names))
	if err != nil {
		return nil, err
	}
	return scanHeads(rows)
}

// scanHeads reads rows of (conversation, origin, seq).
func scanHeads(rows pgx.Rows) (map[im.Conversation]im.Cursor, error) {
	heads := map[im.Conversation]im.Cursor{}
	var c im.Conversation
	var o im.Origin
	var seq int64
	_, err := pgx.ForEachRow(rows, []any{(*string)(&c), (*string)(&o), &seq}, func() error {
		if heads[c] == nil {
			heads[c] = im.Cursor{}
		}
		heads[c][o] = uint64(seq)
		return nil
	})
	return heads, err
}

// Receipts returns the cursors of those of the users who have any, sorted by uid.
func (t *Timelines) Receipts(ctx context.Context, c im.Conversation, users []im.UID) ([]view.Receipt, error) {
	db := t.home(c)
	ctx, cancel := db.bounded(ctx)
	defer cancel()
	rows, err := db.pool.Query(ctx, `
		SELECT uid, origin, delivered, read FROM cursors WHERE conversation = $1 AND uid = ANY($2) ORDER BY uid, origin`, string(c), texts(users))
	if err != nil {
		return nil, explain(db.addr, "receipts", err)
	}
	receipts := map[im.UID]*view.Receipt{}
	if err := scanReceipts(rows, func(uid im.UID) *view.Receipt {
		if receipts[uid] == nil {
			receipts[uid] = &view.Receipt{UID: uid}
		}
		return receipts[uid]
	}); err != nil {
		return nil, explain(db.addr, "receipts", err)
	}
	var all []view.Receipt
	for _, uid := range slices.Sorted(maps.Keys(receipts)) {
		all = append(all, *receipts[uid])
	}
	return all, nil
}

// scanReceipts reads rows of (key, origin, delivered, read) into the receipt of each key.
func scanReceipts[K ~string](rows pgx.Rows, of func(K) *view.Receipt) error {
	var k string
	var o im.Origin
	var delivered, read int64
	_, err := pgx.ForEachRow(rows, []any{&k, (*string)(&o), &delivered, &read}, func() error {
		r := of(K(k))
		if delivered > 0 {
			r.Delivered = r.Delivered.Merge(im.Cursor{o: uint64(delivered)})
		}
		if read > 0 {
			r.Read = r.Read.Merge(im.Cursor{o: uint64(read)})
		}
		return nil
	})
	return err
}

func texts[S ~string](of []S) []string {
	out := make([]string, len(of))
	for i, s := range of {
		out[i] = string(s)
	}
	return out
}

// unsigned scans a bigint that is never negative.
type unsigned uint64

// ScanInt64 implements pgtype.Int64Scanner.
func (u *unsigned) ScanInt64(v pgtype.Int8) error {
	*u = unsigned(v.Int64)
	return nil
}
