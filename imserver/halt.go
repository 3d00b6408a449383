package imserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// halts are the partitions of the own log that are not applied until somebody acts. Nothing may be accepted into them: it
// would land on offsets that the timelines have had other records at, be acknowledged, and be passed by for ever (I1, I2).
type halts struct {
	mu  sync.RWMutex
	why map[im.Partition]error
}

func (h *halts) of(p im.Partition) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.why[p]
}

func (h *halts) set(p im.Partition, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.why == nil {
		h.why = map[im.Partition]error{}
	}
	if h.why[p] == nil {
		h.why[p] = why
	}
}

func (h *halts) clear(p im.Partition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.why, p)
}

// first is one of them, nil if there are none.
func (h *halts) first() error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var low *im.Partition
	for p := range h.why {
		if low == nil || p.Compare(*low) < 0 {
			low = &p
		}
	}
	if low == nil {
		return nil
	}
	return fmt.Errorf("%v is not applied any more, and takes nothing (one of %d): %w", *low, len(h.why), h.why[*low])
}

// errHalted answers what would be written to a partition that is halted.
func (s *Server) errHalted(p im.Partition) error {
	return im.Errorf(im.CodeUnavailable, "%v of region %s takes nothing until its log is looked after; sending again, to another region too, is safe", p, s.cfg.Region)
}

// write appends to the own log. It fails where the partition is halted, and where the log turns out to have lost records:
// what lands below the place that was read before is never applied.
func (s *Server) write(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	if s.halts.of(p) != nil {
		return 0, s.errHalted(p)
	}
	var read int64
	if sh := s.shards.get(p.Number); sh != nil {
		read = sh.Next(p.Topic)
	}
	offset, err := s.deps.Log.Append(ctx, p, entries)
	if err == nil && offset < read {
		why := &LogError{fmt.Sprintf("%v took a record at %d although everything below %d had been read of it: the log of origin %q lost records",
			p, offset, read, s.cfg.Origin), nextEpoch}
		s.deps.Logger.Error("the own log lost records: nothing is accepted into this partition any more", "partition", p, "error", why)
		s.halts.set(p, why)
		err = s.errHalted(p)
	}
	return offset, err
}

// same compares the last record that was applied with the one that the log has at its place. A *LogError says that they
// differ, any other error that it cannot be told now.
func (s *Server) same(ctx context.Context, at view.Position) error {
	if at.Checksum == 0 || at.Next == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ReadTimeout)
	defer cancel()
	p := at.Partition
	entries, err := s.deps.Log.Read(ctx, p, at.Next-1, 64<<10)
	if err == nil && len(entries) == 0 {
		err = errors.New("it returns nothing")
	}
	if err != nil {
		bounds, unknown := s.deps.Log.Bounds(ctx, []im.Partition{p})
		switch b, ok := bounds[p]; {
		case unknown != nil || !ok:
		case b.Start >= at.Next: // by retention: no record can be compared
			return nil
		case b.End < at.Next:
			return s.shorter(at, b)
		}
		return fmt.Errorf("imserver: read record %d of %v: %w", at.Next-1, p, err)
	}
	if sum := view.Checksum(&entries[0]); sum != at.Checksum {
		return &LogError{fmt.Sprintf("record %d of %v is not the one that the timelines of region %s were derived from: the log of origin %q lost its end, and grew again",
			at.Next-1, p, s.cfg.Region, s.cfg.Origin), nextEpoch}
	}
	return nil
}

// verify compares what is about to be applied of the own log with the timelines, and halts the partitions in which they
// differ. It waits until it can tell.
func (a *applier) verify(ctx context.Context, positions []view.Position) error {
	left := slices.DeleteFunc(slices.Clone(positions), func(at view.Position) bool {
		return at.Partition.Origin() != a.s.cfg.Origin || a.halted[at.Partition]
	})
	wait := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 2 * time.Second}
	for {
		failures := make([]error, len(left))
		var wg sync.WaitGroup
		for i := range left {
			wg.Go(func() { failures[i] = a.s.same(ctx, left[i]) })
		}
		wg.Wait()
		var unsure []view.Position
		var last error
		for i, err := range failures {
			if _, lasting := errors.AsType[*LogError](err); lasting {
				a.halt(ctx, left[i].Partition, err)
			} else if err != nil {
				unsure, last = append(unsure, left[i]), err
			}
		}
		if left = unsure; len(left) == 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		a.s.deps.Logger.Warn("the own log cannot be compared with the timelines: apply waits", "partitions", len(left), "error", last)
		sleep(ctx, wait.NextBackOff())
	}
}
