package imserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// ownTopics are the topics of the own origin that imservers write.
func (s *Server) ownTopics() []string { return s.topics(s.cfg.Origin) }

// topics are the topics of an origin that imservers apply: all but the routes.
func (s *Server) topics(o im.Origin) []string {
	topics := make([]string, 0, len(im.Lanes)+1)
	for _, l := range im.Lanes {
		topics = append(topics, im.MsgTopic(o, l))
	}
	return append(topics, im.ReadTopic(o))
}

// LogError says that the own log is not the one that the timelines were derived from, so that accepting into it would give
// seqs twice.
type LogError struct {
	Problem string
	Remedy  string
}

// Error tells both.
func (e *LogError) Error() string { return "imserver: " + e.Problem + ": " + e.Remedy }

// checkOwnLog compares the own log with what the timelines were derived from. A log that is shorter, or that has another
// name or another record where the timelines had their last, was truncated or made anew: that is a *LogError; any other error
// says that it cannot be told now.
func (s *Server) checkOwnLog(ctx context.Context) error {
	positions, err := s.deps.Store.Positions(ctx)
	if err != nil {
		return fmt.Errorf("imserver: positions: %w", err)
	}
	at := make(map[im.Partition]view.Position, len(positions))
	for _, p := range positions {
		at[p.Partition] = p
		if s.own(p.Partition.Origin()) {
			s.clock.Raise(p.Watermark)
		}
	}
	var own []im.Partition
	for _, topic := range s.ownTopics() {
		for number := range s.cfg.Partitions {
			own = append(own, im.Partition{Topic: topic, Number: number})
		}
	}
	bounds, err := s.deps.Log.Bounds(ctx, own)
	if err != nil {
		return fmt.Errorf("imserver: bounds of the own log: %w", err)
	}
	for _, p := range own {
		b, stored := bounds[p], at[p]
		switch {
		case b.End < stored.Next:
			return s.shorter(stored, b)
		case b.End == 0:
			return &LogError{fmt.Sprintf("%v is empty: record 0 must name the log", p), `run "antipode migrate"`}
		}
		name, err := s.nameOf(ctx, p, b)
		if err != nil {
			return err
		}
		switch {
		case name.IsZero():
			name = im.LogName{Origin: s.cfg.Origin, ID: stored.Log}
		case name.Origin != s.cfg.Origin:
			return &LogError{
				fmt.Sprintf("%v says that it is the log of origin %q, not %q", p, name.Origin, s.cfg.Origin),
				"correct region and origin_epoch, or log.brokers",
			}
		case !stored.Log.IsZero() && name.ID != stored.Log:
			return &LogError{fmt.Sprintf("%v is named %v but the timelines of region %s were derived from %v: the log was made anew",
				p, name, s.cfg.Region, stored.Log), nextEpoch}
		}
		if err := s.same(ctx, stored); err != nil {
			return err
		}
		s.names[p] = name
	}
	return nil
}

func (s *Server) shorter(at view.Position, b im.Bounds) *LogError {
	return &LogError{fmt.Sprintf("%v ends at %d but the timelines of region %s are at %d: the log of origin %q was truncated or made anew",
		at.Partition, b.End, s.cfg.Region, at.Next, s.cfg.Origin), nextEpoch}
}

const nextEpoch = "start this region under the next origin epoch"

// nameOf reads the log's name from record 0, or from the first heartbeat that retention left. It is zero if neither is
// near the start. What is not the own log, but a copy that was put in its place, is a *LogError.
func (s *Server) nameOf(ctx context.Context, p im.Partition, b im.Bounds) (im.LogName, error) {
	entries, err := s.deps.Log.Read(ctx, p, b.Start, 64<<10)
	if err != nil {
		return im.LogName{}, fmt.Errorf("imserver: read the name of %v: %w", p, err)
	}
	if len(entries) > 0 && wire.IsCopy(&entries[0]) { // nothing that was appended here would count anywhere
		return im.LogName{}, &LogError{fmt.Sprintf("%v is a copy, which ends where the log of %s was sealed: the region was declared lost, and goes on under a later epoch",
			p, s.cfg.Origin), "correct origin_epoch, and list that epoch in origins"}
	}
	for i := range entries {
		if h := wire.DecodeHead(&entries[i]); h.Kind == im.KindLog || h.Kind == im.KindHeartbeat {
			name, err := wire.DecodeLogName(&entries[i])
			if err != nil {
				return im.LogName{}, fmt.Errorf("imserver: the name of the log: %w", err)
			}
			return name, nil
		}
	}
	return im.LogName{}, nil
}

// heartbeat tells every region, in every owned partition of the own logs, how far this region's clock is: when partitions
// are gained, and then at each interval.
func (s *Server) heartbeat(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.Heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.gained:
		case <-ticker.C:
		}
		s.beat(ctx)
	}
}

func (s *Server) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AppendTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, number := range s.shards.numbers() {
		for _, topic := range s.ownTopics() {
			p := im.Partition{Topic: topic, Number: number}
			if s.names[p].ID.IsZero() || s.halts.of(p) != nil {
				continue // nobody knows its name (see nameOf), or nobody applies it
			}
			stamp, err := s.stamp(0)
			if err != nil {
				return
			}
			wg.Go(func() {
				if _, err := s.write(ctx, p, []im.Entry{wire.EncodeLogName(im.KindHeartbeat, s.names[p], stamp)}); err != nil && ctx.Err() == nil {
					s.deps.Logger.Warn("heartbeat was not written", "partition", p, "error", err)
				}
			})
		}
	}
	wg.Wait()
}
