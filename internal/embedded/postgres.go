package embedded

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresConfig says where a PostgreSQL server of our own lives.
type PostgresConfig struct {
	Dir      string        // holds data/, password, postgres.log; made if it does not exist; kept by Stop
	Host     string        // to listen on; 127.0.0.1 if empty
	Port     int           // 0: any free one
	Binaries string        // folder with postgres and initdb; empty: found on the machine, else fetched
	Cache    string        // where fetched binaries are kept; empty: antipode in the user's, or as root the system's, cache folder
	Progress func(string)  // told one line at a time what takes long (fetching, first start); may be nil
	Log      *slog.Logger  // may be nil
	Timeout  time.Duration // for the server to answer; 60 s if 0 (crash recovery can take a while)
}

// Postgres is a running PostgreSQL server, a child of this process. It dies with this process, however that ends.
type Postgres struct {
	cfg      PostgresConfig
	password string
	lock     *os.File // holds Dir for this process
	proc     *process
	logTo    *os.File

	stop    sync.Once
	stopErr error
}

const postgresUser = "antipode"

// StartPostgres starts a server in cfg.Dir and returns when it answers. The first start makes its data folder (1 to 3
// seconds), later ones continue with the same data. A server that an earlier process left running there is stopped
// first; a second process on the same folder is refused.
//
// PostgreSQL refuses to run as root. As root the server runs as the user postgres, or nobody, who is given the data
// folder, and it keeps the right to pass through folders closed to that user (mktemp -d, /root).
func StartPostgres(ctx context.Context, cfg PostgresConfig) (_ *Postgres, err error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("postgres: folder: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("postgres: folder: %w", err)
	}
	p := &Postgres{cfg: cfg}
	defer func() {
		if err != nil {
			p.release()
		}
	}()
	if p.lock, err = lockFile(filepath.Join(cfg.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("postgres: %s is in use by another process: %w", cfg.Dir, err)
	}
	bin, err := findPostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	as, err := postgresAccount(bin, cfg.Dir)
	if err != nil {
		return nil, err
	}
	if p.password, err = p.initialise(ctx, bin, as); err != nil {
		return nil, err
	}
	if err := p.stopStale(ctx); err != nil {
		return nil, err
	}
	if err := p.choosePort(); err != nil {
		return nil, err
	}
	if err := p.start(ctx, bin, as); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Postgres) data() string    { return filepath.Join(p.cfg.Dir, "data") }
func (p *Postgres) logPath() string { return filepath.Join(p.cfg.Dir, "postgres.log") }

// initialise makes the data folder unless it is there, and returns the password. The folder is made under another name
// and renamed when whole, so that an interrupted first start is simply made again.
func (p *Postgres) initialise(ctx context.Context, bin string, as account) (string, error) {
	passwordPath := filepath.Join(p.cfg.Dir, "password")
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		if err := p.checkVersion(ctx, bin); err != nil {
			return "", err
		}
		if err := as.own(p.data()); err != nil {
			return "", fmt.Errorf("postgres: give the data folder to %s: %w", as.name, err)
		}
		password, err := os.ReadFile(passwordPath)
		if err != nil {
			return "", fmt.Errorf("postgres: %s holds a database but its password is gone (%w): start with a fresh folder", p.cfg.Dir, err)
		}
		return strings.TrimSpace(string(password)), nil
	}
	p.cfg.Progress("PostgreSQL: making a new database folder")
	password := rand.Text()
	if err := os.WriteFile(passwordPath, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("postgres: password: %w", err)
	}
	fresh := p.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	pwfile := fresh + ".password" // initdb reads it as the other user
	defer os.Remove(pwfile)
	if err := os.WriteFile(pwfile, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("postgres: password: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	for _, path := range []string{pwfile, fresh} {
		if err := as.own(path); err != nil {
			return "", fmt.Errorf("postgres: give %s to %s: %w", path, as.name, err)
		}
	}
	// The C locale sorts by bytes: the same in every region, whatever the machine's. Syncing is left to the first
	// checkpoint: what a power cut in the first seconds loses is an empty database.
	cmd := as.command(ctx, filepath.Join(bin, "initdb"), "--pgdata="+fresh, "--username="+postgresUser, "--pwfile="+pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("postgres: initdb as %s failed: %w%s\n%s", as.name, err, as.advice(), strings.TrimSpace(string(out)))
	}
	if err := os.Rename(fresh, p.data()); err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	return password, nil
}

// checkVersion refuses, in words, what the server would refuse in its log.
func (p *Postgres) checkVersion(ctx context.Context, bin string) error {
	has, err := os.ReadFile(filepath.Join(p.data(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	major, err := postgresMajor(ctx, bin)
	if err != nil {
		return err
	}
	if want := strings.TrimSpace(string(has)); want != strconv.Itoa(major) {
		return fmt.Errorf("postgres: %s was made by PostgreSQL %s but %s is version %d: use the former again, or start with a fresh folder",
			p.data(), want, bin, major)
	}
	return nil
}

// stopStale stops a server that an earlier process of ours left in this folder (it was killed where a parent's death is
// not signalled), and clears a pid file that names a stranger.
func (p *Postgres) stopStale(ctx context.Context) error {
	pidPath := filepath.Join(p.data(), "postmaster.pid")
	text, err := os.ReadFile(pidPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || !runsIn(pid, p.data()) {
		// Nobody runs here. PostgreSQL would refuse to start if the number is in use by now for something else.
		p.cfg.Log.Info("clear the pid file of a server that is gone", "file", pidPath)
		if err := os.Remove(pidPath); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("postgres: %w", err)
		}
		return nil
	}
	p.cfg.Progress(fmt.Sprintf("PostgreSQL: stopping the server that an earlier run left behind (process %d)", pid))
	deadline := time.Now().Add(10 * time.Second)
	signal := syscall.SIGINT // fast shutdown
	for {
		_ = syscall.Kill(pid, signal)
		for range 100 {
			if !runsIn(pid, p.data()) {
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
			return fmt.Errorf("postgres: the server left behind in %s (process %d) does not stop: stop it by hand", p.cfg.Dir, pid)
		}
	}
}

// choosePort fails early and by name: the server's own message for a taken port ends up in its log.
func (p *Postgres) choosePort() error {
	addr := net.JoinHostPort(p.cfg.Host, strconv.Itoa(p.cfg.Port))
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("postgres: port %d on %s is taken: stop what uses it, or choose another", p.cfg.Port, p.cfg.Host)
	}
	if err != nil {
		return fmt.Errorf("postgres: cannot listen on %s: %w", addr, err)
	}
	p.cfg.Port = l.Addr().(*net.TCPAddr).Port
	return l.Close()
}

func (p *Postgres) start(ctx context.Context, bin string, as account) error {
	var err error
	if p.logTo, err = os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	from, _ := p.logTo.Seek(0, io.SeekEnd)
	args := []string{"-D", p.data()}
	for _, setting := range [][2]string{
		{"listen_addresses", p.cfg.Host},
		{"port", strconv.Itoa(p.cfg.Port)},
		{"unix_socket_directories", ""}, // paths below a data folder outgrow the 107 bytes of a socket's name
		{"max_connections", "200"},
		{"shared_buffers", "64MB"},
		{"fsync", "on"},
		// A commit that a crash loses is derived again from the logs: rows and position are lost together.
		{"synchronous_commit", "off"},
		{"jit", "off"},            // short statements only
		{"wal_level", "minimal"},  // nobody replicates it: the logs are the truth
		{"max_wal_senders", "0"},  // as minimal demands
		{"max_wal_size", "512MB"}, // fewer checkpoints in a bench
		{"password_encryption", "scram-sha-256"},
		{"log_line_prefix", "%m [%p] %d "},
		{"log_checkpoints", "off"},
	} {
		args = append(args, "-c", setting[0]+"="+setting[1])
	}
	cmd := as.command(context.WithoutCancel(ctx), filepath.Join(bin, "postgres"), args...) // it outlives the start
	cmd.Stdout, cmd.Stderr = p.logTo, p.logTo
	if p.proc, err = startProcess(cmd); err != nil {
		return fmt.Errorf("postgres: start %s as %s: %w%s", cmd.Path, as.name, err, as.advice())
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, 2*time.Second)
		conn, err := pgx.Connect(attempt, p.URL("postgres"))
		done()
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.proc.exited:
			return fmt.Errorf("postgres: the server ended at once (%w); its log %s says:%s\n%s",
				cmp.Or(p.proc.err, errors.New("exit status 0")), p.logPath(), as.advice(), tail(p.logPath(), from))
		case <-ctx.Done():
			p.proc.signal(syscall.SIGQUIT)
			return fmt.Errorf("postgres: the server did not answer in %v (%w); its log %s says:\n%s", p.cfg.Timeout, err, p.logPath(), tail(p.logPath(), from))
		case <-time.After(15 * time.Millisecond):
		}
	}
}

// Addr is the host:port that the server listens on.
func (p *Postgres) Addr() string {
	return net.JoinHostPort(p.cfg.Host, strconv.Itoa(p.cfg.Port))
}

// URL is the connection URL of a database, password included: keep it out of logs.
func (p *Postgres) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, p.password), Host: p.Addr(),
		Path: "/" + database, RawQuery: "sslmode=disable", // loopback
	}
	return u.String()
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
		return fmt.Errorf("postgres: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("postgres: %s: %w", sql, err)
	}
	return nil
}

// Done is closed when the server has ended, by Stop, Kill or its own crash.
func (p *Postgres) Done() <-chan struct{} { return p.proc.exited }

// Stop shuts the server down fast: transactions under way are rolled back, connections closed, everything written.
// After 10 s, or when ctx ends, it stops it like Kill.
func (p *Postgres) Stop(ctx context.Context) error {
	return p.end(func() error {
		p.proc.signal(syscall.SIGINT)
		select {
		case <-p.proc.exited:
			return nil
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
		}
		if err := p.kill(); err != nil {
			return err
		}
		return errors.New("postgres: the server did not stop in time and was killed; it recovers at the next start")
	})
}

// Kill ends the server like a crash: what was committed is recovered at the next start.
func (p *Postgres) Kill() error { return p.end(p.kill) }

func (p *Postgres) kill() error {
	p.proc.signal(syscall.SIGQUIT) // the postmaster takes its children with it; SIGKILL would leave them for a while
	select {
	case <-p.proc.exited:
		return nil
	case <-time.After(3 * time.Second):
	}
	p.proc.signal(syscall.SIGKILL)
	select {
	case <-p.proc.exited:
		return nil
	case <-time.After(3 * time.Second):
		return errors.New("postgres: the server does not end")
	}
}

func (p *Postgres) end(how func() error) error {
	p.stop.Do(func() {
		p.stopErr = how()
		p.release()
	})
	return p.stopErr
}

// release lets go of what belongs to this process; it also cleans up after a start that failed half way.
func (p *Postgres) release() {
	if p.proc != nil {
		select {
		case <-p.proc.exited:
		default:
			_ = p.kill()
		}
	}
	if p.logTo != nil {
		p.logTo.Close()
	}
	if p.lock != nil {
		p.lock.Close() // and with it the lock
	}
}

// tail returns the end of a log from an offset, at most 4 kB.
func tail(path string, from int64) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	b = b[min(int(from), len(b)):]
	b = b[max(0, len(b)-4096):]
	return strings.TrimSpace(string(b))
}
