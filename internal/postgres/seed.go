package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// Seeding fills one of a region's databases from a snapshot of another region's. What it has is committed chunk by chunk, with
// the place to go on from, and the positions come last: until then nothing can be applied.
type Seeding struct {
	d      *database
	number int
	origin im.Origin
	after  []byte // as last committed: the fence
}

// seedSQL makes the table of what is being seeded. It is no part of the schema, so that it needs no version: a region has it
// once it is seeded, and no other reads it.
const seedSQL = `
CREATE TABLE IF NOT EXISTS seed (
	one      boolean PRIMARY KEY CHECK (one),
	source   text    NOT NULL, -- region
	cut      bytea   NOT NULL, -- where its snapshot is cut
	after    bytea   NOT NULL, -- what of it is here
	expected bigint  NOT NULL,
	records  bigint  NOT NULL,
	total    bigint  NOT NULL,
	done     boolean NOT NULL
)`

// unfinished is said of a database that is being seeded.
func unfinished(addr string, source im.Region) error {
	return &Error{
		Addr: addr, Problem: fmt.Sprintf("it is being seeded from %s and not complete", source),
		Remedy: `run "antipode region seed" to its end, or again with --anew`,
	}
}

// whole fails if the database is being seeded.
func (d *database) whole(ctx context.Context) error {
	s, err := d.seeded(ctx, d.pool)
	switch {
	case err != nil:
		return explain(d.addr, "seed", err)
	case s.Source != "" && !s.Done:
		return unfinished(d.addr, s.Source)
	}
	return nil
}

// queryer is a pool, or a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (d *database) seeded(ctx context.Context, q queryer) (s wire.Seeded, err error) {
	var cut []byte
	err = q.QueryRow(ctx, `SELECT source, cut, after, expected, records, total, done FROM seed`).
		Scan((*string)(&s.Source), &cut, &s.After, &s.Expected, &s.Records, &s.Rows, &s.Done)
	if errors.Is(err, pgx.ErrNoRows) || state(err) == stateNoTable {
		return wire.Seeded{}, nil
	}
	if err == nil {
		var c wire.SnapshotCutResponse
		err = proto.Unmarshal(cut, &c)
		s.Cut = c.Positions
	}
	return s, err
}

// OpenSeedings opens the configured databases of a region, whose own origin is given, to be seeded. The returned function
// closes them.
func OpenSeedings(ctx context.Context, cfg Config, own im.Origin) ([]*Seeding, func(), error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	var all []*Seeding
	done := func() {
		for _, s := range all {
			s.d.pool.Close()
		}
	}
	for number := range cfg.URLs {
		d, err := connect(ctx, &cfg, number, noLog())
		if err != nil {
			done()
			return nil, nil, err
		}
		all = append(all, &Seeding{d: d, number: number, origin: own})
	}
	return all, done, nil
}

// Request asks for the part of a snapshot that goes into the database.
func (s *Seeding) Request() *wire.SnapshotCutRequest {
	return &wire.SnapshotCutRequest{
		Partitions: uint32(s.d.cfg.Partitions), Databases: uint32(len(s.d.cfg.URLs)), Database: uint32(s.number),
	}
}

// Begun tells how far the seeding is.
func (s *Seeding) Begun(ctx context.Context) (wire.Seeded, error) {
	ctx, cancel := s.d.bounded(ctx)
	defer cancel()
	has, err := s.d.seeded(ctx, s.d.pool)
	if s.after = has.After; s.after == nil {
		s.after = []byte{}
	}
	return has, explain(s.d.addr, "seed", err)
}

// Begin notes where the snapshot is cut. It refuses a database in which anything was applied.
func (s *Seeding) Begin(ctx context.Context, source im.Region, cut []*wire.SnapshotPosition) error {
	encoded, err := proto.Marshal(&wire.SnapshotCutResponse{Positions: cut})
	if err != nil {
		return err
	}
	s.after = []byte{}
	return s.write(ctx, "begin to seed", func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, seedSQL); err != nil {
			return err
		}
		if err := s.empty(ctx, tx, viewTableNames()...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO seed (one, source, cut, after, expected, records, total, done) VALUES (true, $1, $2, '', 0, 0, 0, false)`,
			string(source), encoded)
		return err
	})
}

// write runs a transaction that writes to the database.
func (s *Seeding) write(ctx context.Context, what string, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := s.d.bounded(ctx)
	defer cancel()
	return explain(s.d.addr, what, s.d.retry(ctx, what, func() error {
		return pgx.BeginFunc(ctx, s.d.pool, func(tx pgx.Tx) error { return do(ctx, tx) })
	}))
}

// empty fails if one of the tables has a row, and keeps others from adding any to positions until the transaction ends.
func (s *Seeding) empty(ctx context.Context, tx pgx.Tx, tables ...string) error {
	if _, err := tx.Exec(ctx, `LOCK TABLE positions IN EXCLUSIVE MODE`); err != nil {
		return err
	}
	for _, table := range tables {
		var found bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+table+`)`).Scan(&found); err != nil {
			return err
		}
		if found {
			return &Error{
				Addr: s.d.addr, Problem: "it holds timelines already (" + table + " is not empty), and a snapshot cannot be merged into them",
				Remedy: `stop the region's imservers and give it an empty database ("antipode migrate" makes it ready), if it is to be seeded at all`,
			}
		}
	}
	return nil
}

// Load commits a chunk, unless another has gone on from where it begins.
func (s *Seeding) Load(ctx context.Context, c *wire.SnapshotChunk) error {
	rows, err := rowsOf(c, s.d.cfg.Partitions)
	if err != nil {
		return err
	}
	s.d.makeRoom(ctx, rows.records)
	err = s.write(ctx, "load a snapshot", func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE seed SET after = $1, expected = expected + $2, records = records + $3, total = total + $4 WHERE after = $5 AND NOT done`,
			c.After, rows.expected, len(rows.records), rows.count(), s.after)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return &Error{Addr: s.d.addr, Problem: "it is being seeded by another at the same time", Remedy: "let one of them go on"}
		}
		for _, t := range rows.tables {
			if len(t.rows) == 0 {
				continue
			}
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{t.name}, t.columns, pgx.CopyFromRows(t.rows)); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
		if len(rows.records) == 0 {
			return nil
		}
		_, err = tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(copyRows(rows.records)), copyMessages)
		return err
	})
	if err == nil {
		s.after = c.After
	}
	return err
}

// Finish makes the database one to apply into: it stands at the cut. Copies are read from their start, whatever they hold; the
// own log from the cut on.
func (s *Seeding) Finish(ctx context.Context) error {
	has, err := s.Begun(ctx)
	if err != nil {
		return err
	}
	return s.write(ctx, "finish seeding", func(ctx context.Context, tx pgx.Tx) error {
		if err := s.empty(ctx, tx, "positions"); err != nil {
			return err
		}
		for _, p := range has.Cut {
			at := view.Position{Position: im.Position{Next: p.Next}, Generation: p.Generation, Checksum: p.Checksum}
			if (im.Partition{Topic: p.Topic}).Origin() == s.origin {
				at.Local = p.Next
			}
			if len(p.LogId) == len(at.Log) {
				at.Log = im.UUID(p.LogId)
			}
			if _, err := tx.Exec(ctx, `
				INSERT INTO positions (topic, part, next, local, generation, watermark, log_id) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
				p.Topic, int32(p.Partition), at.Next, at.Local, packGeneration(at), int64(p.Watermark), uuid(at.Log)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE seed SET done = true`)
		return err
	})
}

// seedRows are the rows of a chunk, by table.
type seedRows struct {
	records  []*view.Record
	expected int64 // messages that there are by the heads
	tables   []seedTable
}

type seedTable struct {
	name    string
	columns []string
	rows    [][]any
}

func (r *seedRows) count() int {
	n := len(r.records)
	for _, t := range r.tables {
		n += len(t.rows)
	}
	return n
}

// rowsOf makes rows of what came. What can be told from a row of another is made here: inboxes of heads, where rows live of
// conversations.
func rowsOf(c *wire.SnapshotChunk, partitions int) (seedRows, error) {
	var r seedRows
	heads := seedTable{name: "heads", columns: []string{"conversation", "origin", "seq", "log_offset", "topic", "part"}}
	inbox := seedTable{name: "inbox", columns: []string{"uid", "conversation", "origin", "log_offset", "topic", "part"}}
	members := seedTable{name: "members", columns: []string{"conversation", "uid", "origin", "seq", "stamp", "sender", "client_id", "log_offset", "added"}}
	titles := seedTable{name: "titles", columns: []string{"conversation", "origin", "seq", "stamp", "sender", "client_id", "created", "title"}}
	cursors := seedTable{name: "cursors", columns: []string{"conversation", "uid", "origin", "delivered", "read"}}
	for _, h := range c.Heads {
		conversation := im.Conversation(h.Conversation)
		topic, part := im.MsgTopic(im.Origin(h.Origin), conversation.Lane()), int32(wire.Partition(h.Conversation, partitions))
		heads.rows = append(heads.rows, []any{h.Conversation, h.Origin, int64(h.Seq), h.Offset, topic, part})
		for _, uid := range conversation.Members() {
			inbox.rows = append(inbox.rows, []any{string(uid), h.Conversation, h.Origin, h.Offset, topic, part})
		}
		r.expected += int64(h.Seq)
	}
	for _, m := range c.Members {
		id, err := clientID(m.ClientId)
		if err != nil {
			return r, err
		}
		members.rows = append(members.rows, []any{
			m.Conversation, m.Uid, m.Origin, int64(m.Seq), int64(m.Stamp), m.Sender, uuid(id), m.Offset, m.Added,
		})
	}
	for _, t := range c.Titles {
		id, err := clientID(t.ClientId)
		if err != nil {
			return r, err
		}
		title := t.Title
		if title == nil {
			title = []byte{}
		}
		titles.rows = append(titles.rows, []any{
			t.Conversation, t.Origin, int64(t.Seq), int64(t.Stamp), t.Sender, uuid(id), t.Created, title,
		})
	}
	for _, u := range c.Cursors {
		cursors.rows = append(cursors.rows, []any{u.Conversation, u.Uid, u.Origin, int64(u.Delivered), int64(u.Read)})
	}
	for _, m := range c.Records {
		id, err := clientID(m.ClientId)
		if err != nil {
			return r, err
		}
		r.records = append(r.records, &view.Record{
			Record: im.Record{
				ID:   im.ID{Conversation: im.Conversation(m.Conversation), Sender: im.UID(m.Sender), ClientID: id},
				Kind: im.Kind(m.Kind), Version: m.Version, Trace: m.Trace, Body: m.Body,
				Place: im.Place{Stamp: im.Stamp(m.Stamp), Origin: im.Origin(m.Origin), Seq: m.Seq},
			},
			Offset: m.Offset, Opaque: m.Opaque, Shown: m.Shown,
		})
	}
	r.tables = []seedTable{heads, inbox, members, titles, cursors}
	return r, nil
}

func clientID(b []byte) (id im.UUID, err error) {
	if len(b) != len(id) {
		return id, im.Errorf(im.CodeBadRequest, "a snapshot has a client_id of %d bytes", len(b))
	}
	return im.UUID(b), nil
}
