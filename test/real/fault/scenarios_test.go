//go:build real && linux

package fault

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/internal/gameday"
)

// TestGameDay plays every scenario in its short form on three regions, through the orders and pages of the running cluster
// as antipode gameday does.
func TestGameDay(t *testing.T) {
	c := shared.of(t, "three", shared.threeRegions, nil)
	view := app.NewClusterView(c.Plan())
	t.Cleanup(view.Close)
	remote := &cluster.Remote{URL: c.URL(), Header: console.Header}
	on := gameday.Cluster{Cluster: view, Truth: view, Links: remote, Members: remote, Watcher: view}
	var err error
	if on.StandIns, err = view.StandIns(); err != nil {
		t.Fatal(err)
	}
	scenarios, err := gameday.Scenarios()
	if err != nil {
		t.Fatal(err)
	}
	var results []*gameday.Result
	for i, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			r, err := gameday.Play(t.Context(), gameday.Config{
				Prefix: fmt.Sprintf("day-%d", i), Heal: healLimit, Settle: settleLimit, Log: func(line string) { t.Log(line) },
			}, s, on)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Passed() || r.Summary.Sent == 0 || r.Summary.ReceivedOnce != r.Summary.Sent || len(r.Samples) == 0 {
				t.Error(r.Line())
				for _, v := range r.Violations {
					t.Error(v)
				}
			}
			results = append(results, r)
			shared.add(row{"game day: " + s.Name, r.Seen.String(), seconds(r.Recovered), seconds(r.Took)})
		})
	}
	var page bytes.Buffer
	if err := gameday.WriteReport(&page, results); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "gameday.html"), page.Bytes(), 0o644); err != nil {
		t.Error(err)
	}
}
