package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// month is a partition of the messages: those whose client_ids were made in it, by UTC.
type month int // since the year 0

const (
	monthsAhead = 3   // are made before they come
	monthsBack  = 120 // are made when messages of them come; what is older lives in messages_rest
)

func monthOf(t time.Time) month {
	t = t.UTC()
	return month(t.Year()*12 + int(t.Month()) - 1)
}

func (m month) start() time.Time {
	return time.Date(int(m)/12, time.Month(int(m)%12+1), 1, 0, 0, 0, 0, time.UTC)
}

// from is the lowest client_id of the month.
func (m month) from() (u im.UUID) {
	u = im.NewUUID(m.start())
	clear(u[6:])
	return u
}

func (m month) table() string { return m.start().Format("messages_2006_01") }

// months remembers which partitions need not be looked for.
type months struct {
	mu    sync.Mutex
	until map[month]time.Time
}

func (m *months) settled(of month, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Before(m.until[of])
}

func (m *months) settle(of month, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil {
		m.until = map[month]time.Time{}
	}
	m.until[of] = until
}

// monthsOf are the months of records' ids.
func monthsOf(records []*view.Record) []month {
	var all []month
	var from, to int64
next:
	for _, r := range records {
		if !r.ClientID.IsV7() {
			continue
		}
		ms := r.ClientID.Millis()
		if from <= ms && ms < to {
			continue
		}
		m := monthOf(time.UnixMilli(ms))
		from, to = m.start().UnixMilli(), (m + 1).start().UnixMilli()
		for _, known := range all {
			if known == m {
				continue next
			}
		}
		all = append(all, m)
	}
	return all
}

// makeRoom sees to partitions for the months of a batch. It never fails: what has no partition lives in messages_rest.
func (d *database) makeRoom(ctx context.Context, records []*view.Record) {
	now := time.Now()
	for _, m := range monthsOf(records) {
		if d.months.settled(m, now) || m > monthOf(now)+monthsAhead || m < monthOf(now)-monthsBack {
			continue
		}
		d.tryMonth(ctx, m)
	}
}

// tryMonth makes a month's partition, unless it is there. If that fails it is tried again in an hour.
func (d *database) tryMonth(ctx context.Context, m month) {
	err := d.retry(ctx, "make "+m.table(), func() error {
		conn, err := d.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return makeMonth(ctx, conn.Conn(), m, false)
	})
	again := 24 * time.Hour
	if err != nil {
		again = time.Hour
		d.log.Warn("postgres: a month has no partition: its messages go to messages_rest, from where \"antipode migrate\" moves them",
			"at", d.addr, "partition", m.table(), "error", err)
	}
	d.months.settle(m, time.Now().Add(again))
}

// keepMonths makes the coming months' partitions.
func (d *database) keepMonths(ctx context.Context) {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	now := time.Now()
	for m := monthOf(now); m <= monthOf(now)+monthsAhead; m++ {
		if !d.months.settled(m, now) {
			d.tryMonth(ctx, m)
		}
	}
}

// makeMonth makes a month's partition, unless it is there or the messages are not partitioned. It is made as a table of
// its own and then attached, which lets writers to other months go on. What of the month is in messages_rest already
// is moved if move is set; otherwise it is an error.
func makeMonth(ctx context.Context, conn *pgx.Conn, m month, move bool) error {
	table, from, to := pgx.Identifier{m.table()}.Sanitize(), m.from().String(), (m + 1).from().String()
	exists := func() (found bool, err error) {
		err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = $1)`, m.table()).Scan(&found)
		return found, err
	}
	if found, err := exists(); err != nil || found {
		return err
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `CREATE TABLE `+table+` (LIKE messages)`); err != nil {
			return err
		}
		if move {
			if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
				return err
			}
			// Nobody may put a row there meanwhile.
			if _, err := tx.Exec(ctx, `LOCK TABLE messages_rest IN ACCESS EXCLUSIVE MODE`); err != nil {
				return err
			}
			between := fmt.Sprintf(`FROM messages_rest WHERE client_id >= '%s' AND client_id < '%s'`, from, to)
			for _, sql := range []string{`INSERT INTO ` + table + ` SELECT * ` + between, `DELETE ` + between} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE messages ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`, table, from, to))
		return err
	})
	switch state(err) {
	case stateNotPartitioned, stateOverlap: // an operator's own arrangement
		return nil
	case stateTableExists, stateUniqueViolation: // another was faster
		if found, again := exists(); again == nil && found {
			return nil
		}
	}
	return err
}

// moveRest moves what messages_rest holds into partitions of its months.
func moveRest(ctx context.Context, conn *pgx.Conn, now time.Time) error {
	low, high := (monthOf(now) - monthsBack).from(), (monthOf(now) + monthsAhead + 1).from()
	for {
		var first im.UUID
		err := conn.QueryRow(ctx, `SELECT client_id FROM messages_rest WHERE client_id >= $1 AND client_id < $2 ORDER BY client_id LIMIT 1`,
			uuid(low), uuid(high)).Scan((*[16]byte)(&first))
		switch {
		case err == pgx.ErrNoRows, state(err) == stateNoTable:
			return nil
		case err != nil:
			return err
		}
		m := monthOf(time.UnixMilli(first.Millis()))
		if err := makeMonth(ctx, conn, m, true); err != nil {
			return err
		}
		low = (m + 1).from()
	}
}
