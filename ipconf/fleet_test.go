package ipconf

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

func named(ids ...string) []im.Instance {
	var list []im.Instance
	for _, id := range ids {
		list = append(list, im.Instance{Service: "gateway", ID: id, Region: "eu", URL: "http://" + id, Epoch: 1})
	}
	return list
}

func (f *fleet) ids(r im.Region) string {
	s := ""
	for _, i := range f.instances(r) {
		s += i.ID
	}
	return s
}

func heard(f *fleet, at time.Time, ids ...string) {
	for _, id := range ids {
		f.measure("eu", im.Load{Gateway: im.Gateway{ID: id, Epoch: 1}, Capacity: 100}, at)
	}
}

func TestCatalogueHeldBack(t *testing.T) {
	now := time.Unix(1_000, 0)
	f := newFleet([]im.Region{"eu"}, 5*time.Second, 3*time.Second)
	step := func(second bool, want string, wantHeld bool, ids ...string) {
		t.Helper()
		held, _ := f.catalogue("eu", named(ids...), second, now)
		if got := f.ids("eu"); got != want || held != wantHeld {
			t.Fatalf("gateways %q, held %v; want %q, %v", got, held, want, wantHeld)
		}
	}
	step(false, "abcd", false, "a", "b", "c", "d")
	heard(f, now, "a", "b", "c", "d")
	step(false, "abc", false, "a", "b", "c")       // one of four leaves at once
	step(false, "abc", true)                       // an empty reading is not believed
	step(false, "abcx", true, "c", "x")            // nor one that drops two of three; what is new counts
	step(false, "abcx", false, "a", "b", "c", "x") // it was wrong
	step(false, "abcx", true, "x")
	step(true, "abcx", true, "x") // seen twice, but they still answer
	now = now.Add(6 * time.Second)
	heard(f, now, "a")
	step(true, "ax", true, "x") // b and c do not
	now = now.Add(6 * time.Second)
	step(true, "x", false, "x")
	now = now.Add(6 * time.Second)
	step(true, "", false) // a region that is gone leaves in the end
}

// Gateways that start together are alike, in whatever order ipconf hears of them. One that comes later starts slowly, and so
// does one that was started again.
func TestSlowStartIsForLatecomers(t *testing.T) {
	now := time.Unix(1_000, 0)
	f := newFleet([]im.Region{"eu"}, 5*time.Second, 3*time.Second)
	served := func() (list []time.Duration) {
		gateways, _ := f.candidates([]im.Region{"eu"}, anyVersion, now)
		for _, g := range gateways {
			list = append(list, g.Served)
		}
		return list
	}
	check := func(want ...time.Duration) {
		t.Helper()
		if got := served(); !slices.Equal(got, want) {
			t.Errorf("served for %v, want %v (-1ns: as long as the others)", got, want)
		}
	}
	f.catalogue("eu", nil, false, now) // ipconf was first
	now = now.Add(time.Hour)
	f.catalogue("eu", named("a"), false, now)
	now = now.Add(10 * time.Second)
	f.catalogue("eu", named("a", "b"), false, now)
	check(-1, -1)
	now = now.Add(rank.SlowStart)
	late := named("a", "b", "c")
	f.catalogue("eu", late, false, now)
	check(-1, -1, 0)
	now = now.Add(time.Second)
	late[0].Epoch = 2
	f.catalogue("eu", late, false, now)
	check(0, -1, time.Second)
}

func TestUnhealthy(t *testing.T) {
	now := time.Unix(1_000, 0)
	f := newFleet([]im.Region{"eu", "us"}, 5*time.Second, 3*time.Second)
	f.catalogue("eu", named("a", "b"), false, now)
	usable := func() string {
		s := ""
		gateways, _ := f.candidates([]im.Region{"eu", "us"}, anyVersion, now)
		for _, g := range gateways {
			if !g.Dead {
				s += g.ID
			}
		}
		return s
	}
	if got := usable(); got != "ab" {
		t.Fatalf("new gateways have a while to be heard of: %q", got)
	}
	now = now.Add(6 * time.Second)
	heard(f, now, "a")
	if got := usable(); got != "a" {
		t.Fatalf("b was never heard of and is handed out: %q", got)
	}
	now = now.Add(6 * time.Second)
	if got := usable(); got != "ab" {
		t.Fatalf("nobody is heard of: then it is we who are deaf: %q", got)
	}
	heard(f, now, "b")
	if got := usable(); got != "b" {
		t.Fatalf("a fell silent: %q", got)
	}
}

func anyVersion(string) (float64, bool) { return 1, false }

// Clients' reports about a gateway that answers make it less likely; about a silent one they are believed, until it is heard.
func TestReports(t *testing.T) {
	now := time.Unix(1_000, 0)
	f := newFleet([]im.Region{"eu"}, 5*time.Second, 3*time.Second)
	f.catalogue("eu", named("a", "b"), false, now)
	look := func() (errors float64, dead bool) {
		list, _ := f.candidates([]im.Region{"eu"}, anyVersion, now)
		return list[0].Errors, list[0].Dead
	}
	heard(f, now, "a", "b")
	a := f.regions["eu"].gateways["a"]
	for range 1000 {
		f.report(a, now)
	}
	if errors, dead := look(); dead || errors != rank.MaxErrors {
		t.Fatalf("a gateway that answers is complained of: errors %v, dead %v", errors, dead)
	}
	now = now.Add(4 * time.Second)
	for range 2 {
		f.report(a, now)
	}
	if _, dead := look(); !dead {
		t.Fatal("a silent gateway that a thousand could not reach lately is handed out")
	}
	heard(f, now, "a")
	if _, dead := look(); dead {
		t.Fatal("a gateway that is heard again is still left out")
	}
	now = now.Add(60 * time.Second)
	f.report(a, now)
	if _, dead := look(); dead {
		t.Fatal("in a region that is not heard, one report was believed")
	}
	f.report(a, now)
	f.report(a, now)
	if _, dead := look(); !dead {
		t.Fatal("three reports about a gateway of a silent region were not believed")
	}
	now = now.Add(rank.Ban)
	if _, dead := look(); dead {
		t.Fatal("it is never tried again")
	}
}

// A region whose gateways clients could not reach is back when it is heard, not when its gateways are tried again.
func TestARegionIsBackWhenItIsHeard(t *testing.T) {
	now := time.Unix(1_000, 0)
	eu := []im.Region{"eu"}
	f := newFleet(eu, 5*time.Second, 3*time.Second)
	f.catalogue("eu", named("a", "b"), false, now)
	heard(f, now, "a", "b")
	look := func() (usable int) {
		list, _ := f.candidates(eu, anyVersion, now)
		for _, g := range list {
			if !g.Dead {
				usable++
			}
		}
		return usable
	}
	if look(); !f.back("eu").IsZero() {
		t.Fatal("a region that was never without gateways is back")
	}
	now = now.Add(6 * time.Second)
	for _, id := range []string{"a", "b"} {
		for range 3 {
			f.report(f.regions["eu"].gateways[id], now)
		}
	}
	if look() != 0 {
		t.Fatal("gateways of a silent region that clients could not reach are handed out")
	}
	for range 20 { // their ban is over, and on
		now = now.Add(rank.Ban / 10)
		if look() > 0 && f.back("eu") != now {
			t.Fatalf("a region of which nothing is heard takes more clients from %v on", f.back("eu"))
		}
	}
	now = now.Add(rank.Ban)
	heard(f, now, "a")
	if look() != 1 || f.back("eu") != now {
		t.Fatalf("a region that is heard again is back since %v, want %v", f.back("eu"), now)
	}
	back := now
	now = now.Add(4 * time.Second)
	if look(); f.back("eu") != back {
		t.Fatal("a region that is back is back again")
	}
}

// In a silent region most of whose gateways clients could not reach, none is handed out.
func TestASilentRegionThatClientsComplainOf(t *testing.T) {
	now := time.Unix(1_000, 0)
	f := newFleet([]im.Region{"eu"}, 5*time.Second, 3*time.Second)
	f.catalogue("eu", named("a", "b", "c", "d"), false, now)
	heard(f, now, "a", "b", "c", "d")
	now = now.Add(6 * time.Second)
	usable := func() (ids string) {
		list, _ := f.candidates([]im.Region{"eu"}, anyVersion, now)
		for _, g := range list {
			if !g.Dead {
				ids += g.ID
			}
		}
		return ids
	}
	for _, c := range []struct{ id, left string }{{"a", "bcd"}, {"b", "cd"}, {"c", ""}} {
		for range 3 {
			f.report(f.regions["eu"].gateways[c.id], now)
		}
		if got := usable(); got != c.left {
			t.Fatalf("after complaints of %s %q are handed out, want %q", c.id, got, c.left)
		}
	}
	if heard(f, now, "d"); usable() != "d" {
		t.Fatalf("one is heard, %q are handed out", usable())
	}
}

// Whatever single readings discovery gives, one look never removes more than half of a region.
func TestOneLookNeverEmpties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000, 0)
		f := newFleet([]im.Region{"eu"}, 5*time.Second, 3*time.Second)
		for range rapid.IntRange(1, 20).Draw(t, "readings") {
			now = now.Add(time.Duration(rapid.IntRange(0, 10).Draw(t, "seconds")) * time.Second)
			before := map[string]bool{}
			for _, i := range f.instances("eu") {
				before[i.ID] = true
			}
			var ids []string
			for i := range 6 {
				if rapid.Bool().Draw(t, "named") {
					ids = append(ids, fmt.Sprint(i))
				}
			}
			f.catalogue("eu", named(ids...), false, now)
			kept := 0
			for _, i := range f.instances("eu") {
				if before[i.ID] {
					kept++
				}
			}
			if 2*kept < len(before) {
				t.Fatalf("one reading removed %d of %d", len(before)-kept, len(before))
			}
		}
	})
}
