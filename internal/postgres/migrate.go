package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema of every configured database up to this build's version, notes which of the region's
// databases each is, and makes the partitions of this month and the next ones. An empty database is filled; one whose schema
// is newer than this build is an error. Two processes that do it at once are settled by PostgreSQL: the slower one finds
// the work done. It may run at any time, and next to a running region of the same version.
func Migrate(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	for number := range cfg.URLs {
		if err := migrate(ctx, &cfg, number); err != nil {
			return err
		}
	}
	return nil
}

// Answers tells whether every configured database can be connected to and is of a version that is supported, whatever it
// holds.
func Answers(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	return each(len(cfg.URLs), func(i int) error {
		conn, addr, err := cfg.administer(ctx, i)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		return checkServer(ctx, conn, addr)
	})
}

// administer connects to the number-th database to change its schema: no statement is too long for that.
func (c *Config) administer(ctx context.Context, number int) (*pgx.Conn, string, error) {
	cc, err := pgx.ParseConfig(c.URLs[number])
	if err != nil {
		return nil, "", errURL
	}
	cc.ConnectTimeout = c.ConnectTimeout
	cc.RuntimeParams["application_name"] = "antipode migrate"
	cc.RuntimeParams["lock_timeout"] = millis(c.LockTimeout) // rather than queue in front of everybody else
	conn, err := pgx.ConnectConfig(ctx, cc)
	return conn, address(cc), explain(address(cc), "connect", err)
}

func migrate(ctx context.Context, cfg *Config, number int) error {
	conn, addr, err := cfg.administer(ctx, number)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := checkServer(ctx, conn, addr); err != nil {
		return err
	}
	if err := contended(ctx, func() error { return upgrade(ctx, conn.Config()) }); err != nil {
		return explain(addr, "migrate", err)
	}
	if err := checkSchema(ctx, conn, addr); err != nil {
		return err
	}
	if err := writeLayout(ctx, conn, layout{number, len(cfg.URLs), cfg.Partitions}, addr); err != nil {
		return err
	}
	now := time.Now()
	for m := monthOf(now) - 1; m <= monthOf(now)+monthsAhead; m++ {
		if err := contended(ctx, func() error { return makeMonth(ctx, conn, m, true) }); err != nil {
			return explain(addr, "make "+m.table(), err)
		}
	}
	return explain(addr, "move messages_rest into months", contended(ctx, func() error { return moveRest(ctx, conn, now) }))
}

// contended runs do again when another process is at the same.
func contended(ctx context.Context, do func() error) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 1.5, MaxInterval: 2 * time.Second}
	for attempt := 1; ; attempt++ {
		err := do()
		switch state(err) {
		case stateTableExists, stateUniqueViolation, stateDeadlock, stateSerialization, stateLockNotAvailable, stateNoTable, "XX000": // tuple concurrently updated
		default:
			return err
		}
		if attempt == 6 {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait.NextBackOff()):
		}
	}
}

func upgrade(ctx context.Context, cc *pgx.ConnConfig) (err error) {
	db := stdlib.OpenDB(*cc)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := newProvider(db)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db, files)
}

// schemaVersion is the version of this build's schema.
func schemaVersion() (int64, error) {
	files, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return 0, err
	}
	return goose.NumericComponent(files[len(files)-1].Name()) // ReadDir sorts
}

// checkSchema refuses a schema that is older or newer than this build's.
func checkSchema(ctx context.Context, conn *pgx.Conn, addr string) error {
	want, err := schemaVersion()
	if err != nil {
		return err
	}
	var has int64
	err = conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&has)
	switch {
	case state(err) == stateNoTable || err == nil && has == 0:
		return &Error{Addr: addr, Problem: "it has no schema yet", Remedy: unmigrated, Err: err}
	case err != nil:
		return explain(addr, "schema version", err)
	case has < want:
		return &Error{Addr: addr, Problem: fmt.Sprintf("the schema has version %d and this build needs %d", has, want), Remedy: unmigrated}
	case has > want:
		return &Error{Addr: addr, Problem: fmt.Sprintf("the schema has version %d, newer than this build's %d", has, want), Remedy: "use a newer build"}
	}
	return nil
}
