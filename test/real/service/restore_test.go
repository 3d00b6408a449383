//go:build real

package service_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/test/real/manual"
)

// TestRestore: a region's databases, S = 2, are backed up while its imserver applies, lost, and restored as docs/operations.md
// says. The imserver goes on from the positions in them, each from its own, and ends with the timelines that were lost: each
// record once.
func TestRestore(t *testing.T) {
	const before, after = 1000, 600
	urls := []string{database(t), database(t)}
	over := settings{"timelines.urls": strings.Join(urls, ",")}
	migrate(t, over)
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{world.kafka.Addr()}}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	chat := func(n int) im.Conversation { return im.Direct(im.UID(fmt.Sprintf("gail-%d", n%100)), "erin") }
	body := []byte(strings.Repeat("x", 100))
	s := start(t, "imserver", "imserver-1", over)
	share(t, s)
	dir := t.TempDir()

	preload(t, log, before/2, body, chat)
	operate(t, "pg_dump", dir, urls[0]) // in the midst of it, and the other at another time
	preload(t, log, before/2, body, chat)
	eventually(t, "what was written before is applied", func() error { return applied(t, log, over["timelines.urls"]) })
	operate(t, "pg_dump", dir, urls[1])
	preload(t, log, after, body, chat)
	eventually(t, "all is applied", func() error { return applied(t, log, over["timelines.urls"]) })
	var lost []map[string]string
	for _, url := range urls {
		lost = append(lost, contents(t, url))
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}

	for i, url := range urls {
		execute(t, url, "DROP SCHEMA public CASCADE")
		execute(t, url, "CREATE SCHEMA public")
		operate(t, "pg_restore", dir, url)
		if maps.Equal(contents(t, url), lost[i]) {
			t.Fatalf("database %d is not behind: nothing is to be caught up", i)
		}
	}
	migrate(t, over)
	s.start()
	eventually(t, "what the backups lack is applied", func() error { return applied(t, log, over["timelines.urls"]) })
	for i, url := range urls {
		for table, sum := range contents(t, url) {
			if sum != lost[i][table] {
				t.Errorf("database %d: table %s is not what it was", i, table)
			}
		}
	}
}

// operate runs a program of PostgreSQL's as docs/operations.md does, on a database whose backup is in a folder.
func operate(t *testing.T, program, dir, url string) {
	t.Helper()
	bin, err := backend.FindPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range manual.Commands(t, manual.Block(t, "## Back up and restore", "sh"), program) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Join(command, " "))
		cmd.Env = append(os.Environ(), "TIMELINES="+url, "BACKUP="+dir+"/"+url[strings.LastIndex(url, "/")+1:], "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}
}

// contents sums up each table of timelines. What is of this Kafka or this machine alone, and what is only told once a second,
// is left out.
func contents(t *testing.T, url string) map[string]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	sums := map[string]string{}
	for _, table := range []string{"messages", "heads", "inbox", "members", "titles", "cursors"} {
		var sum string
		if err := conn.QueryRow(t.Context(), `SELECT count(*) || ' ' || coalesce(md5(string_agg(r::text, E'\n' ORDER BY r::text)), '') FROM `+table+` r`).Scan(&sum); err != nil {
			t.Fatal(err)
		}
		sums[table] = sum
	}
	return sums
}
