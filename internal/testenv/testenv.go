// Package testenv runs real servers for tests: in a scratch folder, on loopback addresses that nobody else uses, all
// started beside each other, all gone at the end. Servers die with the test process, so neither a panic nor a timeout of
// the tests leaves any; what such an end leaves of files, the next run removes.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/process"
)

const (
	// startLimit bounds a start of servers: slow machines take a minute for a JVM among others.
	startLimit = 3 * time.Minute
	// endLimit is how long a server may take to end by itself. PostgreSQL should, or a piece of shared memory stays behind; the
	// last broker of a quorum cannot, for it waits minutes for others that have left; nobody will ask for their data.
	endLimit = 3 * time.Second
	// shown is how much of each server's log a failure shows, in bytes.
	shown = 6 << 10
)

// Env is a set of servers.
type Env struct {
	dir   string
	lock  *os.File
	block *block
	watch *Stopwatch

	mu      sync.Mutex
	members []*Member
}

// New makes an environment without servers. Close it.
func New() (*Env, error) {
	e := &Env{watch: NewStopwatch()}
	var err error
	if e.dir, e.lock, err = scratch(os.TempDir()); err != nil {
		e.watch.Close()
		return nil, fmt.Errorf("test environment: %w", err)
	}
	if e.block, err = claim(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Main is a TestMain: it makes an environment, lets start fill it, runs the tests, and ends the process. The logs of the
// servers are shown where anything failed.
func Main(m *testing.M, start func(ctx context.Context, e *Env) error) {
	os.Exit(run(m, start))
}

func run(m *testing.M, start func(ctx context.Context, e *Env) error) (code int) {
	e, err := New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { // also on a panic of start
		if code != 0 {
			e.Logs(os.Stderr)
		}
		if err := e.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}()
	code = 1
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if err := start(ctx, e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// ForTest makes an environment that is closed with the test, whose failure shows the logs of the servers.
func ForTest(t testing.TB) *Env {
	t.Helper()
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			e.Logs(t.Output())
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// Host is the i-th address, from 0, that belongs to this environment alone, with all its ports: at most Hosts of them.
func (e *Env) Host(i int) string { return e.block.host(i) }

// Since is how long ago a moment was, without what the machine stood still since: see Stopwatch. It is what a promise is measured by.
func (e *Env) Since(from time.Time) time.Duration { return e.watch.Since(from) }

// Between is the same of two moments.
func (e *Env) Between(from, to time.Time) time.Duration { return e.watch.Between(from, to) }

// Dir is a folder for a server or other files; it is removed with the environment.
func (e *Env) Dir(name string) string {
	return filepath.Join(e.dir, strings.ReplaceAll(name, "/", "-"))
}

// Start starts servers, all beside each other, and returns when all are ready.
func (e *Env) Start(ctx context.Context, servers ...backend.Server) ([]*Member, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	started := make([]*Member, len(servers))
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, s := range servers {
		started[i] = &Member{Server: s, log: e.Dir(s.Name()) + ".log"}
		e.mu.Lock()
		e.members = append(e.members, started[i])
		e.mu.Unlock()
		all.Go(func() { errs[i] = started[i].Start(ctx) })
	}
	all.Wait()
	return started, errors.Join(errs...)
}

// Logs writes the ends of the servers' logs.
func (e *Env) Logs(w io.Writer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.members {
		fmt.Fprintf(w, "--- log of %s\n%s\n", m.Server.Name(), m.Log())
	}
}

// Close stops all servers, beside each other, and removes the scratch folder.
func (e *Env) Close() error {
	e.mu.Lock()
	members := slices.Clone(e.members)
	e.mu.Unlock()
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { errs[i] = m.end() })
	}
	all.Wait()
	e.watch.Close()
	if e.block != nil {
		e.block.release()
	}
	defer e.lock.Close()
	return errors.Join(errors.Join(errs...), os.RemoveAll(e.dir))
}

// Member is a server of an environment. It can be ended and started again at the same addresses with the same data.
type Member struct {
	Server backend.Server
	log    string

	mu      sync.Mutex
	process *process.Process // nil: never started
	output  *os.File
}

// Start starts the server, unless it runs, and returns when it is ready.
func (m *Member) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := m.Server.Prepare(ctx); err != nil {
		return err
	}
	var err error
	if m.output == nil {
		if m.output, err = os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
			return fmt.Errorf("%s: its log: %w", m.Server.Name(), err)
		}
	}
	spec := m.Server.Spec()
	spec.Output = m.output
	if m.process, err = process.Start(spec); err != nil {
		return err
	}
	return backend.AwaitReady(ctx, m.Server, m.process)
}

func (m *Member) running() bool {
	if m.process == nil {
		return false
	}
	select {
	case <-m.process.Done():
		return false
	default:
		return true
	}
}

// Process is the process that was started last; nil before the first.
func (m *Member) Process() *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

// Stop stops the server in order.
func (m *Member) Stop(ctx context.Context) error { return m.Process().Stop(ctx) }

// Kill ends it as kill -9 does.
func (m *Member) Kill() error { return m.Process().Kill() }

// Pause makes it hang.
func (m *Member) Pause() error { return m.Process().Pause() }

// Resume lets it go on.
func (m *Member) Resume() error { return m.Process().Resume() }

// Log is the end of what it wrote, over all its lives.
func (m *Member) Log() string {
	text, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-shown):]))
}

func (m *Member) end() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.output != nil {
		defer m.output.Close()
	}
	if !m.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	if err := m.process.Stop(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return m.process.Kill()
}
