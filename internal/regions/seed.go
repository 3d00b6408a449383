package regions

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Snapshots are those of the timelines of another region.
type Snapshots interface {
	SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error)
	// Snapshot calls take with what follows of the records below a cut.
	Snapshot(ctx context.Context, r *wire.SnapshotRequest, take func(*wire.SnapshotChunk) error) error
}

// Seedling is one of the databases of the region that is seeded. What it takes it keeps, with the place to go on from.
type Seedling interface {
	Request() *wire.SnapshotCutRequest
	Begun(ctx context.Context) (wire.Seeded, error)
	Begin(ctx context.Context, source im.Region, cut []*wire.SnapshotPosition) error
	Load(ctx context.Context, c *wire.SnapshotChunk) error
	Finish(ctx context.Context) error
}

// Seed gives a region the timelines of another one, up to a cut: logs bring what follows. Run again, after whatever ended
// it, it goes on behind the last chunk that was loaded.
type Seed struct {
	From      im.Region
	Snapshots Snapshots
	Databases []Seedling
	Rate      int // bytes a second that come from the other region; 0: as fast as it goes
	// Check tells whether logs will bring what follows a cut: asked before anything is loaded, and once everything is.
	Check    func(ctx context.Context, cut []*wire.SnapshotPosition) error
	Progress func(string)
	Every    time.Duration // between two lines of progress [5 s]
}

// Planted is what a Seed did.
type Planted struct {
	Records int64 // messages, in this run
	Bytes   int64
	Absent  int64 // messages that there were once, and are not in the other region any more
	Before  int   // databases that were complete before
}

const (
	// seedAttempts is how often in a row the other region may fail before it has sent anything.
	seedAttempts = 10
	cutTimeout   = 30 * time.Second
)

// Run seeds the databases, one after the other.
func (s *Seed) Run(ctx context.Context) (Planted, error) {
	if s.Every == 0 {
		s.Every = 5 * time.Second
	}
	var sum Planted
	pace := pace{rate: s.Rate}
	for i, db := range s.Databases {
		has, err := db.Begun(ctx)
		switch {
		case err != nil:
			return sum, err
		case has.Done:
			sum.Before++
			continue
		case has.Source != "" && has.Source != s.From:
			return sum, fmt.Errorf("database %d is being seeded from %s: go on with that, or begin again with --anew", i, has.Source)
		}
		if has, err = s.begin(ctx, db, has); err != nil {
			return sum, err
		}
		if err := s.load(ctx, i, db, &has, &pace, &sum); err != nil {
			return sum, err
		}
		if err := s.Check(ctx, has.Cut); err != nil {
			return sum, err
		}
		if err := db.Finish(ctx); err != nil {
			return sum, err
		}
		sum.Absent += max(0, has.Expected-has.Records)
	}
	return sum, nil
}

// begin has a snapshot cut, unless one was already.
func (s *Seed) begin(ctx context.Context, db Seedling, has wire.Seeded) (wire.Seeded, error) {
	if has.Source != "" {
		s.Progress(fmt.Sprintf("going on from %s: %d of %d messages are here", s.From, has.Records, has.Expected))
		return has, s.Check(ctx, has.Cut)
	}
	call, cancel := context.WithTimeout(ctx, cutTimeout)
	defer cancel()
	cut, err := s.Snapshots.SnapshotCut(call, db.Request())
	if err != nil {
		return has, err
	}
	if len(cut.Positions) == 0 {
		return has, fmt.Errorf("the timelines of %s hold nothing: there is nothing to seed from", s.From)
	}
	if err := s.Check(ctx, cut.Positions); err != nil {
		return has, err
	}
	has.Source, has.Cut = s.From, cut.Positions
	return has, db.Begin(ctx, s.From, cut.Positions)
}

// load takes chunks until the last one, through failures of the other region.
func (s *Seed) load(ctx context.Context, i int, db Seedling, has *wire.Seeded, pace *pace, sum *Planted) error {
	of := db.Request()
	again := &backoff.ExponentialBackOff{InitialInterval: 500 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 15 * time.Second}
	began, told, first, failed := time.Now(), time.Time{}, has.Records, 0
	for {
		var broken error // what is wrong here
		err := s.Snapshots.Snapshot(ctx, &wire.SnapshotRequest{
			Partitions: of.Partitions, Databases: of.Databases, Database: of.Database, Cut: has.Cut, After: has.After,
		}, func(c *wire.SnapshotChunk) error {
			size := wire.SnapshotSize(c)
			if broken = pace.pass(ctx, size); broken != nil {
				return broken
			}
			if broken = db.Load(ctx, c); broken != nil {
				return broken
			}
			failed = 0
			again.Reset()
			for _, h := range c.Heads {
				has.Expected += int64(h.Seq)
			}
			has.After = c.After
			has.Records += int64(len(c.Records))
			sum.Records += int64(len(c.Records))
			sum.Bytes += int64(size)
			if time.Since(told) >= s.Every {
				told = time.Now()
				s.Progress(s.describe(i, has, first, *sum, time.Since(began)))
			}
			return nil
		})
		switch {
		case err == nil, broken != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(err):
			return err
		}
		if failed++; failed == seedAttempts {
			return fmt.Errorf("%w (%d times in a row; run the same command again, and it goes on from what is here)", err, failed)
		}
		d := again.NextBackOff()
		s.Progress(fmt.Sprintf("%v: again in %v", err, d.Round(time.Millisecond)))
		if !wait(ctx, d) {
			return context.Cause(ctx)
		}
	}
}

// describe says how far a database is. Heads come first, so how many messages there are is known once any comes.
func (s *Seed) describe(i int, has *wire.Seeded, first int64, sum Planted, took time.Duration) string {
	of := ""
	if len(s.Databases) > 1 {
		of = fmt.Sprintf("database %d of %d: ", i+1, len(s.Databases))
	}
	rate := float64(sum.Bytes) / max(took.Seconds(), 0.001) / 1e6
	return fmt.Sprintf("%s%d of %d messages are here, %.1f MB came, %.1f MB/s%s", of, has.Records, has.Expected, float64(sum.Bytes)/1e6, rate,
		ETA(has.Expected-first, has.Expected-has.Records, took))
}

// passing tells whether trying again may help.
func passing(err error) bool {
	switch im.CodeOf(err) {
	case im.CodeBadRequest, im.CodeUnknownMethod, im.CodeBadToken, im.CodeWrongRegion:
		return false
	}
	return true
}

// pace lets so many bytes a second pass.
type pace struct {
	rate int
	free time.Time // when the next may
}

func (p *pace) pass(ctx context.Context, bytes int) error {
	if p.rate <= 0 {
		return nil
	}
	now := time.Now()
	if d := p.free.Sub(now); d > 0 && !wait(ctx, d) {
		return context.Cause(ctx)
	}
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(bytes) * time.Second / time.Duration(p.rate))
	return nil
}
