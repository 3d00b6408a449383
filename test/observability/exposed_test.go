package observability

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/antipode-im/antipode/im"
)

// exposed is what there is to query: by metric, the labels and the values they have.
type exposed map[string]map[string]map[string]bool

// builtin are Prometheus's own.
func builtin() exposed {
	e := exposed{}
	for _, l := range []string{"job", "region", "service", "instance"} { // of the scrape configuration, ../../observability/prometheus.yml
		e.add("up", map[string]string{l: ""})
	}
	e["up"]["job"] = map[string]bool{"antipode": true}
	e.add("ALERTS", map[string]string{"alertname": "", "alertstate": "firing", "severity": "page"})
	return e
}

func (e exposed) add(metric string, labels map[string]string) {
	if e[metric] == nil {
		e[metric] = map[string]map[string]bool{}
	}
	for label, value := range labels {
		if e[metric][label] == nil {
			e[metric][label] = map[string]bool{}
		}
		e[metric][label][value] = true
	}
}

// parse adds what a /metrics page shows.
func (e exposed) parse(page io.Reader) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	if err != nil {
		return err
	}
	for name, f := range families {
		for _, m := range f.Metric {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				e.add(name+"_sum", labels)
				e.add(name+"_count", labels)
				e.add(name+"_bucket", labels)
				e.add(name+"_bucket", map[string]string{"le": "+Inf"})
			case dto.MetricType_SUMMARY:
				e.add(name+"_sum", labels)
				e.add(name+"_count", labels)
			default:
				e.add(name, labels)
			}
		}
	}
	return nil
}

// record adds a recorded metric: its name's first part says its labels.
func (e exposed) record(name string) {
	level, _, _ := strings.Cut(name, ":")
	for label := range strings.SplitSeq(level, "_") {
		e.add(name, map[string]string{label: ""})
	}
}

var alternatives = regexp.MustCompile(`^[a-z_|-]+$`)

// complaints tells what an expression, and the labels that its result is shown with, name in vain.
func (e exposed) complaints(expr string, shown []string) []string {
	var all []string
	complain := func(format string, args ...any) {
		if c := fmt.Sprintf(format, args...); !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	r := read(expr)
	known := map[string]bool{}
	for _, l := range r.made {
		known[l] = true
	}
	if len(r.selectors) == 0 && strings.Contains(expr, "antipode") {
		complain("names no metric that this test can read")
	}
	for _, s := range r.selectors {
		if len(s.names()) == 0 {
			complain("a selector names no metric")
		}
		for _, name := range s.names() {
			labels, ok := e[name]
			if !ok {
				complain("metric %s is exposed by no running instance and recorded by no rule", name)
				continue
			}
			for l := range labels {
				known[l] = true
			}
			for _, m := range s.matchers {
				if m.label == "__name__" {
					continue
				}
				values, ok := labels[m.label]
				if !ok {
					complain("metric %s has no label %s", name, m.label)
					continue
				}
				// Values that a region may take on later cannot be checked: those of variables, codes of a rare error.
				if m.op == "!=" || m.op == "!~" && m.label != "reason" || m.op == "=~" && !alternatives.MatchString(m.value) || values[""] {
					continue
				}
				for value := range strings.SplitSeq(m.value, "|") {
					if !values[value] && (m.label != "code" || !isCode(value)) {
						complain("label %s of %s never is %q", m.label, name, value)
					}
				}
			}
		}
	}
	for _, l := range slices.Concat(r.grouped, shown) {
		if !known[l] {
			complain("no metric in it has the label %s", l)
		}
	}
	return all
}

func isCode(s string) bool { return s == "ok" || slices.Contains(im.Codes(), im.Code(s)) }
