package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/internal/embedded"
)

// One server for all tests: each gets databases of its own. What every PostgreSQL must do is in postgrestest.
func TestTimelines(t *testing.T) {
	server := startServer(t)
	type tests map[string]func(*testing.T, *Timelines)
	run := func(count int, all tests) {
		for name, test := range all {
			t.Run(fmt.Sprintf("%d databases/%s", count, name), func(t *testing.T) { test(t, open(t, server, count)) })
		}
	}
	for _, count := range []int{1, 2} {
		run(count, tests{
			"keeps to its layout":     testLayout,
			"keeps to one database":   testOneDatabase,
			"moves what had no month": testRest,
			"upgrades what was there": testUpgrade,
		})
	}
	run(1, tests{
		"retries conflicts":           testConflicts,
		"tells a newer schema":        testNewerSchema,
		"migrates twice, and at once": testMigrate,
		"stores by month":             testMonths,
		"ends what hangs":             testTimeouts,
		"looks rows up by index":      testPlans,
		"cuts a stream":               testHeadAtCut,
	})
	t.Run("explains", func(t *testing.T) { testErrors(t, server) })
}

func startServer(t testing.TB) *embedded.Postgres {
	t.Helper()
	server, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop(context.Background()) })
	return server
}

// configure makes empty databases.
func configure(t testing.TB, server *embedded.Postgres, count int) Config {
	t.Helper()
	cfg := Config{Partitions: 2}
	for range count {
		name := "t" + strings.ReplaceAll(im.NewUUID(time.Now()).String(), "-", "")
		if err := server.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		cfg.URLs = append(cfg.URLs, server.URL(name))
	}
	return cfg
}

func open(t testing.TB, server *embedded.Postgres, count int) *Timelines {
	t.Helper()
	cfg := configure(t, server, count)
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	timelines, err := Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(timelines.Close)
	return timelines
}

func exec(t testing.TB, db *database, sql string, args ...any) {
	t.Helper()
	if _, err := db.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// part makes a part of n messages from a position on.
func part(p im.Partition, from int64, seq uint64, n int, c im.Conversation) view.Part {
	part := view.Part{
		Partition: p, From: from,
		To: view.Position{Position: im.Position{Partition: p, Next: from + int64(n), Local: from + int64(n)}},
	}
	for i := range n {
		part.Records = append(part.Records, view.Record{
			Record: im.Record{
				ID:   im.ID{Conversation: c, Sender: "ann", ClientID: im.NewUUID(time.Now())},
				Kind: im.KindMessage, Version: 1, Body: []byte{0x0a, 0x01, 'x'},
				Place: im.Place{Stamp: im.StampAt(time.Now()), Origin: p.Origin(), Seq: seq + uint64(i)},
			},
			Offset: from + int64(i), Shown: true,
		})
	}
	return part
}

var (
	eu0 = im.Partition{Topic: "msg.eu.direct"}
	us0 = im.Partition{Topic: "msg.us.direct"}
)

func testConflicts(t *testing.T, timelines *Timelines) {
	attempts := 0
	err := timelines.dbs[0].retry(t.Context(), "test", func() error {
		attempts++
		if attempts < 3 {
			_, err := timelines.dbs[0].pool.Exec(t.Context(), `DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$`)
			return err
		}
		return nil
	})
	if err != nil || attempts != 3 {
		t.Fatalf("%d attempts, %v", attempts, err)
	}
	attempts = 0
	err = timelines.dbs[0].retry(t.Context(), "test", func() error {
		attempts++
		_, err := timelines.dbs[0].pool.Exec(t.Context(), `SELECT 1/0`)
		return err
	})
	if err == nil || attempts != 1 {
		t.Fatalf("%d attempts, %v: what is no conflict must not be tried again", attempts, err)
	}
}

func testNewerSchema(t *testing.T, timelines *Timelines) {
	if _, err := timelines.dbs[0].pool.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), timelines.cfg, nil)
	if err == nil || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("got %v, want a refusal", err)
	}
}

func testMigrate(t *testing.T, timelines *Timelines) {
	if _, err := timelines.dbs[0].pool.Exec(t.Context(), `DROP SCHEMA public CASCADE; CREATE SCHEMA public`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), timelines.cfg, nil); err == nil {
		t.Fatal("an empty database was taken for a migrated one")
	}
	errs := make(chan error, 3)
	for range 3 {
		go func() { errs <- Migrate(t.Context(), timelines.cfg) }()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(t.Context(), timelines.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
