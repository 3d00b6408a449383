package postgrestest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/wire"
)

// reading applies logs to a store as an imserver does, from where the store stands.
type reading struct {
	store *postgres.Timelines
	count int
	tails map[im.Partition]*view.Tail
	left  map[im.Partition][]im.Entry
}

func read(t *testing.T, store *postgres.Timelines, logs *viewtest.Logs, copies map[im.Partition][]im.Entry) *reading {
	t.Helper()
	positions, err := store.Positions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &reading{store: store, count: logs.Count, tails: map[im.Partition]*view.Tail{}, left: map[im.Partition][]im.Entry{}}
	for _, p := range logs.Partitions() {
		at := view.Position{Position: im.Position{Partition: p}}
		if i := slices.IndexFunc(positions, func(x view.Position) bool { return x.Partition == p }); i >= 0 {
			at = positions[i]
		}
		if r.tails[p], err = view.NewTail(at, logs.Count); err != nil {
			t.Fatal(err)
		}
		if left := copies[p][at.Local:]; len(left) > 0 {
			r.left[p] = left
		}
	}
	return r
}

// some applies up to n entries of each partition, numbered from the heads that the store has.
func (r *reading) some(t *testing.T, n func() int) (parts []view.Part) {
	t.Helper()
	for _, p := range slices.SortedFunc(maps.Keys(r.left), im.Partition.Compare) {
		take := min(n(), len(r.left[p]))
		for i := range take {
			if _, err := r.tails[p].Take(&r.left[p][i]); err != nil {
				t.Fatal(err)
			}
		}
		if r.left[p] = r.left[p][take:]; len(r.left[p]) == 0 {
			delete(r.left, p)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(r.tails), im.Partition.Compare) {
		if !r.tails[p].Moved() {
			continue
		}
		r.tails[p].Summed()
		part := r.tails[p].Cut()
		var ask view.Ask
		for _, rec := range part.Records {
			ask.Heads = append(ask.Heads, view.HeadKey{Conversation: rec.Conversation, Origin: rec.Place.Origin})
		}
		facts, err := r.store.Known(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		view.Number(part.Records, func(k view.HeadKey) uint64 { return facts.Heads[k] })
		parts = append(parts, part)
	}
	if err := apply(t.Context(), r.store, parts); err != nil {
		t.Fatal(err)
	}
	return parts
}

// globally is what of positions is equal in all regions.
func globally(positions []view.Position, err error) string {
	var b strings.Builder
	for _, p := range positions {
		p.Local = 0
		fmt.Fprintf(&b, "%+v\n", p)
	}
	return fmt.Sprint(b.String(), err)
}

var errKilled = errors.New("killed")

// A region that is seeded from another, whatever that applies meanwhile and however often the seeding is killed, and then
// applies what follows the cut, has what it would have if it had applied everything.
func seeds(t *testing.T, create maker, other func(*testing.T, int) postgres.Config) {
	runs := uint64(4)
	if testing.Short() {
		runs = 2
	}
	for seed := range runs {
		logs := viewtest.Make(seed+100, 150)
		if logs.Count < 2 { // some databases would stay empty
			continue
		}
		rng := rand.New(rand.NewPCG(seed, 7))
		copies := map[im.Partition][]im.Entry{}
		for _, p := range logs.Partitions() {
			copies[p] = logs.Copy(rng, p)
		}
		cfg, _ := create(t, logs.Count)
		cfg.SnapshotRows, cfg.SnapshotBytes = 1+rng.IntN(7), 1+rng.IntN(600)
		source, err := postgres.Open(t.Context(), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		model := view.NewView(logs.Count)
		from := read(t, source, logs, copies)
		some := func(bound int) {
			if err := model.Apply(from.some(t, func() int { return rng.IntN(bound) })); err != nil {
				t.Fatal(err)
			}
		}
		for range 1 + rng.IntN(12) {
			some(4)
		}

		target := other(t, logs.Count)
		killed := 0
		for done := false; !done; {
			err := seedOnce(t, source, target, func(bool) error {
				if len(from.left) > 0 && rng.IntN(4) == 0 {
					some(3)
				}
				if rng.IntN(40) == 0 {
					killed++
					return errKilled
				}
				return nil
			})
			if done = err == nil; !done && !errors.Is(err, errKilled) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if done || killed > 1 {
				continue
			}
			if _, err := postgres.Open(t.Context(), target, nil); err == nil || !strings.Contains(err.Error(), "being seeded from eu") {
				t.Fatalf("seed %d: a database that is half seeded was opened to be applied to: %v", seed, err)
			}
		}
		for len(from.left) > 0 {
			some(6)
		}
		seeded, err := postgres.Open(t.Context(), target, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer seeded.Close()
		for to := read(t, seeded, logs, copies); len(to.left) > 0; {
			to.some(t, func() int { return rng.IntN(9) })
		}
		when := fmt.Sprintf("seed %d, killed %d times", seed, killed)
		differs(t, when, "positions", globally(seeded.Positions(t.Context())), globally(model.Positions(), nil), nil)
		compareRows(t, when, seeded, model, logs, rng)
		if err := seedOnce(t, source, target, func(bool) error { return nil }); err != nil {
			t.Fatalf("seed %d: what is seeded is seeded again: %v", seed, err)
		}
		if err := postgres.Clear(t.Context(), target); err != nil {
			t.Fatal(err)
		}
	}
}

// seedOnce seeds what is left. The step runs before a chunk is loaded and after it (true), and fails to kill.
func seedOnce(t *testing.T, source *postgres.Timelines, target postgres.Config, step func(loaded bool) error) error {
	t.Helper()
	ctx := t.Context()
	all, done, err := postgres.OpenSeedings(ctx, target, "sa")
	if err != nil {
		return err
	}
	defer done()
	for _, s := range all {
		has, err := s.Begun(ctx)
		if err != nil {
			return err
		}
		if has.Done {
			continue
		}
		request := s.Request()
		if has.Source == "" {
			cut, err := source.SnapshotCut(ctx, request)
			if err != nil {
				return err
			}
			has.Cut = cut.Positions
			if err := s.Begin(ctx, "eu", has.Cut); err != nil {
				return err
			}
		}
		err = source.Snapshot(ctx, &wire.SnapshotRequest{
			Partitions: request.Partitions, Databases: request.Databases, Database: request.Database, Cut: has.Cut, After: has.After,
		}, func(c *wire.SnapshotChunk) error {
			if err := step(false); err != nil {
				return err
			}
			if err := s.Load(ctx, c); err != nil {
				return err
			}
			return step(true)
		})
		if err != nil {
			return err
		}
		if err := s.Finish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// A database in which anything was applied is not seeded, two that seed one do not mix, and a source that was begun anew is
// noticed.
func refusesToSeed(t *testing.T, create maker) {
	ctx := t.Context()
	sourceCfg, source := create(t, 2)
	cfg, timelines := create(t, 2)
	if err := source.Apply(ctx, []view.Part{part(eu0, 0, 1, 5, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
	if err := timelines.Apply(ctx, []view.Part{part(us0, 0, 1, 1, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
	nothing := func(bool) error { return nil }
	if err := seedOnce(t, source, cfg, nothing); err == nil || !strings.Contains(err.Error(), "holds timelines already") {
		t.Errorf("timelines were seeded over: %v", err)
	}
	if err := postgres.Clear(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	begun := false
	err := seedOnce(t, source, cfg, func(loaded bool) error {
		if begun || loaded {
			return nil
		}
		begun = true
		return seedOnce(t, source, cfg, func(loaded bool) error { // another, which is killed after a chunk
			if loaded {
				return errKilled
			}
			return nil
		})
	})
	if !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	first := true
	err = seedOnce(t, source, cfg, func(loaded bool) error {
		if loaded || !first {
			return nil
		}
		first = false
		if err := seedOnce(t, source, cfg, nothing); err != nil { // another is faster
			t.Fatal(err)
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "by another at the same time") {
		t.Errorf("two seeded one database: %v", err)
	}

	if err := postgres.Clear(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := seedOnce(t, source, cfg, func(loaded bool) error {
		if loaded {
			return errKilled
		}
		return nil
	}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if err := postgres.Clear(ctx, sourceCfg); err != nil {
		t.Fatal(err)
	}
	if err := seedOnce(t, source, cfg, nothing); im.CodeOf(err) != im.CodeBadRequest || !strings.Contains(err.Error(), "begun anew") {
		t.Errorf("a source that has less than it was cut at: %v", err)
	}
}
