// Command grafana writes antipode.json, the Grafana dashboard of Antipode:
//
//	go run . > antipode.json
//
// It is a module of its own, so that Grafana's SDK is no dependency of the services. Import the file into Grafana; it asks for
// a Prometheus data source that scrapes the regions and loads ../rules. A test in test/observability holds every query to
// what a running region exposes.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func main() {
	d, err := build()
	if err == nil {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		err = out.Encode(d)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

// source is the data source that the variable of that name chooses.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${source}")}
}

func build() (dashboard.Dashboard, error) {
	b := dashboard.NewDashboardBuilder("Antipode").
		Uid("antipode").
		Description("Regions, links, views and gateways. The words are those of docs/architecture.md; the alerts' sections are in docs/runbook.md.").
		Tags([]string{"antipode"}).
		Timezone("browser").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Refresh("30s").
		Time("now-1h", "now").
		WithVariable(dashboard.NewDatasourceVariableBuilder("source").Label("Prometheus").Type("prometheus")).
		WithVariable(choice("region", `label_values(go_info{service!=""}, region)`)).
		WithVariable(choice("service", `label_values(go_info{region=~"$region"}, service)`)).
		Annotation(dashboard.NewAnnotationQueryBuilder().
			Name("alerts").Datasource(source()).Enable(true).IconColor("red").
			Expr(`ALERTS{alertname=~"Antipode.*", alertstate="firing", severity="page"}`))
	id := uint32(0)
	next := func() uint32 { id++; return id }
	for _, r := range rows() {
		b = b.WithRow(dashboard.NewRowBuilder(r.title).Id(next()))
		for _, p := range r.panels {
			b = b.WithPanel(p.build(next()))
		}
	}
	return b.Build()
}

// choice is a variable whose values Prometheus knows: any number of them, all by default.
func choice(name, query string) *dashboard.QueryVariableBuilder {
	all := dashboard.VariableOption{
		Selected: cog.ToPtr(true),
		Text:     dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}},
		Value:    dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
	}
	return dashboard.NewQueryVariableBuilder(name).Datasource(source()).
		Query(dashboard.StringOrMap{String: cog.ToPtr(query)}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).IncludeAll(true).Current(all)
}

// A row of the dashboard.
type row struct {
	title  string
	panels []panel
}

// A panel shows queries over time, or with now set their last values, as tiles.
type panel struct {
	title, text string
	unit        string
	width       uint32 // of 24; 8 if 0
	now         bool
	warn, alarm float64 // from where on it is yellow and red; 0: never
	queries     []query
}

type query struct{ expr, legend string }

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	width := p.width
	if width == 0 {
		width = 8
	}
	if p.now {
		b := stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.text).Datasource(source()).Unit(p.unit).Height(7).Span(width).
			GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeBackground).TextMode(common.BigValueTextModeValueAndName).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
			Thresholds(p.thresholds())
		for i, q := range p.queries {
			b = b.WithTarget(q.build(i).Instant())
		}
		return b
	}
	b := timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.text).Datasource(source()).Unit(p.unit).Height(8).Span(width).
		Min(0).FillOpacity(8).ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		Thresholds(p.thresholds())
	if p.alarm > 0 {
		b = b.ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
	}
	for i, q := range p.queries {
		b = b.WithTarget(q.build(i))
	}
	return b
}

func (q query) build(i int) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + i)))
}

func (p panel) thresholds() *dashboard.ThresholdsConfigBuilder {
	steps := []dashboard.Threshold{{Value: nil, Color: "green"}}
	if p.warn > 0 {
		steps = append(steps, dashboard.Threshold{Value: &p.warn, Color: "yellow"})
	}
	if p.alarm > 0 {
		steps = append(steps, dashboard.Threshold{Value: &p.alarm, Color: "red"})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)
}
