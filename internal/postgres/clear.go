package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// viewTables are all that a region derives from logs, positions included.
const viewTables = `positions, sent, heads, messages, inbox, members, titles, cursors`

func viewTableNames() []string { return strings.Split(viewTables, ", ") }

// Clear empties every configured database of what was derived from logs, and of how far: apply begins again at the start
// of the logs. Nothing may be applying meanwhile; an imserver that is would be fenced.
func Clear(ctx context.Context, cfg Config) error {
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
		if err := checkSchema(ctx, conn, addr); err != nil {
			return err
		}
		return contended(ctx, func() error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `TRUNCATE `+viewTables)
				if err == nil {
					_, err = tx.Exec(ctx, `DROP TABLE IF EXISTS seed`)
				}
				return explain(addr, "clear", err)
			})
		})
	})
}
