package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers "pgx" with database/sql, which goose speaks
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema of a database up to this build's version. An empty database is filled; one whose schema is
// newer than this build is an error. Two processes that do it at once are settled by PostgreSQL: the slower one finds the
// work done.
func Migrate(ctx context.Context, url string) error {
	db, provider, err := open(url)
	if err != nil {
		return err
	}
	defer db.Close()
	for attempt := 0; ; attempt++ {
		_, err := provider.Up(ctx)
		if err == nil {
			return checkVersion(ctx, provider)
		}
		if attempt == 4 || ctx.Err() != nil {
			return fmt.Errorf("postgres: migrate: %w", err)
		}
		select { // another process may be at it
		case <-ctx.Done():
		case <-time.After(time.Duration(100+rand.IntN(400)) * time.Millisecond):
		}
	}
}

func open(url string) (*sql.DB, *goose.Provider, error) {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return nil, nil, fmt.Errorf("postgres: %w", err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("postgres: migrations: %w", err), db.Close())
	}
	return db, provider, nil
}

// checkVersion refuses a schema that is older or newer than this build's.
func checkVersion(ctx context.Context, provider *goose.Provider) error {
	has, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("postgres: schema version: %w", err)
	}
	sources := provider.ListSources()
	want := sources[len(sources)-1].Version
	if has != want {
		return &SchemaError{Has: has, Want: want}
	}
	return nil
}
