package regions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// orchard gives snapshots of so many chunks, a message and a kilobyte each, and fails when it is told to.
type orchard struct {
	chunks int
	cut    []*wire.SnapshotPosition
	fail   func(chunk int) error
	asked  []string // behind what
}

func (o *orchard) SnapshotCut(context.Context, *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	return &wire.SnapshotCutResponse{Positions: o.cut}, nil
}

func (o *orchard) Snapshot(_ context.Context, r *wire.SnapshotRequest, take func(*wire.SnapshotChunk) error) error {
	o.asked = append(o.asked, string(r.After))
	from := 0
	if len(r.After) > 0 {
		fmt.Sscan(string(r.After), &from)
	}
	for n := from + 1; n <= o.chunks; n++ {
		if o.fail != nil {
			if err := o.fail(n); err != nil {
				return err
			}
		}
		c := &wire.SnapshotChunk{After: fmt.Append(nil, n), Last: n == o.chunks}
		if n == 1 {
			c.Heads = []*wire.SnapshotHead{{Conversation: "d:ann:bob", Origin: "eu", Seq: uint64(o.chunks)}}
		}
		c.Records = []*wire.SnapshotRecord{{Seq: uint64(n), Body: make([]byte, 1000)}}
		if err := take(c); err != nil {
			return err
		}
	}
	return nil
}

type seedling struct {
	has    wire.Seeded
	loaded []string
	fail   error
}

func (s *seedling) Request() *wire.SnapshotCutRequest {
	return &wire.SnapshotCutRequest{Partitions: 4, Databases: 1}
}
func (s *seedling) Begun(context.Context) (wire.Seeded, error) { return s.has, nil }

func (s *seedling) Begin(_ context.Context, source im.Region, cut []*wire.SnapshotPosition) error {
	s.has.Source, s.has.Cut = source, cut
	return nil
}

func (s *seedling) Load(_ context.Context, c *wire.SnapshotChunk) error {
	if s.fail != nil {
		return s.fail
	}
	s.loaded = append(s.loaded, string(c.After))
	s.has.After, s.has.Records = c.After, s.has.Records+int64(len(c.Records))
	for _, h := range c.Heads {
		s.has.Expected += int64(h.Seq)
	}
	return nil
}

func (s *seedling) Finish(context.Context) error { s.has.Done = true; return nil }

func seedOf(o *orchard, s *seedling, progress func(string)) *Seed {
	o.cut = []*wire.SnapshotPosition{{Topic: "msg.eu.direct", Next: 7}}
	return &Seed{
		From: "eu", Snapshots: o, Databases: []Seedling{s}, Progress: progress,
		Check: func(context.Context, []*wire.SnapshotPosition) error { return nil },
	}
}

// A seeding goes on behind the last chunk that was loaded, whatever ended it, and takes each once.
func TestSeedGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s := &orchard{chunks: 20}, &seedling{}
		fails := map[int]bool{3: true, 9: true}
		o.fail = func(n int) error {
			if fails[n] {
				delete(fails, n)
				return im.Errorf(im.CodeUnavailable, "the imserver went away")
			}
			return nil
		}
		seed := seedOf(o, s, func(string) {})
		s.fail = errors.New("disk full")
		if _, err := seed.Run(t.Context()); !errors.Is(err, s.fail) {
			t.Fatalf("%v", err)
		}
		s.fail = nil
		sum, err := seed.Run(t.Context())
		if err != nil || sum.Records != 20 || sum.Absent != 0 || !s.has.Done {
			t.Fatalf("%+v, %v", sum, err)
		}
		var want []string
		for n := range 20 {
			want = append(want, fmt.Sprint(n+1))
		}
		if !slices.Equal(s.loaded, want) || !slices.Equal(o.asked, []string{"", "", "2", "8"}) {
			t.Errorf("loaded %v, asked behind %q", s.loaded, o.asked)
		}
		if sum, err = seed.Run(t.Context()); err != nil || sum.Before != 1 || sum.Records != 0 {
			t.Errorf("again: %+v, %v", sum, err)
		}
	})
}

// What cannot pass is told at once, and what does not pass is given up.
func TestSeedGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			err   error
			asked int
		}{
			{im.Errorf(im.CodeBadRequest, "the timelines were begun anew"), 1},
			{im.Errorf(im.CodeUnavailable, "no live instance is known"), seedAttempts},
		} {
			o, s := &orchard{chunks: 2, fail: func(int) error { return c.err }}, &seedling{}
			if _, err := seedOf(o, s, func(string) {}).Run(t.Context()); !errors.Is(err, c.err) || len(o.asked) != c.asked || s.has.Done {
				t.Errorf("asked %d times: %v", len(o.asked), err)
			}
		}
		s := &seedling{has: wire.Seeded{Source: "us"}}
		if _, err := seedOf(&orchard{chunks: 1}, s, func(string) {}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "seeded from us") {
			t.Errorf("two sources are mixed: %v", err)
		}
		o, s := &orchard{chunks: 1}, &seedling{}
		seed := seedOf(o, s, func(string) {})
		asked := 0
		seed.Check = func(context.Context, []*wire.SnapshotPosition) error {
			if asked++; asked > 1 {
				return errors.New("retention passed the cut")
			}
			return nil
		}
		if _, err := seed.Run(t.Context()); err == nil || s.has.Done {
			t.Errorf("seeded to where no log goes on: %v", err)
		}
	})
}

// It takes as long as the rate says, and says how long that is.
func TestSeedIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		o, s := &orchard{chunks: 101}, &seedling{}
		seed := seedOf(o, s, func(line string) { lines = append(lines, line) })
		seed.Rate = 10_000
		began := time.Now()
		sum, err := seed.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if rate := float64(sum.Bytes) / took.Seconds(); took < 9*time.Second || rate > 10_300 || rate < 9_700 {
			t.Errorf("%d bytes took %v", sum.Bytes, took)
		}
		if len(lines) < 2 || !strings.Contains(lines[1], "of 101 messages are here") || !strings.Contains(lines[1], "about 5s to go") {
			t.Errorf("progress: %q", lines)
		}
	})
}
