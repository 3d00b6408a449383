package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Apply commits the parts together or not at all: the positions, if each is still where its part begins (otherwise
// view.ErrFenced), and all rows. One statement a table, tables in one order, rows in key order and folded, since one
// statement may not touch a row twice.
//
// An error other than view.ErrFenced may come after a commit whose answer was lost. Applying the same parts again is then
// fenced, and the caller reads the positions anew.
func (t *Timelines) Apply(ctx context.Context, parts []view.Part) error {
	if len(parts) == 0 {
		return nil
	}
	var w writes
	for i := range parts {
		w.part(&parts[i])
	}
	batch := w.batch()
	return t.retry(ctx, "apply", func() error { return t.commit(ctx, batch, len(parts)) })
}

// commit runs the statements in one transaction. They go out in one piece; the first answers whether the positions
// moved, and only then is anything committed.
func (t *Timelines) commit(ctx context.Context, statements []statement, parts int) error {
	return pgx.BeginTxFunc(ctx, t.pool, pgx.TxOptions{}, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for _, s := range statements {
			batch.Queue(s.sql, s.args...)
		}
		results := tx.SendBatch(ctx, batch)
		defer results.Close()
		for i := range statements {
			tag, err := results.Exec()
			if err != nil {
				return fmt.Errorf("%s: %w", statements[i].table, err)
			}
			if statements[i].fence && tag.RowsAffected() != int64(parts) {
				return view.ErrFenced
			}
		}
		return results.Close()
	})
}

type statement struct {
	table string
	fence bool
	sql   string
	args  []any
}

// writes are the rows of one transaction, by table.
type writes struct {
	positions []view.Part
	fresh     bool // some partition is read for the first time
	heads     map[view.HeadKey]headRow
	ids       map[idKey]idRow
	records   []*view.Record
	inbox     map[inboxKey]headRow
	changes   []change
	cursors   map[cursorKey]cursorRow
}

type headRow struct {
	seq       uint64
	offset    int64
	partition im.Partition
}

type idKey struct {
	im.ID
	origin im.Origin
}

type idRow struct {
	place im.Place
	first uint64
}

type inboxKey struct {
	uid im.UID
	view.HeadKey
}

type change struct {
	conversation im.Conversation
	view.Change
}

type cursorKey struct {
	conversation im.Conversation
	uid          im.UID
	origin       im.Origin
}

type cursorRow struct{ delivered, read uint64 }

func (w *writes) part(p *view.Part) {
	w.positions = append(w.positions, *p)
	w.fresh = w.fresh || p.From == 0
	if w.heads == nil {
		w.heads, w.ids = map[view.HeadKey]headRow{}, map[idKey]idRow{}
		w.inbox, w.cursors = map[inboxKey]headRow{}, map[cursorKey]cursorRow{}
	}
	for i := range p.Records {
		r := &p.Records[i]
		w.records = append(w.records, r)
		k := view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin}
		if w.heads[k].seq < r.Place.Seq {
			w.heads[k] = headRow{r.Place.Seq, r.Offset, p.Partition}
		}
		if !r.Opaque {
			k := idKey{r.ID, r.Place.Origin}
			row, known := w.ids[k]
			if !known || r.Place.Before(row.place) {
				row.place = r.Place
			}
			if !known || r.Place.Seq < row.first {
				row.first = r.Place.Seq
			}
			w.ids[k] = row
		}
		if c, ok := view.ChangeOf(r); ok {
			w.changes = append(w.changes, change{r.Conversation, c})
		}
	}
	for _, c := range p.Cursors {
		for o := range c.Delivered.Merge(c.Read) {
			k := cursorKey{c.Conversation, c.UID, o}
			row := w.cursors[k]
			w.cursors[k] = cursorRow{max(row.delivered, c.Delivered[o]), max(row.read, c.Read[o])}
		}
	}
}

// batch returns the statements, tables in fixed order, rows in key order.
func (w *writes) batch() []statement {
	for k, row := range w.heads {
		for _, uid := range k.Conversation.Members() {
			w.inbox[inboxKey{uid, k}] = row
		}
	}
	statements := w.positionRows()
	for _, s := range []statement{w.headRows(), w.idRows(), w.recordRows(), w.inboxRows(), w.memberRows(), w.titleRows(), w.cursorRows()} {
		if len(s.args) > 0 {
			statements = append(statements, s)
		}
	}
	return statements
}

func (w *writes) positionRows() []statement {
	slices.SortFunc(w.positions, func(a, b view.Part) int { return a.Partition.Compare(b.Partition) })
	n := len(w.positions)
	topics, parts, from := make([]string, n), make([]int32, n), make([]int64, n)
	next, local, generations, watermarks := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	ids := make([]pgtype.UUID, n)
	for i, p := range w.positions {
		topics[i], parts[i], from[i] = p.Partition.Topic, int32(p.Partition.Number), p.From
		next[i], local[i], generations[i], watermarks[i] = p.To.Next, p.To.Local, int64(p.To.Generation), int64(p.To.Watermark)
		ids[i] = uuid(p.To.Log)
	}
	update := statement{
		table: "positions", fence: true, sql: `
		UPDATE positions p
		SET next = u.next, local = u.local, generation = u.generation, watermark = u.watermark, log_id = u.log_id
		FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[])
			AS u(topic, part, expected, next, local, generation, watermark, log_id)
		WHERE p.topic = u.topic AND p.part = u.part AND p.next = u.expected`,
		args: []any{topics, parts, from, next, local, generations, watermarks, ids},
	}
	if !w.fresh {
		return []statement{update}
	}
	return []statement{{table: "positions", sql: `
		INSERT INTO positions (topic, part, next, local, generation, watermark, log_id)
		SELECT u.topic, u.part, 0, 0, 0, 0, '00000000-0000-0000-0000-000000000000'
		FROM unnest($1::text[], $2::int[], $3::bigint[]) AS u(topic, part, expected) WHERE u.expected = 0
		ON CONFLICT DO NOTHING`, args: []any{topics, parts, from}}, update}
}

func (w *writes) headRows() statement {
	if len(w.heads) == 0 {
		return statement{}
	}
	keys := sorted(w.heads, compareHeads)
	n := len(keys)
	conversations, origins, topics := make([]string, n), make([]string, n), make([]string, n)
	seqs, offsets, parts := make([]int64, n), make([]int64, n), make([]int32, n)
	for i, k := range keys {
		row := w.heads[k]
		conversations[i], origins[i], topics[i] = string(k.Conversation), string(k.Origin), row.partition.Topic
		seqs[i], offsets[i], parts[i] = int64(row.seq), row.offset, int32(row.partition.Number)
	}
	return statement{
		table: "heads", sql: `
		INSERT INTO heads (conversation, origin, seq, log_offset, topic, part)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::int[])
		ON CONFLICT (conversation, origin) DO UPDATE SET seq = excluded.seq, log_offset = excluded.log_offset
		WHERE excluded.seq > heads.seq`,
		args: []any{conversations, origins, seqs, offsets, topics, parts},
	}
}

func (w *writes) idRows() statement {
	if len(w.ids) == 0 {
		return statement{}
	}
	keys := sorted(w.ids, func(a, b idKey) int {
		return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), slices.Compare(a.ClientID[:], b.ClientID[:]),
			cmp.Compare(a.Sender, b.Sender), cmp.Compare(a.origin, b.origin))
	})
	n := len(keys)
	conversations, senders, clients, origins := make([]string, n), make([]string, n), make([]pgtype.UUID, n), make([]string, n)
	stamps, seqs, firsts := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, k := range keys {
		row := w.ids[k]
		conversations[i], senders[i], clients[i], origins[i] = string(k.Conversation), string(k.Sender), uuid(k.ClientID), string(k.origin)
		stamps[i], seqs[i], firsts[i] = int64(row.place.Stamp), int64(row.place.Seq), int64(row.first)
	}
	return statement{
		table: "ids", sql: `
		INSERT INTO ids AS i (conversation, sender, client_id, origin, stamp, seq, first_seq)
		SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[])
		ON CONFLICT (conversation, client_id, sender, origin) DO UPDATE SET
			stamp = CASE WHEN (excluded.stamp, excluded.seq) < (i.stamp, i.seq) THEN excluded.stamp ELSE i.stamp END,
			seq = CASE WHEN (excluded.stamp, excluded.seq) < (i.stamp, i.seq) THEN excluded.seq ELSE i.seq END,
			first_seq = LEAST(excluded.first_seq, i.first_seq)
		WHERE (excluded.stamp, excluded.seq) < (i.stamp, i.seq) OR excluded.first_seq < i.first_seq`,
		args: []any{conversations, senders, clients, origins, stamps, seqs, firsts},
	}
}

func (w *writes) recordRows() statement {
	if len(w.records) == 0 {
		return statement{}
	}
	slices.SortFunc(w.records, func(a, b *view.Record) int {
		return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.Place.Origin, b.Place.Origin), cmp.Compare(a.Place.Seq, b.Place.Seq))
	})
	n := len(w.records)
	conversations, origins, kinds, senders, traces := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	seqs, stamps, offsets, versions := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	clients, bodies, opaque, shown := make([]pgtype.UUID, n), make([][]byte, n), make([]bool, n), make([]bool, n)
	for i, r := range w.records {
		conversations[i], origins[i], kinds[i] = string(r.Conversation), string(r.Place.Origin), string(r.Kind)
		senders[i], traces[i] = string(r.Sender), r.Trace
		seqs[i], stamps[i], offsets[i], versions[i] = int64(r.Place.Seq), int64(r.Place.Stamp), r.Offset, int64(r.Version)
		clients[i], bodies[i], opaque[i], shown[i] = uuid(r.ClientID), r.Body, r.Opaque, r.Shown
		if bodies[i] == nil {
			bodies[i] = []byte{} // nil is NULL
		}
	}
	// No ON CONFLICT: the fence makes sure that every record comes once, so a conflict here is a bug and must be heard.
	return statement{
		table: "messages", sql: `
		INSERT INTO messages (conversation, origin, seq, stamp, log_offset, kind, version, sender, client_id, trace, opaque, shown, body)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[],
			$9::uuid[], $10::text[], $11::bool[], $12::bool[], $13::bytea[])`,
		args: []any{conversations, origins, seqs, stamps, offsets, kinds, versions, senders, clients, traces, opaque, shown, bodies},
	}
}

func (w *writes) inboxRows() statement {
	if len(w.inbox) == 0 {
		return statement{}
	}
	keys := sorted(w.inbox, func(a, b inboxKey) int {
		return cmp.Or(cmp.Compare(a.uid, b.uid), compareHeads(a.HeadKey, b.HeadKey))
	})
	n := len(keys)
	uids, conversations, origins, topics := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	offsets, parts := make([]int64, n), make([]int32, n)
	for i, k := range keys {
		row := w.inbox[k]
		uids[i], conversations[i], origins[i], topics[i] = string(k.uid), string(k.Conversation), string(k.Origin), row.partition.Topic
		offsets[i], parts[i] = row.offset, int32(row.partition.Number)
	}
	return statement{
		table: "inbox", sql: `
		INSERT INTO inbox (uid, conversation, origin, log_offset, topic, part)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::int[])
		ON CONFLICT (uid, conversation, origin) DO UPDATE SET log_offset = excluded.log_offset
		WHERE excluded.log_offset > inbox.log_offset`,
		args: []any{uids, conversations, origins, offsets, topics, parts},
	}
}

func (w *writes) memberRows() statement {
	var conversations, uids, origins, senders []string
	var seqs, stamps, offsets []int64
	var clients []pgtype.UUID
	var added []bool
	for _, c := range w.changes {
		for _, m := range c.Members {
			conversations, uids, origins = append(conversations, string(c.conversation)), append(uids, string(m.UID)), append(origins, string(c.Place.Origin))
			seqs, stamps, offsets = append(seqs, int64(c.Place.Seq)), append(stamps, int64(c.Place.Stamp)), append(offsets, c.Offset)
			senders, clients, added = append(senders, string(c.Sender)), append(clients, uuid(c.ClientID)), append(added, m.Add)
		}
	}
	if len(uids) == 0 {
		return statement{}
	}
	return statement{
		table: "members", sql: `
		INSERT INTO members (conversation, uid, origin, seq, stamp, log_offset, sender, client_id, added)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::uuid[], $9::bool[])`,
		args: []any{conversations, uids, origins, seqs, stamps, offsets, senders, clients, added},
	}
}

func (w *writes) titleRows() statement {
	var conversations, origins, senders []string
	var seqs, stamps []int64
	var clients []pgtype.UUID
	var created []bool
	var titles [][]byte
	for _, c := range w.changes {
		if !c.Titled {
			continue
		}
		conversations, origins, seqs = append(conversations, string(c.conversation)), append(origins, string(c.Place.Origin)), append(seqs, int64(c.Place.Seq))
		stamps, senders, clients = append(stamps, int64(c.Place.Stamp)), append(senders, string(c.Sender)), append(clients, uuid(c.ClientID))
		created, titles = append(created, c.Create), append(titles, []byte(c.Title))
	}
	if len(titles) == 0 {
		return statement{}
	}
	return statement{
		table: "titles", sql: `
		INSERT INTO titles (conversation, origin, seq, stamp, sender, client_id, created, title)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::uuid[], $7::bool[], $8::bytea[])`,
		args: []any{conversations, origins, seqs, stamps, senders, clients, created, titles},
	}
}

func (w *writes) cursorRows() statement {
	if len(w.cursors) == 0 {
		return statement{}
	}
	keys := sorted(w.cursors, func(a, b cursorKey) int {
		return cmp.Or(cmp.Compare(a.conversation, b.conversation), cmp.Compare(a.uid, b.uid), cmp.Compare(a.origin, b.origin))
	})
	n := len(keys)
	conversations, uids, origins := make([]string, n), make([]string, n), make([]string, n)
	delivered, read := make([]int64, n), make([]int64, n)
	for i, k := range keys {
		conversations[i], uids[i], origins[i] = string(k.conversation), string(k.uid), string(k.origin)
		delivered[i], read[i] = int64(w.cursors[k].delivered), int64(w.cursors[k].read)
	}
	return statement{
		table: "cursors", sql: `
		INSERT INTO cursors AS c (conversation, uid, origin, delivered, read)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
		ON CONFLICT (conversation, uid, origin) DO UPDATE SET
			delivered = GREATEST(c.delivered, excluded.delivered), read = GREATEST(c.read, excluded.read)
		WHERE excluded.delivered > c.delivered OR excluded.read > c.read`,
		args: []any{conversations, uids, origins, delivered, read},
	}
}

func sorted[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

func compareHeads(a, b view.HeadKey) int {
	return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.Origin, b.Origin))
}

func uuid(u im.UUID) pgtype.UUID { return pgtype.UUID{Bytes: u, Valid: true} }
