package postgres

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// apply commits parts in one transaction: one statement a table, tables in one order, rows in key order and folded, since
// one statement may not touch a row twice. The messages come last, by COPY.
func (d *database) apply(ctx context.Context, parts []view.Part) error {
	var w writes
	for i := range parts {
		w.part(&parts[i])
	}
	statements, messages := w.batch(), w.messages()
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	d.makeRoom(ctx, w.records)
	return d.retry(ctx, "apply", func() error { return d.commit(ctx, statements, messages) })
}

// steerSQL makes the planner look rows up by index. It plans once, when tables may be small, and would go on reading
// them whole while they grow.
const steerSQL = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`

// commit runs the statements in one transaction. They go out in one piece; the first answers whether the positions
// moved, and only then is anything committed.
func (d *database) commit(ctx context.Context, statements []statement, messages []byte) error {
	return pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{}, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		if d.steer {
			batch.Queue(steerSQL)
		}
		for _, s := range statements {
			batch.Queue(s.sql, s.args...)
		}
		if err := d.run(tx.SendBatch(ctx, batch), statements); err != nil {
			return err
		}
		if messages == nil {
			return nil
		}
		if _, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(messages), copyMessages); err != nil {
			return fmt.Errorf("messages: %w", err)
		}
		return nil
	})
}

func (d *database) run(results pgx.BatchResults, statements []statement) (err error) {
	defer func() {
		if closed := results.Close(); err == nil { // else it is the same error again
			err = closed
		}
	}()
	if d.steer {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	for i := range statements {
		s := &statements[i]
		tag, err := results.Exec()
		switch n := tag.RowsAffected(); {
		case err != nil:
			return fmt.Errorf("%s: %w", s.table, err)
		case s.exactly < 0 || n == int64(s.exactly):
		case s.fence:
			return view.ErrFenced
		default:
			return fmt.Errorf("%s: %d of %d rows are what the batch was numbered from: seqs would come twice or be skipped", s.table, n, s.exactly)
		}
	}
	return nil
}

// statement writes to one table.
type statement struct {
	table   string
	sql     string
	args    []any
	exactly int  // rows that it must touch; negative: any number
	fence   bool // touching others means that another owner was faster
}

// writes are the rows of one transaction, by table.
type writes struct {
	positions []view.Part
	heads     map[view.HeadKey]headRow
	records   []*view.Record
	inbox     map[inboxKey]headRow
	changes   []change
	cursors   map[cursorKey]cursorRow
}

type headRow struct {
	before    uint64 // the stream's last seq before this batch
	seq       uint64
	offset    int64
	partition im.Partition
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
	if w.heads == nil {
		w.heads = make(map[view.HeadKey]headRow, len(p.Records))
		w.inbox, w.cursors = map[inboxKey]headRow{}, map[cursorKey]cursorRow{}
	}
	for i := range p.Records {
		r := &p.Records[i]
		w.records = append(w.records, r)
		k := view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin}
		row, known := w.heads[k]
		if !known {
			row = headRow{before: r.Place.Seq - 1, partition: p.Partition}
		}
		row.seq, row.offset = r.Place.Seq, r.Offset // records are in log order
		w.heads[k] = row
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
	all := []statement{w.newPositions(), w.movedPositions()}
	all = append(append(all, w.headRows()...), w.inboxRows()...)
	all = append(all, w.memberRows(), w.titleRows(), w.cursorRows())
	return slices.DeleteFunc(all, func(s statement) bool { return s.sql == "" })
}

// messages are the records as COPY reads them; nil if there are none.
func (w *writes) messages() []byte {
	if len(w.records) == 0 {
		return nil
	}
	slices.SortFunc(w.records, func(a, b *view.Record) int {
		return cmp.Or(cmp.Compare(a.Conversation, b.Conversation), cmp.Compare(a.Place.Origin, b.Place.Origin), cmp.Compare(a.Place.Seq, b.Place.Seq))
	})
	return copyRows(w.records)
}
