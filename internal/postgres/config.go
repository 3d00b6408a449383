package postgres

import (
	"errors"
	"time"
)

// Config says which databases to use. Zero values mean the defaults in brackets.
type Config struct {
	URLs       []string // postgres://user:password@host:port/database, in an order that never changes; keep them out of logs
	Partitions int      // of each topic; needed if there are several databases

	MaxConns         int           // of each database's pool [8]
	Retries          int           // of a transaction that lost a deadlock or a serialisation conflict [5]
	ConnectTimeout   time.Duration // for a connection to be made [5 s]
	StatementTimeout time.Duration // for one statement, at the server; digests and migrations have no limit [10 s]
	LockTimeout      time.Duration // for one lock, at the server [3 s]
	ConnLifetime     time.Duration // after it, give or take a tenth, a connection is made anew [30 min]
	ConnIdle         time.Duration // after it an unused connection is closed [5 min]
	SnapshotRows     int           // of a snapshot, that are read in one transaction [500]
	SnapshotBytes    int           // of a snapshot, in one chunk, about [256 KiB]
}

func (c Config) withDefaults() (Config, error) {
	def(&c.MaxConns, 8)
	def(&c.Retries, 5)
	def(&c.ConnectTimeout, 5*time.Second)
	def(&c.StatementTimeout, 10*time.Second)
	def(&c.LockTimeout, 3*time.Second)
	def(&c.ConnLifetime, 30*time.Minute)
	def(&c.ConnIdle, 5*time.Minute)
	def(&c.SnapshotRows, 500)
	def(&c.SnapshotBytes, 256<<10)
	switch {
	case len(c.URLs) == 0:
		return c, errors.New("postgres: no database is configured")
	case len(c.URLs) > 1 && c.Partitions < len(c.URLs):
		return c, errors.New("postgres: more databases than partitions: some would stay empty")
	}
	return c, nil
}

func def[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}
