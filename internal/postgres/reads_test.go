package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Reads with many months attached: a page of 50 messages, and the list of a user of 100 conversations, of which one
// changed since or all are new.
//
//	go test -run '^$' -bench Reads ./internal/postgres
func BenchmarkReads(b *testing.B) {
	timelines := measured(b)
	db := timelines.dbs[0]
	const conversations, each = 100, 100
	p := view.Part{Partition: eu0, To: view.Position{Position: im.Position{Partition: eu0, Next: conversations * each, Local: conversations * each}}}
	for i := range conversations * each {
		c := im.Direct("ann", im.UID(fmt.Sprint("bob", i%conversations)))
		r := part(eu0, int64(i), uint64(i/conversations+1), 1, c).Records[0]
		r.Sender = im.UID(fmt.Sprint("bob", i%conversations))
		p.Records = append(p.Records, r)
	}
	if err := timelines.Apply(b.Context(), []view.Part{p}); err != nil {
		b.Fatal(err)
	}
	made := 0
	for _, months := range []int{5, 12, 36} {
		for ; made < months-5; made++ {
			m := monthOf(time.Now()) - 2 - month(made)
			err := db.pool.AcquireFunc(b.Context(), func(conn *pgxpool.Conn) error { return makeMonth(b.Context(), conn.Conn(), m, false) })
			if err != nil {
				b.Fatal(err)
			}
		}
		exec(b, db, `ANALYZE`)
		b.Run(fmt.Sprintf("months=%d/pull", months), func(b *testing.B) {
			for b.Loop() {
				page, err := timelines.Pull(b.Context(), view.PullQuery{UID: "ann", Conversation: "d:ann:bob7", Cursor: im.Cursor{"eu": 50}, Limit: 50})
				if err != nil || len(page.Records) != 50 {
					b.Fatal(len(page.Records), err)
				}
			}
		})
		for name, cursor := range map[string]im.ListCursor{"list=1": {eu0: conversations*each - 1}, "list=100": nil} {
			b.Run(fmt.Sprintf("months=%d/%s", months, name), func(b *testing.B) {
				for b.Loop() {
					page, err := timelines.List(b.Context(), view.ListQuery{UID: "ann", Cursor: cursor, Limit: 100})
					if err != nil || fmt.Sprint("list=", len(page.Rows)) != name {
						b.Fatal(len(page.Rows), err)
					}
				}
			})
		}
	}
}
