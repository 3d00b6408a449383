package embedded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A server that never waits for the disk keeps its data over a stop, and starts empty, saying so, when the machine has
// been started anew since it was last known to be written.
func TestDerivedData(t *testing.T) {
	dir := t.TempDir()
	derived := func() (*Postgres, string) {
		t.Helper()
		var said strings.Builder
		p, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Derived: true, Progress: func(s string) { said.WriteString(s + "\n") }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		return p, said.String()
	}
	stop := func(p *Postgres) {
		t.Helper()
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := derived()
	if err := p.CreateDatabase(t.Context(), "eu"); err != nil {
		t.Fatal(err)
	}
	if _, err := query(t, p, "eu").Exec(t.Context(), "CREATE TABLE kept AS SELECT 'one' AS v"); err != nil {
		t.Fatal(err)
	}
	stop(p)
	p, _ = derived()
	if got := kept(t, p); got != "one" {
		t.Errorf("after a stop: %q", got)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "unsynced"), []byte("another boot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, said := derived()
	if !strings.Contains(said, "derived again") {
		t.Errorf("it did not tell that it starts empty: %q", said)
	}
	conn := query(t, p, "postgres")
	var databases int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = 'eu'").Scan(&databases); err != nil || databases != 0 {
		t.Errorf("a torn database is still there: %d, %v", databases, err)
	}
	stop(p)
}
