package gameday

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/internal/demo"
)

//go:embed report.html
var reportText string

// WriteReport writes a page about results: a table, and for each a time line of faults, latency, lag and violations. The page
// needs nothing but itself.
func WriteReport(w io.Writer, results []*Result) error {
	t, err := template.New("report").Parse(reportText)
	if err != nil {
		return err
	}
	p := page{Passed: true}
	for _, r := range results {
		p.Passed = p.Passed && r.Passed()
		p.Results = append(p.Results, draw(r))
	}
	if len(results) > 0 {
		p.Began = results[0].Began.Format("2006-01-02 15:04:05 MST")
	}
	return t.Execute(w, p)
}

type page struct {
	Passed  bool
	Began   string
	Results []drawing
}

// drawing is a result in the units of its picture.
type drawing struct {
	*Result
	Verdict                          string
	Width                            int
	BandsHigh, LatencyY, LagY, AxisY int
	Seconds                          []mark // of the time axis
	Bands                            []band // of what was broken
	Checks                           []mark
	Within, Across                   string // points of the slowest delivery, one a second
	Lag                              string // of the link that was furthest behind
	MaxLatency, MaxLag               string
}

type mark struct {
	X    int
	Text string
	Bad  bool
}

type band struct {
	X, Y, Width int
	Text        string
}

const (
	pictureWide = 1000
	plotHigh    = 80
	bandHigh    = 18
	gapHigh     = 22
)

func draw(r *Result) drawing {
	d := drawing{Result: r, Width: pictureWide, Verdict: "held"}
	switch {
	case len(r.Violations) > 0:
		d.Verdict = "violated"
	case r.Err != nil:
		d.Verdict = "failed"
	}
	total := max(r.Took, time.Second)
	x := func(at time.Time) int {
		return int(float64(pictureWide) * max(0, min(1, at.Sub(r.Began).Seconds()/total.Seconds())))
	}
	step := axisStep(total)
	for s := time.Duration(0); s <= total; s += step {
		d.Seconds = append(d.Seconds, mark{X: x(r.Began.Add(s)), Text: s.String()})
	}
	d.Bands, d.Checks = r.bands(x)
	for _, b := range d.Bands {
		d.BandsHigh = max(d.BandsHigh, b.Y+bandHigh)
	}
	d.LatencyY = d.BandsHigh + gapHigh
	d.LagY = d.LatencyY + plotHigh + gapHigh
	d.AxisY = d.LagY + plotHigh

	within, across := latencies(r.Ops, r.Began, func(o demo.Op, s demo.Showing) bool { return o.From == s.Region }),
		latencies(r.Ops, r.Began, func(o demo.Op, s demo.Showing) bool { return o.From != s.Region })
	top := 1.0
	for _, m := range []map[int]float64{within, across} {
		for _, v := range m {
			top = max(top, v)
		}
	}
	points := func(m map[int]float64, high float64) string {
		var b strings.Builder
		for _, s := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, "%d,%.1f ", x(r.Began.Add(time.Duration(s)*time.Second)), plotHigh*(1-logShare(m[s], high)))
		}
		return b.String()
	}
	d.Within, d.Across = points(within, top), points(across, top)
	d.MaxLatency = fmt.Sprintf("%.2g s", top/1000)
	lags, topLag := map[int]float64{}, 1.0
	for _, s := range r.Samples {
		worst := 0.0
		for _, l := range s.Lags {
			worst = max(worst, l)
		}
		second := int(s.At.Sub(r.Began).Seconds())
		lags[second] = max(lags[second], worst*1000)
		topLag = max(topLag, worst*1000)
	}
	d.Lag, d.MaxLag = points(lags, topLag), fmt.Sprintf("%.2g s", topLag/1000)
	return d
}

// bands are what was broken, a row for each thing, and the moments of checks.
func (r *Result) bands(x func(time.Time) int) (bands []band, checks []mark) {
	began := map[string]time.Time{} // what is broken, since when
	rows := map[string]int{}
	for _, e := range r.Events {
		switch {
		case e.Breaks:
			if _, broken := began[e.Text]; !broken {
				began[e.Text] = e.At
			}
			if _, seen := rows[e.Text]; !seen {
				rows[e.Text] = len(rows)
			}
		case e.Mends:
			for _, what := range slices.Sorted(maps.Keys(began)) {
				if mended(what, e.Text) {
					from := x(began[what])
					bands = append(bands, band{X: from, Y: rows[what] * bandHigh, Width: max(2, x(e.At.Add(e.Took))-from), Text: what})
					delete(began, what)
				}
			}
		default:
			checks = append(checks, mark{X: x(e.At.Add(e.Took)), Text: fmt.Sprintf("%s: %.1f s", e.Text, e.Took.Seconds()), Bad: e.Err != nil})
		}
	}
	return bands, checks
}

// undoes tells which steps a step undoes.
var undoes = map[string][]string{
	"heal": {"cut", "split", "delay"}, "start": {"kill", "stop", "restart", "wipe"}, "resume": {"pause"}, "clock": {"clock"},
}

// mended tells whether a step undid another.
func mended(broken, mend string) bool {
	if mend == mendAll {
		return true
	}
	verb, target := words(mend)
	brokenVerb, brokenTarget := words(broken)
	return slices.Contains(undoes[verb], brokenVerb) &&
		(target == "all" || target == brokenTarget || strings.HasPrefix(brokenTarget, target+"/"))
}

// words are a step's verb and the first word after it.
func words(step string) (verb, target string) {
	f := strings.Fields(step)
	if len(f) < 2 {
		return step, ""
	}
	return f[0], f[1]
}

// latencies are the highest from sending to being shown, in ms, by the second of sending.
func latencies(ops []demo.Op, began time.Time, counts func(demo.Op, demo.Showing) bool) map[int]float64 {
	worst := map[int]float64{}
	for _, o := range ops {
		for _, s := range o.Shown {
			if s.At.IsZero() || !counts(o, s) {
				continue
			}
			second := int(o.Sent.Sub(began).Seconds())
			worst[second] = max(worst[second], float64(s.At.Sub(o.Sent).Microseconds())/1000)
		}
	}
	return worst
}

// logShare is where a value stands between 1 and the highest on a logarithmic axis, from 0 to 1.
func logShare(v, high float64) float64 {
	if high <= 1 {
		return 0
	}
	return max(0, min(1, math.Log(max(v, 1))/math.Log(high)))
}

// Height is that of the whole picture.
func (d drawing) Height() int { return d.AxisY + gapHigh }

// axisStep gives a time line at most 20 marks.
func axisStep(total time.Duration) time.Duration {
	steps := [...]time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute}
	for _, s := range steps {
		if total/s <= 20 {
			return s
		}
	}
	return total / 20
}
