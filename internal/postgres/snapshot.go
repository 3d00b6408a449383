package postgres

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// snapshotKey is the row up to which a snapshot was read: which database and table, and what the table is read in order of.
// The zero key is below every row: none has an empty conversation.
type snapshotKey struct {
	Database, Table int
	Conversation    string
	UID             string
	Origin          string
	Seq, Stamp      int64
	ClientID        im.UUID
}

// snapshotRow is a row that was read, and how it goes into a chunk: not at all if it is past the cut.
type snapshotRow struct {
	key  snapshotKey
	put  func(*wire.SnapshotChunk)
	size int
}

// snapshotTable reads rows of a table in the order of a key.
type snapshotTable func(ctx context.Context, tx pgx.Tx, cut *wire.Cut, after snapshotKey, limit int) ([]snapshotRow, error)

// snapshotTables are in the order in which they are read. Heads come first, while few of them have moved past the cut;
// messages before what is derived of them, so that what is derived meanwhile of one that was stored raw is not missed.
func snapshotTables() []snapshotTable {
	return []snapshotTable{snapshotHeads, snapshotMessages, snapshotMembers, snapshotTitles, snapshotCursors}
}

// SnapshotCut tells where a snapshot that begins now is cut.
func (t *Timelines) SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	cut, err := t.cutOf(&wire.SnapshotRequest{Partitions: r.Partitions, Databases: r.Databases, Database: r.Database})
	if err != nil {
		return nil, err
	}
	numbers := cut.Holds()
	if len(numbers) == 0 {
		return &wire.SnapshotCutResponse{}, nil
	}
	positions, err := t.Positions(ctx, numbers...)
	if err != nil {
		return nil, err
	}
	response := &wire.SnapshotCutResponse{}
	for i := range positions {
		response.Positions = append(response.Positions, snapshotPosition(&positions[i]))
	}
	return response, nil
}

func snapshotPosition(p *view.Position) *wire.SnapshotPosition {
	return &wire.SnapshotPosition{
		Topic: p.Partition.Topic, Partition: uint32(p.Partition.Number), Next: p.Next, Generation: p.Generation,
		Watermark: uint64(p.Watermark), Checksum: p.Checksum, LogId: p.Log[:],
	}
}

func (t *Timelines) cutOf(r *wire.SnapshotRequest) (wire.Cut, error) {
	cut, err := wire.CutOf(r)
	if err == nil && t.cfg.Partitions > 0 && cut.Partitions != t.cfg.Partitions {
		err = im.Errorf(im.CodeBadRequest, "topics have %d partitions here, and %d where a snapshot is wanted: they must be equal in every region",
			t.cfg.Partitions, cut.Partitions)
	}
	return cut, err
}

// Snapshot sends what follows of the records below a cut, in chunks, from the row behind that which the request names on.
//
// It holds no transaction longer than a page takes. That is possible because what follows of a record never changes: a
// message, a member's row and a title stand as they were written, under the offset of their record, so that which of them
// are below the cut can be told at any time later, also by another imserver. A head that has moved on is put back to its
// last message below the cut. Delivered and read cursors may be ahead of it; they merge by maximum.
func (t *Timelines) Snapshot(ctx context.Context, r *wire.SnapshotRequest, send func(*wire.SnapshotChunk) error) error {
	cut, err := t.cutOf(r)
	if err != nil {
		return err
	}
	var after snapshotKey
	if len(r.After) > 0 {
		if err := json.Unmarshal(r.After, &after); err != nil {
			return im.Errorf(im.CodeBadRequest, "a snapshot is to go on behind a row that this region did not name: %v", err)
		}
	}
	numbers, tables := cut.Holds(), snapshotTables()
	for ; after.Database < len(t.dbs); after = (snapshotKey{Database: after.Database + 1}) {
		db := t.dbs[after.Database]
		if !slices.ContainsFunc(numbers, func(n int) bool { return t.of(n) == db }) {
			continue
		}
		for after.Table < len(tables) {
			rows, err := t.snapshotPage(ctx, db, &cut, r.Cut, tables[after.Table], after)
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				after = snapshotKey{Database: after.Database, Table: after.Table + 1}
				continue
			}
			if err := sendRows(rows, t.cfg.SnapshotBytes, send); err != nil {
				return err
			}
			after = rows[len(rows)-1].key
		}
	}
	return send(&wire.SnapshotChunk{After: after.encode(), Last: true})
}

func (k snapshotKey) encode() []byte {
	b, _ := json.Marshal(k) // of numbers and text
	return b
}

// snapshotPage reads one page, and checks first that the timelines still have everything below the cut.
func (t *Timelines) snapshotPage(
	ctx context.Context, db *database, cut *wire.Cut, asked []*wire.SnapshotPosition, read snapshotTable, after snapshotKey,
) (rows []snapshotRow, err error) {
	err = db.snapshot(ctx, "snapshot", func(tx pgx.Tx) error {
		if db.steer {
			if _, err := tx.Exec(ctx, steerSQL); err != nil {
				return err
			}
		}
		if err := t.reaches(ctx, tx, db, asked); err != nil {
			return err
		}
		rows, err = read(ctx, tx, cut, after, t.cfg.SnapshotRows)
		return err
	})
	if im.CodeOf(err) == im.CodeBadRequest {
		return nil, err
	}
	return rows, explain(db.addr, "snapshot", err)
}

// reaches fails if timelines were begun anew since a snapshot was cut.
func (t *Timelines) reaches(ctx context.Context, tx pgx.Tx, db *database, asked []*wire.SnapshotPosition) error {
	type log struct {
		next int64
		id   im.UUID
	}
	at := map[im.Partition]log{}
	rows, err := tx.Query(ctx, `SELECT topic, part, next, log_id FROM positions`)
	if err != nil {
		return err
	}
	var p im.Partition
	var l log
	if _, err := pgx.ForEachRow(rows, []any{&p.Topic, &p.Number, &l.next, (*[16]byte)(&l.id)}, func() error { at[p] = l; return nil }); err != nil {
		return err
	}
	for _, a := range asked {
		p := im.Partition{Topic: a.Topic, Number: int(a.Partition)}
		if t.of(p.Number) != db {
			continue
		}
		if has := at[p]; has.next < a.Next || len(a.LogId) == len(has.id) && has.id != im.UUID(a.LogId) {
			return im.Errorf(im.CodeBadRequest, "the timelines were begun anew since the snapshot was cut: %v is at %d of log %s, the cut at %d of log %x",
				p, has.next, has.id, a.Next, a.LogId)
		}
	}
	return nil
}

// sendRows puts rows into chunks.
func sendRows(rows []snapshotRow, limit int, send func(*wire.SnapshotChunk) error) error {
	for len(rows) > 0 {
		chunk, size, n := &wire.SnapshotChunk{}, 0, 0
		for n < len(rows) && size < limit {
			if rows[n].put != nil {
				rows[n].put(chunk)
				size += rows[n].size
			}
			n++
		}
		chunk.After = rows[n-1].key.encode()
		rows = rows[n:]
		if err := send(chunk); err != nil {
			return err
		}
	}
	return nil
}

// paged runs the query of a page, and has scan make a row of each.
func paged(ctx context.Context, tx pgx.Tx, after snapshotKey, limit int, sql string, args, fields []any, row func() snapshotRow) ([]snapshotRow, error) {
	rows, err := tx.Query(ctx, sql, append(args, limit)...)
	if err != nil {
		return nil, err
	}
	var page []snapshotRow
	_, err = pgx.ForEachRow(rows, fields, func() error {
		r := row()
		r.key.Database, r.key.Table = after.Database, after.Table
		page = append(page, r)
		return nil
	})
	return page, err
}

// snapshotHeads reads heads as they were at the cut.
func snapshotHeads(ctx context.Context, tx pgx.Tx, cut *wire.Cut, after snapshotKey, limit int) ([]snapshotRow, error) {
	var k view.HeadKey
	var seq, offset int64
	var heads []*wire.SnapshotHead
	page, err := paged(ctx, tx, after, limit, `
		SELECT conversation, origin, seq, log_offset FROM heads WHERE (conversation, origin) > ($1, $2)
		ORDER BY conversation, origin LIMIT $3`,
		[]any{after.Conversation, after.Origin}, []any{(*string)(&k.Conversation), (*string)(&k.Origin), &seq, &offset},
		func() snapshotRow {
			h := &wire.SnapshotHead{Conversation: string(k.Conversation), Origin: string(k.Origin), Seq: uint64(seq), Offset: offset}
			heads = append(heads, h)
			return snapshotRow{
				key: snapshotKey{Conversation: h.Conversation, Origin: h.Origin}, size: 24 + len(h.Conversation) + len(h.Origin),
				put: func(c *wire.SnapshotChunk) { c.Heads = append(c.Heads, h) },
			}
		})
	if err != nil {
		return nil, err
	}
	for i, h := range heads {
		p, ours := cut.Home(im.Conversation(h.Conversation), im.Origin(h.Origin))
		ours = ours && cut.Next[p] > 0
		if ours && h.Offset >= cut.Next[p] {
			if ours, err = headAt(ctx, tx, h, cut.Next[p]); err != nil {
				return nil, err
			}
		}
		if !ours {
			page[i].put = nil
		}
	}
	return page, nil
}

// headAt puts a head back to the last record below an offset; false if the stream begins there or later. What lies past a cut
// is young, so its messages are all there; of one below it, whose month was detached, the offset is not known any more: 0
// is below whatever comes next.
func headAt(ctx context.Context, tx pgx.Tx, h *wire.SnapshotHead, next int64) (bool, error) {
	var seq, offset int64
	err := tx.QueryRow(ctx, `
		SELECT seq, log_offset FROM messages WHERE conversation = $1 AND origin = $2 AND log_offset < $3 ORDER BY seq DESC LIMIT 1`,
		h.Conversation, h.Origin, next).Scan(&seq, &offset)
	if err == pgx.ErrNoRows {
		err = tx.QueryRow(ctx, `SELECT coalesce(min(seq), 1) - 1, 0 FROM messages WHERE conversation = $1 AND origin = $2 AND log_offset >= $3`,
			h.Conversation, h.Origin, next).Scan(&seq, &offset)
	}
	h.Seq, h.Offset = uint64(seq), offset
	return seq > 0, err
}

func snapshotMessages(ctx context.Context, tx pgx.Tx, cut *wire.Cut, after snapshotKey, limit int) ([]snapshotRow, error) {
	var r view.Record
	return paged(ctx, tx, after, limit, `
		SELECT conversation, origin, seq, stamp, log_offset, kind, version, sender, client_id, trace, opaque, shown, body FROM messages
		WHERE (client_id, conversation, stamp, origin, seq) > ($1, $2, $3, $4, $5)
		ORDER BY client_id, conversation, stamp, origin, seq LIMIT $6`,
		[]any{uuid(after.ClientID), after.Conversation, after.Stamp, after.Origin, after.Seq},
		append([]any{(*string)(&r.Conversation)}, recordFields(&r)...),
		func() snapshotRow {
			row := snapshotRow{key: snapshotKey{
				ClientID: r.ClientID, Conversation: string(r.Conversation), Stamp: int64(r.Place.Stamp), Origin: string(r.Place.Origin), Seq: int64(r.Place.Seq),
			}}
			if !cut.Below(r.Conversation, r.Place.Origin, r.Offset) {
				return row
			}
			m := &wire.SnapshotRecord{
				Conversation: string(r.Conversation), Origin: string(r.Place.Origin), Seq: r.Place.Seq, Stamp: uint64(r.Place.Stamp),
				Offset: r.Offset, Version: r.Version, ClientId: slices.Clone(r.ClientID[:]), Opaque: r.Opaque, Shown: r.Shown,
				Kind: string(r.Kind), Sender: string(r.Sender), Trace: r.Trace, Body: slices.Clone(r.Body),
			}
			row.size = 80 + len(m.Conversation) + len(m.Origin) + len(m.Kind) + len(m.Sender) + len(m.Trace) + len(m.Body)
			row.put = func(c *wire.SnapshotChunk) { c.Records = append(c.Records, m) }
			return row
		})
}

func snapshotMembers(ctx context.Context, tx pgx.Tx, cut *wire.Cut, after snapshotKey, limit int) ([]snapshotRow, error) {
	var conversation, uid string
	var e view.Event
	return paged(ctx, tx, after, limit, `
		SELECT conversation, uid, origin, seq, stamp, log_offset, sender, client_id, added FROM members
		WHERE (conversation, uid, origin, seq) > ($1, $2, $3, $4) ORDER BY conversation, uid, origin, seq LIMIT $5`,
		[]any{after.Conversation, after.UID, after.Origin, after.Seq}, append([]any{&conversation, &uid}, eventFields(&e)...),
		func() snapshotRow {
			row := snapshotRow{key: snapshotKey{Conversation: conversation, UID: uid, Origin: string(e.Place.Origin), Seq: int64(e.Place.Seq)}}
			if !cut.Below(im.Conversation(conversation), e.Place.Origin, e.Offset) {
				return row
			}
			m := &wire.SnapshotMember{
				Conversation: conversation, Uid: uid, Origin: string(e.Place.Origin), Seq: e.Place.Seq, Stamp: uint64(e.Place.Stamp),
				Offset: e.Offset, Sender: string(e.Sender), ClientId: slices.Clone(e.ClientID[:]), Added: e.Add,
			}
			row.size = 64 + len(m.Conversation) + len(m.Uid) + len(m.Origin) + len(m.Sender)
			row.put = func(c *wire.SnapshotChunk) { c.Members = append(c.Members, m) }
			return row
		})
}

// snapshotTitles finds the offsets of titles in their messages. One whose message is not there any more is old, and below the
// cut.
func snapshotTitles(ctx context.Context, tx pgx.Tx, cut *wire.Cut, after snapshotKey, limit int) ([]snapshotRow, error) {
	var conversation string
	var t view.Title
	var text []byte
	var offset int64
	return paged(ctx, tx, after, limit, `
		SELECT conversation, origin, seq, stamp, sender, client_id, created, title, coalesce((
			SELECT m.log_offset FROM messages m WHERE m.conversation = t.conversation AND m.origin = t.origin AND m.seq = t.seq LIMIT 1), 0)
		FROM titles t WHERE (conversation, origin, seq) > ($1, $2, $3) ORDER BY conversation, origin, seq LIMIT $4`,
		[]any{after.Conversation, after.Origin, after.Seq},
		[]any{
			&conversation, (*string)(&t.Place.Origin), (*unsigned)(&t.Place.Seq), (*unsigned)(&t.Place.Stamp), (*string)(&t.Sender),
			(*[16]byte)(&t.ClientID), &t.Create, &text, &offset,
		},
		func() snapshotRow {
			row := snapshotRow{key: snapshotKey{Conversation: conversation, Origin: string(t.Place.Origin), Seq: int64(t.Place.Seq)}}
			if !cut.Below(im.Conversation(conversation), t.Place.Origin, offset) {
				return row
			}
			m := &wire.SnapshotTitle{
				Conversation: conversation, Origin: string(t.Place.Origin), Seq: t.Place.Seq, Stamp: uint64(t.Place.Stamp),
				Sender: string(t.Sender), ClientId: slices.Clone(t.ClientID[:]), Created: t.Create, Title: slices.Clone(text),
			}
			row.size = 64 + len(m.Conversation) + len(m.Origin) + len(m.Sender) + len(m.Title)
			row.put = func(c *wire.SnapshotChunk) { c.Titles = append(c.Titles, m) }
			return row
		})
}

func snapshotCursors(ctx context.Context, tx pgx.Tx, cut *wire.Cut, after snapshotKey, limit int) ([]snapshotRow, error) {
	var conversation, uid, origin string
	var delivered, read int64
	return paged(ctx, tx, after, limit, `
		SELECT conversation, uid, origin, delivered, read FROM cursors WHERE (conversation, uid, origin) > ($1, $2, $3)
		ORDER BY conversation, uid, origin LIMIT $4`,
		[]any{after.Conversation, after.UID, after.Origin}, []any{&conversation, &uid, &origin, &delivered, &read},
		func() snapshotRow {
			row := snapshotRow{key: snapshotKey{Conversation: conversation, UID: uid, Origin: origin}}
			if _, ours := cut.Home(im.Conversation(conversation), im.Origin(origin)); !ours {
				return row
			}
			m := &wire.SnapshotCursor{Conversation: conversation, Uid: uid, Origin: origin, Delivered: uint64(delivered), Read: uint64(read)}
			row.size = 32 + len(conversation) + len(uid) + len(origin)
			row.put = func(c *wire.SnapshotChunk) { c.Cursors = append(c.Cursors, m) }
			return row
		})
}
