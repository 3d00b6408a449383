package simulator

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const regressions = "testdata/regressions.txt"

// setting reads a number from the environment: make sim sets them.
func setting(t *testing.T, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// The cores keep the invariants, whatever goes wrong. SIM_RUNS worlds are run, from the seed SIM_FIRST on.
func TestSimulator(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	runs, first := setting(t, "SIM_RUNS", 10), setting(t, "SIM_FIRST", 1)
	if testing.Short() {
		runs = 2
	}
	begun := time.Now()
	var next, records, applied, faults atomic.Int64
	var mu sync.Mutex
	var failed *Result
	var seeds []uint64
	var wg sync.WaitGroup
	var sum Stats
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= runs {
					return
				}
				r := Run(Options{Seed: uint64(first + n), Records: 5000}, false)
				records.Add(int64(r.Stats.Records))
				applied.Add(int64(r.Stats.Applied))
				faults.Add(int64(r.Faults))
				mu.Lock()
				add(&sum, &r.Stats)
				switch {
				case len(r.Violations) > 0:
					seeds = append(seeds, r.Options.Seed)
					if failed == nil || r.Options.Seed < failed.Options.Seed {
						failed = r
					}
				case r.Stats.Records < 5000:
					t.Errorf("seed %d made %d records only", r.Options.Seed, r.Stats.Records)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d runs of an hour in %v: %d records written, %d applied, %d faults", runs, time.Since(begun).Round(time.Millisecond), records.Load(), applied.Load(), faults.Load())
	t.Logf("in them: %+v", sum)
	if runs >= 100 && (sum.Repeats == 0 || sum.Skipped == 0 || sum.Gaps == 0 || sum.Fenced == 0 || sum.Refusals == 0 || sum.Kicks == 0 || sum.Lost == 0 || sum.Relayed == 0) {
		t.Errorf("something never went wrong: %+v", sum)
	}
	if failed == nil {
		return
	}
	slices.Sort(seeds)
	small := Shrink(failed, setting(t, "SIM_SHRINK", 150))
	kept := "kept in " + regressions
	if err := keep(filepath.FromSlash(regressions), small); err != nil {
		kept = fmt.Sprintf("to be kept in %s (%v)", regressions, err)
	}
	t.Errorf("seeds %v break invariants. The first, made as small as it would get and %s:\n%s", seeds, kept, Explain(small.Options, 150))
}

// keep adds a run that breaks an invariant to those that are run again, unless it is one of them.
func keep(path string, r *Result) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	line := r.Options.String()
	for old := range strings.Lines(string(text)) {
		if old, _, _ = strings.Cut(old, "#"); strings.TrimSpace(old) == line {
			return nil
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s # %s\n", line, strings.ReplaceAll(r.Violations[0].String(), "\n", " "))
	return errors.Join(err, f.Close())
}

// A failing run is kept once, in a form in which it is run again.
func TestKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "regressions.txt")
	if err := os.WriteFile(path, []byte("# what broke\nseed=1 records=5 # long ago\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{Seed: 1, Records: 5}, {Seed: 9, Records: 20, Ops: Kept{1, 2}}, {Seed: 9, Records: 20, Ops: Kept{1, 2}}} {
		if err := keep(path, &Result{Options: o, Violations: []Violation{{Invariant: "I4", Detail: "earlier\nthan"}}}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 3 || !strings.Contains(lines[2], "I4") {
		t.Fatalf("%q", lines)
	}
	line, _, _ := strings.Cut(lines[2], "#")
	if o, err := ParseOptions(line); err != nil || o.String() != "seed=9 records=20 ops=1-2" {
		t.Errorf("%q is read as %v, %v", line, o, err)
	}
}

func add(to, s *Stats) {
	sum, one := reflect.ValueOf(to).Elem(), reflect.ValueOf(s).Elem()
	for i := range sum.NumField() {
		sum.Field(i).SetInt(sum.Field(i).Int() + one.Field(i).Int())
	}
}

// What once broke is run again: each line of the file is the options of a run, # begins a comment.
func TestRegressions(t *testing.T) {
	f, err := os.Open(filepath.FromSlash(regressions))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		o, err := ParseOptions(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			if r := Run(o, false); len(r.Violations) > 0 {
				t.Errorf("%s", Explain(o, 150))
			}
		})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// The same options are the same run, to the last event, whether somebody watches or not.
func TestSameSeedSameTrace(t *testing.T) {
	for _, o := range []Options{{Seed: 3, Records: 1500}, {Seed: 4, Salt: 1, Records: 1500}} {
		first, second, unwatched := Run(o, true), Run(o, true), Run(o, false)
		if len(first.Trace) < 1000 {
			t.Errorf("%v: the trace has %d lines only", o, len(first.Trace))
		}
		for i := range min(len(first.Trace), len(second.Trace)) {
			if first.Trace[i] != second.Trace[i] {
				t.Fatalf("%v: line %d is\n%s\nand then\n%s", o, i, first.Trace[i], second.Trace[i])
			}
		}
		if first.Print != second.Print || first.Print != unwatched.Print {
			t.Errorf("%v: fingerprints %x, %x and %x", o, first.Print, second.Print, unwatched.Print)
		}
		other := o
		other.Seed += 100
		if Run(other, false).Print == first.Print {
			t.Errorf("%v and %v are the same run", o, other)
		}
	}
}

// A simulator that finds nothing proves nothing: every deliberate bug must be found, by an invariant that says so.
func TestMutations(t *testing.T) {
	tries := setting(t, "SIM_TRIES", 60)
	if n := len(Bugs()); n < 15 {
		t.Errorf("there are %d bugs only", n)
	}
	for _, m := range Bugs() {
		t.Run(string(m.Bug), func(t *testing.T) {
			t.Parallel()
			for try := range uint64(tries) {
				o := Options{Seed: try, Records: 1200, Bug: m.Bug}
				if try == 0 { // what found it when somebody last looked, most likely does
					o.Seed = m.Seed
				}
				r := Run(o, false)
				if len(r.Violations) == 0 {
					continue
				}
				v := r.Violations[0]
				t.Logf("%s: found with seed %d: %v", m.Does, o.Seed, v)
				if !slices.Contains(m.By, v.Invariant) {
					t.Errorf("seed %d: %v: want one of %v to tell", o.Seed, v, m.By)
				}
				return
			}
			t.Errorf("survived %d runs: %s", tries, m.Does)
		})
	}
}

// Code that panics breaks the run, which ends there and is traced as any that breaks an invariant.
func TestPanicIsAViolation(t *testing.T) {
	w := newWorld(Options{Seed: 1, Records: 300}, true)
	w.push(minute, w.regions[1].router.proc, func() {
		var none *world
		none.now = 1
	})
	w.guard(w.play)
	if len(w.violations) != 1 {
		t.Fatalf("%d violations", len(w.violations))
	}
	v := w.violations[0]
	if v.Invariant != Panics || v.At != minute || !strings.Contains(v.Detail, "nil pointer") || !strings.Contains(v.Detail, "simulator_test.go") {
		t.Errorf("it is told as %v", v)
	}
	if last := w.trace[len(w.trace)-1]; !strings.Contains(last, v.Detail) || len(w.trace) < 10 {
		t.Errorf("the trace ends with %q", last)
	}
}

// A failing run becomes a small one that fails alike.
func TestShrinks(t *testing.T) {
	o := Options{Seed: 1, Records: 400, Bug: BugStampWallClock}
	r := Run(o, false)
	for ; len(r.Violations) == 0; o.Seed++ {
		r = Run(o, false)
	}
	small := Shrink(r, 200)
	if len(small.Options.Ops) > 10 || small.Violations[0].Invariant != "I4" {
		t.Errorf("it became %v, which breaks %v", small.Options, small.Violations[0])
	}
	text := Explain(small.Options, 100)
	if !strings.Contains(text, "I4") || strings.Count(text, "\n") > 110 {
		t.Errorf("it is explained as\n%s", text)
	}
}

// Options have one text.
func TestOptionsText(t *testing.T) {
	for _, text := range []string{
		"seed=1 records=5000", "seed=7 records=20 salt=2 bug=no-seq ops=1,3-5,9 faults=-", "seed=0 records=1 ops=-",
	} {
		o, err := ParseOptions(text)
		if err != nil || o.String() != text {
			t.Errorf("%q reads as %q, %v", text, o, err)
		}
	}
	for _, text := range []string{"seed=x", "seed", "ops=3,1", "ops=5-2", "bug=none", "speed=1"} {
		if o, err := ParseOptions(text); err == nil {
			t.Errorf("%q reads as %v", text, o)
		}
	}
	if got := fmt.Sprint(Kept{}.has(1), Kept(nil).has(1), Kept{1, 4}.has(4)); got != "false true true" {
		t.Error(got)
	}
}
