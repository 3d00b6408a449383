package rank

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func draw(t *rapid.T) ([]Gateway, []Region, Client) {
	regions := []Region{{Name: "eu", Share: 1}, {Name: "us", Share: 1}, {Name: "ap", Share: 1}}
	if rapid.Bool().Draw(t, "closed") {
		r := &regions[rapid.IntRange(0, 2).Draw(t, "which")]
		r.Share, r.Why = rapid.SampledFrom([]float64{0, 0.5}).Draw(t, "share"), "draining"
	}
	var gateways []Gateway
	for i := range rapid.IntRange(0, 40).Draw(t, "gateways") {
		gateways = append(gateways, Gateway{
			ID: fmt.Sprintf("%02d", i), Region: rapid.IntRange(0, 2).Draw(t, "region"),
			Conns: rapid.IntRange(0, 200).Draw(t, "conns"), Capacity: rapid.IntRange(0, 150).Draw(t, "capacity"),
			InFlight: rapid.Float64Range(0, 50).Draw(t, "in flight"), CPU: rapid.Float64Range(0, 1).Draw(t, "cpu"),
			Net: rapid.Float64Range(0, 2).Draw(t, "net"), Errors: rapid.Float64Range(0, 1).Draw(t, "errors"),
			Age:    time.Duration(rapid.IntRange(-1, 60).Draw(t, "age")) * time.Second,
			Served: time.Duration(rapid.IntRange(-1, 60).Draw(t, "served")) * time.Second,
			Canary: rapid.Bool().Draw(t, "canary"), Version: rapid.SampledFrom([]float64{0, 0.1, -1, 2}).Draw(t, "version"),
			Draining: rapid.IntRange(0, 5).Draw(t, "draining") == 0, Dead: rapid.IntRange(0, 5).Draw(t, "dead") == 0,
		})
	}
	slices.SortStableFunc(gateways, func(a, b Gateway) int { return a.Region - b.Region })
	c := Nobody()
	c.Near, c.Canary = 0, rapid.Bool().Draw(t, "canary user")
	c.Want = rapid.IntRange(-1, 2).Draw(t, "want")
	c.Last = rapid.IntRange(-1, 45).Draw(t, "last")
	c.Forbidden = uint32(rapid.IntRange(0, 7).Draw(t, "forbidden"))
	return gateways, regions, c
}

// No gateway is in an answer twice; only usable ones of open regions are, and some of each; the same input gives the same
// answer.
func TestEveryAnswer(t *testing.T) { rapid.Check(t, everyAnswer) }

func everyAnswer(t *rapid.T) {
	gateways, regions, c := draw(t)
	table := Build(gateways, regions, Settings{})
	seed := rapid.Uint64().Draw(t, "seed")
	places := table.Draw(nil, &c, seed)
	if again := table.Draw(nil, &c, seed); !slices.Equal(places, again) {
		t.Fatalf("the same input gave %v, then %v", places, again)
	}
	seen, given := map[int]bool{}, map[int]int{}
	for _, p := range places {
		g := gateways[p.Gateway]
		if g.Dead || g.Draining || regions[g.Region].Share == 0 || c.Forbidden&(1<<g.Region) != 0 {
			t.Fatalf("%+v is handed out", g)
		}
		if p.Score < 0 || p.Score > 1 || math.IsNaN(float64(p.Score)) {
			t.Fatalf("score %v", p.Score)
		}
		if seen[p.Gateway] {
			t.Fatalf("%s is there twice", g.ID)
		}
		seen[p.Gateway] = true
		given[g.Region]++
	}
	for r := range regions {
		if table.Standing(r, &c).Closed != "" {
			continue
		}
		able := 0 // canary gateways are for canary users, where there are others
		for _, stable := range []bool{true, false} {
			for i, g := range gateways {
				if g.Region == r && g.Canary != stable && table.inverse[i] > 0 && (stable || c.Canary || able == 0) {
					able++
				}
			}
		}
		if able > 0 && given[r] < min(able, perRegion) && !(!c.Canary && given[r] > 0) {
			t.Fatalf("%d of %d gateways of region %d are handed out", given[r], able, r)
		}
	}
}

// A list is walked from its top. If the first region is dead, a few failures lead to the others, which come in an order drawn
// by room and nearness: the clients of a dead region, told so or not, do not all go next door.
func TestOtherRegionsFollowSoonAndSpread(t *testing.T) {
	var gateways []Gateway
	for r := range 3 {
		for i := range 40 {
			gateways = append(gateways, Gateway{ID: fmt.Sprintf("%02d", i), Region: r, Conns: 500, Capacity: 1000, Served: -1})
		}
	}
	table := Build(gateways, []Region{{Name: "a", Share: 1}, {Name: "b", Share: 1}, {Name: "c", Share: 1}}, Settings{})
	c := Nobody()
	c.RTT[0], c.RTT[1], c.RTT[2] = 10, 50, 80 // proximities of b and c: 1/2, 1/2.6
	const times = 10_000
	next := [3]int{}
	for seed := range uint64(times) {
		places := table.Draw(nil, &c, seed)
		of := func(i int) int { return gateways[places[i].Gateway].Region }
		if len(places) != 32 || of(0) != 0 || of(lead-1) != 0 || of(31) != 0 {
			t.Fatalf("%d places, of region %d first", len(places), of(0))
		}
		if of(lead+perRegion-1) != of(lead) || of(lead+perRegion) == of(lead) {
			t.Fatalf("the %d places after the first %d are of several regions: %v", perRegion, lead, places)
		}
		next[of(lead)]++
	}
	near, far := 0.5*0.5, 1/2.6/2.6
	if got, want := float64(next[1])/times, near/(near+far); next[0] > 0 || math.Abs(got-want) > 0.02 {
		t.Errorf("the nearer region comes next for %.3f of the clients, want %.3f: %v", got, want, next)
	}
}

// One moment's newcomers: an empty gateway among n that are three quarters full gets what its room is worth, no more.
func TestNoStampede(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 30} {
		gateways := make([]Gateway, n)
		for i := range gateways {
			gateways[i] = Gateway{ID: fmt.Sprintf("%02d", i), Conns: 7500, Capacity: 10000, Served: -1}
		}
		gateways[0].Conns = 0
		table := Build(gateways, []Region{{Name: "eu", Share: 1}}, Settings{})
		const newcomers = 4000
		got := 0
		for seed := range uint64(newcomers) {
			first := table.Draw(nil, &Client{Want: -1, Home: -1, Last: -1}, seed)[0].Gateway
			table.Take(first)
			if first == 0 {
				got++
			}
		}
		share, fair := float64(got)/newcomers, 4/float64(n+3)
		if math.Abs(share-fair) > 0.02 {
			t.Errorf("of %d gateways the empty one got %.3f of the newcomers, its room is %.3f of all", n, share, fair)
		}
		gateways[0].Served = 0
		table = Build(gateways, []Region{{Name: "eu", Share: 1}}, Settings{})
		got = 0
		for seed := range uint64(newcomers) {
			first := table.Draw(nil, &Client{Want: -1, Home: -1, Last: -1}, seed)[0].Gateway
			table.Take(first)
			if first == 0 {
				got++
			}
		}
		if share := float64(got) / newcomers; share > 1.2*0.4/(float64(n)-1+0.4) {
			t.Errorf("of %d gateways one that was heard of this moment got %.3f of the newcomers", n, share)
		}
	}
}

// Newcomers that come between two measurements stay within a few of their shares by weight, closer than drawing alone.
func TestFairShare(t *testing.T) {
	const n, newcomers = 50, 20_000
	gateways := make([]Gateway, n)
	total := 0.0
	for i := range gateways {
		gateways[i] = Gateway{ID: fmt.Sprintf("%02d", i), Capacity: 1000 * (1 + i%3), Served: -1}
		total += float64(gateways[i].Capacity)
	}
	table := Build(gateways, []Region{{Name: "eu", Share: 1}}, Settings{})
	got := make([]float64, n)
	c := Nobody()
	var places []Place
	for seed := range uint64(newcomers) {
		places = table.Draw(places[:0], &c, seed)
		table.Take(places[0].Gateway)
		got[places[0].Gateway]++
	}
	for i, g := range gateways {
		if fair := newcomers * float64(g.Capacity) / total; math.Abs(got[i]-fair) > 8+0.01*fair {
			t.Errorf("gateway %d of capacity %d got %.0f newcomers, its fair share is %.0f", i, g.Capacity, got[i], fair)
		}
	}
}

// Gateways that are all at full CPU share newcomers by their room, whatever chance makes of the last tenth, and their region is open;
// one that is idle beside them gets five times as much.
func TestFullCPUIsShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const newcomers = 4_000
		gateways := make([]Gateway, rapid.IntRange(2, 8).Draw(t, "gateways"))
		for i := range gateways {
			gateways[i] = Gateway{ID: fmt.Sprintf("%02d", i), Capacity: 1_000_000, CPU: rapid.Float64Range(0.9, 1).Draw(t, "cpu"), Served: -1}
		}
		share := func() []float64 {
			table := Build(gateways, []Region{{Name: "eu", Share: 1}, {Name: "us", Share: 1}}, Settings{})
			c := Nobody()
			c.Near = 0
			got := make([]float64, len(gateways))
			var places []Place
			for seed := range uint64(newcomers) {
				places = table.Draw(places[:0], &c, seed)
				if len(places) == 0 {
					t.Fatal("a region at full CPU counts as full")
				}
				table.Take(places[0].Gateway)
				got[places[0].Gateway] += float64(len(gateways)) / newcomers
			}
			return got
		}
		for i, part := range share() {
			if math.Abs(part-1) > 0.03 {
				t.Errorf("at full CPU, gateway %d of %d got %.3f of its fair share", i, len(gateways), part)
			}
		}
		gateways[0].CPU = 0
		if got := share(); math.Abs(got[0]/got[1]-5) > 0.2 {
			t.Errorf("an idle gateway beside others at full CPU got %.2f times as much", got[0]/got[1])
		}
	})
}

// The alias method draws by weight.
func TestPoolDrawsByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Float64Range(0.01, 100), 1, 12).Draw(t, "weights")
		var p pool
		total := 0.0
		for i, w := range weights {
			p.members = append(p.members, int32(i))
			total += w
		}
		p.build(weights, nil)
		got := make([]float64, len(weights))
		for i := range weights {
			got[i] = float64(p.accept[i]) / (1<<32 - 1)
		}
		sum := slices.Clone(got)
		for i := range weights {
			if got[i] < 1 {
				sum[p.alias[i]] += 1 - got[i]
			}
		}
		for i, w := range weights {
			if want := w / total * float64(len(weights)); math.Abs(sum[i]-want) > 1e-6 {
				t.Fatalf("weight %v of %v is drawn for %v of %d buckets, want %v", w, total, sum[i], len(weights), want)
			}
		}
	})
}

func TestSent(t *testing.T) {
	now := time.Unix(1_000, 0)
	var f Sent
	f.Add(now)
	f.Add(now)
	now = now.Add(2 * time.Second)
	f.Add(now)
	if recent, n := f.Count(now); n != 3 || recent != 3 {
		t.Fatalf("%v recent, %v in flight, want 3", recent, n)
	}
	f.Settle(now) // the first two are in the load by now
	if recent, n := f.Count(now); n != 1 || recent != 3 {
		t.Fatalf("%v recent, %v in flight after a measurement, want 3 and 1", recent, n)
	}
	if recent, n := f.Count(now.Add(8 * time.Second)); n != 0 || recent != 0 {
		t.Fatalf("%v recent, %v in flight long after, want 0", recent, n)
	}
}

func fleetOfSize(n int) ([]Gateway, []Region) {
	regions := []Region{{Name: "ap", Share: 1}, {Name: "eu", Share: 1}, {Name: "us", Share: 1}}
	gateways := make([]Gateway, n)
	for i := range gateways {
		gateways[i] = Gateway{
			ID: fmt.Sprintf("gw-%05d", i), Region: i * len(regions) / n, Conns: i * 7 % 1000 * 1_000_000, Capacity: 1_000_000_000,
			CPU: float64(i%10) / 10, Age: time.Duration(i%2000) * time.Millisecond, Served: -1,
		}
	}
	return gateways, regions
}

var sizes = []int{10, 100, 1_000, 10_000}

// BenchmarkDraw answers one client: what an answer costs.
func BenchmarkDraw(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("gateways=%d", n), func(b *testing.B) {
			gateways, regions := fleetOfSize(n)
			table := Build(gateways, regions, Settings{})
			c := Nobody()
			c.Near, c.RTT[2] = 1, 30
			places := make([]Place, 0, 64)
			b.ReportAllocs()
			seed := uint64(0)
			for b.Loop() {
				seed++
				places = table.Draw(places[:0], &c, seed)
				table.Take(places[0].Gateway)
			}
		})
	}
}

// BenchmarkBuild prepares the fleet for answers: done ten times a second, however many clients ask.
func BenchmarkBuild(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("gateways=%d", n), func(b *testing.B) {
			gateways, regions := fleetOfSize(n)
			b.ReportAllocs()
			for b.Loop() {
				Build(gateways, regions, Settings{})
			}
		})
	}
}
