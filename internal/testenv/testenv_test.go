package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/process"
)

// sleeper is a server of a shell: it says that it runs, and counts its lives in its folder.
type sleeper struct {
	name, dir, script string
}

func (s *sleeper) Name() string { return s.name }

func (s *sleeper) Prepare(context.Context) error {
	if s.script == "refuse" {
		return errors.New(s.name + ": refused")
	}
	return os.MkdirAll(s.dir, 0o755)
}

func (s *sleeper) Spec() process.Spec {
	return process.Spec{Name: s.name, Path: "/bin/sh", Args: []string{"-c", `echo life >> "$0"/lives; echo "$1 says hello"; ` + s.script, s.dir, s.name}}
}

func (s *sleeper) Ready(context.Context) error {
	if _, err := os.Stat(filepath.Join(s.dir, "lives")); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

func running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ") || err != nil && syscall.Kill(pid, 0) == nil
}

func TestLives(t *testing.T) {
	e := ForTest(t)
	a := &sleeper{"eu/a", e.Dir("eu/a"), "exec sleep 1000"}
	b := &sleeper{"eu/b", e.Dir("eu/b"), "exec sleep 1000"}
	members, err := e.Start(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	first := members[0].Process()
	if err := errors.Join(members[0].Pause(), members[0].Resume(), members[0].Kill()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds it running
		if err := members[0].Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if members[0].Process() == first {
		t.Error("it was not started again")
	}
	if err := members[1].Stop(t.Context()); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var logs strings.Builder
		e.Logs(&logs)
		if strings.Count(logs.String(), "eu/a says hello") == 2 && strings.Contains(logs.String(), "--- log of eu/b\neu/b says hello") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the logs are %q", logs.String())
		}
	}
}

func TestStartFails(t *testing.T) {
	e := ForTest(t)
	_, err := e.Start(t.Context(),
		&sleeper{"eu/good", e.Dir("good"), "exec sleep 1000"},
		&sleeper{"eu/unwilling", e.Dir("unwilling"), "refuse"})
	if err == nil || !strings.Contains(err.Error(), "eu/unwilling: refused") {
		t.Errorf("got %v", err)
	}
}

func TestBlocksAreApart(t *testing.T) {
	a, b := ForTest(t), ForTest(t)
	if a.Host(0) == b.Host(0) || !strings.HasPrefix(a.Host(Hosts-1), "127.21.") || a.Dir("x") == b.Dir("x") {
		t.Errorf("%s %s, %s %s", a.Host(0), b.Host(0), a.Dir("x"), b.Dir("x"))
	}
}

func TestCloseRemovesAll(t *testing.T) {
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	members, err := e.Start(t.Context(), &sleeper{"a", e.Dir("a"), "trap '' TERM; while :; do sleep 0.01; done"})
	if err != nil {
		t.Fatal(err)
	}
	if err := members[0].Pause(); err != nil {
		t.Fatal(err)
	}
	pid := members[0].Process().PID()
	if err := members[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(e.dir); err == nil || running(pid) {
		t.Errorf("left: folder %v, process %v", err == nil, running(pid))
	}
}

// TestInner is the package that TestEnds runs in another process; by itself it does nothing.
func TestInner(t *testing.T) {
	switch os.Getenv("TESTENV_INNER") {
	case "fail":
		t.Error("as told")
	case "panic":
		go panic("as told")
		select {}
	case "hang":
		select {}
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("TESTENV_INNER") == "" {
		os.Exit(m.Run())
	}
	Main(m, func(ctx context.Context, e *Env) error {
		members, err := e.Start(ctx, &sleeper{"inner", e.Dir("inner"), "exec sleep 1000"})
		if err != nil {
			return err
		}
		fmt.Println("folder", e.dir)
		fmt.Println("process", members[0].Process().PID())
		if os.Getenv("TESTENV_INNER") == "unstartable" {
			return errors.New("as told")
		}
		return nil
	})
}

// TestEnds ends a test package in every way there is; its servers end with it.
func TestEnds(t *testing.T) {
	for how, c := range map[string]struct {
		fails, shows, cleans bool
	}{
		"pass":        {cleans: true},
		"fail":        {fails: true, shows: true, cleans: true},
		"unstartable": {fails: true, shows: true, cleans: true},
		"panic":       {fails: true},
		"hang":        {fails: true}, // until -test.timeout
	} {
		t.Run(how, func(t *testing.T) {
			parent := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run=^TestInner$", "-test.timeout=2s")
			cmd.Env = append(os.Environ(), "TESTENV_INNER="+how, "TMPDIR="+parent)
			cmd.WaitDelay = 10 * time.Second
			out, err := cmd.CombinedOutput()
			if (err != nil) != c.fails {
				t.Errorf("ended with %v:\n%s", err, out)
			}
			if got := strings.Contains(string(out), "--- log of inner\ninner says hello"); got != c.shows {
				t.Errorf("shows the log: %v\n%s", got, out)
			}
			var dir string
			var pid int
			for line := range strings.Lines(string(out)) {
				_, _ = fmt.Sscanf(line, "folder %s", &dir)
				_, _ = fmt.Sscanf(line, "process %d", &pid)
			}
			if dir == "" || pid == 0 {
				t.Fatalf("the inner package said %s", out)
			}
			for deadline := time.Now().Add(30 * time.Second); running(pid); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("its server goes on")
				}
			}
			if _, err := os.Stat(dir); (err != nil) != c.cleans {
				t.Errorf("its folder is there: %v", err == nil)
			}
			if c.cleans {
				return
			}
			// The next run removes what is left, once it is not so young that somebody may be about to lock it.
			long := time.Now().Add(-time.Hour)
			if err := os.Chtimes(dir, long, long); err != nil {
				t.Fatal(err)
			}
			next, lock, err := scratch(parent)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			if _, err := os.Stat(dir); err == nil || next == dir {
				t.Errorf("%s is left", dir)
			}
		})
	}
}
