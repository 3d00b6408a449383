package consul

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

func named(ids string) []im.Instance {
	var list []im.Instance
	for _, id := range strings.Fields(ids) {
		list = append(list, im.Instance{Service: "imserver", ID: id, Region: "eu"})
	}
	return list
}

func TestSettle(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name                  string
		known, answer, listed string
		settledIn             time.Duration
		again                 bool
	}{
		{"nothing was wrong: what is missing is gone", "a b c", "a c", "a c", 0, false},
		{"even all", "a b", "", "", -time.Second, false},
		{"right after a silence the missing stay", "a b c", "b", "a b c", time.Second, true},
		{"even all of them", "a b", "", "a b", time.Second, true},
		{"and newcomers are told", "a b", "b c", "a b c", time.Second, true},
		{"when all are back there is nothing to look for", "a b", "a b", "a b", time.Second, false},
		{"the first answer has nothing to go by", "", "a", "a", time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, again := settle(named(c.known), named(c.answer), now, now.Add(c.settledIn))
			if !slices.EqualFunc(got, named(c.listed), equal) {
				t.Errorf("told %v, want %s", got, c.listed)
			}
			if (again > 0) != c.again || again > max(0, c.settledIn) {
				t.Errorf("looks again in %v", again)
			}
		})
	}
}

// TestSettleNeverInvents: what is told is what was answered, and of the known only while it is not settled; what was
// answered is told as it was answered.
func TestSettleNeverInvents(t *testing.T) {
	ids := rapid.SliceOfDistinct(rapid.StringMatching(`[a-f]`), rapid.ID[string])
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string, epoch uint64) []im.Instance {
			list := ids.Draw(t, name)
			slices.Sort(list)
			all := named(strings.Join(list, " "))
			for i := range all {
				all[i].Epoch = epoch
			}
			return all
		}
		known, answer := draw("known", 1), draw("answer", 2)
		in := time.Duration(rapid.Int64Range(-1, 1).Draw(t, "settled in"))
		now := time.Unix(5, 0)
		got, again := settle(known, answer, now, now.Add(in))
		has := func(list []im.Instance, i im.Instance) bool {
			return slices.ContainsFunc(list, func(j im.Instance) bool { return compare(i, j) == 0 })
		}
		for _, i := range got {
			if i.Epoch == 2 && !has(answer, i) || i.Epoch == 1 && (!has(known, i) || has(answer, i) || in <= 0) {
				t.Fatalf("%+v was told", i)
			}
		}
		for _, i := range answer {
			if !has(got, i) {
				t.Fatalf("%+v was not told", i)
			}
		}
		if !slices.IsSortedFunc(got, compare) || (again > 0) != (len(got) > len(answer)) {
			t.Fatalf("told %v, again in %v", got, again)
		}
	})
}
