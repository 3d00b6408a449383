// Package plot draws simple line charts as SVG, for documents: no scripts, no fonts to fetch, readable on light and dark
// pages.
package plot

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Line is one series; points with a NaN break it.
type Line struct {
	Name   string
	Color  string
	Dashed bool
	X, Y   []float64
}

// Band is an area between two series.
type Band struct {
	Name         string
	Color        string
	X, Low, High []float64
}

// Mark is a vertical line with a word beside it.
type Mark struct {
	X    float64
	Text string
}

// Chart is one panel.
type Chart struct {
	Title          string
	XLabel, YLabel string
	XMax, YMax     float64 // axes begin at 0
	Bands          []Band
	Lines          []Line
	Marks          []Mark
}

const (
	width, panel             = 960, 280
	left, right, top, bottom = 70, 20, 46, 42
)

// Write writes the charts, one below the other.
func Write(w io.Writer, title string, charts ...Chart) error {
	var b strings.Builder
	height := 34 + panel*len(charts)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" role="img">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="16" font-weight="600" fill="#1b1f24">%s</text>`+"\n", left, html.EscapeString(title))
	for i := range charts {
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", 34+i*panel)
		charts[i].write(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Chart) write(b *strings.Builder) {
	x := func(v float64) float64 { return left + v/c.XMax*(width-left-right) }
	y := func(v float64) float64 { return panel - bottom - min(v, c.YMax)/c.YMax*(panel-top-bottom) }
	fmt.Fprintf(b, `<text x="%d" y="18" font-weight="600" fill="#1b1f24">%s</text>`+"\n", left, html.EscapeString(c.Title))
	for _, v := range ticks(c.YMax) {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#d8dee4"/><text x="%d" y="%.1f" text-anchor="end" fill="#57606a">%s</text>`+"\n",
			left, y(v), width-right, left-8, y(v)+4, number(v))
	}
	for _, v := range ticks(c.XMax) {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#57606a">%s</text>`+"\n", x(v), panel-bottom+16, number(v))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#57606a">%s</text>`+"\n", width-right, panel-bottom+32, html.EscapeString(c.XLabel))
	fmt.Fprintf(b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle" fill="#57606a">%s</text>`+"\n",
		(panel+top-bottom)/2, html.EscapeString(c.YLabel))
	legend := float64(left)
	name := func(text, color string, wide int) {
		if text == "" {
			return
		}
		fmt.Fprintf(b, `<path d="M%.1f 34h16" stroke="%s" stroke-width="%d"/><text x="%.1f" y="38" fill="#1b1f24">%s</text>`+"\n",
			legend, color, wide, legend+21, html.EscapeString(text))
		legend += 21 + 6.6*float64(len([]rune(text))) + 16
	}
	for _, band := range c.Bands {
		name(band.Name, band.Color, 8)
		var forth, back strings.Builder
		for i := range band.X {
			fmt.Fprintf(&forth, "%s%.1f %.1f", verb(i), x(band.X[i]), y(band.High[i]))
		}
		for i := len(band.X) - 1; i >= 0; i-- {
			fmt.Fprintf(&back, "L%.1f %.1f", x(band.X[i]), y(band.Low[i]))
		}
		fmt.Fprintf(b, `<path d="%s%sZ" fill="%s"/>`+"\n", forth.String(), back.String(), band.Color)
	}
	for _, line := range c.Lines {
		name(line.Name, line.Color, 2)
		var d strings.Builder
		pen := 0
		for i := range line.X {
			if math.IsNaN(line.Y[i]) {
				pen = 0
				continue
			}
			fmt.Fprintf(&d, "%s%.1f %.1f", verb(pen), x(line.X[i]), y(line.Y[i]))
			pen++
		}
		dash := ""
		if line.Dashed {
			dash = ` stroke-dasharray="5 4"`
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.8"%s/>`+"\n", d.String(), line.Color, dash)
	}
	for i, m := range c.Marks {
		fmt.Fprintf(b, `<path d="M%.1f %dV%d" stroke="#57606a" stroke-dasharray="2 3"/><text x="%.1f" y="%d" text-anchor="end" fill="#57606a">%s</text>`+"\n",
			x(m.X), top, panel-bottom, x(m.X)-4, top+40+16*(i%3), html.EscapeString(m.Text))
	}
}

func verb(i int) string {
	if i == 0 {
		return "M"
	}
	return "L"
}

// ticks are four to eight round numbers up to most.
func ticks(most float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, f := range []float64{1, 0.5, 0.25, 0.2, 0.1} {
		if n := most / (step * f); n >= 4 {
			step *= f
			break
		}
	}
	var list []float64
	for i := 0; float64(i)*step <= most*1.0001; i++ {
		list = append(list, float64(i)*step)
	}
	return list
}

func number(v float64) string {
	switch {
	case v >= 1_000_000:
		return fmt.Sprintf("%gM", v/1_000_000)
	case v >= 10_000:
		return fmt.Sprintf("%gk", v/1_000)
	}
	return fmt.Sprintf("%.4g", v)
}
