package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// layout says which of a region's databases a database is.
type layout struct {
	number, count int
	partitions    int // of each topic; 0: not known
}

// differs is an error if a database that has this layout cannot serve as l. Its rows are where another number of
// databases, or of partitions, put them.
func (l layout) differs(has layout, addr string) error {
	const remedy = "restore timelines.urls and partitions as they were, or build the view anew in empty databases from the logs"
	switch {
	case has.count != l.count:
		return &Error{Addr: addr, Problem: fmt.Sprintf("the region's timelines were laid out over %d databases, not %d", has.count, l.count), Remedy: remedy}
	case has.number != l.number:
		return &Error{Addr: addr, Problem: fmt.Sprintf("it is database %d of the region, and timelines.urls names it as %d", has.number, l.number), Remedy: remedy}
	case l.count > 1 && has.partitions != 0 && l.partitions != 0 && has.partitions != l.partitions:
		return &Error{Addr: addr, Problem: fmt.Sprintf("the region's timelines were laid out for %d partitions, not %d", has.partitions, l.partitions), Remedy: remedy}
	}
	return nil
}

func readLayout(ctx context.Context, conn *pgx.Conn) (l layout, ok bool, err error) {
	err = conn.QueryRow(ctx, `SELECT number, count, partitions FROM layout`).Scan(&l.number, &l.count, &l.partitions)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, false, nil
	}
	return l, err == nil, err
}

// writeLayout notes the layout in a database that has none, and checks it in one that does.
func writeLayout(ctx context.Context, conn *pgx.Conn, want layout, addr string) error {
	if _, err := conn.Exec(ctx, `
		INSERT INTO layout (one, number, count, partitions) VALUES (true, $1, $2, $3) ON CONFLICT DO NOTHING`,
		want.number, want.count, want.partitions); err != nil {
		return explain(addr, "layout", err)
	}
	has, _, err := readLayout(ctx, conn)
	if err != nil {
		return explain(addr, "layout", err)
	}
	return want.differs(has, addr)
}
