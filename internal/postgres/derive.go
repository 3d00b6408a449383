package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// deriveRows is how many rows are derived in one transaction.
const deriveRows = 500

// Derive takes up what was stored raw because the build that applied it did not know its kind or version, and this one does. It
// returns how many records that were. What follows of a record is a function of the record, and merges with what is there as
// if it had been applied at first; so it may run again at any time, and next to a running region. An imserver that has a
// group in memory goes on with that until it is started again (docs/adr/015-what-was-stored-raw-is-derived-by-migrate.md).
func Derive(ctx context.Context, cfg Config) (records int, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return 0, err
	}
	for number := range cfg.URLs {
		conn, addr, err := cfg.administer(ctx, number)
		if err != nil {
			return records, err
		}
		n, err := derive(ctx, conn)
		_ = conn.Close(context.WithoutCancel(ctx)) // what was to be done is done, or its error is told
		if records += n; err != nil {
			return records, explain(addr, "derive what was stored raw", err)
		}
	}
	return records, nil
}

// derive goes through the rows that are not shown, in the order of the primary key.
func derive(ctx context.Context, conn *pgx.Conn) (records int, err error) {
	for last := (view.Record{}); ; {
		rows, err := conn.Query(ctx, `
			SELECT client_id, conversation, stamp, origin, seq, log_offset, version, kind, sender, body FROM messages
			WHERE NOT shown AND NOT opaque AND (client_id, conversation, stamp, origin, seq) > ($1, $2, $3, $4, $5)
			ORDER BY client_id, conversation, stamp, origin, seq LIMIT $6`,
			uuid(last.ClientID), string(last.Conversation), int64(last.Place.Stamp), string(last.Place.Origin), int64(last.Place.Seq), deriveRows)
		if err != nil {
			return records, err
		}
		hidden, err := collect(rows, func(rows pgx.Rows, r *view.Record) error {
			var stamp, seq, version int64
			err := rows.Scan((*[16]byte)(&r.ClientID), &r.Conversation, &stamp, &r.Place.Origin, &seq, &r.Offset, &version, &r.Kind, &r.Sender, &r.Body)
			r.Place.Stamp, r.Place.Seq, r.Version = im.Stamp(stamp), uint64(seq), uint32(version)
			return err
		})
		if err != nil || len(hidden) == 0 {
			return records, err
		}
		last = hidden[len(hidden)-1]
		var w writes
		for i := range hidden {
			r := &hidden[i]
			if !r.Derive() {
				continue
			}
			w.records = append(w.records, r)
			if c, ok := view.ChangeOf(r); ok {
				w.changes = append(w.changes, change{r.Conversation, c})
			}
		}
		if err := contended(ctx, func() error { return w.derived(ctx, conn) }); err != nil {
			return records, err
		}
		records += len(w.records)
	}
}

// derived writes what follows of records, and that they are shown, in one transaction.
func (w *writes) derived(ctx context.Context, conn *pgx.Conn) error {
	if len(w.records) == 0 {
		return nil
	}
	n := len(w.records)
	clients, conversations, stamps := make([]pgtype.UUID, n), make([]string, n), make([]int64, n)
	origins, seqs := make([]string, n), make([]int64, n)
	for i, r := range w.records {
		clients[i], conversations[i], stamps[i] = uuid(r.ClientID), string(r.Conversation), int64(r.Place.Stamp)
		origins[i], seqs[i] = string(r.Place.Origin), int64(r.Place.Seq)
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, s := range []statement{w.memberRows(), w.titleRows()} {
			if s.sql == "" {
				continue
			}
			if _, err := tx.Exec(ctx, s.sql+` ON CONFLICT DO NOTHING`, s.args...); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `
			UPDATE messages m SET shown = true
			FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bigint[]) AS u(client_id, conversation, stamp, origin, seq)
			WHERE m.client_id = u.client_id AND m.conversation = u.conversation COLLATE "C" AND m.stamp = u.stamp
				AND m.origin = u.origin COLLATE "C" AND m.seq = u.seq`,
			clients, conversations, stamps, origins, seqs)
		return err
	})
}
