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

// steadies measures both at the same rate, one after the other, and before them a reader at the source, which is what the
// broker itself takes.
func (w *world) steadies(ctx context.Context, d distance) error {
	name := d.name
	w.distance(d.trip)
	floor := &times{}
	if err := w.flow(ctx, "eu", source(), floor, nil); err != nil {
		return fmt.Errorf("steady flow at the source: %w", err)
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
	if err := w.level(ctx, copied); err != nil {
		return s, err
	}
	used := 0.0
	var profiles []func()
	err = w.flow(ctx, "us", copied, s.latency, func() {
		for _, p := range ps {
			profiles = append(profiles, w.profiled(ctx, name, p, w.o.steady))
		}
		used = cpu(ps)
	})
	for _, wait := range profiles {
		wait()
	}
	if err != nil {
		return s, err
	}
	s.cpu = (cpu(ps) - used) / float64(len(s.latency.all)) * 1e6
	s.peak = peak(ps)
	return s, nil
}

// flow appends records at the rate and takes the time from when each was due to when a reader of a topic has it. What comes
// first warms up brokers, connections and Java's compiler; begin is called where it begins to count.
func (w *world) flow(ctx context.Context, r im.Region, topic string, latency *times, begin func()) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var from atomic.Uint64
	var seen atomic.Int64
	from.Store(1 << 63)
	err := w.follow(ctx, r, topic, false, func(e *im.Entry) {
		if number, due, ok := decode(e); ok && number > from.Load() {
			latency.add(time.Since(due))
			seen.Add(1)
		}
	})
	if err != nil {
		return err
	}
	if err := w.pace(ctx, w.o.rate, w.o.warm, func(uint64) {}); err != nil {
		return err
	}
	if begin != nil {
		begin()
	}
	from.Store(w.stamps.made.Load())
	var sent atomic.Int64
	if err := w.pace(ctx, w.o.rate, w.o.steady, func(uint64) { sent.Add(1) }); err != nil {
		return err
	}
	return await.Within(ctx, patience, time.Millisecond, func() (bool, string) {
		return seen.Load() >= sent.Load(), fmt.Sprintf("%d of %d records came", seen.Load(), sent.Load())
	})
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
