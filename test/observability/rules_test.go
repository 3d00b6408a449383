// Package observability holds rules, dashboard and runbook to each other and to what running regions expose. It needs
// promtool; `make test-infra` runs it.
package observability

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("promtool is not on the PATH: install Prometheus (on Debian: apt-get install prometheus), or leave ./test/observability out")
	}
	if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	promtool(t, append([]string{"check", "rules"}, glob(t, "rules/*.yaml")...)...)
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	promtool(t, append([]string{"test", "rules"}, glob(t, "rules/tests/*.yaml")...)...)
}

func TestPromtoolAcceptsTheScrapeConfiguration(t *testing.T) {
	promtool(t, "check", "config", filepath.Join(dir, "prometheus.yml"))
}

// TestPromtoolAcceptsTheDashboard shows promtool the dashboard's queries as if they were rules.
func TestPromtoolAcceptsTheDashboard(t *testing.T) {
	type recorded struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	type group struct {
		Name  string     `yaml:"name"`
		Rules []recorded `yaml:"rules"`
	}
	g := group{Name: "dashboard"}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$region", "eu|us", "$service", ".*")
	for _, q := range dashboard(t) {
		name := "panel:" + regexp.MustCompile(`[^a-zA-Z]+`).ReplaceAllString(q.panel, "_")
		g.Rules = append(g.Rules, recorded{name, variables.Replace(q.expr)})
	}
	text, err := yaml.Marshal(map[string][]group{"groups": {g}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

func TestDashboardIsCurrent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "run", ".")
	cmd.Dir = filepath.Join(dir, "grafana")
	cmd.Stderr = os.Stderr
	want, err := cmd.Output()
	if err != nil {
		t.Fatalf("go run in %s: %v", cmd.Dir, err)
	}
	have, err := os.ReadFile(filepath.Join(dir, "grafana/antipode.json"))
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Error("antipode.json is not what its program writes: in observability/grafana, go run . > antipode.json")
	}
}

var alertOf = regexp.MustCompile(`^ALERTS\{alertname="(\w+)", alertstate="firing"\}$`)

// TestEveryAlertIsTested wants each alert seen to fire and not to, with every label that its texts show.
func TestEveryAlertIsTested(t *testing.T) {
	fires, silent, labels := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, c := range ruleTests(t) {
		for _, e := range c.Tests {
			m := alertOf.FindStringSubmatch(e.Expr)
			if m == nil || m[1] != c.Name {
				t.Errorf("case %s asks for %s", c.Name, e.Expr)
				continue
			}
			if len(e.Samples) == 0 {
				silent[c.Name] = true
				continue
			}
			fires[c.Name] = true
			labels[c.Name] = e.Samples[0].Labels
		}
	}
	label := regexp.MustCompile(`\$labels\.([a-z_]+)`)
	seen := map[string]bool{}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if seen[r.Alert] {
			t.Errorf("%s is there twice", r.Alert)
		}
		seen[r.Alert] = true
		if !fires[r.Alert] {
			t.Errorf("no test sees %s fire", r.Alert)
		}
		if !silent[r.Alert] {
			t.Errorf("no test sees %s not fire", r.Alert)
		}
		for _, m := range label.FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
			if !strings.Contains(labels[r.Alert], m[1]+`="`) {
				t.Errorf("%s shows the label %s, and has %s", r.Alert, m[1], labels[r.Alert])
			}
		}
	}
	for name := range fires {
		if !seen[name] {
			t.Errorf("%s is tested, and there is no such alert", name)
		}
	}
}

const runbook = "https://github.com/antipode-im/antipode/blob/main/docs/runbook.md#"

// TestEveryAlertHasItsSection holds alerts and runbook together.
func TestEveryAlertHasItsSection(t *testing.T) {
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	name := ""
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "### "):
			name = strings.TrimSpace(strings.TrimPrefix(line, "### "))
		case strings.HasPrefix(line, "#"):
			name = ""
		}
		if name != "" {
			sections[name] += line
		}
	}
	var alerts []string
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		alerts = append(alerts, r.Alert)
		section := sections[r.Alert]
		if section == "" {
			t.Errorf("docs/runbook.md has no section ### %s", r.Alert)
		}
		for _, part := range []string{"**Means**", "**Users see**", "**Do**"} {
			if section != "" && !strings.Contains(section, part) {
				t.Errorf("the section %s of docs/runbook.md has no %s", r.Alert, part)
			}
		}
		if !strings.Contains(section, "`"+r.Labels["severity"]+"`") {
			t.Errorf("the section %s of docs/runbook.md does not say its severity %s", r.Alert, r.Labels["severity"])
		}
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s: severity %q: want page or ticket", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || len(r.Annotations["description"]) < 80 {
			t.Errorf("%s: it needs a summary, and a description that says where to look", r.Alert)
		}
		if got, want := r.Annotations["runbook_url"], runbook+strings.ToLower(r.Alert); got != want {
			t.Errorf("%s: runbook_url is %s, want %s", r.Alert, got, want)
		}
	}
	for name := range sections {
		if strings.HasPrefix(name, "Antipode") && !slices.Contains(alerts, name) {
			t.Errorf("docs/runbook.md has a section %s, and there is no such alert", name)
		}
	}
}
