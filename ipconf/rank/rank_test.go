package rank

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "rank" {
				return "unknown command " + d.Cmd
			}
			var c Client
			closed := Closed{}
			seed := uint64(1)
			for _, a := range d.CmdArgs {
				v := strings.Join(a.Vals, ",")
				switch a.Key {
				case "want":
					c.Region = im.Region(v)
				case "near":
					c.Near = im.Region(v)
				case "last":
					c.Last = v
				case "seed":
					seed, _ = strconv.ParseUint(v, 10, 64)
				case "closed":
					r, why, _ := strings.Cut(v, ":")
					closed[im.Region(r)] = why
				case "rtt":
					c.RTT = map[im.Region]time.Duration{}
					for _, p := range a.Vals {
						r, n, _ := strings.Cut(p, ":")
						n64, _ := strconv.Atoi(n)
						c.RTT[im.Region(r)] = time.Duration(n64) * time.Millisecond
					}
				default:
					return "unknown argument " + a.Key
				}
			}
			var gateways []Gateway
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				f := strings.Fields(line)
				region, id, _ := strings.Cut(f[0], "/")
				g := Gateway{ID: id, Region: im.Region(region), Capacity: 100}
				for _, kv := range f[1:] {
					k, v, _ := strings.Cut(kv, "=")
					x, _ := strconv.ParseFloat(v, 64)
					switch k {
					case "conns":
						g.Conns = int(x)
					case "capacity":
						g.Capacity = int(x)
					case "inflight":
						g.InFlight = x
					case "cpu":
						g.CPU = x
					case "age":
						g.Age = time.Duration(x * float64(time.Second))
					case "draining":
						g.Draining = true
					case "dead":
						g.Dead = true
					default:
						return "unknown field " + k
					}
				}
				gateways = append(gateways, g)
			}
			ranked, left := Rank(gateways, closed, c, Settings{}, seed)
			var b strings.Builder
			for _, r := range ranked {
				fmt.Fprintf(&b, "%s %.2f: %s\n", gateways[r.Index].ID, r.Score, r.Why)
			}
			for _, l := range left {
				fmt.Fprintf(&b, "not %s: %s\n", gateways[l.Index].ID, l.Why)
			}
			return b.String()
		})
	})
}

func draw(t *rapid.T) ([]Gateway, Closed, Client) {
	names := []im.Region{"eu", "us", "ap"}
	closed := Closed{}
	if rapid.Bool().Draw(t, "closed") {
		closed[rapid.SampledFrom(names).Draw(t, "which")] = "draining"
	}
	n := rapid.IntRange(0, 20).Draw(t, "gateways")
	var gateways []Gateway
	for i := range n {
		gateways = append(gateways, Gateway{
			ID: fmt.Sprint(i), Region: rapid.SampledFrom(names).Draw(t, "region"),
			Conns: rapid.IntRange(0, 200).Draw(t, "conns"), Capacity: rapid.IntRange(0, 150).Draw(t, "capacity"),
			InFlight: rapid.Float64Range(0, 50).Draw(t, "in flight"), CPU: rapid.Float64Range(0, 1).Draw(t, "cpu"),
			Age:      time.Duration(rapid.IntRange(-1, 60).Draw(t, "age")) * time.Second,
			Draining: rapid.IntRange(0, 5).Draw(t, "draining") == 0, Dead: rapid.IntRange(0, 5).Draw(t, "dead") == 0,
		})
	}
	c := Client{Near: "eu", Last: fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "last"))}
	if rapid.Bool().Draw(t, "wants") {
		c.Region = rapid.SampledFrom(names).Draw(t, "want")
	}
	return gateways, closed, c
}

// No gateway is in the answer twice; only usable ones are, some of every region; the others are left out with a reason; the
// same input gives the same answer.
func TestEveryAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gateways, closed, c := draw(t)
		seed := rapid.Uint64().Draw(t, "seed")
		ranked, left := Rank(gateways, closed, c, Settings{}, seed)
		again, _ := Rank(gateways, closed, c, Settings{}, seed)
		if fmt.Sprint(ranked) != fmt.Sprint(again) {
			t.Fatalf("the same input gave %v, then %v", ranked, again)
		}
		seen := map[int]bool{}
		for i, r := range ranked {
			g := gateways[r.Index]
			if g.Dead || g.Draining || closed[g.Region] != "" {
				t.Fatalf("%+v is handed out", g)
			}
			if r.Score < 0 || r.Score > 1 || math.IsNaN(r.Score) {
				t.Fatalf("score %v", r.Score)
			}
			if g.ID == c.Last && i > 0 && c.Region == "" && measure(0, g).fill < 1 {
				t.Fatalf("the last gateway, %+v, is in place %d", g, i)
			}
			seen[r.Index] = true
		}
		for _, l := range left {
			if l.Why == "" {
				t.Fatalf("%d is left out without a reason", l.Index)
			}
			seen[l.Index] = true
		}
		if len(seen) != len(ranked)+len(left) {
			t.Fatalf("%d ranked and %d left out are %d gateways", len(ranked), len(left), len(seen))
		}
		given, usable := map[im.Region]int{}, map[im.Region]int{}
		for _, r := range ranked {
			given[gateways[r.Index].Region]++
		}
		for _, g := range gateways {
			if !g.Dead && !g.Draining && closed[g.Region] == "" {
				usable[g.Region]++
			}
		}
		for r, n := range usable {
			if given[r] < min(n, perRegion) {
				t.Fatalf("%d of %d gateways of %s are handed out", given[r], n, r)
			}
		}
	})
}

// A new empty gateway among n full ones gets at most twice its fair share of the newcomers of one moment.
func TestNoStampede(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 30} {
		gateways := make([]Gateway, n)
		for i := range gateways {
			gateways[i] = Gateway{ID: fmt.Sprint(i), Region: "eu", Conns: 80, Capacity: 100}
		}
		gateways[0].Conns = 0
		const rounds = 4000
		first := 0
		for seed := range uint64(rounds) {
			ranked, _ := Rank(gateways, nil, Client{Near: "eu"}, Settings{}, seed)
			if ranked[0].Index == 0 {
				first++
			}
		}
		share, bound := float64(first)/rounds, 2/float64(n)
		if share > bound+0.03 || share < bound-0.03 {
			t.Errorf("of %d gateways the empty one got %.3f of the newcomers, want %.3f: twice its share", n, share, bound)
		}
	}
}

// Newcomers that come between two measurements spread by what was sent already: the fullest and the emptiest stay close,
// and everybody gets a share by capacity.
func TestFairShare(t *testing.T) {
	capacities := []int{1000, 1000, 1000, 2000, 2000}
	gateways := make([]Gateway, len(capacities))
	total := 0
	for i, c := range capacities {
		gateways[i] = Gateway{ID: fmt.Sprint(i), Region: "eu", Capacity: c}
		total += c
	}
	const newcomers = 3500 // half of the capacity
	for seed := range uint64(newcomers) {
		ranked, _ := Rank(gateways, nil, Client{Near: "eu"}, Settings{}, seed)
		gateways[ranked[0].Index].InFlight++
	}
	for i, g := range gateways {
		fair := float64(newcomers) * float64(capacities[i]) / float64(total)
		if math.Abs(g.InFlight-fair) > 0.02*fair+5 {
			t.Errorf("gateway %d of capacity %d got %.0f newcomers, its fair share is %.0f", i, capacities[i], g.InFlight, fair)
		}
	}
}

func BenchmarkRank(b *testing.B) {
	for _, n := range []int{6, 60, 600, 6000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			gateways := make([]Gateway, n)
			for i := range gateways {
				gateways[i] = Gateway{
					ID: fmt.Sprint(i), Region: []im.Region{"eu", "us", "ap"}[i%3], Conns: i * 7 % 1000, Capacity: 1000,
				}
			}
			b.ReportAllocs()
			seed := uint64(0)
			for b.Loop() {
				seed++
				Rank(gateways, nil, Client{Near: "eu"}, Settings{}, seed)
			}
		})
	}
}
