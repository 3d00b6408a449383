package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/process"
)

// migrateTries is how often migrate is run until it succeeds. It may run at any time, and brokers that have only just
// begun to serve can refuse it.
const migrateTries = 3

// migrate makes topics and schemas, by the program that an operator would use.
func (s *Supervisor) migrate(ctx context.Context, r *RegionPlan) error {
	name := string(r.Name) + "/migrate"
	log, err := s.sink(name)
	if err != nil {
		return err
	}
	pause := backoff.NewExponentialBackOff()
	for try := 1; ; try++ {
		err := s.migrateOnce(ctx, name, r.Config, log)
		if err == nil || try == migrateTries || ctx.Err() != nil {
			return err
		}
		s.cfg.Progress(fmt.Sprintf("%v; trying again", err))
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause.NextBackOff()):
		}
	}
}

func (s *Supervisor) migrateOnce(ctx context.Context, name, file string, log *sink) error {
	proc, err := process.Start(process.Spec{
		Name: name, Path: s.cfg.Binary, Args: []string{"migrate", "--config", file}, Env: s.env, Output: log,
	})
	if err != nil {
		return err
	}
	select {
	case <-proc.Done():
		if err := proc.Err(); err != nil {
			return fmt.Errorf("%s: %s (%w)", name, log.reason(), err)
		}
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", name, context.Cause(ctx)), proc.Kill())
	}
}

// databases makes the databases of a server that started, unless it has them: its folder may be new.
func (s *Supervisor) databases(ctx context.Context, m MemberPlan) error {
	server, ok := s.now().members[m.Name].server.(*backend.Postgres)
	if !ok {
		return nil
	}
	r, _ := s.Plan().Region(m.Region)
	for _, d := range r.Database {
		if d.Server != m.Part {
			continue
		}
		if err := server.CreateDatabase(ctx, d.Name); err != nil {
			return err
		}
	}
	return nil
}
