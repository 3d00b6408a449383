package postgres

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Config says which database to use.
type Config struct {
	URL       string        // postgres://user:password@host:port/database; keep it out of logs
	MaxConns  int           // of the pool [8]
	Retries   int           // of a transaction that lost a deadlock or a serialisation conflict [5]
	ApplyTime time.Duration // for one Apply, retries included [30 s]
}

// Timelines are one region's timelines.
type Timelines struct {
	cfg  Config
	pool *pgxpool.Pool
	log  *slog.Logger
}

// Migrate brings the schema of a database up to this build's version. Several processes may call it at once; an empty
// database is filled, a newer schema than this build knows is an error.
func Migrate(ctx context.Context, url string) error { return nil }

// Open connects to a database whose schema is of this build's version. log may be nil.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Timelines, error) {
	return &Timelines{cfg: cfg, log: log}, nil
}

// Close ends the connections.
func (t *Timelines) Close() {}

// Ping tells whether the database answers.
func (t *Timelines) Ping(ctx context.Context) error { return nil }

// Positions are how far every partition is.
func (t *Timelines) Positions(ctx context.Context) ([]view.Position, error) { return nil, nil }

// Apply commits the parts together or not at all.
func (t *Timelines) Apply(ctx context.Context, parts []view.Part) error { return nil }

// Known returns the heads and groups that the store has among those asked.
func (t *Timelines) Known(ctx context.Context, heads []view.HeadKey, groups []im.Conversation) (map[view.HeadKey]uint64, map[im.Conversation]*view.Group, error) {
	return nil, nil, nil
}

// Sent is how far partitions were delivered, as last saved.
func (t *Timelines) Sent(ctx context.Context) ([]im.Position, error) { return nil, nil }

// SaveSent keeps how far partitions were delivered.
func (t *Timelines) SaveSent(ctx context.Context, sent []im.Position) error { return nil }

// Pull returns a page of a conversation.
func (t *Timelines) Pull(ctx context.Context, q view.PullQuery) (view.Page, error) {
	return view.Page{}, nil
}

// List returns a page of a user's conversations.
func (t *Timelines) List(ctx context.Context, q view.ListQuery) (view.ListPage, error) {
	return view.ListPage{}, nil
}

// Receipts returns the cursors of users in a conversation.
func (t *Timelines) Receipts(ctx context.Context, c im.Conversation, users []im.UID) ([]view.Receipt, error) {
	return nil, nil
}

// Digest returns a digest of each part of the view.
func (t *Timelines) Digest(ctx context.Context) (map[string]string, error) { return nil, nil }
