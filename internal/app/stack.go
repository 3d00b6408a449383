package app

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/antipode-im/antipode/im"
)

// stack runs the parts of one service process. Parts are pushed in the order in which they depend on each other, and stop in
// the opposite order, each only when the one above it is done: so a drain finds everything it needs still running. The
// first part that returns by itself stops the stack. A killed stack stops everything at once.
type stack struct {
	name    string
	layers  []layer
	closers []func()
}

type layer struct {
	name string
	run  func(context.Context) error
}

// push adds a part that runs until its context ends.
func (s *stack) push(name string, run func(context.Context) error) {
	s.layers = append(s.layers, layer{name, run})
}

// onClose registers clean-up where something is acquired; it runs after all parts, last registered first.
func (s *stack) onClose(f func()) { s.closers = append(s.closers, f) }

// close runs the clean-up. A stack that was built but never run is closed with it.
func (s *stack) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
}

// Run runs all parts until ctx ends or one of them returns.
func (s *stack) Run(ctx context.Context) error {
	defer s.close()
	type running struct {
		cancel context.CancelCauseFunc
		done   chan struct{}
	}
	var (
		mu    sync.Mutex
		first error
		ended = make(chan struct{})
		once  sync.Once
	)
	parts := make([]running, len(s.layers))
	for i, l := range s.layers {
		lctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		done := make(chan struct{})
		parts[i] = running{cancel, done}
		go func() {
			defer close(done)
			err := l.run(lctx)
			if lctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, im.ErrKilled) || errors.Is(err, context.Cause(lctx))) {
				return // it was told to stop, and did
			}
			mu.Lock()
			if err == nil {
				err = errors.New("returned by itself")
			}
			if first == nil {
				first = fmt.Errorf("%s: %s: %w", s.name, l.name, err)
			}
			mu.Unlock()
			once.Do(func() { close(ended) })
		}()
	}
	cause := errors.New("another part ended")
	select {
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case <-ended:
	}
	if errors.Is(cause, im.ErrKilled) {
		for _, p := range parts {
			p.cancel(cause)
		}
	}
	for i := len(parts) - 1; i >= 0; i-- {
		parts[i].cancel(cause)
		<-parts[i].done
	}
	mu.Lock()
	defer mu.Unlock()
	return first
}
