package postgres

import (
	"cmp"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// newPositions makes the rows of partitions that are read for the first time.
func (w *writes) newPositions() statement {
	var topics []string
	var parts []int32
	for _, p := range w.positions {
		if p.From == 0 {
			topics, parts = append(topics, p.Partition.Topic), append(parts, int32(p.Partition.Number))
		}
	}
	if len(topics) == 0 {
		return statement{}
	}
	return statement{
		table: "positions", exactly: -1, sql: `
		INSERT INTO positions (topic, part, next, local, generation, watermark, log_id)
		SELECT u.topic, u.part, 0, 0, 0, 0, '00000000-0000-0000-0000-000000000000'
		FROM unnest($1::text[], $2::int[]) AS u(topic, part)
		ON CONFLICT DO NOTHING`, args: []any{topics, parts},
	}
}

// movedPositions is the fence.
func (w *writes) movedPositions() statement {
	slices.SortFunc(w.positions, func(a, b view.Part) int { return a.Partition.Compare(b.Partition) })
	n := len(w.positions)
	topics, parts, from := make([]string, n), make([]int32, n), make([]int64, n)
	next, local, generations, watermarks := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	ids := make([]pgtype.UUID, n)
	for i, p := range w.positions {
		topics[i], parts[i], from[i] = p.Partition.Topic, int32(p.Partition.Number), p.From
		next[i], local[i], generations[i], watermarks[i] = p.To.Next, p.To.Local, packGeneration(p.To), int64(p.To.Watermark)
		ids[i] = uuid(p.To.Log)
	}
	return statement{
		table: "positions", fence: true, exactly: n, sql: `
		UPDATE positions p
		SET next = u.next, local = u.local, generation = u.generation, watermark = u.watermark, log_id = u.log_id
		FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[])
			AS u(topic, part, expected, next, local, generation, watermark, log_id)
		WHERE p.topic = u.topic COLLATE "C" AND p.part = u.part AND p.next = u.expected`,
		args: []any{topics, parts, from, next, local, generations, watermarks, ids},
	}
}

// packGeneration puts the checksum of a position's last record above its link generation, which takes 32 bits of the column's
// 64 (docs/adr/016-a-position-names-its-last-record.md). A build that knows no checksums reads the lower half and writes 0 above
// it: not known.
func packGeneration(p view.Position) int64 {
	return int64(uint64(p.Checksum)<<32 | uint64(p.Generation))
}

func unpackGeneration(column int64) (generation, checksum uint32) {
	return uint32(column), uint32(uint64(column) >> 32)
}

// headColumns are rows of heads, or of inbox, as arrays.
type headColumns struct {
	uids, conversations, origins, topics []string
	before, seqs, offsets                []int64
	parts                                []int32
}

func (c *headColumns) add(uid im.UID, k view.HeadKey, row headRow) {
	c.uids, c.conversations, c.origins = append(c.uids, string(uid)), append(c.conversations, string(k.Conversation)), append(c.origins, string(k.Origin))
	c.before, c.seqs, c.offsets = append(c.before, int64(row.before)), append(c.seqs, int64(row.seq)), append(c.offsets, row.offset)
	c.topics, c.parts = append(c.topics, row.partition.Topic), append(c.parts, int32(row.partition.Number))
}

// headRows moves the heads of streams, each from the seq before the batch's first: that a stream has every seq once,
// whatever month its records are stored in, is enforced here. A stream that begins has no head yet, and one that goes on
// has; both are known, so neither costs what ON CONFLICT does.
func (w *writes) headRows() []statement {
	var begun, moved headColumns
	for _, k := range sorted(w.heads, compareHeads) {
		if row := w.heads[k]; row.before == 0 {
			begun.add("", k, row)
		} else {
			moved.add("", k, row)
		}
	}
	var statements []statement
	if n := len(begun.seqs); n > 0 {
		statements = append(statements, statement{
			table: "heads", exactly: n, sql: `
			INSERT INTO heads (conversation, origin, seq, log_offset, topic, part)
			SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::int[])`,
			args: []any{begun.conversations, begun.origins, begun.seqs, begun.offsets, begun.topics, begun.parts},
		})
	}
	if n := len(moved.seqs); n > 0 {
		statements = append(statements, statement{
			table: "heads", exactly: n, sql: `
			UPDATE heads h SET seq = u.seq, log_offset = u.log_offset
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS u(conversation, origin, before, seq, log_offset)
			WHERE h.conversation = u.conversation COLLATE "C" AND h.origin = u.origin COLLATE "C" AND h.seq = u.before`,
			args: []any{moved.conversations, moved.origins, moved.before, moved.seqs, moved.offsets},
		})
	}
	return statements
}

// inboxRows fans direct conversations out to both members. A row is there if and only if its stream's head is.
func (w *writes) inboxRows() []statement {
	var begun, moved headColumns
	for _, k := range sorted(w.inbox, func(a, b inboxKey) int {
		return cmp.Or(cmp.Compare(a.uid, b.uid), compareHeads(a.HeadKey, b.HeadKey))
	}) {
		if row := w.inbox[k]; row.before == 0 {
			begun.add(k.uid, k.HeadKey, row)
		} else {
			moved.add(k.uid, k.HeadKey, row)
		}
	}
	var statements []statement
	if n := len(begun.uids); n > 0 {
		statements = append(statements, statement{
			table: "inbox", exactly: n, sql: `
			INSERT INTO inbox (uid, conversation, origin, log_offset, topic, part)
			SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::int[])`,
			args: []any{begun.uids, begun.conversations, begun.origins, begun.offsets, begun.topics, begun.parts},
		})
	}
	if n := len(moved.uids); n > 0 {
		statements = append(statements, statement{
			table: "inbox", exactly: n, sql: `
			UPDATE inbox i SET log_offset = u.log_offset
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u(uid, conversation, origin, log_offset)
			WHERE i.uid = u.uid COLLATE "C" AND i.conversation = u.conversation COLLATE "C" AND i.origin = u.origin COLLATE "C"
				AND i.log_offset < u.log_offset`,
			args: []any{moved.uids, moved.conversations, moved.origins, moved.offsets},
		})
	}
	return statements
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
		table: "members", exactly: len(uids), sql: `
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
		table: "titles", exactly: len(titles), sql: `
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
		table: "cursors", exactly: -1, sql: `
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
