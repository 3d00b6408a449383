//go:build real && linux

// Package upgrade runs regions whose services are partly of the last release (tools/released), or of the commit before, and partly
// of the present code, as they are in the middle of an upgrade and of a way back, while users go on writing to each other; and holds
// them to invariants I1 to I9.
package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/demo"
	"github.com/antipode-im/antipode/internal/testenv"
)

// Bounds of the machine's patience, not of what is promised: they are wide, so that a busy one passes.
const (
	buildLimit  = 10 * time.Minute
	startLimit  = 4 * time.Minute
	swapLimit   = 2 * time.Minute
	flowLimit   = time.Minute
	settleLimit = 90 * time.Second
)

// TestMixed runs two regions in which every service has instances of both versions, on each side of every call, link and
// log. Then each instance is replaced by one of the other version, in the order in which services are upgraded, so that
// what one version wrote is read, taken over and gone on with by the other: half of the instances are upgraded, the other
// half goes back.
func TestMixed(t *testing.T) {
	s := sources(t)
	released, present := s.run(filepath.Join(s.root, "tools", "released")), s.present()
	c, users := mix(t, released, present)
	c.swap(released, present)
	c.flows(users, "after every instance was replaced by one of the other version")
	c.finish(present)
	c.judge(users)
}

// TestBesideTheCommitBefore runs the same mixture with the code of one commit ago: what a commit changes without a version shows with
// it, and not when a release is made.
func TestBesideTheCommitBefore(t *testing.T) {
	s := sources(t)
	present := s.present()
	c, users := mix(t, s.before(), present)
	c.finish(present)
	c.judge(users)
}

// mix starts a cluster in which users reach each other through services of both versions.
func mix(t *testing.T, other, present string) (*mixed, []*demo.Traffic) {
	t.Helper()
	c := start(t, testenv.ForTest(t), other, present)
	c.run(1, other)
	c.run(2, present)
	c.up()
	users := []*demo.Traffic{
		c.users(demo.TrafficConfig{Name: "plain", Pairs: 1, Group: true, Every: 200 * time.Millisecond}),
		c.users(demo.TrafficConfig{Name: "global", Pairs: 1, Every: 400 * time.Millisecond, Ack: im.AckGlobal}),
	}
	c.flows(users, "at first")
	return c, users
}

// repository is the code, with its history.
type repository struct {
	*testing.T
	root string
}

func sources(t *testing.T) repository {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return repository{t, root}
}

// run runs a program there, and returns what it says.
func (s repository) run(name string, args ...string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), buildLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.root, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		s.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String())
}

// present builds what is there.
func (s repository) present() string {
	s.Helper()
	binary := filepath.Join(s.TempDir(), "antipode")
	s.run("go", "build", "-o", binary, "./cmd/antipode")
	return binary
}

// before builds the commit before what is there: the last one, if something was changed since.
func (s repository) before() string {
	s.Helper()
	commit := "HEAD~1"
	if s.run("git", "status", "--porcelain", "--untracked-files=no") != "" {
		commit = "HEAD"
	}
	if !strings.Contains(s.run("git", "rev-list", "--max-count=2", "HEAD"), "\n") {
		s.Fatal("the commit before is not in this clone of the repository: fetch the history that is missing (git fetch --unshallow)")
	}
	archive, dir := filepath.Join(s.TempDir(), "sources.tar"), s.TempDir()
	s.run("git", "archive", "--output="+archive, commit)
	s.run("tar", "-x", "-f", archive, "-C", dir)
	binary := filepath.Join(dir, "antipode.bin")
	s.run("go", "-C", dir, "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-o", binary, "./cmd/antipode")
	return binary
}

// mixed is a cluster of two versions.
type mixed struct {
	*testing.T
	*app.Cluster
}

// start prepares a cluster, which its migrations upgrade first, as docs/operations.md says.
func start(t *testing.T, env *testenv.Env, released, present string) *mixed {
	t.Helper()
	f := cluster.DefaultFile()
	f.Data, f.Listen, f.Traces = env.Dir("cluster"), env.Host(0)+":7400", ""
	f.LinkDelay = 20 * time.Millisecond
	f.Kafka.Heap, f.Kafka.Quick = 192, true
	f.Services = cluster.Services{IPConf: 1, Gateway: 2, Router: 2, IMServer: 2, Replicator: 1}
	f.Regions = []cluster.Region{{Name: "eu", Host: env.Host(1)}, {Name: "us", Host: env.Host(2)}}
	c, err := app.NewCluster(app.ClusterConfig{File: f, Binary: present, Progress: func(line string) {
		fmt.Fprintf(t.Output(), "%s launcher: %s\n", time.Now().Format("15:04:05.0"), line)
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := &mixed{t, c}
	t.Cleanup(func() {
		if t.Failed() {
			m.logs()
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, member := range c.Plan().Members() {
		if member.Service() {
			m.suits(released, member.Config)
		}
	}
	return m
}

// suits takes the keys out of a configuration file that a version does not know: they stand at their defaults, which hold
// without them too.
func (m *mixed) suits(binary, file string) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), startLimit)
	defer cancel()
	said, err := exec.CommandContext(ctx, binary, "config", "check", file).CombinedOutput()
	if err == nil {
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		m.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for _, unknown := range regexp.MustCompile(`(?m):(\d+): \S+: unknown key`).FindAllSubmatch(said, -1) {
		n, err := strconv.Atoi(string(unknown[1]))
		if err != nil || n > len(lines) {
			m.Fatalf("%s: %q", file, unknown[0])
		}
		first := depth(lines[n-1])
		lines[n-1] = ""
		for ; n < len(lines) && depth(lines[n]) > first; n++ { // what is in the section
			lines[n] = ""
		}
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644); err != nil {
		m.Fatal(err)
	}
	if said, err := exec.CommandContext(ctx, binary, "config", "check", file).CombinedOutput(); err != nil {
		m.Fatalf("the released version refuses %s: %v\n%s", file, err, said)
	}
}

func depth(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// group tells which of two groups a service's instance is in: in the first region the first instances, in the second the
// others. So both versions of every service run in each region that has two, and else on the two sides of a link.
func (m *mixed) group(member cluster.MemberPlan) int {
	first := member.Region == m.Plan().Regions[0].Name
	if (member.Number == 1) == first {
		return 1
	}
	return 2
}

// run has a group run a version from the next start on.
func (m *mixed) run(group int, binary string) {
	m.Helper()
	for _, member := range m.Plan().Members() {
		if member.Service() && m.group(member) == group {
			if err := m.Use(member.Name, binary); err != nil {
				m.Fatal(err)
			}
		}
	}
}

func (m *mixed) up() {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), startLimit)
	defer cancel()
	began := time.Now()
	if err := m.Up(ctx); err != nil {
		m.Fatal(err)
	}
	m.Logf("both versions are up (%.1f s)", time.Since(began).Seconds())
}

// stages are what is restarted together, in the order of an upgrade.
func stages() [][]string {
	return [][]string{{"imserver", "router"}, {"replicator"}, {"gateway", "ipconf"}}
}

// swap exchanges the versions of all instances, one instance of a service and region at a time.
func (m *mixed) swap(released, present string) {
	m.Helper()
	m.run(1, present)
	m.run(2, released)
	for _, kinds := range stages() {
		for number := range 2 {
			m.restart(kinds, func(member cluster.MemberPlan) bool { return member.Number == number+1 })
		}
	}
}

// finish brings the routers up to the present version: what a digest of routes is made of differs between versions, and
// equal ones are promised of equal versions.
func (m *mixed) finish(present string) {
	m.Helper()
	m.run(2, present)
	m.restart([]string{"router"}, func(member cluster.MemberPlan) bool { return m.group(member) == 2 })
}

// restart restarts instances, all at once, and waits until the whole cluster is ready.
func (m *mixed) restart(kinds []string, which func(cluster.MemberPlan) bool) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), swapLimit)
	defer cancel()
	began := time.Now()
	var names []string
	for _, member := range m.Plan().Members() {
		if slices.Contains(kinds, member.Kind) && which(member) {
			names = append(names, member.Name)
		}
	}
	if names == nil { // there is one of each only
		return
	}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = m.Restart(ctx, name) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		m.Fatal(err)
	}
	if err := m.WaitReady(ctx); err != nil {
		m.Fatal(err)
	}
	m.Logf("%s replaced (%.1f s)", strings.Join(names, ", "), time.Since(began).Seconds())
}

// users begin to write.
func (m *mixed) users(cfg demo.TrafficConfig) *demo.Traffic {
	m.Helper()
	cfg.Log = func(line string) { m.Log(line) }
	ctx, cancel := context.WithTimeout(m.Context(), startLimit)
	defer cancel()
	traffic, err := demo.StartTraffic(ctx, cfg, m.Cluster)
	if err != nil {
		m.Fatalf("users cannot connect: %v", err)
	}
	m.Cleanup(traffic.Close)
	return traffic
}

// flows waits until what everybody sends from now on reaches everybody.
func (m *mixed) flows(users []*demo.Traffic, when string) {
	m.Helper()
	since := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		all, why := true, ""
		for _, traffic := range users {
			if ok, missing := traffic.Flows(since, nil, nil); !ok {
				all, why = false, missing
			}
		}
		switch {
		case all:
			m.Logf("everybody reaches everybody %s (%.1f s)", when, time.Since(since).Seconds())
			return
		case time.Since(since) > flowLimit:
			m.Fatalf("not within %v %s: %s", flowLimit, when, why)
		}
		select {
		case <-tick.C:
		case <-m.Context().Done():
			m.Fatal(m.Context().Err())
		}
	}
}

// judge stops the writing and checks everything that was seen.
func (m *mixed) judge(users []*demo.Traffic) {
	m.Helper()
	for _, traffic := range users {
		traffic.Stop()
	}
	for _, traffic := range users {
		ctx, cancel := context.WithTimeout(m.Context(), 2*settleLimit)
		h, err := traffic.Settle(ctx, settleLimit, m.Cluster)
		cancel()
		if err != nil {
			m.Error(err)
		}
		for _, v := range checker.Check(h) {
			m.Errorf("%v", v)
		}
		s := checker.Summarize(h)
		m.Logf("%+v", s)
		if s.Sent == 0 || s.ReceivedOnce != s.Sent || s.Regions != len(m.Regions()) || s.Digests != len(m.Regions()) {
			m.Errorf("what was judged: %+v", s)
		}
	}
}

// logs shows what the members said last.
func (m *mixed) logs() {
	const shown = 2 << 10
	files, err := filepath.Glob(filepath.Join(m.Plan().LogsDir(), "*", "*"))
	if err != nil {
		m.Log(err)
	}
	slices.Sort(files)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			m.Log(err)
			continue
		}
		fmt.Fprintf(m.Output(), "--- %s\n%s\n", strings.TrimPrefix(name, m.Plan().LogsDir()), text[max(0, len(text)-shown):])
	}
}
