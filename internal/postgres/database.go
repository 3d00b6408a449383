package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/antipode-im/antipode/imserver/view"
)

// database is one of a store's databases.
type database struct {
	cfg    *Config
	addr   string // host:port/database, for people
	pool   *pgxpool.Pool
	log    *slog.Logger
	steer  bool // the planner can be told to look rows up by index
	months months
}

// errURL is told instead of what the parser says, which repeats the URL.
var errURL = errors.New("postgres: timelines.urls: not a URL that PostgreSQL's clients read")

// minVersion is the oldest PostgreSQL that is supported: below it, a row cannot be copied into partitions as fast, and
// the project no longer mends it.
const minVersion = 14

// connect opens the number-th of the configured databases and checks that it is what it should be.
func connect(ctx context.Context, cfg *Config, number int, log *slog.Logger) (*database, error) {
	pc, err := pgxpool.ParseConfig(cfg.URLs[number])
	if err != nil {
		return nil, errURL
	}
	d := &database{cfg: cfg, addr: address(pc.ConnConfig), log: log}
	pc.MaxConns = int32(cfg.MaxConns)
	pc.MaxConnLifetime, pc.MaxConnLifetimeJitter = cfg.ConnLifetime, cfg.ConnLifetime/10
	pc.MaxConnIdleTime = cfg.ConnIdle
	pc.HealthCheckPeriod = min(time.Minute, cfg.ConnIdle)
	pc.PingTimeout = cfg.ConnectTimeout
	cfg.session(pc.ConnConfig)
	ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout+cfg.StatementTimeout)
	defer cancel()
	if err := d.check(ctx, pc.ConnConfig, number); err != nil {
		return nil, err
	}
	if d.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc); err != nil {
		return nil, explain(d.addr, "open", err)
	}
	return d, nil
}

// maxIdleInTransaction is less than what a take-over may last in all.
const maxIdleInTransaction = 2 * time.Second

// session sets what holds for every connection of ours.
func (c *Config) session(cc *pgx.ConnConfig) {
	cc.ConnectTimeout = c.ConnectTimeout
	for name, value := range map[string]string{
		"application_name":  "antipode",
		"statement_timeout": millis(c.StatementTimeout),
		"lock_timeout":      millis(c.LockTimeout),
		// A process that hangs in the middle of a transaction holds its rows against whoever takes its partitions over. Ours
		// sends what a transaction does in one piece, so that it is idle for a moment only.
		"idle_in_transaction_session_timeout": millis(min(c.StatementTimeout, maxIdleInTransaction)),
	} {
		if _, set := cc.RuntimeParams[name]; !set { // the URL may say otherwise
			cc.RuntimeParams[name] = value
		}
	}
}

func millis(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

func address(cc *pgx.ConnConfig) string {
	return net.JoinHostPort(cc.Host, strconv.Itoa(int(cc.Port))) + "/" + cc.Database
}

// check connects once: the version of the server, the schema and the layout must be right before anything is applied.
func (d *database) check(ctx context.Context, cc *pgx.ConnConfig, number int) error {
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return explain(d.addr, "connect", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := checkServer(ctx, conn, d.addr); err != nil {
		return err
	}
	if err := checkSchema(ctx, conn, d.addr); err != nil {
		return err
	}
	want := layout{number, len(d.cfg.URLs), d.cfg.Partitions}
	has, ok, err := readLayout(ctx, conn)
	switch {
	case err != nil:
		return explain(d.addr, "layout", err)
	case !ok:
		return &Error{Addr: d.addr, Problem: "it does not know which of the region's databases it is", Remedy: unmigrated}
	}
	if err := want.differs(has, d.addr); err != nil {
		return err
	}
	var knobs int
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_settings WHERE name IN ('enable_hashjoin', 'enable_mergejoin', 'enable_seqscan')`).Scan(&knobs)
	d.steer = err == nil && knobs == 3
	return nil
}

// checkServer refuses a PostgreSQL that is too old. What only speaks its protocol has versions of its own.
func checkServer(ctx context.Context, conn *pgx.Conn, addr string) error {
	var name string
	if err := conn.QueryRow(ctx, `SELECT version()`).Scan(&name); err != nil {
		return explain(addr, "version", err)
	}
	text, ok := strings.CutPrefix(name, "PostgreSQL ")
	if !ok {
		return nil
	}
	text, _, _ = strings.Cut(text, " ")
	major, _, _ := strings.Cut(text, ".")
	if n, err := strconv.Atoi(major); err == nil && n < minVersion {
		return &Error{
			Addr: addr, Problem: "it is PostgreSQL " + text + ", which is too old",
			Remedy: fmt.Sprintf("upgrade it to %d or newer", minVersion),
		}
	}
	return nil
}

// retry runs do again, whole, when PostgreSQL chose it to lose a deadlock or a serialisation conflict.
func (d *database) retry(ctx context.Context, what string, do func() error) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 5 * time.Millisecond, RandomizationFactor: 0.9, Multiplier: 2, MaxInterval: 200 * time.Millisecond}
	for attempt := 0; ; attempt++ {
		err := do()
		if err == nil || errors.Is(err, view.ErrFenced) {
			return err
		}
		if !conflicted(err) || attempt == d.cfg.Retries {
			return explain(d.addr, what, err)
		}
		d.log.Info("postgres: a transaction lost a conflict and is tried again", "at", d.addr, "what", what, "attempt", attempt+1, "error", err)
		select {
		case <-ctx.Done():
			return explain(d.addr, what, err)
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// bounded gives a transaction a deadline of our own: the server's timeouts are no use when the server hangs.
func (d *database) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.cfg.ConnectTimeout+d.cfg.StatementTimeout)
}

// readOnly are transactions whose statements see one state of the database.
var readOnly = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}

// snapshot runs statements that must see one state of the database.
func (d *database) snapshot(ctx context.Context, what string, do func(pgx.Tx) error) error {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	return d.retry(ctx, what, func() error { return pgx.BeginTxFunc(ctx, d.pool, readOnly, do) })
}

// collect scans every row.
func collect[T any](rows pgx.Rows, scan func(pgx.Rows, *T) error) ([]T, error) {
	defer rows.Close()
	var all []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
