package process

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guard is a shell that outlives this process by a moment. The kernel tells a child of its parent's death, but not the
// children of that child, and a paused process hears of nothing: the guard kills them all when the pipe to it closes,
// which it does however this process ends.
type guard struct {
	mu    sync.Mutex
	to    io.WriteCloser
	ended chan struct{}
}

// script keeps the last line that it was sent: what to kill. Nothing but the pipe ends it.
const script = `trap '' HUP INT TERM QUIT
while read -r line; do what=$line; done
[ -z "$what" ] || kill -s KILL -- $what 2>/dev/null`

func newGuard() (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:noctx // it ends with the pipe
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{}, &syscall.SysProcAttr{Setpgid: true}
	to, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g := &guard{to: to, ended: make(chan struct{})}
	go func() {
		defer close(g.ended)
		_ = cmd.Wait() // whoever ended it: the kernel's parent-death signal stays
	}()
	return g, nil
}

// watch names the group to kill, and single processes beside it.
func (g *guard) watch(group int, others []int) {
	var line strings.Builder
	fmt.Fprintf(&line, "-%d", group)
	for _, pid := range others {
		fmt.Fprintf(&line, " %d", pid)
	}
	g.send(line.String())
}

// release ends the guard without its killing anybody.
func (g *guard) release() {
	g.send("")
	g.mu.Lock()
	g.to.Close()
	g.mu.Unlock()
	select {
	case <-g.ended:
	case <-time.After(drainLimit): // somebody paused it
	}
}

func (g *guard) send(line string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = io.WriteString(g.to, line+"\n") // fails if somebody killed the guard: it was the second line of defence
}
