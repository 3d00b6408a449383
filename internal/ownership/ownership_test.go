package ownership

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

func instances(ids ...string) []im.Instance {
	list := make([]im.Instance, len(ids))
	for i, id := range ids {
		list[i] = im.Instance{Service: "imserver", ID: id, Region: "eu", Addr: "addr-" + id}
	}
	return list
}

// TestPickMovesOnlyWhatItMust: when an instance comes or goes, the partitions of the others stay where they are; the
// order of the list does not matter.
func TestPickMovesOnlyWhatItMust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}-[0-9]`), 2, 12, rapid.ID[string]).Draw(t, "ids")
		gone := rapid.SampledFrom(ids).Draw(t, "gone")
		all := instances(ids...)
		rest := slices.DeleteFunc(slices.Clone(all), func(i im.Instance) bool { return i.ID == gone })
		shuffled := rapid.Permutation(all).Draw(t, "shuffled")
		for p := range 64 {
			before, ok := Pick(p, all)
			if !ok {
				t.Fatalf("partition %d has no owner", p)
			}
			if again, _ := Pick(p, shuffled); again.ID != before.ID {
				t.Fatalf("partition %d: owner %s, in another order %s", p, before.ID, again.ID)
			}
			after, _ := Pick(p, rest)
			if before.ID != gone && after.ID != before.ID {
				t.Fatalf("partition %d moved from %s to %s though %s went", p, before.ID, after.ID, gone)
			}
		}
	})
}

func TestPickBalances(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10} {
		var ids []string
		for i := range n {
			ids = append(ids, fmt.Sprintf("imserver-%d", i))
		}
		const partitions = 10_000
		counts := map[string]int{}
		for p := range partitions {
			owner, _ := Pick(p, instances(ids...))
			counts[owner.ID]++
		}
		mean := partitions / n
		for _, id := range ids {
			if c := counts[id]; c < mean*8/10 || c > mean*12/10 {
				t.Errorf("of %d instances %s owns %d partitions; the mean is %d", n, id, c, mean)
			}
		}
	}
}

func TestPickPassesOverDraining(t *testing.T) {
	list := instances("a", "b", "c")
	list[1].Draining = true
	for p := range 100 {
		if owner, _ := Pick(p, list); owner.ID == "b" {
			t.Fatalf("partition %d is owned by a draining instance", p)
		}
	}
	for i := range list {
		list[i].Draining = true
	}
	if _, ok := Pick(0, list); !ok {
		t.Error("nobody owns a partition because all are draining")
	}
	if _, ok := Pick(0, nil); ok {
		t.Error("somebody owns a partition of nobody's")
	}
}

// TestEveryoneAgrees runs three instances and a caller over one registry while an instance drains and goes.
func TestEveryoneAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := registry.NewMemory(0)
		const partitions = 64
		ids := []string{"a", "b", "c"}
		leases := map[string]registry.Lease{}
		owners := map[string]*Ownership{}
		caller := New(Config{Service: "imserver", Region: "eu", Partitions: partitions}, m)
		ended := make(chan error, 4)
		go func() { ended <- caller.Run(ctx) }()
		synctest.Wait()
		if live, _ := caller.Live(); len(live) != 0 {
			t.Errorf("before anybody registered, %v", live)
		}
		select {
		case <-caller.Heard():
			t.Error("heard of an empty list")
		default:
		}
		for _, i := range instances(ids...) {
			o := New(Config{Service: "imserver", Region: "eu", Self: i.ID, Partitions: partitions}, m)
			owners[i.ID] = o
			go func() { ended <- o.Run(ctx) }()
			l, err := m.Register(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			leases[i.ID] = l
		}
		agree := func(when string, live ...string) {
			t.Helper()
			synctest.Wait()
			total := 0
			seen, _ := caller.Live()
			for _, id := range live {
				owned, _ := owners[id].Owned()
				total += len(owned)
				for _, p := range owned {
					if o, ok := Pick(p, seen); !ok || o.ID != id || o.Addr != "addr-"+id {
						t.Errorf("%s: %s owns partition %d, the caller says %+v", when, id, p, o)
					}
				}
			}
			if total != partitions {
				t.Errorf("%s: %d of %d partitions are owned", when, total, partitions)
			}
		}
		agree("all", ids...)
		_, changed := owners["a"].Owned()
		b := instances("b")[0]
		b.Draining = true
		if err := leases["b"].Update(b); err != nil {
			t.Fatal(err)
		}
		agree("b drains", "a", "c")
		if owned, _ := owners["b"].Owned(); len(owned) != 0 {
			t.Errorf("b drains and owns %v", owned)
		}
		select {
		case <-changed:
		default:
			t.Error("the change was not told")
		}
		if live, _ := caller.Live(); len(live) != 3 {
			t.Errorf("live: %v", live)
		}
		if err := leases["b"].Close(); err != nil {
			t.Fatal(err)
		}
		agree("b is gone", "a", "c")

		m.SetEmpty("eu", true)
		agree("the catalogue lost its memory", "a", "c")
		m.SetEmpty("eu", false)
		agree("the catalogue recovered", "a", "c")

		cancel()
		for range 4 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
