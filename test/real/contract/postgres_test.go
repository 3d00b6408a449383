//go:build real

package contract_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/postgres/postgrestest"
)

// The contract of timelines holds on a PostgreSQL server as a region runs it, with the rights that docs/operations.md lists, in a
// region of two databases; one of one is tested where the same programs are started by internal/embedded.
func TestPostgres(t *testing.T) {
	postgrestest.Run(t, func(t *testing.T, count int) (urls []string) {
		for range count {
			urls = append(urls, database(t))
		}
		return urls
	}, 2)
}

// TestPostgresLosesRowsAndPositionsTogether applies logs to a server that is killed now and then. Its commits do not wait
// for the disk, so the last of them may be gone; whoever goes on from the positions it then tells must end with the same
// timelines as if nothing had happened.
func TestPostgresLosesRowsAndPositionsTogether(t *testing.T) {
	url, member := database(t), servers.members[servers.postgres]
	if err := postgres.Migrate(t.Context(), postgres.Config{URLs: []string{url}}); err != nil {
		t.Fatal(err)
	}
	logs, rng := viewtest.Make(7, 600), rand.New(rand.NewPCG(7, 7))
	entries := map[im.Partition][]im.Entry{}
	total := 0
	for _, p := range logs.Partitions() {
		if entries[p] = logs.Entries[p]; p.Origin() != "eu" {
			entries[p] = logs.Copy(rng, p)
		}
		total += len(entries[p])
	}

	var kills, lost int
	applied := map[im.Partition]view.Position{}
	for finished := false; !finished; kills++ {
		timelines, err := postgres.Open(t.Context(), postgres.Config{URLs: []string{url}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := timelines.Positions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at := map[im.Partition]view.Position{}
		for _, p := range saved {
			at[p.Partition] = p
		}
		for p, before := range applied {
			if at[p].Next < before.Next {
				lost++
			}
			if at[p].Next > before.Next {
				t.Errorf("%v is at %d; only up to %d was applied", p, at[p].Next, before.Next)
			}
		}
		reader := newReader(t, logs, entries, at)
		until := total // records of this life
		if kills < 3 {
			until = 40 + rng.IntN(80)
		}
		for until > 0 && !finished {
			parts, n := reader.next(t, rng)
			if err := timelines.Apply(t.Context(), parts); err != nil {
				t.Fatal(err)
			}
			for _, part := range parts {
				applied[part.Partition] = part.To
			}
			until, finished = until-n, reader.done()
		}
		if finished {
			digest, err := timelines.Digest(t.Context())
			if got, want := fmt.Sprint(digest), fmt.Sprint(reader.model.Digest()); err != nil || got != want {
				t.Errorf("after %d kills: %v\n got %s\nwant %s", kills, err, got, want)
			}
		}
		timelines.Close()
		if !finished {
			if err := member.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := member.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d kills; a partition's last commits were lost %d times", kills-1, lost)
	if kills < 2 {
		t.Error("the server was never killed")
	}
}

// reader reads made-up logs as an imserver does, beside the view that says what they mean.
type reader struct {
	entries map[im.Partition][]im.Entry
	tails   map[im.Partition]*view.Tail
	model   *view.View
	order   []im.Partition
}

// newReader stands where the positions say; its model is that of all before them.
func newReader(t *testing.T, logs *viewtest.Logs, entries map[im.Partition][]im.Entry, at map[im.Partition]view.Position) *reader {
	t.Helper()
	r := &reader{maps.Clone(entries), map[im.Partition]*view.Tail{}, view.NewView(logs.Count), logs.Partitions()}
	for _, p := range r.order {
		tail, err := view.NewTail(view.Position{Position: im.Position{Partition: p}}, logs.Count)
		if err != nil {
			t.Fatal(err)
		}
		r.tails[p] = tail
		past := slices.IndexFunc(entries[p], func(e im.Entry) bool { return e.Offset >= at[p].Local })
		if past < 0 {
			past = len(entries[p])
		}
		r.take(t, p, past)
	}
	for _, part := range r.cut(t) {
		if part.To != at[part.Partition] {
			t.Fatalf("read up to %+v, the server stands at %+v", part.To, at[part.Partition])
		}
	}
	return r
}

func (r *reader) take(t *testing.T, p im.Partition, n int) {
	t.Helper()
	for i := range n {
		if _, err := r.tails[p].Take(&r.entries[p][i]); err != nil {
			t.Fatal(err)
		}
	}
	r.entries[p] = r.entries[p][n:]
}

// cut returns what was taken since, numbered, and tells the model.
func (r *reader) cut(t *testing.T) []view.Part {
	t.Helper()
	var parts []view.Part
	for _, p := range r.order {
		if r.tails[p].Moved() {
			part := r.tails[p].Cut()
			view.Number(part.Records, r.model.Last)
			parts = append(parts, part)
		}
	}
	if err := r.model.Apply(parts); err != nil {
		t.Fatal(err)
	}
	return parts
}

// next reads a few records of each partition.
func (r *reader) next(t *testing.T, rng *rand.Rand) (parts []view.Part, n int) {
	t.Helper()
	for _, p := range r.order {
		some := min(rng.IntN(6), len(r.entries[p]))
		r.take(t, p, some)
		n += some
	}
	return r.cut(t), n
}

func (r *reader) done() bool {
	for _, left := range r.entries {
		if len(left) > 0 {
			return false
		}
	}
	return true
}
