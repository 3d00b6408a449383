package backend

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/antipode-im/antipode/internal/process"
)

// PostgresUser owns the databases of a server that is run here.
const PostgresUser = "antipode"

// PostgresConfig says where a PostgreSQL server lives.
type PostgresConfig struct {
	Name     string            // "postgres" if empty
	Dir      string            // holds data/ and password; made if it does not exist
	Host     string            // to listen on
	Port     int               // 5432 if 0
	Binaries string            // folder with postgres and initdb; empty: found on the machine
	Settings map[string]string // of postgresql.conf, beside and above those that every server gets
	Password string            // of PostgresUser, set when the data folder is made; empty: made up
	Segment  int               // size of a WAL segment in MB, for small disks; set when the data folder is made; 16 if 0
	Unsynced bool              // never waits for the disk: what a crash of the machine, not of the server, may destroy is for tests
	Progress func(string)      // told one line at a time what takes long; may be nil
}

// Postgres is a PostgreSQL server.
//
// PostgreSQL refuses to run as root. As root the server runs as the user postgres, or nobody, who is given the data
// folder, and it keeps the right to pass through folders closed to that user (mktemp -d, /root).
type Postgres struct {
	cfg      PostgresConfig
	account  process.Account
	password string
}

// NewPostgres describes a server; Prepare looks at the machine.
func NewPostgres(cfg PostgresConfig) *Postgres {
	cfg.Name = cmp.Or(cfg.Name, "postgres")
	cfg.Port = cmp.Or(cfg.Port, 5432)
	cfg.Segment = cmp.Or(cfg.Segment, 16)
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	return &Postgres{cfg: cfg}
}

// Name is what it was called.
func (p *Postgres) Name() string { return p.cfg.Name }

// Addr is the host:port that it listens on.
func (p *Postgres) Addr() string { return address(p.cfg.Host, p.cfg.Port) }

// Password is PostgresUser's, set by the first Prepare and kept in the folder.
func (p *Postgres) Password() string { return p.password }

// URL is the connection URL of a database, password included: keep it out of logs.
func (p *Postgres) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(PostgresUser, p.password), Host: p.Addr(),
		Path: "/" + database, RawQuery: "sslmode=disable", // loopback
	}
	return u.String()
}

func (p *Postgres) data() string { return filepath.Join(p.cfg.Dir, "data") }

// Prepare makes the data folder (1 to 3 seconds) unless it is there. A server that an earlier process left running on it
// is stopped first.
func (p *Postgres) Prepare(ctx context.Context) (err error) {
	if p.cfg.Dir, err = folder(p.cfg.Name, p.cfg.Dir); err != nil {
		return err
	}
	if p.cfg.Binaries == "" {
		if p.cfg.Binaries, err = FindPostgres(ctx); err != nil {
			return err
		}
	}
	if err := p.chooseAccount(); err != nil {
		return err
	}
	if p.password, err = p.initialise(ctx); err != nil {
		return err
	}
	if err := p.stopStale(ctx); err != nil {
		return err
	}
	return checkFree(p.cfg.Name, p.cfg.Host, p.cfg.Port)
}

// chooseAccount chooses who runs it. As root it checks that the account can reach programs and data, because
// PostgreSQL's own complaint would name a file deep inside.
func (p *Postgres) chooseAccount() error {
	a, err := process.Ordinary("postgres", "nobody")
	if err != nil {
		return fmt.Errorf("%s: it refuses to run as root, and %w", p.cfg.Name, err)
	}
	if closed := a.ClosedAbove(p.cfg.Binaries); closed != "" { // no right helps here: PostgreSQL asks access(2), which looks at the user alone
		return fmt.Errorf("%s: it refuses to run as root; as %s it cannot pass %s to its programs in %s: open it (chmod o+x %s), or run as an ordinary user",
			p.cfg.Name, a, closed, p.cfg.Binaries, closed)
	}
	if closed := a.ClosedAbove(p.cfg.Dir); closed != "" && !a.Passes() {
		return fmt.Errorf("%s: it refuses to run as root; as %s it cannot pass %s, and this container may not grant it that right (CAP_DAC_OVERRIDE): "+
			"choose a folder below one that everyone can enter, open it (chmod o+x %s), or run as an ordinary user", p.cfg.Name, a, closed, closed)
	}
	p.account = a
	return nil
}

// Advice explains, after Prepare, a failure that may have to do with the account that it runs as; "" if it is ours.
func (p *Postgres) Advice() string {
	if !p.account.Other() {
		return ""
	}
	return fmt.Sprintf(" (PostgreSQL refuses to run as root, so it ran as %s; running as an ordinary user avoids this)", p.account)
}

// environment holds nothing of ours that changes what PostgreSQL does (PG* and locale variables).
func (p *Postgres) environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// initialise makes the data folder unless it is there, and returns the password. The folder is made under another name
// and renamed when whole, so that an interrupted first start is simply made again.
func (p *Postgres) initialise(ctx context.Context) (string, error) {
	name := p.cfg.Name
	passwordPath := filepath.Join(p.cfg.Dir, "password")
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		if err := p.checkVersion(ctx); err != nil {
			return "", err
		}
		if err := p.account.Own(p.data()); err != nil {
			return "", fmt.Errorf("%s: give the data folder to %s: %w", name, p.account, err)
		}
		password, err := os.ReadFile(passwordPath)
		if err != nil {
			return "", fmt.Errorf("%s: %s holds a database but its password is gone (%w): start with a fresh folder", name, p.cfg.Dir, err)
		}
		return strings.TrimSpace(string(password)), nil
	}
	p.cfg.Progress("PostgreSQL: making a new database folder")
	password := cmp.Or(p.cfg.Password, rand.Text())
	if err := os.WriteFile(passwordPath, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("%s: password: %w", name, err)
	}
	fresh := p.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	pwfile := fresh + ".password" // initdb reads it as the other user
	defer os.Remove(pwfile)
	if err := os.WriteFile(pwfile, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("%s: password: %w", name, err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	for _, path := range []string{pwfile, fresh} {
		if err := p.account.Own(path); err != nil {
			return "", fmt.Errorf("%s: give %s to %s: %w", name, path, p.account, err)
		}
	}
	// The C locale sorts by bytes: the same in every region, whatever the machine's. Syncing is left to the first
	// checkpoint: what a power cut in the first seconds loses is an empty database.
	initdb := p.account.Command(ctx, p.environment(), filepath.Join(p.cfg.Binaries, "initdb"), "--pgdata="+fresh, "--username="+PostgresUser, "--pwfile="+pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "--wal-segsize="+strconv.Itoa(p.cfg.Segment))
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: initdb as %s failed: %w%s\n%s", name, p.account, err, p.Advice(), strings.TrimSpace(string(out)))
	}
	if err := os.Rename(fresh, p.data()); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return password, nil
}

// checkVersion refuses, in words, what the server would refuse in its log.
func (p *Postgres) checkVersion(ctx context.Context) error {
	has, err := os.ReadFile(filepath.Join(p.data(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("%s: %w", p.cfg.Name, err)
	}
	major, err := postgresMajor(ctx, p.cfg.Binaries)
	if err != nil {
		return err
	}
	if want := strings.TrimSpace(string(has)); want != strconv.Itoa(major) {
		return fmt.Errorf("%s: %s was made by PostgreSQL %s but %s is version %d: use the former again, or start with a fresh folder",
			p.cfg.Name, p.data(), want, p.cfg.Binaries, major)
	}
	return nil
}

// stopStale stops a server that an earlier process of ours left in this folder (its launcher was killed where that is not
// signalled), and clears a pid file that names a stranger.
func (p *Postgres) stopStale(ctx context.Context) error {
	pidPath := filepath.Join(p.data(), "postmaster.pid")
	text, err := os.ReadFile(pidPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.cfg.Name, err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || !process.Runs(pid, "-D", p.data()) {
		// Nobody runs here. PostgreSQL would refuse to start if the number is in use by now for something else.
		if err := os.Remove(pidPath); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %w", p.cfg.Name, err)
		}
		return nil
	}
	p.cfg.Progress(fmt.Sprintf("PostgreSQL: stopping the server that an earlier run left behind (process %d)", pid))
	deadline := time.Now().Add(10 * time.Second)
	signal := syscall.SIGINT // fast shutdown
	for {
		_ = syscall.Kill(pid, syscall.SIGCONT)
		_ = syscall.Kill(pid, signal)
		for range 100 {
			if !process.Runs(pid, "-D", p.data()) {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
		signal = syscall.SIGQUIT // immediate shutdown: recovers at the next start
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: the server left behind in %s (process %d) does not stop: stop it by hand", p.cfg.Name, p.cfg.Dir, pid)
		}
	}
}

// Spec says how to start it.
func (p *Postgres) Spec() process.Spec {
	settings := map[string]string{
		"listen_addresses":        p.cfg.Host,
		"port":                    strconv.Itoa(p.cfg.Port),
		"unix_socket_directories": "", // paths below a data folder outgrow the 107 bytes of a socket's name
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		// A commit that a crash loses is derived again from the logs: rows and position are lost together.
		"synchronous_commit":  "off",
		"jit":                 "off",     // short statements only
		"wal_level":           "minimal", // nobody replicates it: the logs are the truth
		"max_wal_senders":     "0",       // as minimal demands
		"max_wal_size":        "512MB",   // fewer checkpoints in a bench
		"password_encryption": "scram-sha-256",
		"log_line_prefix":     "%m [%p] %d ",
		"log_checkpoints":     "off",
	}
	if p.cfg.Unsynced {
		settings["fsync"] = "off"
	}
	maps.Copy(settings, p.cfg.Settings)
	args := []string{"-D", p.data()}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", key+"="+settings[key])
	}
	return process.Spec{
		Name: p.cfg.Name, Path: filepath.Join(p.cfg.Binaries, "postgres"), Args: args,
		Env: p.environment(), Dir: "/", Account: p.account,
		Signal: syscall.SIGINT, // fast shutdown: on SIGTERM it waits for its clients to leave
	}
}

// Ready connects.
func (p *Postgres) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("%s: %s does not answer: %w", p.cfg.Name, p.Addr(), err)
	}
	return conn.Close(ctx)
}

// CreateDatabase makes a database unless it exists.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	err := p.admin(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42P04" { // duplicate_database
		return nil
	}
	return err
}

// DropDatabase removes a database, if it exists, and ends the connections to it.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	return p.admin(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
}

func (p *Postgres) admin(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("%s: %w", p.cfg.Name, err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %s: %w", p.cfg.Name, sql, err)
	}
	return nil
}
