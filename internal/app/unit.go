package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
)

// Service is what every service of Antipode is to the one who runs it: bound by its constructor, then run until its
// context ends. A context whose cause is im.ErrKilled makes it stop like a crash.
type Service interface {
	Run(ctx context.Context) error
}

// UnitState is what a unit is doing.
type UnitState string

// The states.
const (
	UnitDown     UnitState = "down"
	UnitStarting UnitState = "starting"
	UnitUp       UnitState = "up"
)

// Unit runs one service of one region: starts it, kills it like a crash, stops it with a drain, starts it again. A service
// that returns by itself is built and started anew with back-off, as an orchestrator would.
type Unit struct {
	Name  string
	Told  func(string) // told when the service ends by itself, and when it runs again; may be nil
	build func(ctx context.Context) (Service, error)
	log   *slog.Logger

	mu     sync.Mutex
	state  UnitState
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the current run is over
	err    error         // why the last attempt ended
}

// NewUnit returns a unit that is down. build must release everything it acquired when it fails.
func NewUnit(name string, log *slog.Logger, build func(ctx context.Context) (Service, error)) *Unit {
	return &Unit{Name: name, build: build, log: log, state: UnitDown}
}

// errStop is the cause by which Stop ends a run.
var errStop = errors.New("stopping")

// Start builds the service and runs it in the background. It returns once the service is built, with the error if that
// failed. A unit that is not down is left alone.
func (u *Unit) Start() error {
	u.mu.Lock()
	if u.state != UnitDown {
		u.mu.Unlock()
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	u.state, u.cancel, u.done = UnitStarting, cancel, done
	u.mu.Unlock()

	svc, err := u.build(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %w", u.Name, err)
		cancel(err)
		u.set(UnitDown, err)
		close(done)
		return err
	}
	u.set(UnitUp, nil)
	go u.supervise(ctx, svc, done)
	return nil
}

func (u *Unit) supervise(ctx context.Context, svc Service, done chan struct{}) {
	defer close(done)
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 200*time.Millisecond, 5*time.Second
	for {
		started := time.Now()
		err := svc.Run(ctx)
		if ctx.Err() != nil {
			u.set(UnitDown, err)
			if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, im.ErrKilled) {
				u.log.Warn("service ended with an error", "unit", u.Name, "error", err)
			}
			return
		}
		u.log.Error("service ended by itself; starting it again", "unit", u.Name, "error", err)
		u.tell(fmt.Sprintf("%s ended by itself and is started again: %v", u.Name, cmp.Or(err, errors.New("it did not say why"))))
		if time.Since(started) > time.Minute {
			retry.Reset()
		}
		for {
			u.set(UnitStarting, err)
			select {
			case <-ctx.Done():
				u.set(UnitDown, err)
				return
			case <-time.After(retry.NextBackOff()):
			}
			if svc, err = u.build(ctx); err == nil {
				break
			}
			u.log.Error("service does not start; trying again", "unit", u.Name, "error", err)
		}
		u.set(UnitUp, nil)
		u.tell(u.Name + " runs again")
	}
}

func (u *Unit) tell(line string) {
	if u.Told != nil {
		u.Told(line)
	}
}

func (u *Unit) set(s UnitState, err error) {
	u.mu.Lock()
	u.state, u.err = s, err
	u.mu.Unlock()
}

// Kill ends the service like a crash and waits until it is gone.
func (u *Unit) Kill() { u.end(im.ErrKilled) }

// Stop drains the service and waits until it is gone.
func (u *Unit) Stop() { u.end(errStop) }

func (u *Unit) end(cause error) {
	u.mu.Lock()
	cancel, done := u.cancel, u.done
	u.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel(cause)
	<-done
}

// State returns the state and, when it is not up, why.
func (u *Unit) State() (UnitState, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state, u.err
}
