package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Digest returns a digest of each part of the view. It reads everything, in one snapshot of each database: it is for tests, drills and
// audits, not for dashboards.
func (t *Timelines) Digest(ctx context.Context) (map[string]string, error) {
	d := view.NewDigest()
	err := t.dbs[0].retry(ctx, "digest", func() error {
		d = view.NewDigest() // what is tried again starts over
		for _, db := range t.dbs {
			if err := pgx.BeginTxFunc(ctx, db.pool, readOnly, func(tx pgx.Tx) error { return addTo(ctx, d, tx) }); err != nil {
				return explain(db.addr, "digest", err)
			}
		}
		return nil
	})
	return d.Sums(), err
}

// addTo adds the rows of one database: a digest is a sum, so it does not depend on how many there are.
func addTo(ctx context.Context, d *view.Digest, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return err
	}
	var r view.Record
	var k view.HeadKey
	var uid im.UID
	var e view.Event
	var title view.Title
	var text []byte
	var offset, delivered, read int64
	var seq, first unsigned
	for _, table := range []struct {
		sql    string
		fields []any
		add    func()
	}{
		{
			`SELECT conversation, origin, seq, stamp, log_offset, kind, version, sender, client_id, trace, opaque, shown, body FROM messages`,
			append([]any{(*string)(&r.Conversation)}, recordFields(&r)...),
			func() { d.Record(&r) },
		},
		{
			`SELECT DISTINCT ON (conversation, sender, client_id, origin) conversation, sender, client_id, origin, stamp, seq,
					min(seq) OVER (PARTITION BY conversation, sender, client_id, origin)
				FROM messages WHERE NOT opaque ORDER BY conversation, sender, client_id, origin, stamp, seq`,
			[]any{
				(*string)(&r.Conversation), (*string)(&r.Sender), (*[16]byte)(&r.ClientID),
				(*string)(&r.Place.Origin), (*unsigned)(&r.Place.Stamp), (*unsigned)(&r.Place.Seq), &first,
			},
			func() { d.ID(r.ID, r.Place, uint64(first)) },
		},
		{
			`SELECT conversation, origin, seq, log_offset FROM heads`,
			[]any{(*string)(&k.Conversation), (*string)(&k.Origin), &seq, &offset},
			func() { d.Head(k, uint64(seq), offset) },
		},
		{
			`SELECT uid, conversation, origin, log_offset FROM inbox`,
			[]any{(*string)(&uid), (*string)(&k.Conversation), (*string)(&k.Origin), &offset},
			func() { d.Inbox(uid, k, offset) },
		},
		{
			`SELECT conversation, uid, origin, seq, stamp, log_offset, sender, client_id, added FROM members`,
			append([]any{(*string)(&k.Conversation), (*string)(&uid)}, eventFields(&e)...),
			func() { d.Member(k.Conversation, uid, e) },
		},
		{
			`SELECT conversation, origin, seq, stamp, sender, client_id, created, title FROM titles`,
			[]any{
				(*string)(&k.Conversation), (*string)(&title.Place.Origin), (*unsigned)(&title.Place.Seq), (*unsigned)(&title.Place.Stamp),
				(*string)(&title.Sender), (*[16]byte)(&title.ClientID), &title.Create, &text,
			},
			func() { title.Text = string(text); d.Title(k.Conversation, title) },
		},
		{
			`SELECT conversation, origin, uid, delivered, read FROM cursors`,
			[]any{(*string)(&k.Conversation), (*string)(&k.Origin), (*string)(&uid), &delivered, &read},
			func() { d.Cursor(k, uid, uint64(delivered), uint64(read)) },
		},
	} {
		rows, err := tx.Query(ctx, table.sql)
		if err != nil {
			return err
		}
		if _, err := pgx.ForEachRow(rows, table.fields, func() error { table.add(); return nil }); err != nil {
			return err
		}
	}
	return nil
}
