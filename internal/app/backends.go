package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// ConfigError says that a process was told something that cannot be.
type ConfigError struct{ Err error }

// Error is the reason, one line for each problem.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *ConfigError) Unwrap() error { return e.Err }

// BackendError says that a backend is missing or not as it must be: which, where, what is wrong, and what to do.
type BackendError struct {
	Backend string // kafka, postgres, redis or consul
	Address string
	Problem string
	Remedy  string
	Err     error
}

// Error is one line.
func (e *BackendError) Error() string {
	return fmt.Sprintf("%s at %s: %s: %s", e.Backend, e.Address, e.Problem, e.Remedy)
}

// Unwrap returns what the adapter said.
func (e *BackendError) Unwrap() error { return e.Err }

// backend is how one of them is told to people.
type backend struct {
	name, address string
	explain       func(error) (problem, remedy string, final bool)
}

func kafkaAt(site *Site) backend {
	return backend{"kafka", strings.Join(site.Kafka.Brokers, ","), kafka.Explain}
}

func redisAt(site *Site) backend {
	return backend{"redis", strings.Join(site.Redis.Addrs, ","), redis.Explain}
}

func consulAt(c *config.Config) backend {
	return backend{"consul", c.Discovery.Address, consul.Explain}
}

// postgresAt names all databases of timelines; an error that is about one of them names that one.
func postgresAt(site *Site) backend {
	addrs := make([]string, len(site.Timelines.URLs))
	for i, url := range site.Timelines.URLs {
		addrs[i] = databaseOf(url)
	}
	return backend{"postgres", strings.Join(addrs, ","), postgres.Explain}
}

// where is the address that an error is about.
func (b backend) where(err error) string {
	if e, ok := errors.AsType[*postgres.Error](err); ok && e.Addr != "" {
		return e.Addr
	}
	return b.address
}

// databaseOf is host:port/database of a URL, without what is secret in it.
func databaseOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not a URL)"
	}
	return u.Host + u.Path
}

// why makes a *BackendError of what an adapter said; final means that waiting does not help.
func (b backend) why(site *Site, err error) (e *BackendError, final bool) {
	problem, remedy, final := b.explain(err)
	return &BackendError{Backend: b.name, Address: b.where(err), Problem: problem, Remedy: site.remedy(remedy), Err: err}, final
}

// remedy completes a command with what this process was told.
func (s *Site) remedy(text string) string {
	if s.File == "" {
		return text
	}
	return strings.Replace(text, "antipode migrate", "antipode migrate --config "+s.File, 1)
}

// check makes a readiness check whose reasons name the address, also when the backend hangs.
func (b backend) check(ask func(context.Context) error) telemetry.Check {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		answer := make(chan error, 1)
		go func() { answer <- ask(ctx) }() // not every client heeds a context while it reads
		var err error
		select {
		case err = <-answer:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err == nil {
			return nil
		}
		problem, _, _ := b.explain(err)
		return fmt.Errorf("%s: %s", b.where(err), problem)
	}
}

const (
	checkTimeout   = 1500 * time.Millisecond // less than a probe may take, so that the reason is told
	attemptTimeout = 3 * time.Second         // of one try to reach a backend at start
	waitingLogged  = 3 * time.Second         // how often a start tells what it waits for
)

// reach tries to reach a backend until it answers, is seen to be wrong in a way that waiting does not mend, or the time at
// which patience ends. Its error is a *BackendError.
func (b backend) reach(ctx context.Context, site *Site, until time.Time, log *slog.Logger, try func(context.Context) error) error {
	return b.persist(ctx, site, until, min(attemptTimeout, max(time.Until(until), time.Second)), log, try)
}

// persist is reach with a limit to one try of its own, which patience does not cut short.
func (b backend) persist(
	ctx context.Context, site *Site, until time.Time, limit time.Duration, log *slog.Logger, try func(context.Context) error,
) error {
	var told time.Time
	for failures := 0; ; failures++ {
		attempt, cancel := context.WithTimeout(ctx, limit)
		err := try(attempt)
		cancel()
		if err == nil {
			if failures > 0 {
				log.Info("the backend answers now", "backend", b.name, "address", b.address, "attempts", failures+1)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if already, ok := errors.AsType[*BackendError](err); ok {
			return already
		}
		e, final := b.why(site, err)
		left := time.Until(until)
		if final || left <= 0 {
			return e
		}
		if time.Since(told) > waitingLogged {
			told = time.Now()
			log.Warn("waiting for a backend", "backend", b.name, "address", b.address, "reason", e.Problem, "left", left.Round(time.Second).String())
		}
		pause := min(100*time.Millisecond<<min(failures, 4), time.Second)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, pause/2+rand.N(pause/2))):
		}
	}
}
