package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/internal/embedded"
)

// refused checks that an error is one line that says all of want.
func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	if _, ok := errors.AsType[*Error](err); !ok {
		t.Fatalf("got %v (%T), want an *Error", err, err)
	}
	text := err.Error()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
	if strings.Contains(text, "\n") || strings.Contains(text, "secret") {
		t.Errorf("%q has more than one line, or tells the password", text)
	}
}

func testLayout(t *testing.T, timelines *Timelines) {
	cfg := timelines.cfg
	more := cfg
	more.URLs, more.Partitions = append(slices.Clone(cfg.URLs), cfg.URLs[0]), 4
	_, err := Open(t.Context(), more, nil)
	refused(t, err, timelines.dbs[0].addr, fmt.Sprintf("laid out over %d databases, not %d", len(cfg.URLs), len(more.URLs)), "restore timelines.urls")
	refused(t, Migrate(t.Context(), more), "laid out over")
	if len(cfg.URLs) == 1 {
		return
	}
	swapped := cfg
	swapped.URLs = []string{cfg.URLs[1], cfg.URLs[0]}
	_, err = Open(t.Context(), swapped, nil)
	refused(t, err, "it is database 1 of the region, and timelines.urls names it as 0")
	other := cfg
	other.Partitions = 16
	_, err = Open(t.Context(), other, nil)
	refused(t, err, "laid out for 2 partitions, not 16")
}

// byMonth says how many rows each partition has.
func byMonth(t *testing.T, db *database) map[string]int {
	t.Helper()
	rows, err := db.pool.Query(t.Context(), `SELECT tableoid::regclass::text, count(*) FROM messages GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	var name string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { counts[name] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	return counts
}

func testMonths(t *testing.T, timelines *Timelines) {
	now := time.Now()
	p := part(eu0, 0, 1, 5, "d:ann:bob")
	old := time.Date(now.Year()-1, 3, 31, 23, 59, 59, 999e6, time.UTC)
	next := old.Add(time.Millisecond)
	for i, at := range []time.Time{old, next, now, now} {
		p.Records[i].ClientID = im.NewUUID(at)
	}
	p.Records[3].ClientID = im.NewUUID(now.AddDate(300, 0, 0)) // not of our time
	p.Records[4].ClientID = im.UUID{}
	if err := timelines.Apply(t.Context(), []view.Part{p}); err != nil {
		t.Fatal(err)
	}
	// The same id again through another region, half a year later: it stands beside its first record.
	again := part(us0, 0, 1, 1, "d:ann:bob")
	again.Records[0].ID = p.Records[0].ID
	again.Records[0].Place.Stamp = im.StampAt(old.AddDate(0, 6, 0))
	if err := timelines.Apply(t.Context(), []view.Part{again}); err != nil {
		t.Fatal(err)
	}
	db := timelines.of(0)
	counts := byMonth(t, db)
	want := map[string]int{monthOf(old).table(): 2, monthOf(next).table(): 1, monthOf(now).table(): 1, "messages_rest": 2}
	if fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Fatalf("rows by month: %v, want %v", counts, want)
	}
	for m := monthOf(now); m <= monthOf(now)+monthsAhead; m++ {
		var there bool
		if err := db.pool.QueryRow(t.Context(), `SELECT to_regclass($1) IS NOT NULL`, m.table()).Scan(&there); err != nil || !there {
			t.Errorf("%s is not made ahead: %v", m.table(), err)
		}
	}
	if last, first := monthOf(next), monthOf(old); last.start() != first.start().AddDate(0, 1, 0) || monthOf(time.UnixMilli(last.from().Millis())) != last {
		t.Errorf("months %s and %s do not meet", first.table(), last.table())
	}
}

func testRest(t *testing.T, timelines *Timelines) {
	ctx := t.Context()
	db := timelines.of(0)
	m := monthOf(time.Now())
	c := im.Conversation("d:ann:bob")
	for i := 0; timelines.home(c) != db; i++ {
		c = im.Direct("ann", im.UID(fmt.Sprint("bob", i)))
	}
	exec(t, db, `DROP TABLE `+m.table())
	db.months.settle(m, time.Now().Add(time.Hour)) // it was there a moment ago
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 0, 1, 7, c)}); err != nil {
		t.Fatal(err)
	}
	if n := byMonth(t, db)["messages_rest"]; n != 7 {
		t.Fatalf("%d rows in messages_rest, want 7", n)
	}
	before, err := timelines.Digest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	db.log = slog.New(slog.NewTextHandler(&said, nil))
	db.months = months{}
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 7, 8, 1, c)}); err != nil {
		t.Fatalf("apply stopped for want of a partition: %v", err)
	}
	if !strings.Contains(said.String(), m.table()) || !strings.Contains(said.String(), "antipode migrate") {
		t.Errorf("the log does not say what to do: %s", said.String())
	}
	if err := Migrate(ctx, timelines.cfg); err != nil {
		t.Fatal(err)
	}
	if counts := byMonth(t, db); counts[m.table()] != 8 || counts["messages_rest"] != 0 {
		t.Fatalf("rows by month after migrate: %v", counts)
	}
	page, err := timelines.Pull(ctx, view.PullQuery{UID: "ann", Conversation: c, Limit: 10})
	if err != nil || len(page.Records) != 8 {
		t.Fatalf("%d records, %v", len(page.Records), err)
	}
	if after, _ := timelines.Digest(ctx); after[view.PartTimelines] == before[view.PartTimelines] {
		t.Fatal("the digest does not see the eighth record")
	}
}

// testUpgrade brings the first version's tables to this one's.
func testUpgrade(t *testing.T, timelines *Timelines) {
	ctx := t.Context()
	for _, db := range timelines.dbs {
		exec(t, db, `DROP SCHEMA public CASCADE`)
		exec(t, db, `CREATE SCHEMA public`)
	}
	cc, err := pgx.ParseConfig(timelines.cfg.URLs[0])
	if err != nil {
		t.Fatal(err)
	}
	sql := stdlib.OpenDB(*cc)
	defer sql.Close()
	provider, err := newProvider(sql)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(ctx, 1); err != nil {
		t.Fatal(err)
	}
	_, err = Open(ctx, timelines.cfg, nil)
	refused(t, err, "the schema has version 1 and this build needs 2", `run "antipode migrate"`)
	id := im.NewUUID(time.Now())
	for _, q := range []string{
		`INSERT INTO positions VALUES ('msg.eu.direct', 0, 1, 1, 0, 0, '` + id.String() + `')`,
		`INSERT INTO heads VALUES ('d:ann:bob', 'eu', 1, 0, 'msg.eu.direct', 0)`,
		`INSERT INTO messages VALUES (77, 1, 5, 1, '` + id.String() + `', false, true, 'd:ann:bob', 'eu', 'message', 'ann', '', 'x')`,
	} {
		if _, err := sql.ExecContext(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	err = Migrate(ctx, timelines.cfg)
	if len(timelines.dbs) > 1 { // all rows are in one database: they cannot be where two would have them
		refused(t, err, "laid out over 1 databases, not 2")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	upgraded, err := Open(ctx, timelines.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer upgraded.Close()
	found, ok, err := upgraded.Find(ctx, im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: id})
	if err != nil || !ok || found.Offset != 5 || found.Place.Stamp != 77 {
		t.Fatalf("%+v, %v, %v", found, ok, err)
	}
	if counts := byMonth(t, upgraded.dbs[0]); counts[monthOf(time.Now()).table()] != 1 {
		t.Fatalf("rows by month: %v", counts)
	}
}

func testTimeouts(t *testing.T, timelines *Timelines) {
	cfg := timelines.cfg
	cfg.StatementTimeout, cfg.LockTimeout = 300*time.Millisecond, 50*time.Millisecond
	hasty, err := Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer hasty.Close()
	if err := timelines.Apply(t.Context(), []view.Part{part(eu0, 0, 1, 1, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
	_, err = hasty.dbs[0].pool.Exec(t.Context(), `SELECT pg_sleep(60)`)
	if state(err) != "57014" { // query_canceled
		t.Errorf("a statement that hangs: %v", err)
	}
	for _, c := range []struct {
		timelines *Timelines
		want      string
	}{{timelines, "2s"}, {hasty, "300ms"}} { // a frozen owner's locks; a take-over waits for them
		var idle string
		if err := c.timelines.of(0).pool.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&idle); err != nil || idle != c.want {
			t.Errorf("a transaction may be idle for %s, want %s (%v)", idle, c.want, err)
		}
	}
	tx, err := timelines.of(0).pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `SELECT FROM positions FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	err = hasty.Apply(t.Context(), []view.Part{part(eu0, 1, 2, 1, "d:ann:bob")})
	if state(err) != stateLockNotAvailable {
		t.Errorf("a lock that is held: %v", err)
	}
	refused(t, err, hasty.of(0).addr, "apply", "lock timeout")
}

func testOneDatabase(t *testing.T, timelines *Timelines) {
	one := us0
	one.Number = 1
	err := timelines.Apply(t.Context(), []view.Part{part(eu0, 0, 1, 1, "d:ann:bob"), part(one, 0, 1, 1, "d:ann:cat")})
	if (err == nil) != (len(timelines.dbs) == 1) {
		t.Fatalf("two partitions in one transaction of %d databases: %v", len(timelines.dbs), err)
	}
	positions, err := timelines.Positions(t.Context(), 1)
	if err != nil || len(positions) != 2-len(timelines.dbs) {
		t.Fatalf("positions of number 1: %v, %v", positions, err)
	}
}

// testPlans checks that the planner looks up rows by index although the tables are empty, hence as small as can be.
func testPlans(t *testing.T, timelines *Timelines) {
	p := part(eu0, 5, 6, 1, "d:ann:bob")
	var w writes
	w.part(&p)
	db := timelines.of(0)
	if !db.steer {
		t.Fatal("PostgreSQL's planner is not steered")
	}
	for _, s := range w.batch() {
		err := pgx.BeginFunc(t.Context(), db.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), steerSQL); err != nil {
				return err
			}
			rows, err := tx.Query(t.Context(), `EXPLAIN `+s.sql, s.args...)
			if err != nil {
				return err
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			plan := strings.Join(lines, "\n")
			if strings.HasPrefix(strings.TrimSpace(s.sql), "UPDATE") && !strings.Contains(plan, "Index") {
				t.Errorf("%s: %s", s.table, plan)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func testErrors(t *testing.T, server *embedded.Postgres) {
	good := configure(t, server, 1)
	_, err := Open(t.Context(), good, nil)
	refused(t, err, server.Addr(), "it has no schema yet", `run "antipode migrate"`)

	with := func(change func(*url.URL)) Config {
		u, err := url.Parse(good.URLs[0])
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return Config{URLs: []string{u.String()}}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	free.Close()
	for _, c := range []struct {
		name      string
		cfg       Config
		temporary bool
		want      []string
	}{
		{"password", with(func(u *url.URL) { u.User = url.UserPassword("antipode", "secret") }), false, []string{server.Addr(), "does not let us in", "correct user and password"}},
		{"database", with(func(u *url.URL) { u.Path = "/nowhere" }), false, []string{"/nowhere", "the database does not exist", "create it"}},
		{"refused", with(func(u *url.URL) { u.Host = free.Addr().String() }), true, []string{free.Addr().String(), "connection refused", "start it, or correct timelines.urls"}},
		{"silent", with(func(u *url.URL) { u.Host = silent.Addr().String() }), true, []string{silent.Addr().String(), "no answer in time"}},
		{"tls", with(func(u *url.URL) { u.RawQuery = "sslmode=require" }), false, []string{"does not speak TLS", "sslmode=disable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "silent" { // the others answer, when their turn comes
				c.cfg.ConnectTimeout = 300 * time.Millisecond
			}
			_, err := Open(t.Context(), c.cfg, nil)
			refused(t, err, c.want...)
			if e, _ := errors.AsType[*Error](err); e.Temporary != c.temporary {
				t.Errorf("temporary is %v", e.Temporary)
			}
			refused(t, Migrate(t.Context(), c.cfg), c.want...)
		})
	}
	if _, err := Open(t.Context(), Config{URLs: []string{"postgres://a:secret@[::1/x"}}, nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a URL that cannot be read: %v", err)
	}
}
