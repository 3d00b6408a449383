package embedded

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func start(t *testing.T, dir string, port int) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Port: port, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

func query(t *testing.T, p *Postgres, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func kept(t *testing.T, p *Postgres) string {
	t.Helper()
	var out string
	if err := query(t, p, "eu").QueryRow(t.Context(), "SELECT string_agg(v, ',') FROM kept").Scan(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPostgres takes one data folder through a server's lives. The folder is below one that is closed to other users, as
// those of mktemp -d and /root are: when the test runs as root, the server does not.
func TestPostgres(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "postgres")
	t.Run("keeps its data", func(t *testing.T) { keepsItsData(t, dir) })
	t.Run("names a folder in use and a taken port", func(t *testing.T) { refusals(t, dir) })
	t.Run("leaves a stranger's process alone", func(t *testing.T) { stalePIDFile(t, dir) })
	t.Run("dies with its parent", func(t *testing.T) { diesWithItsParent(t, dir) })
	t.Run("refuses another version's data", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
		wantError(t, err, "was made by PostgreSQL 9", "fresh folder")
	})
}

// keepsItsData: made, stopped, continued, killed, recovered.
func keepsItsData(t *testing.T, dir string) {
	begun := time.Now()
	p := start(t, dir, 0)
	t.Logf("first start: %v", time.Since(begun))
	for range 2 { // the second finds it there
		if err := p.CreateDatabase(t.Context(), "eu"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := query(t, p, "eu").Exec(t.Context(), "CREATE TABLE kept AS SELECT 'one' AS v"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	begun = time.Now()
	p = start(t, dir, 0)
	t.Logf("second start: %v", time.Since(begun))
	if got := kept(t, p); got != "one" {
		t.Errorf("after Stop: %q", got)
	}
	c := query(t, p, "eu")
	for _, sql := range []string{
		"INSERT INTO kept VALUES ('perhaps')",                            // lost or kept whole: the server does not wait for the disk
		"SET synchronous_commit = on", "INSERT INTO kept VALUES ('two')", // who wants to wait, can
	} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}

	begun = time.Now()
	p = start(t, dir, 0)
	t.Logf("start after a kill: %v", time.Since(begun))
	if got := kept(t, p); got != "one,perhaps,two" { // what was committed before a commit that waited is kept with it
		t.Errorf("after Kill: %q", got)
	}
	if err := p.DropDatabase(t.Context(), "eu"); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Done():
		t.Error("done while it runs")
	default:
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	<-p.Done()
}

func refusals(t *testing.T, dir string) {
	first := start(t, dir, 0)
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	wantError(t, err, "in use by another process", fmt.Sprint(os.Getpid()))
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	_, err = StartPostgres(t.Context(), PostgresConfig{Dir: dir, Port: port})
	wantError(t, err, fmt.Sprintf("port %d on 127.0.0.1 is taken", port))
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// stalePIDFile: after a crash of the machine the pid file may name a process of somebody else's.
func stalePIDFile(t *testing.T, dir string) {
	stranger := exec.Command("sleep", "60")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	pid := fmt.Sprintf("%d\n%s\n", stranger.Process.Pid, filepath.Join(dir, "data"))
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(pid), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, 0)
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger was harmed: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

const childDir = "EMBEDDED_POSTGRES_CHILD"

// TestChild is what diesWithItsParent runs in another process; by itself it does nothing.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	p, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready", p.Addr())
	select {}
}

// diesWithItsParent kills a process that runs a server, without warning.
func diesWithItsParent(t *testing.T, dir string) {
	child := exec.Command(os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscanf(out, "ready %s\n", &addr); err != nil {
		t.Fatal(err)
	}
	_ = child.Process.Signal(syscall.SIGKILL)
	_ = child.Wait()

	// Whether the orphan is gone already or not, the next start has the folder to itself.
	p := start(t, dir, 0)
	if _, err := net.DialTimeout("tcp", addr, time.Second); err == nil && p.Addr() != addr {
		t.Errorf("the orphan still listens on %s", addr)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
