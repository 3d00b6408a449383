package rank

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/antipode-im/antipode/im"
)

// TestScripts: a script describes a fleet (lines region/id key=value…, regions with "share"), and asks.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			regions, gateways := fleetOf(t, d.Input)
			table := Build(gateways, regions, Settings{})
			switch d.Cmd {
			case "factors":
				return factorsText(table)
			case "rank":
				return rankText(t, table, regions, d.CmdArgs)
			}
			return "unknown command " + d.Cmd
		})
	})
}

func fleetOf(t *testing.T, input string) (regions []Region, gateways []Gateway) {
	index := func(name string) int {
		if i := slices.IndexFunc(regions, func(r Region) bool { return r.Name == im.Region(name) }); i >= 0 {
			return i
		}
		regions = append(regions, Region{Name: im.Region(name), Share: 1})
		return len(regions) - 1
	}
	for _, line := range strings.Split(strings.TrimSpace(input), "\n") {
		f := strings.Fields(line)
		name, id, isGateway := strings.Cut(f[0], "/")
		r := index(name)
		g := Gateway{ID: id, Region: r, Capacity: 100, Served: -1}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			x, _ := strconv.ParseFloat(v, 64)
			switch k {
			case "share":
				regions[r].Share, regions[r].Why = x, "draining"
			case "conns":
				g.Conns = int(x)
			case "capacity":
				g.Capacity = int(x)
			case "inflight":
				g.InFlight, g.Recent = x, x
			case "cpu":
				g.CPU = x
			case "net":
				g.Net = x
			case "errors":
				g.Errors = x
			case "version":
				g.Version = x
			case "age":
				g.Age = time.Duration(x * float64(time.Second))
			case "served":
				g.Served = time.Duration(x * float64(time.Second))
			case "canary":
				g.Canary = true
			case "draining":
				g.Draining = true
			case "dead":
				g.Dead = true
			default:
				t.Fatalf("unknown field %s", k)
			}
		}
		if isGateway {
			gateways = append(gateways, g)
		}
	}
	slices.SortStableFunc(gateways, func(a, b Gateway) int { return a.Region - b.Region })
	return regions, gateways
}

func factorsText(table *Table) string {
	var b strings.Builder
	for i := range table.Len() {
		f, w := table.Factors(i)
		fmt.Fprintf(&b, "%s room=%.2f cpu=%.2f net=%.2f sound=%.2f start=%.2f version=%.2f trust=%.2f score=%.2f weight=%.1f\n",
			table.Gateway(i).ID, f.Room, f.CPU, f.Net, f.Sound, f.Start, f.Version, f.Trust, f.Score(), w)
	}
	return b.String()
}

// rankText draws a thousand times, and tells who is first how often, and one whole answer.
func rankText(t *testing.T, table *Table, regions []Region, args []datadriven.CmdArg) string {
	c := Nobody()
	at := func(name string) int {
		return slices.IndexFunc(regions, func(r Region) bool { return r.Name == im.Region(name) })
	}
	for _, a := range args {
		v := strings.Join(a.Vals, ",")
		switch a.Key {
		case "want":
			c.Want = at(v)
		case "home":
			c.Home = at(v)
		case "near":
			c.Near = at(v)
		case "forbid":
			c.Forbidden |= 1 << at(v)
		case "last":
			c.Last = table.Find(-1, v)
		case "canary":
			c.Canary = true
		case "rtt":
			for _, p := range a.Vals {
				r, n, _ := strings.Cut(p, ":")
				ms, _ := strconv.Atoi(n)
				c.RTT[at(r)] = uint16(ms)
			}
		default:
			t.Fatalf("unknown argument %s", a.Key)
		}
	}
	var b strings.Builder
	for i := range regions {
		s := table.Standing(i, &c)
		fmt.Fprintf(&b, "region %s: rtt=%d proximity=%.2f open=%.2f", regions[i].Name, s.RTT.Milliseconds(), s.Proximity, s.Open)
		if s.Closed != "" {
			fmt.Fprintf(&b, " closed: %s", s.Closed)
		}
		b.WriteByte('\n')
	}
	const times = 1000
	first := map[string]int{}
	for seed := range uint64(times) {
		if places := table.Draw(nil, &c, seed); len(places) > 0 {
			first[table.Gateway(places[0].Gateway).ID]++
		}
	}
	for i := range table.Len() {
		if n := first[table.Gateway(i).ID]; n > 0 {
			fmt.Fprintf(&b, "%s first %d %%\n", table.Gateway(i).ID, (n+5)/10)
		}
	}
	for _, p := range table.Draw(nil, &c, 0) {
		fmt.Fprintf(&b, "%s %.2f %s\n", table.Gateway(p.Gateway).ID, p.Score, p.Why)
	}
	return b.String()
}
