//go:build real && linux

package service_test

import (
	"bytes"
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

	"github.com/antipode-im/antipode/internal/cluster"
)

// newcomer is somebody at a shell with a cluster.yaml.
type newcomer struct {
	t    *testing.T
	file string
	data string
}

// command prepares antipode with arguments. What it starts in the background keeps no pipe of ours open.
func (n *newcomer) command(ctx context.Context, args ...string) (cmd *exec.Cmd, said func() string) {
	n.t.Helper()
	out, err := os.CreateTemp(n.t.TempDir(), "said-")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { out.Close() })
	cmd = exec.CommandContext(ctx, world.binary, args...)
	cmd.Dir = filepath.Dir(n.file)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			n.t.Fatal(err)
		}
		return string(text)
	}
}

// types runs a command to its end, with the exit code that it must have, and returns what it said.
func (n *newcomer) types(code int, args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Minute)
	defer cancel()
	began := time.Now()
	cmd, said := n.command(ctx, args...)
	err := cmd.Run()
	n.t.Logf("antipode %s (%.1f s)\n%s", strings.Join(args, " "), time.Since(began).Seconds(), said())
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ok && exit.ExitCode() != code || err == nil && code != 0 {
		n.t.Fatalf("antipode %s: %v, want exit code %d", strings.Join(args, " "), err, code)
	}
	return said()
}

func (n *newcomer) cluster(code int, args ...string) string {
	n.t.Helper()
	return n.types(code, append(append([]string{"cluster"}, args...), "--file", n.file)...)
}

// part waits until a part is listed in a state.
func (n *newcomer) part(name, state, ready string) {
	n.t.Helper()
	eventually(n.t, name+" is "+state, func() error {
		for line := range strings.Lines(n.cluster(0, "ps")) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
				if fields[1] == state && strings.Contains(line, ready) {
					return nil
				}
				return fmt.Errorf("%s", strings.TrimSpace(line))
			}
		}
		return fmt.Errorf("%s is not listed", name)
	})
}

// TestNewcomer goes through a cluster's commands as README.md shows them, in one region, and leaves nothing running.
func TestNewcomer(t *testing.T) {
	dir := t.TempDir()
	n := &newcomer{t: t, file: filepath.Join(dir, "cluster.yaml"), data: world.env.Dir("newcomer")}
	text := fmt.Sprintf("data: %s\nlisten: %s:7400\ntraces: \"\"\nkafka: {heap: 192, quick: true}\nservices: {gateway: 1}\nregions:\n  - {name: eu, host: %s}\n",
		n.data, world.env.Host(5), world.env.Host(4))
	if err := os.WriteFile(n.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever became of it
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, world.binary, "cluster", "down", "--file", n.file).CombinedOutput(); err != nil {
			t.Errorf("cluster down: %v\n%s", err, out)
		}
	})

	if said := n.cluster(1, "ps"); !strings.Contains(said, "no cluster runs") {
		t.Errorf("before anything was started: %s", said)
	}
	if said := n.cluster(0, "up", "--detach"); !strings.Contains(said, "Antipode is up") || !strings.Contains(said, "cluster down") {
		t.Errorf("it does not tell what next: %s", said)
	}
	n.part("eu/kafka", "up", "yes")
	n.part("eu/imserver-1", "up", "yes")
	if said := n.cluster(1, "up"); !strings.Contains(said, "a cluster runs on") {
		t.Errorf("a second one on the same folder: %s", said)
	}
	if said := n.cluster(0, "logs", "eu/imserver-1"); !strings.Contains(said, "imserver-1") {
		t.Errorf("its log is not shown: %s", said)
	}
	n.follows("eu/imserver-1")

	n.cluster(0, "kill", "eu/imserver-1")
	n.part("eu/imserver-1", "down", "no")
	n.cluster(0, "start", "eu/imserver-1")
	n.part("eu/imserver-1", "up", "yes")
	n.cluster(0, "restart", "eu/router-1")
	n.part("eu/router-1", "up", "yes")
	if said := n.cluster(1, "kill", "eu/nobody"); !strings.Contains(said, "eu/nobody") {
		t.Errorf("a part that there is not: %s", said)
	}

	said := n.types(0, "bench", "send", "--cluster", n.file, "--regions", "eu", "--rate", "20", "--pairs", "4", "--duration", "2s", "--warmup", "1s")
	if !strings.Contains(said, "submit→receive, in region") || !strings.Contains(said, "failed 0") {
		t.Errorf("the bench measured nothing: %s", said)
	}
	said = n.types(1, "demo", "--cluster", n.file) // TestDemo plays it where there are two
	if !strings.Contains(said, "1 regions: want 2 to 8") {
		t.Errorf("the demo of one region says: %s", said)
	}

	// Ctrl-C at the launcher, then a start that goes on with the data, and down.
	pid, held := cluster.Locked(n.data)
	if !held {
		t.Fatal("nobody holds the data folder")
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	n.gone()
	if said := n.cluster(1, "ps"); !strings.Contains(said, "no cluster runs") {
		t.Errorf("after Ctrl-C: %s", said)
	}
	n.cluster(0, "up", "--detach")
	n.part("eu/gateway-1", "up", "yes")
	n.cluster(0, "down")
	n.gone()
	n.cluster(0, "down") // nothing to stop is no failure
}

// follows follows a log until Ctrl-C, which ends it well.
func (n *newcomer) follows(part string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	cmd, said := n.command(ctx, "cluster", "logs", "-f", part, "--file", n.file)
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "the log is shown", func() error {
		if !strings.Contains(said(), "imserver-1") {
			return errors.New("nothing is shown")
		}
		return nil
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		n.t.Errorf("Ctrl-C ends it with %v\n%s", err, said())
	}
}

// gone waits until the folder is free and no process was left that was started on it.
func (n *newcomer) gone() {
	n.t.Helper()
	eventually(n.t, "everything has stopped", func() error {
		if pid, held := cluster.Locked(n.data); held {
			return fmt.Errorf("process %d holds the data folder", pid)
		}
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, name := range lines {
			if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, []byte(n.data+"/")) {
				return fmt.Errorf("%s runs on: %s", filepath.Dir(name), bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
			}
		}
		return nil
	})
}
