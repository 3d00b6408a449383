package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/process"
)

// PostgresConfig says where a PostgreSQL server of our own lives.
type PostgresConfig struct {
	Dir      string        // holds data/, password, postgres.log; made if it does not exist; kept by Stop
	Host     string        // to listen on; 127.0.0.1 if empty
	Port     int           // 0: any free one
	Binaries string        // folder with postgres and initdb; empty: found on the machine, else fetched
	Cache    string        // where fetched binaries are kept; empty: antipode in the user's, or as root the system's, cache folder
	Progress func(string)  // told one line at a time what takes long (fetching, first start); may be nil
	Timeout  time.Duration // for the server to answer; 60 s if 0 (crash recovery can take a while)
	Derived  bool          // all that it holds can be derived again: it never waits for the disk, and starts empty after a crash of the machine
}

// Postgres is a running PostgreSQL server, a child of this process. It dies with this process, however that ends.
type Postgres struct {
	server   *backend.Postgres
	cfg      PostgresConfig
	lock     *os.File  // holds Dir for this process
	unsynced *unsynced // set while what the server wrote may be in memory only
	proc     *process.Process
	log      *os.File

	stop    sync.Once
	stopErr error
}

// StartPostgres starts a server in cfg.Dir and returns when it answers. The first start makes its data folder (1 to 3
// seconds), later ones continue with the same data. A server that an earlier process left running there is stopped
// first; a second process on the same folder is refused. Who it runs as is told at backend.Postgres.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (_ *Postgres, err error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
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
	if p.lock, err = process.Lock(filepath.Join(cfg.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("postgres: %s is in use by another process: %w", cfg.Dir, err)
	}
	bin, err := findPostgres(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Port == 0 {
		if cfg.Port, err = freePort(cfg.Host); err != nil {
			return nil, err
		}
	}
	if cfg.Derived {
		if err := p.trustMemory(); err != nil {
			return nil, err
		}
	}
	p.server = backend.NewPostgres(backend.PostgresConfig{
		Dir: cfg.Dir, Host: cfg.Host, Port: cfg.Port, Binaries: bin, Progress: cfg.Progress, Unsynced: p.unsynced != nil,
	})
	if err := p.server.Prepare(ctx); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// trustMemory lets the server leave its writes to the machine, where a crash of the machine would be noticed.
func (p *Postgres) trustMemory() error {
	u := &unsynced{data: filepath.Join(p.cfg.Dir, "data"), mark: filepath.Join(p.cfg.Dir, "unsynced"), boot: bootFile}
	torn, err := u.begin()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("postgres: mark %s as not written to the disk: %w", p.cfg.Dir, err)
	}
	if torn {
		p.cfg.Progress("PostgreSQL: the machine stopped before everything was on disk; its databases are derived again from the logs")
	}
	p.unsynced = u
	return nil
}

func (p *Postgres) logPath() string { return filepath.Join(p.cfg.Dir, "postgres.log") }

// freePort chooses a port. Nothing keeps it for the server: who is quicker fails one of the two, by name.
func freePort(host string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("postgres: cannot listen on %s: %w", host, err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (p *Postgres) start(ctx context.Context) error {
	var err error
	if p.log, err = os.OpenFile(p.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	from, _ := p.log.Seek(0, io.SeekEnd)
	spec := p.server.Spec()
	spec.Output = p.log
	if p.proc, err = process.Start(spec); err != nil {
		return fmt.Errorf("%w%s", err, p.server.Advice())
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	if err := backend.AwaitReady(ctx, p.server, p.proc); err != nil {
		return fmt.Errorf("%w%s; its log %s says:\n%s", err, p.server.Advice(), p.logPath(), tail(p.logPath(), from))
	}
	return nil
}

// Addr is the host:port that the server listens on.
func (p *Postgres) Addr() string { return p.server.Addr() }

// URL is the connection URL of a database, password included: keep it out of logs.
func (p *Postgres) URL(database string) string { return p.server.URL(database) }

// CreateDatabase makes a database unless it exists.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	return p.server.CreateDatabase(ctx, name)
}

// DropDatabase removes a database, if it exists, and ends the connections to it.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	return p.server.DropDatabase(ctx, name)
}

// Done is closed when the server has ended, by Stop, Kill or its own crash.
func (p *Postgres) Done() <-chan struct{} { return p.proc.Done() }

// Err tells how the server ended: nil while it runs, and if it ended with code 0.
func (p *Postgres) Err() error { return p.proc.Err() }

// Stop shuts the server down fast: transactions under way are rolled back, connections closed, everything written.
// After 10 s, or when ctx ends, it stops it like Kill, which is an error; it recovers at the next start.
func (p *Postgres) Stop(ctx context.Context) error {
	return p.end(func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := p.proc.Stop(ctx); err != nil || p.unsynced == nil {
			return err
		}
		return p.unsynced.end(ctx)
	})
}

// Kill ends the server like a crash: what was committed is recovered at the next start.
func (p *Postgres) Kill() error { return p.end(p.proc.Kill) }

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
		_ = p.proc.Kill()
	}
	if p.log != nil {
		p.log.Close()
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
