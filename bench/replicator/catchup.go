package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/antipode-im/antipode/internal/await"
)

// caught is what a catch-up took.
type caught struct {
	first  time.Duration // from the start of the processes to the first record in the copy
	moving float64       // records per second from then on
	perCPU float64       // records per CPU-second, starts included
	warm   float64       // the same in the second half of the records
	peak   float64       // MiB of the largest process
}

// catchUps measures both on the same records.
func (w *world) catchUps(ctx context.Context, d distance) error {
	name := d.name
	w.distance(d.trip)
	if err := w.fill(ctx, w.o.records); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	ours, err := w.catchUp(ctx, "catchup-"+name, w.ours, source())
	if err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	theirs := caught{-1, -1, -1, -1, -1}
	if w.o.mirror {
		if theirs, err = w.catchUp(ctx, "", w.mirror, "eu."+source()); err != nil {
			return fmt.Errorf("MirrorMaker catches up: %w", err)
		}
	}
	figure(name+"/catch-up", ours.moving, theirs.moving, "records/s")
	figure(name+"/catch-up-per-cpu-second", ours.perCPU, theirs.perCPU, "records/cpu-s")
	figure(name+"/catch-up-per-cpu-second-warm", ours.warm, theirs.warm, "records/cpu-s")
	figure(name+"/catch-up-peak-rss", ours.peak, theirs.peak, "MiB")
	figure(name+"/first-start-to-first-record", ours.first.Seconds(), theirs.first.Seconds(), "s")
	again, err := w.starts(ctx, w.ours, source())
	if err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	theirAgain := -1.0
	if w.o.mirror {
		if theirAgain, err = w.starts(ctx, w.mirror, "eu."+source()); err != nil {
			return fmt.Errorf("MirrorMaker starts again: %w", err)
		}
	}
	figure(name+"/start-to-first-record", again, theirAgain, "s")
	return nil
}

// starts starts processes again and again, and returns the median of how many seconds later the copy had a first record. The first start of
// all, which catchUp measures, is also the brokers' first fetch and append.
func (w *world) starts(ctx context.Context, start func() ([]*running, error), copied string) (float64, error) {
	all := &times{}
	for range w.o.starts {
		took, err := w.firstRecord(ctx, start, copied)
		if err != nil {
			return 0, err
		}
		all.add(took)
	}
	return all.percentile(0.5) / 1000, nil
}

func (w *world) firstRecord(ctx context.Context, start func() ([]*running, error), copied string) (took time.Duration, err error) {
	if err := w.fill(ctx, 100*partitions); err != nil {
		return 0, fmt.Errorf("fill: %w", err)
	}
	before, err := w.still(ctx, copied)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	ps, err := start()
	if err != nil {
		return 0, err
	}
	defer func() { err = w.stop(ps, err) }()
	err = await.Within(ctx, patience, 10*time.Millisecond, func() (bool, string) {
		at, err := w.ends(ctx, "us", copied)
		if err != nil {
			return false, err.Error()
		}
		return at > before, fmt.Sprintf("the copy has %d records, as before", at)
	})
	return time.Since(began), err
}

// catchUp starts processes and measures until the copy has all that the source has.
func (w *world) catchUp(ctx context.Context, name string, start func() ([]*running, error), copied string) (c caught, err error) {
	target, err := w.ends(ctx, "eu", source())
	if err != nil {
		return c, err
	}
	before, err := w.ends(ctx, "us", copied)
	if err != nil { // MirrorMaker makes its topic
		before = 0
	}
	began := time.Now()
	ps, err := start()
	if err != nil {
		return c, err
	}
	defer func() { err = w.stop(ps, err) }()
	if name != "" && w.o.profile != "" {
		for _, p := range ps {
			defer w.profiled(ctx, name, p, max(time.Second, time.Duration(w.o.records)*10*time.Microsecond))()
		}
	}
	var flowing, half time.Time
	var halfCPU float64
	var halfAt int64
	for {
		if ctx.Err() != nil || time.Since(began) > patience {
			return c, errors.Join(errors.New("the copy is not complete in time"), ctx.Err())
		}
		at, err := w.ends(ctx, "us", copied)
		if err != nil {
			at = before
		}
		now := time.Now()
		if flowing.IsZero() && at > before {
			flowing = now
			c.first = now.Sub(began)
		}
		if half.IsZero() && at-before > (target-before)/2 {
			half, halfCPU, halfAt = now, cpu(ps), at
		}
		if at >= target {
			c.moving = float64(target-before) / now.Sub(flowing).Seconds()
			used := cpu(ps)
			c.perCPU = float64(target-before) / used
			c.warm = float64(target-halfAt) / (used - halfCPU)
			c.peak = peak(ps)
			return c, nil
		}
		if err := await.Moment(ctx, now.Add(10*time.Millisecond)); err != nil {
			return c, err
		}
	}
}

// still waits until the copy stands still, and returns how many records it has: what a process that was killed had under way may land later.
func (w *world) still(ctx context.Context, copied string) (at int64, err error) {
	since := time.Now()
	err = await.Within(ctx, patience, 10*time.Millisecond, func() (bool, string) {
		now, err := w.ends(ctx, "us", copied)
		if err != nil {
			return false, err.Error()
		}
		if now != at {
			at, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond, fmt.Sprintf("the copy grew to %d", at)
	})
	return at, err
}
