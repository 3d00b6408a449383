package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/internal/await"

	"github.com/antipode-im/antipode/im"
)

// steady is what a steady flow takes.
type steady struct {
	latency *times  // from when a record was due to when a reader of the copy has it
	cpu     float64 // CPU-seconds per million records
	peak    float64
}

// steadies measures both at the same rate, one after the other.
func (w *world) steadies(ctx context.Context, name string, trip time.Duration) error {
	w.distance(trip)
	var floor times
	reading, stop := context.WithCancel(ctx)
	defer stop()
	err := w.follow(reading, "eu", source(), false, func(e *im.Entry) {
		if _, due, ok := decode(e); ok {
			floor.add(time.Since(due))
		}
	})
	if err != nil {
		return err
	}
	ours, err := w.steady(ctx, "steady-"+name, w.ours, source())
	if err != nil {
		return fmt.Errorf("steady flow: %w", err)
	}
	theirs := steady{&times{}, -1, -1}
	if w.o.mirror {
		if theirs, err = w.steady(ctx, "", w.mirror, "eu."+source()); err != nil {
			return fmt.Errorf("steady flow through MirrorMaker: %w", err)
		}
	}
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
		peer := -1.0
		if w.o.mirror {
			peer = theirs.latency.percentile(q.of)
		}
		figure(name+"/latency-"+q.name, ours.latency.percentile(q.of), peer, "ms")
		figure(name+"/latency-at-the-source-"+q.name, floor.percentile(q.of), -1, "ms")
	}
	figure(name+"/steady-cpu", ours.cpu, theirs.cpu, "cpu-s per million")
	figure(name+"/steady-peak-rss", ours.peak, theirs.peak, "MiB")
	return nil
}

func (w *world) steady(ctx context.Context, name string, start func() ([]*running, error), copied string) (s steady, err error) {
	s.latency = &times{}
	ps, err := start()
	if err != nil {
		return s, err
	}
	defer func() { err = w.stop(ps, err) }()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	if err := w.level(ctx, copied); err != nil {
		return s, err
	}
	var from atomic.Uint64
	var seen atomic.Int64
	from.Store(1 << 63) // what is sent first warms up: connections, and Java's compiler
	err = w.follow(reading, "us", copied, false, func(e *im.Entry) {
		if number, due, ok := decode(e); ok && number > from.Load() {
			s.latency.add(time.Since(due))
			seen.Add(1)
		}
	})
	if err != nil {
		return s, err
	}
	if err := w.pace(ctx, w.o.rate, 3*time.Second, func(uint64) {}); err != nil {
		return s, err
	}
	if name != "" {
		for _, p := range ps {
			defer w.profiled(ctx, name, p, w.o.steady)()
		}
	}
	from.Store(w.stamps.made.Load())
	used := cpu(ps)
	var sent atomic.Int64
	if err := w.pace(ctx, w.o.rate, w.o.steady, func(uint64) { sent.Add(1) }); err != nil {
		return s, err
	}
	err = await.Within(ctx, patience, time.Millisecond, func() (bool, string) {
		return seen.Load() >= sent.Load(), fmt.Sprintf("%d of %d records came", seen.Load(), sent.Load())
	})
	if err != nil {
		return s, err
	}
	s.cpu = (cpu(ps) - used) / float64(sent.Load()) * 1e6
	s.peak = peak(ps)
	return s, nil
}

// level waits until the copy has all that the source has: a run before may have left a rest.
func (w *world) level(ctx context.Context, copied string) error {
	return await.Within(ctx, patience, 10*time.Millisecond, func() (bool, string) {
		target, err1 := w.ends(ctx, "eu", source())
		at, err2 := w.ends(ctx, "us", copied)
		if err := errors.Join(err1, err2); err != nil {
			return false, err.Error()
		}
		return at >= target, fmt.Sprintf("the copy has %d of %d records", at, target)
	})
}
