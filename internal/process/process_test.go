package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of the tests.
const patience = 30 * time.Second

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// shell starts a script; its output holds the line "ready" when it is past its traps.
func shell(t *testing.T, script string) (*Process, *output) {
	t.Helper()
	out := &output{}
	p, err := Start(Spec{Name: "eu/test", Path: "/bin/sh", Args: []string{"-c", script}, Output: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the script says ready", func() bool { return strings.Contains(out.String(), "ready\n") })
	return p, out
}

// gone tells whether a process is no more, or dead and waiting for whoever inherited it.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// number finds a line "name pid" in what was written.
func number(t *testing.T, text, name string) int {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %q", name, text)
	return 0
}

func ended(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		script string
		code   int
	}{{"echo ready; exit 0", 0}, {"echo ready; echo oops >&2; exit 7", 7}} {
		p, out := shell(t, c.script)
		ended(t, p)
		exit, _ := errors.AsType[*exec.ExitError](p.Err())
		if (p.Err() == nil) != (c.code == 0) || exit != nil && exit.ExitCode() != c.code {
			t.Errorf("%s: ended with %v", c.script, p.Err())
		}
		if c.code == 7 && !strings.Contains(out.String(), "oops\n") {
			t.Errorf("standard error is not in %q", out)
		}
		for what, f := range map[string]func() error{"resume": p.Resume, "kill": p.Kill, "stop": func() error { return p.Stop(t.Context()) }} {
			if err := f(); err != nil {
				t.Errorf("%s after its end: %v", what, err)
			}
		}
		if err := p.Pause(); err == nil || !strings.Contains(err.Error(), "eu/test: pause: process "+strconv.Itoa(p.PID())+" has ended") {
			t.Errorf("pause after its end: %v", err)
		}
	}
}

func TestCannotStart(t *testing.T) {
	for _, spec := range []Spec{
		{Name: "eu/none", Path: filepath.Join(t.TempDir(), "none")},
		{Name: "eu/none", Path: "/bin/sh", Dir: filepath.Join(t.TempDir(), "none"), Output: &output{}},
	} {
		_, err := Start(spec)
		if err == nil || !strings.Contains(err.Error(), "eu/none: start "+spec.Path) {
			t.Errorf("%v", err)
		}
	}
}

func TestStop(t *testing.T) {
	p, out := shell(t, `trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	if p.Err() != nil {
		t.Errorf("it runs, and ended with %v", p.Err())
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "stopping\n") || p.Err() == nil || p.Err().Error() != "exit status 3" {
		t.Errorf("ended with %v, said %q", p.Err(), out)
	}
}

func TestStopsByItsOwnSignal(t *testing.T) {
	out := &output{}
	p, err := Start(Spec{Name: "x", Path: "/bin/sh", Args: []string{"-c", `trap '' TERM; trap 'exit 0' INT; echo ready; while :; do sleep 0.01; done`}, Output: out, Signal: syscall.SIGINT})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool { return out.String() != "" })
	if err := p.Stop(t.Context()); err != nil || p.Err() != nil {
		t.Error(err, p.Err())
	}
}

func TestStopHasADeadline(t *testing.T) {
	p, _ := shell(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); err == nil || !strings.Contains(err.Error(), "did not stop within") {
		t.Errorf("got %v", err)
	}
	ended(t, p)
}

// A child in the same group, and one that left it and has a child of its own.
func TestKillTakesAll(t *testing.T) {
	for _, first := range []func(*Process) error{func(*Process) error { return nil }, (*Process).Pause} {
		p, out := shell(t, `
sleep 1000 & echo "member $!"
setsid sh -c 'sleep 1000 & echo "grandchild $!"; echo "leaver $$"; echo ready; wait' &
wait`)
		if err := first(p); err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"member", "leaver", "grandchild"} {
			pid := number(t, out.String(), name)
			eventually(t, name+" is gone", func() bool { return gone(pid) })
		}
		if err := p.Err(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("ended with %v", err)
		}
	}
}

// What it leaves behind in its group ends with it, and does not delay its end by holding its output.
func TestLeavesNothingBehind(t *testing.T) {
	p, out := shell(t, `sh -c 'trap "" TERM HUP; while :; do sleep 0.01; done' & echo "member $!"; echo ready`)
	ended(t, p)
	pid := number(t, out.String(), "member")
	eventually(t, "the member is gone", func() bool { return gone(pid) })
}

func TestPausedHoldsStill(t *testing.T) {
	dir := t.TempDir()
	mine, theirs := filepath.Join(dir, "mine"), filepath.Join(dir, "theirs")
	count := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	p, _ := shell(t, fmt.Sprintf(`
setsid sh -c 'while :; do echo >> %s; sleep 0.01; done' &
echo ready
while :; do echo >> %s; sleep 0.01; done`, theirs, mine))
	eventually(t, "both write", func() bool { return count(mine) > 0 && count(theirs) > 0 })
	for range 2 {
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	a, b := count(mine), count(theirs)
	time.Sleep(100 * time.Millisecond) // nothing may happen, and nothing can be polled for
	if count(mine) != a || count(theirs) != b {
		t.Error("it writes while it is paused")
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both write again", func() bool { return count(mine) > a && count(theirs) > b })
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil { // it is resumed to hear it
		t.Error(err)
	}
}

// blocked is a writer that never returns.
type blocked struct{ until chan struct{} }

func (b blocked) Write([]byte) (int, error) {
	<-b.until
	return 0, io.ErrClosedPipe
}

func TestOutputThatBlocksDelaysNoEnd(t *testing.T) {
	b := blocked{make(chan struct{})}
	defer close(b.until)
	p, err := Start(Spec{Name: "x", Path: "/bin/sh", Args: []string{"-c", "echo x"}, Output: b})
	if err != nil {
		t.Fatal(err)
	}
	ended(t, p)
}

// TestLauncher is what the tests below run in another process and kill; by itself it does nothing.
func TestLauncher(t *testing.T) {
	script := os.Getenv("PROCESS_TEST_SCRIPT")
	if script == "" {
		return
	}
	p, err := Start(Spec{Name: "x", Path: "/bin/sh", Args: []string{"-c", script}, Output: os.Stdout})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("leader", p.PID())
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("paused 0")
	}
	select {}
}

// TestLauncherIsKilled kills who started a process, without warning.
func TestLauncherIsKilled(t *testing.T) {
	const script = `
sh -c 'echo "member $$"; trap "" TERM HUP INT; while :; do sleep 0.01; done' &
setsid sh -c 'echo "leaver $$"; while :; do sleep 0.01; done' &
trap "" TERM HUP INT; while :; do sleep 0.01; done`
	for _, c := range []struct {
		name  string
		pause bool
		dead  []string
	}{
		{"running", false, []string{"leader", "member"}},
		{"paused", true, []string{"leader", "member", "leaver"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &output{}
			launcher := exec.Command(os.Args[0], "-test.run=^TestLauncher$")
			launcher.Env = append(os.Environ(), "PROCESS_TEST_SCRIPT="+script)
			launcher.Stdout = out
			in, err := launcher.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := launcher.Start(); err != nil {
				t.Fatal(err)
			}
			launcher.WaitDelay = time.Second
			eventually(t, "all run", func() bool {
				return strings.Contains(out.String(), "leader") && strings.Contains(out.String(), "member") && strings.Contains(out.String(), "leaver")
			})
			if c.pause {
				fmt.Fprintln(in)
				eventually(t, "paused", func() bool { return strings.Contains(out.String(), "paused") })
			}
			if err := launcher.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = launcher.Wait()
			for _, name := range c.dead {
				pid := number(t, out.String(), name)
				eventually(t, name+" is gone", func() bool { return gone(pid) })
			}
			_ = syscall.Kill(number(t, out.String(), "leaver"), syscall.SIGKILL)
		})
	}
}

// guards counts the guards that this process has.
func guards(t *testing.T) int {
	t.Helper()
	children, err := descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, pid := range children {
		if Runs(pid, "-c", strings.TrimSuffix(script, "\n")) {
			n++
		}
	}
	return n
}

func TestGuardEndsWithTheProcess(t *testing.T) {
	before := guards(t)
	p, _ := shell(t, "echo ready; sleep 1000")
	if guards(t) != before+1 {
		t.Errorf("%d guards beside %d", guards(t)-before, before)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if guards(t) != before {
		t.Errorf("%d guards are left", guards(t)-before)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d holds %s", os.Getpid(), path)) {
		t.Errorf("got %v", err)
	}
	f.Close()
	if f, err = Lock(path); err != nil {
		t.Fatal(err)
	}
	f.Close()
}
