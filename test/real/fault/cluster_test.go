//go:build real && linux

// Package fault breaks each part of a cluster of real servers and processes in turn, while users go on writing to each
// other, and holds the cluster to the table of docs/architecture.md: what users see meanwhile, and that everything they
// were told is true afterwards (invariants I1 to I9).
package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/testenv"
)

// Bounds of the machine's patience, not of what is promised: they are wide, so that a busy one passes.
const (
	startLimit  = 4 * time.Minute
	healLimit   = 90 * time.Second
	settleLimit = 90 * time.Second
)

// world is what the tests of this package share.
type world struct {
	env    *testenv.Env
	binary string
	disks  map[string]*disk // small ones, by member

	mu      sync.Mutex
	cluster *app.Cluster // nil until the first test, and after one that could not be healed
	shape   string       // of the cluster
	agent   *agent       // of two members, where the cluster has one
	runs    int
	rows    []row
}

// row is a line of the table at the end.
type row struct{ fault, seen, recovered, settled string }

var shared *world

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	env, err := testenv.New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w := &world{env: env, disks: map[string]*disk{}}
	shared = w
	defer func() {
		if err := errors.Join(w.close(), env.Close()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}()
	began := time.Now()
	if w.binary, err = build(env.Dir("bin")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code = m.Run()
	w.print(os.Stdout, time.Since(began))
	return code
}

// build compiles the program whose processes are to be killed.
func build(dir string) (string, error) {
	binary := filepath.Join(dir, "antipode")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/antipode")
	cmd.Dir = filepath.Join("..", "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/antipode: %w\n%s", err, out)
	}
	return binary, nil
}

// twoRegions has two of what shares partitions, and two databases in each region.
func (w *world) twoRegions() cluster.File {
	f := cluster.DefaultFile()
	f.Data, f.Listen, f.Traces = w.env.Dir(fmt.Sprintf("cluster-%d", w.runs)), w.env.Host(0)+":7400", ""
	f.LinkDelay = 20 * time.Millisecond
	f.Kafka.Heap, f.Kafka.Quick = 192, true
	f.Postgres.Databases = 2
	f.Services = cluster.Services{IPConf: 1, Gateway: 2, Router: 2, IMServer: 2, Replicator: 1}
	f.Set = map[string]string{"timelines.connect_timeout": "2s", "timelines.statement_timeout": "2s"} // they are to fire
	f.Regions = []cluster.Region{{Name: "eu", Host: w.env.Host(1)}, {Name: "us", Host: w.env.Host(2)}}
	return f
}

// threeRegions are those whose loss leaves two. us stands in between the others when they lose each other.
func (w *world) threeRegions() cluster.File {
	f := w.twoRegions()
	f.Postgres.Databases = 1
	f.Regions = append(f.Regions, cluster.Region{Name: ap, Host: w.env.Host(3)})
	f.Set["replicator.stand_ins"], f.Set["replicator.stand_in_after"] = "us", "3s"
	return f
}

// start starts a cluster. What is said while it starts shows only if it does not.
func (w *world) start(t *testing.T, f cluster.File, prepare func(*app.Cluster) error) (*app.Cluster, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	began := time.Now()
	var mu sync.Mutex
	said := t.Output() // until it has started: other tests use it after this one
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		said = io.Discard
	}()
	c, err := app.NewCluster(app.ClusterConfig{File: f, Binary: w.binary, Progress: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(said, "%s launcher: %s\n", time.Now().Format("15:04:05.0"), line)
	}})
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		err = prepare(c)
	}
	if err = errors.Join(err, c.Up(ctx)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	w.add(row{fmt.Sprintf("(start of %d members)", len(c.Plan().Members())), "", seconds(time.Since(began)), ""})
	return c, nil
}

// healthy returns the shared cluster of two regions with all its parts up.
func (w *world) healthy(t *testing.T) *app.Cluster {
	t.Helper()
	c := w.of(t, "two", w.twoRegions, func(c *app.Cluster) error { return errors.Join(w.mount(c), w.lend(c)) })
	if err := w.agent.started(); err != nil {
		t.Fatal(err)
	}
	return c
}

// of returns a cluster of a shape, with all its parts up: the one of the last test if it had that shape and is not beyond
// repair, else a new one. There is one at a time: more would be too much for the machine.
func (w *world) of(t *testing.T, shape string, file func() cluster.File, prepare func(*app.Cluster) error) *app.Cluster {
	t.Helper()
	if w.cluster != nil && w.shape == shape {
		err := w.repair(t.Context())
		if err == nil {
			return w.cluster
		}
		t.Logf("the cluster of the last test cannot be healed and is left: %v", err)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
	w.runs++
	c, err := w.start(t, file(), prepare)
	if err != nil {
		t.Fatal(err)
	}
	w.cluster, w.shape = c, shape
	return c
}

// repair undoes what a failed test left.
func (w *world) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	c := w.cluster
	for _, d := range w.disks {
		d.free()
	}
	for _, l := range c.Links() {
		if err := c.Heal(ctx, l.From, l.To); err != nil {
			return err
		}
	}
	if err := w.agent.whole(ctx); err != nil {
		return err
	}
	return errors.Join(c.Resume(ctx, "all"), c.Start(ctx, "all"), c.WaitReady(ctx))
}

// end stops the cluster.
func (w *world) end() error {
	if w.cluster == nil {
		return nil
	}
	err := errors.Join(w.cluster.Close(), w.agent.end())
	w.cluster, w.agent = nil, nil
	for name, d := range w.disks {
		err = errors.Join(err, d.unmount())
		delete(w.disks, name)
	}
	return err
}

func (w *world) close() error { return w.end() }

func (w *world) add(r row) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows = append(w.rows, r)
}

func (w *world) print(out io.Writer, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rows) == 0 {
		return
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FAULT\tWHAT USERS SAW\tRECOVERED IN\tALL EQUAL AFTER")
	for _, r := range w.rows {
		fmt.Fprintln(t, strings.Join([]string{r.fault, r.seen, r.recovered, r.settled}, "\t"))
	}
	t.Flush()
	fmt.Fprintf(out, "in all %v\n", took.Round(time.Second))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
