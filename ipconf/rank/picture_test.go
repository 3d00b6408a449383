package rank_test

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/antipode-im/antipode/ipconf/plot"
	"github.com/antipode-im/antipode/ipconf/rank"
)

var update = flag.Bool("update", false, "write the picture of the formula into docs/images")

// TestPicture holds the picture in docs to the code: go test ./ipconf/rank -run Picture -update draws it.
func TestPicture(t *testing.T) {
	const file = "../../docs/images/ipconf-score.svg"
	factor := func(g rank.Gateway, others ...rank.Gateway) rank.Factors {
		table := rank.Build(append([]rank.Gateway{g}, others...), []rank.Region{{Name: "eu", Share: 1}}, rank.Settings{})
		f, _ := table.Factors(0)
		return f
	}
	line := func(name, color string, to float64, f func(x float64) float64) plot.Line {
		l := plot.Line{Name: name, Color: color}
		for i := range 101 {
			x := to * float64(i) / 100
			l.X, l.Y = append(l.X, x), append(l.Y, f(x))
		}
		return l
	}
	seconds := func(x float64) time.Duration { return time.Duration(x * float64(time.Second)) }
	used := plot.Chart{
		Title: "Factors by what is used", XLabel: "part used, or failed", YLabel: "factor", XMax: 1, YMax: 1,
		Lines: []plot.Line{
			line("room, by conns", "#0969da", 1, func(x float64) float64 {
				return factor(rank.Gateway{Conns: int(x * 1000), Capacity: 1000, Served: -1}).Room
			}),
			line("cpu", "#1a7f37", 1, func(x float64) float64 { return factor(rank.Gateway{CPU: x, Served: -1}).CPU }),
			line("net", "#8250df", 1, func(x float64) float64 { return factor(rank.Gateway{Net: x, Served: -1}).Net }),
			line("sound, by error rate", "#cf222e", 1, func(x float64) float64 { return factor(rank.Gateway{Errors: x, Served: -1}).Sound }),
		},
	}
	full := rank.Gateway{Conns: 800, Capacity: 1000, Served: -1}
	times := plot.Chart{
		Title: "Factors by time", XLabel: "seconds", YLabel: "factor", XMax: 40, YMax: 1,
		Lines: []plot.Line{
			line("start, since it was first heard of", "#8250df", 40, func(x float64) float64 { return factor(rank.Gateway{Served: seconds(x)}).Start }),
			line("room of an empty one whose load is so old, beside one that is 80 % full", "#0969da", 40, func(x float64) float64 {
				return factor(rank.Gateway{Capacity: 1000, Age: seconds(x), Served: -1}, full).Room
			}),
		},
	}
	nearness := plot.Chart{
		Title: "A region's proximity by round trip", XLabel: "ms", YLabel: "proximity", XMax: 300, YMax: 3,
		Lines: []plot.Line{
			line("to a client", "#0969da", 300, func(x float64) float64 { return proximity(x, false) }),
			line("to a user who is at home there", "#1a7f37", 300, func(x float64) float64 { return proximity(x, true) }),
		},
	}
	spill := plot.Chart{
		Title: "The probability that the nearest region takes a client", XLabel: "part of its capacity that is taken", YLabel: "probability", XMax: 1, YMax: 1,
		Lines: []plot.Line{line("active", "#0969da", 0.999, func(x float64) float64 {
			table := rank.Build([]rank.Gateway{{Conns: int(x * 1000), Capacity: 1000, Served: -1}}, []rank.Region{{Name: "eu", Share: 1}}, rank.Settings{})
			c := rank.Nobody()
			return table.Standing(0, &c).Open
		})},
	}
	var b bytes.Buffer
	if err := plot.Write(&b, "What ipconf ranks by", used, times, nearness, spill); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not the picture of the formula (%v): go test ./ipconf/rank -run Picture -update", file, err)
	}
}

func proximity(ms float64, home bool) float64 {
	table := rank.Build([]rank.Gateway{{Served: -1}}, []rank.Region{{Name: "eu", Share: 1}}, rank.Settings{})
	c := rank.Nobody()
	c.RTT[0] = max(1, uint16(ms))
	if home {
		c.Home = 0
	}
	return table.Standing(0, &c).Proximity
}
