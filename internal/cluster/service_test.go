package cluster

import (
	"slices"
	"strings"
	"testing"
)

// Services use their region's share of the processors, at least one, unless the environment says how many; what configures
// services does not come from the environment.
func TestEnvironment(t *testing.T) {
	t.Setenv("ANTIPODE_LISTEN", ":1")
	for _, c := range []struct {
		said                string
		processors, regions int
		want                string
	}{
		{"", 2, 3, "GOMAXPROCS=1"},
		{"", 8, 3, "GOMAXPROCS=2"},
		{"", 2, 1, "GOMAXPROCS=2"},
		{"5", 8, 3, "GOMAXPROCS=5"},
	} {
		t.Setenv("GOMAXPROCS", c.said)
		env := environment(c.processors, c.regions)
		if !slices.Contains(env, c.want) {
			t.Errorf("%d processors, %d regions, GOMAXPROCS=%q: want %s", c.processors, c.regions, c.said, c.want)
		}
		if slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "ANTIPODE_") }) {
			t.Error("what configures services comes from the environment")
		}
	}
}
