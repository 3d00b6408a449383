package postgres

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// Timelines are one region's timelines, in all of its databases.
type Timelines struct {
	cfg Config
	dbs []*database
}

// Open connects to databases that "antipode migrate" made ready for this build. log may be nil. What is wrong with a
// database is an *Error.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Timelines, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = noLog()
	}
	t := &Timelines{cfg: cfg}
	for number := range cfg.URLs {
		db, err := connect(ctx, &t.cfg, number, log)
		if err != nil {
			t.Close()
			return nil, err
		}
		t.dbs = append(t.dbs, db)
		if err := db.whole(ctx); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

func noLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Close ends the connections; it waits for those in use.
func (t *Timelines) Close() {
	for _, db := range t.dbs {
		db.pool.Close()
	}
}

// Run makes partitions for the coming months, in time, until ctx ends.
func (t *Timelines) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		for _, db := range t.dbs {
			db.keepMonths(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Databases is how many databases the timelines live in.
func (t *Timelines) Databases() int { return len(t.dbs) }

// of is the database of a partition number.
func (t *Timelines) of(number int) *database { return t.dbs[number%len(t.dbs)] }

// home is the database of a conversation.
func (t *Timelines) home(c im.Conversation) *database {
	if len(t.dbs) == 1 {
		return t.dbs[0]
	}
	return t.of(wire.Partition(string(c), t.cfg.Partitions))
}

// holding are the databases of partition numbers, all of them for none.
func (t *Timelines) holding(numbers []int) []*database {
	if len(numbers) == 0 {
		return t.dbs
	}
	var dbs []*database
	for i, db := range t.dbs {
		if slices.ContainsFunc(numbers, func(n int) bool { return n%len(t.dbs) == i }) {
			dbs = append(dbs, db)
		}
	}
	return dbs
}

// each calls do for every index below n, at once.
func each(n int, do func(i int) error) error {
	if n == 1 {
		return do(0)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return cmp.Or(errs...) // one is enough, and one line
}

// everywhere runs do with a snapshot of every database: of one moment in each, not of one moment in all.
func (t *Timelines) everywhere(ctx context.Context, what string, do func(txs []pgx.Tx) error) error {
	ctx, cancel := t.dbs[0].bounded(ctx)
	defer cancel()
	return t.dbs[0].retry(ctx, what, func() (err error) {
		txs := make([]pgx.Tx, len(t.dbs))
		defer func() {
			for _, tx := range txs {
				if tx != nil {
					_ = tx.Rollback(context.WithoutCancel(ctx)) // it only read
				}
			}
		}()
		if err := each(len(t.dbs), func(i int) (err error) {
			txs[i], err = t.dbs[i].pool.BeginTx(ctx, readOnly)
			return explain(t.dbs[i].addr, what, err)
		}); err != nil {
			return err
		}
		return do(txs)
	})
}

// Ping tells whether every database answers.
func (t *Timelines) Ping(ctx context.Context) error {
	return each(len(t.dbs), func(i int) error { return explain(t.dbs[i].addr, "ping", t.dbs[i].pool.Ping(ctx)) })
}

// gather runs a query on the databases and puts the rows together.
func gather[T any](ctx context.Context, dbs []*database, what, sql string, args []any, scan func(pgx.Rows, *T) error) ([]T, error) {
	all := make([][]T, len(dbs))
	err := each(len(dbs), func(i int) error {
		ctx, cancel := dbs[i].bounded(ctx)
		defer cancel()
		rows, err := dbs[i].pool.Query(ctx, sql, args...)
		if err == nil {
			all[i], err = collect(rows, scan)
		}
		return explain(dbs[i].addr, what, err)
	})
	return slices.Concat(all...), err
}

// Positions are how far partitions are, sorted: those with the given numbers, or all if none is given. Only the databases
// that hold them are asked.
func (t *Timelines) Positions(ctx context.Context, numbers ...int) ([]view.Position, error) {
	positions, err := gather(ctx, t.holding(numbers), "positions", `
		SELECT topic, part, next, local, generation, watermark, log_id FROM positions
		WHERE cardinality($1::int[]) = 0 OR part = ANY($1)`, []any{ints(numbers)},
		func(r pgx.Rows, p *view.Position) error {
			var generation, watermark int64
			err := r.Scan(&p.Partition.Topic, &p.Partition.Number, &p.Next, &p.Local, &generation, &watermark, (*[16]byte)(&p.Log))
			p.Generation, p.Checksum = unpackGeneration(generation)
			p.Watermark = im.Stamp(watermark)
			return err
		})
	slices.SortFunc(positions, func(a, b view.Position) int { return a.Partition.Compare(b.Partition) })
	return positions, err
}

// Sent is how far partitions were delivered, as last saved, sorted: those with the given numbers, or all if none is given.
func (t *Timelines) Sent(ctx context.Context, numbers ...int) ([]im.Position, error) {
	sent, err := gather(ctx, t.holding(numbers), "sent", `
		SELECT topic, part, next, local FROM sent WHERE cardinality($1::int[]) = 0 OR part = ANY($1)`, []any{ints(numbers)},
		func(r pgx.Rows, p *im.Position) error {
			return r.Scan(&p.Partition.Topic, &p.Partition.Number, &p.Next, &p.Local)
		})
	slices.SortFunc(sent, func(a, b im.Position) int { return a.Partition.Compare(b.Partition) })
	return sent, err
}

func ints(numbers []int) []int32 {
	out := make([]int32, len(numbers))
	for i, n := range numbers {
		out[i] = int32(n)
	}
	return out
}

// SaveSent keeps how far partitions were delivered. It never goes back: the slower of two owners changes nothing.
func (t *Timelines) SaveSent(ctx context.Context, sent []im.Position) error {
	return each(len(t.dbs), func(i int) error {
		var topics []string
		var parts []int32
		var next, local []int64
		for _, p := range sent {
			if t.of(p.Partition.Number) == t.dbs[i] {
				topics, parts = append(topics, p.Partition.Topic), append(parts, int32(p.Partition.Number))
				next, local = append(next, p.Next), append(local, p.Local)
			}
		}
		if len(topics) == 0 {
			return nil
		}
		ctx, cancel := t.dbs[i].bounded(ctx)
		defer cancel()
		_, err := t.dbs[i].pool.Exec(ctx, `
			INSERT INTO sent (topic, part, next, local)
			SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[])
			ON CONFLICT (topic, part) DO UPDATE SET next = excluded.next, local = excluded.local
			WHERE excluded.next > sent.next`, topics, parts, next, local)
		return explain(t.dbs[i].addr, "save sent", err)
	})
}

// Apply commits the parts together or not at all: the positions, if each is still where its part begins (otherwise
// view.ErrFenced), and all rows. All parts must live in one database: their numbers are equal modulo Databases.
//
// An error other than view.ErrFenced may come after a commit whose answer was lost. Applying the same parts again is then
// fenced, and the caller reads the positions anew.
func (t *Timelines) Apply(ctx context.Context, parts []view.Part) error {
	if len(parts) == 0 {
		return nil
	}
	db := t.of(parts[0].Partition.Number)
	for i := range parts {
		if t.of(parts[i].Partition.Number) != db {
			return errors.New("postgres: a transaction cannot touch two databases")
		}
	}
	return db.apply(ctx, parts)
}
