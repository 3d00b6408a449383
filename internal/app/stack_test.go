package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
)

// journal notes what parts do, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// part runs until its context ends and takes a second to stop.
func (j *journal) part(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), im.ErrKilled) {
			time.Sleep(time.Second) // in the bubble's time
		}
		j.note("stopped " + name)
		return nil
	}
}

func TestStackStopsTopDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		s := &stack{name: "eu/router"}
		s.onClose(func() { j.note("closed log") })
		s.push("log", j.part("log"))
		s.push("service", j.part("service"))
		s.push("listing", j.part("listing"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{"stopped listing", "stopped service", "stopped log", "closed log"}
		if !reflect.DeepEqual(j.lines, want) {
			t.Fatalf("got %q, want %q", j.lines, want)
		}
	})
}

func TestStackEndsWithItsFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		boom := errors.New("boom")
		s := &stack{name: "eu/router"}
		s.push("log", j.part("log"))
		s.push("service", func(context.Context) error { return boom })
		err := s.Run(t.Context())
		if !errors.Is(err, boom) || err.Error() != "eu/router: service: boom" {
			t.Fatalf("got %v", err)
		}
		if want := []string{"stopped log"}; !reflect.DeepEqual(j.lines, want) {
			t.Fatalf("got %q, want %q", j.lines, want)
		}
	})
}

func TestKilledStackStopsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		s := &stack{name: "eu/router"}
		s.push("log", j.part("log"))
		s.push("service", j.part("service"))
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		began := time.Now()
		cancel(im.ErrKilled)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Fatalf("a kill took %v", took)
		}
	})
}

// A signal's context has the signal as its cause, and what was told to stop may say so.
func TestStackStoppedForAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stack{name: "eu/router"}
		s.push("service", func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("serve: %w", context.Cause(ctx))
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		cancel(errors.New("interrupt signal received"))
		if err := <-done; err != nil {
			t.Errorf("it was told to stop and did, but: %v", err)
		}
	})
}

func TestUnitStartsAgainWhatEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		builds, fail := 0, make(chan error)
		var told []string
		u := NewUnit("eu/router", slog.New(slog.DiscardHandler), func(context.Context) (Service, error) {
			builds++
			if builds == 2 {
				return nil, errors.New("port taken")
			}
			return serviceFunc(func(ctx context.Context) error {
				select {
				case err := <-fail:
					return err
				case <-ctx.Done():
					return nil
				}
			}), nil
		})
		u.Told = func(line string) { told = append(told, line) }
		if err := u.Start(); err != nil {
			t.Fatal(err)
		}
		fail <- errors.New("crash")
		for {
			time.Sleep(100 * time.Millisecond) // in the bubble's time
			if state, _ := u.State(); state == UnitUp && builds == 3 {
				break
			}
		}
		u.Kill()
		if state, _ := u.State(); state != UnitDown {
			t.Fatalf("killed, but %s", state)
		}
		if err := u.Start(); err != nil {
			t.Fatal(err)
		}
		u.Stop()
		if builds != 4 {
			t.Fatalf("built %d times, want 4", builds)
		}
		if want := []string{"eu/router ended by itself and is started again: crash", "eu/router runs again"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q: what somebody ordered he knows", told, want)
		}
	})
}

func TestUnitThatCannotBeBuiltIsDown(t *testing.T) {
	u := NewUnit("eu/router", slog.New(slog.DiscardHandler), func(context.Context) (Service, error) {
		return nil, errors.New("port taken")
	})
	if err := u.Start(); err == nil || err.Error() != "eu/router: port taken" {
		t.Fatalf("got %v", err)
	}
	if state, err := u.State(); state != UnitDown || err == nil {
		t.Fatalf("got %s, %v", state, err)
	}
	u.Stop() // of what is down does nothing
}
