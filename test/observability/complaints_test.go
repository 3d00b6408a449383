package observability

import (
	"reflect"
	"strings"
	"testing"
)

// TestComplaints shows the checks queries that are wrong.
func TestComplaints(t *testing.T) {
	page := `# TYPE antipode_a_calls_total counter
antipode_a_calls_total{region="eu",method="submit",code="ok"} 1
# TYPE antipode_a_sheds_total counter
antipode_a_sheds_total{region="eu",reason="rate"} 0
# TYPE antipode_a_time_seconds histogram
antipode_a_time_seconds_bucket{region="eu",le="1"} 1
antipode_a_time_seconds_bucket{region="eu",le="+Inf"} 1
antipode_a_time_seconds_sum{region="eu"} 0.5
antipode_a_time_seconds_count{region="eu"} 1
`
	have := builtin()
	if err := have.parse(strings.NewReader(page)); err != nil {
		t.Fatal(err)
	}
	have.record("region_code:antipode_a_calls:rate5m")
	for _, c := range []struct {
		expr  string
		shown []string
		want  string // part of the one complaint; none if empty
	}{
		{expr: `sum by (region) (rate(antipode_a_calls_total{method="submit", region=~"$region"}[5m])) > 0.5`},
		{expr: `histogram_quantile(0.99, sum by (region, le) (rate(antipode_a_time_seconds_bucket[5m])))`, shown: []string{"region"}},
		{expr: `region_code:antipode_a_calls:rate5m{code!="ok"} unless on (region) antipode_a_sheds_total offset 5m`},
		{expr: `antipode_a_calls_total{code=~"unavailable|ok"}`},
		{expr: `up{job="antipode"} == 0 and ALERTS{alertname="X}{"}`},
		{expr: `label_replace(up, "peer", "$1", "region", "(.*)") * on (peer) group_left () antipode_a_sheds_total`, shown: []string{"peer"}},
		{expr: `sum({__name__=~"antipode_a_calls_total|antipode_a_sheds_total"})`},

		{expr: `rate(antipode_a_call_total[5m])`, want: "metric antipode_a_call_total is exposed by no"},
		{expr: `1 - antipode_a_time_seconds`, want: "metric antipode_a_time_seconds is exposed by no"},
		{expr: `region_code:antipode_a_calls:rate1m`, want: "recorded by no rule"},
		{expr: `go_goroutines{region="eu"}`, want: "metric go_goroutines is exposed by no"},
		{expr: `sum({__name__=~"antipode_a_calls_total|antipode_b_total"})`, want: "metric antipode_b_total"},
		{expr: `antipode_a_calls_total{gateway="x"}`, want: "has no label gateway"},
		{expr: `antipode_a_calls_total{method="sumbit"}`, want: `label method of antipode_a_calls_total never is "sumbit"`},
		{expr: `antipode_a_calls_total{code="unavail"}`, want: `never is "unavail"`},
		{expr: `antipode_a_sheds_total{reason!~"rate|slow"}`, want: `never is "slow"`},
		{expr: `region_code:antipode_a_calls:rate5m{lane="direct"}`, want: "has no label lane"},
		{expr: `sum by (origin) (antipode_a_calls_total)`, want: "no metric in it has the label origin"},
		{expr: `antipode_a_calls_total`, shown: []string{"peer"}, want: "no metric in it has the label peer"},
	} {
		got := have.complaints(c.expr, c.shown)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s: got %q, want %q", c.expr, got, c.want)
		}
	}
}

func TestRead(t *testing.T) {
	got := read(`sum by (a, b) (rate(x:y_z{c="d}", e=~"f|g"}[5m])) / on (a) group_left (h) (label_replace(w, "made", "$1", "b", "(.*)") > 1e3) or {__name__="v"}`)
	want := reading{
		selectors: []selector{
			{"x:y_z", []matcher{{"c", "=", "d}"}, {"e", "=~", "f|g"}}}, {name: "w"}, {matchers: []matcher{{"__name__", "=", "v"}}},
		},
		grouped: []string{"a", "b", "a", "h"},
		made:    []string{"made"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}
