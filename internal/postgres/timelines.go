package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Config says which database to use.
type Config struct {
	URL      string // postgres://user:password@host:port/database; keep it out of logs
	MaxConns int    // of the pool [8]
	Retries  int    // of a transaction that lost a deadlock or a serialisation conflict [5]
}

// Timelines are one region's timelines.
type Timelines struct {
	cfg  Config
	pool *pgxpool.Pool
	log  *slog.Logger
}

// Open connects to a database whose schema is of this build's version. log may be nil.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Timelines, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 8
	}
	if cfg.Retries == 0 {
		cfg.Retries = 5
	}
	db, provider, err := open(cfg.URL)
	if err != nil {
		return nil, err
	}
	err = checkVersion(ctx, provider)
	db.Close()
	if err != nil {
		return nil, err
	}
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	pc.MaxConns = int32(cfg.MaxConns)
	pc.MaxConnLifetimeJitter = time.Minute
	pc.ConnConfig.ConnectTimeout = 5 * time.Second
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return &Timelines{cfg, pool, log}, nil
}

// Close ends the connections; it waits for those in use.
func (t *Timelines) Close() { t.pool.Close() }

// Ping tells whether the database answers.
func (t *Timelines) Ping(ctx context.Context) error { return t.pool.Ping(ctx) }

// Positions are how far every partition is, sorted.
func (t *Timelines) Positions(ctx context.Context) ([]view.Position, error) {
	rows, err := t.pool.Query(ctx, `SELECT topic, part, next, local, generation, watermark, log_id FROM positions ORDER BY topic, part`)
	if err != nil {
		return nil, fail("positions", err)
	}
	return collect("positions", rows, func(r pgx.Rows, p *view.Position) error {
		var generation, watermark int64
		err := r.Scan(&p.Partition.Topic, &p.Partition.Number, &p.Next, &p.Local, &generation, &watermark, (*[16]byte)(&p.Log))
		p.Generation, p.Watermark = uint32(generation), im.Stamp(watermark)
		return err
	})
}

// Sent is how far partitions were delivered, as last saved.
func (t *Timelines) Sent(ctx context.Context) ([]im.Position, error) {
	rows, err := t.pool.Query(ctx, `SELECT topic, part, next, local FROM sent ORDER BY topic, part`)
	if err != nil {
		return nil, fail("sent", err)
	}
	return collect("sent", rows, func(r pgx.Rows, p *im.Position) error {
		return r.Scan(&p.Partition.Topic, &p.Partition.Number, &p.Next, &p.Local)
	})
}

// SaveSent keeps how far partitions were delivered. It never goes back: the slower of two owners changes nothing.
func (t *Timelines) SaveSent(ctx context.Context, sent []im.Position) error {
	topics, parts := make([]string, len(sent)), make([]int32, len(sent))
	next, local := make([]int64, len(sent)), make([]int64, len(sent))
	for i, p := range sent {
		topics[i], parts[i], next[i], local[i] = p.Partition.Topic, int32(p.Partition.Number), p.Next, p.Local
	}
	_, err := t.pool.Exec(ctx, `
		INSERT INTO sent (topic, part, next, local)
		SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[])
		ON CONFLICT (topic, part) DO UPDATE SET next = excluded.next, local = excluded.local
		WHERE excluded.next > sent.next`, topics, parts, next, local)
	return fail("save sent", err)
}

// retry runs do again, whole, when PostgreSQL chose it to lose a deadlock or a serialisation conflict.
func (t *Timelines) retry(ctx context.Context, what string, do func() error) error {
	for attempt := 0; ; attempt++ {
		err := do()
		if err == nil || errors.Is(err, view.ErrFenced) {
			return err
		}
		if !conflicted(err) || attempt == t.cfg.Retries {
			return fail(what, err)
		}
		t.log.Info("postgres: a transaction lost a conflict and is tried again", "what", what, "attempt", attempt+1, "error", err)
		select {
		case <-ctx.Done():
			return fail(what, err)
		case <-time.After(time.Duration(1+rand.IntN(10<<attempt)) * time.Millisecond):
		}
	}
}

func conflicted(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40P01" || e.Code == "40001") // deadlock_detected, serialization_failure
}

func fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("postgres: %s: %w", what, err)
}

// collect scans every row.
func collect[T any](what string, rows pgx.Rows, scan func(pgx.Rows, *T) error) ([]T, error) {
	defer rows.Close()
	var all []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, fail(what, err)
		}
		all = append(all, v)
	}
	return all, fail(what, rows.Err())
}
