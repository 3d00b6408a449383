package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/internal/await"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// shown counts what a reader of a copy takes.
type shown struct {
	mu      sync.Mutex
	times   map[uint64]int
	latest  time.Time // due of the newest record
	changed chan struct{}
}

func newShown() *shown { return &shown{times: map[uint64]int{}, changed: make(chan struct{}, 1)} }

func (s *shown) take(number uint64, due time.Time) {
	s.mu.Lock()
	s.times[number]++
	if due.After(s.latest) {
		s.latest = due
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// after waits for a record that was due after a moment.
func (s *shown) after(ctx context.Context, moment time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s.mu.Lock()
		latest := s.latest
		s.mu.Unlock()
		if latest.After(moment) {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return fmt.Errorf("nothing flows: %w", ctx.Err())
		}
	}
}

// kills measures what kill -9 in the middle of a flow does.
func (w *world) kills(ctx context.Context) error {
	w.distance(0)
	ours, err := w.killed(ctx, w.o.kills, w.ours, source(), true)
	if err != nil {
		return fmt.Errorf("kill -9: %w", err)
	}
	theirs := harm{-1, -1, -1, &times{}}
	again := -1.0
	if w.o.mirror {
		if theirs, err = w.killed(ctx, 1, w.mirror, "eu."+source(), false); err != nil {
			return fmt.Errorf("kill -9 of MirrorMaker: %w", err)
		}
		again = theirs.again.percentile(1) / 1000
	}
	figure("kill/records", ours.sent, theirs.sent, "records")
	figure("kill/lost", ours.lost, theirs.lost, "records")
	figure("kill/shown-twice", ours.twice, theirs.twice, "records")
	figure("kill/flowing-again-p50", ours.again.percentile(0.5)/1000, -1, "s")
	figure("kill/flowing-again-longest", ours.again.percentile(1)/1000, again, "s")
	return nil
}

// harm is what kills did.
type harm struct {
	sent, lost, twice float64
	again             *times // from the kill to a record that was due after it
}

// killed kills the processes in turn and starts each again at once. Strict readers take only the next origin offset, as all
// of ours do; others take what stands there.
func (w *world) killed(ctx context.Context, kills int, start func() ([]*running, error), copied string, strict bool) (h harm, err error) {
	h.again = &times{}
	ps, err := start()
	if err != nil {
		return h, err
	}
	defer func() { err = w.stop(ps, err) }()
	if err := w.level(ctx, copied); err != nil {
		return h, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := newShown()
	followers := map[im.Partition]*im.Follower{}
	err = w.follow(ctx, "us", copied, true, func(e *im.Entry) {
		if strict {
			head := wire.DecodeShipHead(e)
			f := followers[e.Partition]
			if f == nil {
				f = &im.Follower{}
				followers[e.Partition] = f
			}
			if f.See(head.OriginOffset, head.Generation, head.Kind == im.KindHold) != im.Take {
				return
			}
		}
		if number, due, ok := decode(e); ok {
			s.take(number, due)
		}
	})
	if err != nil {
		return h, err
	}
	var mu sync.Mutex
	acked := map[uint64]bool{}
	flow, stop := context.WithCancel(ctx)
	paced := make(chan error, 1)
	go func() {
		for flow.Err() == nil {
			err := w.pace(ctx, w.o.rate, 200*time.Millisecond, func(number uint64) {
				mu.Lock()
				acked[number] = true
				mu.Unlock()
			})
			if err != nil {
				paced <- err
				return
			}
		}
		paced <- nil
	}()
	defer stop()
	if err := s.after(ctx, time.Now()); err != nil {
		return h, err
	}
	for k := range kills {
		if err := await.Moment(ctx, time.Now().Add(time.Duration(50+37*k%200)*time.Millisecond)); err != nil { // at no particular moment
			return h, err
		}
		i := k % len(ps)
		moment := time.Now()
		if err := ps[i].end(); err != nil {
			return h, err
		}
		if len(ps) == 1 {
			var again []*running
			if again, err = start(); err == nil {
				ps[0] = again[0]
			}
		} else {
			var again *running
			if again, err = w.replicator([]im.Region{"eu", "us"}[i]); err == nil {
				ps[i] = again
			}
		}
		if err != nil {
			return h, err
		}
		if err := s.after(ctx, moment); err != nil {
			return h, fmt.Errorf("kill %d: %w", k, err)
		}
		h.again.add(time.Since(moment))
	}
	stop()
	if err := <-paced; err != nil {
		return h, err
	}
	h.sent = float64(len(acked))
	missing := 0
	err = await.Within(ctx, patience, 10*time.Millisecond, func() (bool, string) {
		missing = 0
		s.mu.Lock()
		defer s.mu.Unlock()
		for number := range acked {
			if s.times[number] == 0 {
				missing++
			}
		}
		return missing == 0, ""
	})
	if err != nil && ctx.Err() != nil { // else what is missing is lost
		return h, fmt.Errorf("interrupted: %w", ctx.Err())
	}
	h.lost = float64(missing)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.times {
		if n > 1 {
			h.twice++
		}
	}
	return h, nil
}
