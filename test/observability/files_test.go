package observability

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/goccy/go-yaml"
)

const dir = "../../observability"

// rule is one of a rules file.
type rule struct {
	Record      string
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

// rules reads all rules files.
func rules(t *testing.T) (all []rule) {
	t.Helper()
	for _, name := range glob(t, "rules/*.yaml") {
		var file struct{ Groups []struct{ Rules []rule } }
		load(t, name, yaml.Unmarshal, &file)
		for _, g := range file.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

// ruleTest is a case of a file for promtool test rules.
type ruleTest struct {
	Name  string
	Tests []struct {
		Expr    string `yaml:"expr"`
		Samples []struct {
			Labels string `yaml:"labels"`
		} `yaml:"exp_samples"`
	} `yaml:"promql_expr_test"`
}

func ruleTests(t *testing.T) (all []ruleTest) {
	t.Helper()
	for _, name := range glob(t, "rules/tests/*.yaml") {
		var file struct{ Tests []ruleTest }
		load(t, name, yaml.Unmarshal, &file)
		all = append(all, file.Tests...)
	}
	return all
}

// shownQuery is a query of the dashboard.
type shownQuery struct{ panel, expr, legend string }

var (
	listed = regexp.MustCompile(`^label_values\((.*),\s*([a-zA-Z_]+)\)$`)
	field  = regexp.MustCompile(`\{\{\s*([a-zA-Z_]+)\s*\}\}`)
)

// dashboard reads the queries of the dashboard: of panels, variables and annotations.
func dashboard(t *testing.T) (all []shownQuery) {
	t.Helper()
	var file struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      any
			}
		}
		Annotations struct {
			List []struct{ Name, Expr string }
		}
	}
	load(t, filepath.Join(dir, "grafana/antipode.json"), json.Unmarshal, &file)
	for _, p := range file.Panels {
		for _, q := range p.Targets {
			all = append(all, shownQuery{p.Title, q.Expr, q.LegendFormat})
		}
	}
	for _, v := range file.Templating.List {
		text, _ := v.Query.(string)
		if m := listed.FindStringSubmatch(text); m != nil {
			all = append(all, shownQuery{"variable " + v.Name, m[1], "{{" + m[2] + "}}"})
		} else if v.Type == "query" {
			t.Errorf("variable %s: its query %v lists no label's values", v.Name, v.Query)
		}
	}
	for _, a := range file.Annotations.List {
		if a.Expr != "" {
			all = append(all, shownQuery{"annotation " + a.Name, a.Expr, ""})
		}
	}
	if len(all) < 20 {
		t.Fatalf("found %d queries only in the dashboard", len(all))
	}
	return all
}

func fields(text string) (names []string) {
	for _, m := range field.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return names
}

func load(t *testing.T, name string, unmarshal func([]byte, any) error, into any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
