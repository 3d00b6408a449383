//go:build real && linux

package fault

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/demo"
)

// TestLoseDisks: a region burns down with all its disks, while ap has more of its log than us. An operator declares it
// lost; the others go on, and have every record that it acked as global. Then it returns with empty disks under the next
// epoch of its origin, by the orders and in the order of docs/operations.md, which the others follow as they run, and users are
// let in when it has caught up.
func TestLoseDisks(t *testing.T) {
	c := shared.of(t, "three", shared.threeRegions, nil)
	t.Cleanup(func() { // a region in its second epoch is nobody else's: what comes next begins anew
		if err := shared.end(); err != nil {
			t.Error(err)
		}
	})
	f := beginIn(t, c, "loss of a region with its disks")
	left := &rest{Cluster: c}
	f.where = left
	global := f.more(demo.TrafficConfig{Pairs: 1, Group: true, Every: 20 * time.Millisecond, Ack: im.AckGlobal})
	f.await(30*time.Second, func() (bool, string) {
		_, n := global.Kept(eu, us)
		return n >= 50, "not enough messages of eu are acked as global"
	})
	for _, to := range []im.Region{us, ap} { // ap gets ahead of us, and then eu of both
		if err := f.Cut(t.Context(), eu, to); err != nil {
			t.Fatal(err)
		}
		f.accepts(time.Now(), 30*time.Second, eu)
	}
	f.breaks(f.Kill, "eu")
	f.burns(eu)
	said := f.antipode("region", "lose", "eu", "--config", f.replicator(us))
	if !strings.Contains(said, "is sealed") || !strings.Contains(said, "were shipped between the regions that are left") {
		t.Errorf("us and ap held the same of eu's log, or it is not sealed: %s", said)
	}
	left.lost = eu
	since := time.Now()
	f.flows(since, 60*time.Second, nil, nil) // those who were in eu are elsewhere now
	f.await(60*time.Second, func() (bool, string) { return global.Flows(since, nil, nil) })
	f.seen = f.traffic.Seen(f.broke)
	f.keeps(global, left)
	f.extra = nil

	// It comes back. The others hear of its next epoch from it, while users write: nothing of them is started again.
	before := f.pids()
	f.traffic = f.more(demo.TrafficConfig{Pairs: 1, Group: true, Every: 250 * time.Millisecond})
	next := f.next(eu)
	f.healed = time.Now()
	for _, part := range []string{"kafka", "postgres", "redis", "consul"} {
		f.do(f.Start, "eu/"+part)
	}
	region, _ := next.Region(eu)
	f.antipode("migrate", "--config", region.Config)
	for _, to := range []im.Region{us, ap} {
		if err := f.Heal(t.Context(), eu, to); err != nil {
			t.Fatal(err)
		}
	}
	if said := f.antipode("region", "return", "--config", f.replicator(eu)); !strings.Contains(said, "eu goes on as eu.2: 0 records that nobody had received") {
		t.Errorf("with empty disks eu returned with: %s", said)
	}
	f.do(f.Start, "eu")
	f.antipode("region", "activate", "--wait", "2m", "--config", f.replicator(eu))
	left.lost = ""
	ctx, cancel := context.WithTimeout(t.Context(), healLimit)
	defer cancel()
	if err := f.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	f.traffic = f.more(demo.TrafficConfig{Pairs: 1, Group: true, Every: 250 * time.Millisecond})
	f.flows(time.Now(), healLimit, nil, nil)
	f.took = seconds(time.Since(f.healed))
	accepted := false
	for _, op := range f.traffic.Ops() {
		accepted = accepted || op.Ack.Origin == "eu.2"
	}
	if !accepted {
		t.Error("nobody wrote in eu under its next epoch")
	}
	view := app.NewClusterView(next)
	defer view.Close()
	f.truth = view
	f.judge()
	for name, pid := range f.pids() {
		if !strings.HasPrefix(name, "eu/") && before[name] != pid {
			t.Errorf("%s was process %d and is %d", name, before[name], pid)
		}
	}
}

// rest is a cluster as those see it who know that a region is lost.
type rest struct {
	*app.Cluster
	lost im.Region
}

// Regions lists those that are left.
func (r *rest) Regions() []im.Region {
	return slices.DeleteFunc(r.Cluster.Regions(), func(region im.Region) bool { return region == r.lost })
}

// view asks the regions that are left alone.
func (r *rest) view() *app.ClusterView {
	plan := *r.Plan()
	plan.Regions = slices.DeleteFunc(slices.Clone(plan.Regions), func(p cluster.RegionPlan) bool { return p.Name == r.lost })
	return app.NewClusterView(&plan)
}

// burns removes all that a region's backends kept.
func (f *fault) burns(region im.Region) {
	f.Helper()
	r, _ := f.Plan().Region(region)
	for _, m := range r.Members {
		if m.Dir != "" {
			if err := os.RemoveAll(m.Dir); err != nil {
				f.Fatal(err)
			}
		}
	}
}

// replicator is the configuration that orders about a region take.
func (f *fault) replicator(region im.Region) string {
	r, _ := f.Plan().Region(region)
	return r.Of("replicator")[0].Config
}

// antipode runs a command as an operator does, and returns what it says.
func (f *fault) antipode(args ...string) string {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 3*time.Minute)
	defer cancel()
	began := time.Now()
	out, err := exec.CommandContext(ctx, shared.binary, args...).CombinedOutput()
	f.Logf("antipode %s (%s):\n%s", strings.Join(args, " "), seconds(time.Since(began)), out)
	if err != nil {
		f.Fatalf("antipode %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// keeps judges what users wrote with global acks before and after a region was lost, and counts what others lost.
func (f *fault) keeps(global *demo.Traffic, left *rest) {
	f.Helper()
	view := left.view()
	defer view.Close()
	for _, traffic := range f.extra {
		traffic.Stop()
	}
	ctx, cancel := context.WithTimeout(f.Context(), 2*settleLimit)
	defer cancel()
	global.MayLose("eu")
	h, err := global.Settle(ctx, settleLimit, view)
	if err != nil {
		f.Fatal(err)
	}
	kept := 0
	h.Submits = slices.DeleteFunc(h.Submits, func(s checker.Submit) bool {
		if s.Ack.Origin == "eu" && s.Ack.Global {
			kept++
		}
		return s.Ack.Origin == "eu" && !s.Ack.Global // it was told: accepted in region only
	})
	h.Receivers = nil // some were shown in eu what was never acked, and is lost
	for _, v := range checker.Check(h) {
		f.Error(v)
	}
	logged := map[im.ID]bool{}
	for _, l := range h.Logs {
		logged[l.ID] = true
	}
	lost, acked := 0, 0
	for _, op := range f.traffic.Ops() {
		if op.Ack.Origin == "eu" {
			acked++
			if !logged[op.ID] {
				lost++
			}
		}
	}
	f.Logf("of %d messages that eu acked as global none is lost; of %d that it acked in region only %d are", kept, acked, lost)
	if kept == 0 || lost == 0 {
		f.Error("the test shows nothing")
	}
	for _, traffic := range f.extra {
		traffic.Close()
	}
}

// next plans the cluster with a region in the next epoch of its origin, and has the services of that region configured so from
// their next start on.
func (f *fault) next(region im.Region) *cluster.Plan {
	f.Helper()
	file := f.Plan().File
	file.Regions = slices.Clone(file.Regions)
	for i := range file.Regions {
		if file.Regions[i].Name == region {
			file.Regions[i].Epoch = 2
		}
	}
	plan, err := cluster.NewPlan(file)
	if err != nil {
		f.Fatal(err)
	}
	configs, err := plan.Configs()
	if err != nil {
		f.Fatal(err)
	}
	for path, text := range configs {
		if !strings.HasPrefix(path, filepath.Join(plan.Data, string(region))+"/") {
			continue
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			f.Fatal(err)
		}
	}
	return plan
}
