package storm

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/antipode-im/antipode/ipconf/plot"
)

// WriteSVG draws the arrivals per gateway and second, the imbalance, and how many are connected again.
func (r *Result) WriteSVG(w io.Writer) error {
	n := len(r.Seconds)
	if r.Config.Return < 0 && r.Settled > 0 {
		n = min(n, int(r.Settled/time.Second)+3)
	}
	xs := make([]float64, n)
	column := func(f func(Second) float64) []float64 {
		ys := make([]float64, n)
		for i := range ys {
			ys[i] = f(r.Seconds[i])
		}
		return ys
	}
	for i := range xs {
		xs[i] = float64(i)
	}
	end := float64(n)
	most, worst := 0.0, 1.3
	for _, s := range r.Seconds[:n] {
		most, worst = max(most, float64(s.Max)), max(worst, s.Imbalance*1.05)
	}
	unknown := func(v float64) float64 {
		if v == 0 {
			return math.NaN()
		}
		return v
	}
	arrivals := plot.Chart{
		Title: "Arrivals at a surviving gateway in a second", XLabel: "seconds since the region died", YLabel: "logins/s", XMax: end, YMax: most * 1.1,
		Bands: []plot.Band{{
			Name: "5 % to 95 % of the gateways", Color: "#b6d7ff", X: xs,
			Low: column(func(s Second) float64 { return float64(s.Low) }), High: column(func(s Second) float64 { return float64(s.High) }),
		}},
		Lines: []plot.Line{
			{Name: "median", Color: "#0969da", X: xs, Y: column(func(s Second) float64 { return float64(s.Median) })},
			{Name: "most", Color: "#cf222e", X: xs, Y: column(func(s Second) float64 { return float64(s.Max) })},
			{Name: "most, in the region that died", Color: "#1a7f37", X: xs, Y: column(func(s Second) float64 { return float64(s.Returned) })},
		},
	}
	flat := func(v float64) []float64 { return column(func(Second) float64 { return v }) }
	imbalance := plot.Chart{
		Title: "Imbalance: most that a gateway got, by its fair share of its region's newcomers", XLabel: "seconds", YLabel: "× fair share", XMax: end, YMax: worst,
		Lines: []plot.Line{
			{Name: "in each second (with 400 newcomers a gateway or more)", Color: "#8250df", X: xs, Y: column(func(s Second) float64 { return unknown(s.Imbalance) })},
			{Name: "bound: 1.2", Color: "#cf222e", Dashed: true, X: xs, Y: flat(1.2)},
		},
	}
	connected := plot.Chart{
		Title: "Connected again, and told to wait", XLabel: "seconds", YLabel: "part of the clients", XMax: end, YMax: 1,
		Lines: []plot.Line{
			{Name: "connected", Color: "#1a7f37", X: xs, Y: column(func(s Second) float64 { return s.Connected })},
			{Name: "in the region that died", Color: "#0969da", X: xs, Y: column(func(s Second) float64 { return s.Home })},
			{Name: "told to wait, in this second", Color: "#bf8700", X: xs, Y: column(func(s Second) float64 { return float64(s.Waits) / float64(r.Config.Clients) })},
		},
	}
	for _, m := range []struct {
		at   time.Duration
		text string
	}{{r.Settled95, "95 %"}, {r.Settled, "99.5 %"}} {
		if m.at > 0 {
			connected.Marks = append(connected.Marks, plot.Mark{X: m.at.Seconds(), Text: fmt.Sprintf("%s after %v s", m.text, m.at.Seconds())})
		}
	}
	title := fmt.Sprintf("%d clients of a dead region find one of %d gateways (%s)", r.Config.Clients, r.Config.Gateways, r.Config.Strategy)
	imbalance.Title += fmt.Sprintf(" (all in all %.3f)", r.Imbalance)
	return plot.Write(w, title, arrivals, imbalance, connected)
}
