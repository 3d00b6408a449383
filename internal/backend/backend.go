// Package backend knows how Kafka, PostgreSQL, Redis and Consul are run on one machine: where their programs are, what
// makes a data folder of theirs, how they are started, and whether they answer. A cluster on one machine and the tests
// on real servers use it; whoever operates Antipode runs these servers as they see fit.
//
// A Server describes; internal/process runs. Whoever starts one calls Prepare before every start, also after a crash,
// starts Spec, and asks Ready until it says so:
//
//	err := s.Prepare(ctx)
//	p, err := process.Start(s.Spec())
//	err = backend.AwaitReady(ctx, s, p)
package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/internal/process"
)

// probeLimit bounds one probe: a server that hangs takes connections and never answers.
const probeLimit = 2 * time.Second

// Server is a server of one of the four kinds, not running yet.
type Server interface {
	// Name is what it was called in its configuration: errors begin with it.
	Name() string
	// Prepare finds its programs, makes its data folder unless it is there, writes its configuration, and checks that its
	// ports are free. It must be called before every start, while the server does not run and by one process at a time.
	Prepare(ctx context.Context) error
	// Spec says how to start it, after Prepare. Its Output is left to the caller.
	Spec() process.Spec
	// Ready asks once whether it serves; 2 seconds at most. The error tells why not.
	Ready(ctx context.Context) error
}

// AwaitReady asks a started server until it is ready, it has ended, or ctx has.
func AwaitReady(ctx context.Context, s Server, p *process.Process) error {
	began := time.Now()
	why := errors.New("never asked")
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := s.Ready(ctx)
		if err == nil {
			return struct{}{}, nil
		}
		if ctx.Err() == nil {
			why = err // one that the end of ctx cut short says less
		}
		select {
		case <-p.Done():
			how := "exit status 0"
			if p.Err() != nil {
				how = p.Err().Error()
			}
			return struct{}{}, backoff.Permanent(fmt.Errorf("%s: it ended before it was ready (%s): see its log", s.Name(), how))
		default:
			return struct{}{}, err
		}
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.2, Multiplier: 1.3, MaxInterval: 250 * time.Millisecond,
	}), backoff.WithMaxElapsedTime(0))
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s: not ready after %v: %w", s.Name(), time.Since(began).Round(time.Millisecond), why)
	}
	return err
}

// folder makes a server's folder and returns its absolute path.
func folder(name, dir string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("%s: it was given no folder", name)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%s: folder: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("%s: folder: %w", name, err)
	}
	return dir, nil
}

// checkFree fails early and by name: a server's own words for a taken port end up in its log.
func checkFree(name, host string, ports ...int) error {
	for _, port := range ports {
		l, err := net.Listen("tcp", address(host, port))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("%s: port %d on %s is taken: stop what uses it, or choose another", name, port, host)
		case err != nil:
			return fmt.Errorf("%s: cannot listen on %s: %w", name, address(host, port), err)
		}
		l.Close()
	}
	return nil
}

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
