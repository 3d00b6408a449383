package postgrestest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
	"github.com/antipode-im/antipode/internal/postgres"
)

// A region in which a build applied that knew fewer kinds is, once it is derived anew, as if this one had applied everything;
// deriving again, or beside what is applied meanwhile, changes nothing.
func derives(t *testing.T, databases int, create maker) {
	rng := rand.New(rand.NewPCG(1, 5))
	seed := uint64(0)
	for _, unknown := range []im.Kind{im.KindMember, im.KindSettings, im.KindMessage} { // to the older build
		logs := viewtest.Make(seed, 120)
		for logs.Count < databases { // some would stay empty
			seed++
			logs = viewtest.Make(seed, 120)
		}
		seed++
		cfg, timelines := create(t, logs.Count)
		model := view.NewView(logs.Count)
		hidden := 0
		for i, p := range logs.Partitions() {
			tail, err := view.NewTail(view.Position{Position: im.Position{Partition: p}}, logs.Count)
			if err != nil {
				t.Fatal(err)
			}
			for n := range logs.Entries[p] {
				e := logs.Entries[p][n]
				if _, err := tail.Take(&e); err != nil {
					t.Fatal(err)
				}
			}
			if !tail.Moved() {
				continue
			}
			part := tail.Cut()
			view.Number(part.Records, model.Last)
			if err := model.Apply([]view.Part{part}); err != nil {
				t.Fatal(err)
			}
			older := part
			older.Records = append([]view.Record(nil), part.Records...)
			for n := range older.Records {
				if r := &older.Records[n]; i%3 > 0 && r.Kind == unknown && r.Shown { // the rest is applied by this build
					r.Shown = false
					hidden++
				}
			}
			if err := apply(t.Context(), timelines, []view.Part{older}); err != nil {
				t.Fatal(err)
			}
		}
		if digest, err := timelines.Digest(t.Context()); err != nil || unknown != im.KindMessage && maps.Equal(digest, model.Digest()) {
			t.Fatalf("%s: nothing is missing before it is derived (%v)", unknown, err)
		}
		for _, want := range []int{hidden, 0} {
			n, err := postgres.Derive(t.Context(), cfg)
			if err != nil || n != want || hidden == 0 {
				t.Fatalf("%s: %d records were derived, want %d: %v", unknown, n, want, err)
			}
			compare(t, fmt.Sprintf("%s, derived", unknown), timelines, model, logs, rng)
		}
	}
}
