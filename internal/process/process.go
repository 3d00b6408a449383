package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// stopLimit bounds a Stop whose context has no deadline.
	stopLimit = 30 * time.Second
	// endLimit bounds the wait for a killed process to be gone. A process in the middle of a disk operation ends after it.
	endLimit = 10 * time.Second
	// killLimit bounds how long a process may take to hold still before it is killed as it is.
	killLimit = time.Second
	// drainLimit bounds the wait for the last output of a process that has ended.
	drainLimit = time.Second
)

// Spec says what to run.
type Spec struct {
	Name    string         // for people: errors name it
	Path    string         // of the program
	Args    []string       // without the program's own name
	Env     []string       // all of it, as KEY=value; nil: this process's
	Dir     string         // to run in; "": this process's
	Account Account        // to run as; the zero value: this process's own
	Output  io.Writer      // gets standard output and error, never two writes at once; nil: nobody; an *os.File is written to directly
	Signal  syscall.Signal // that asks it to stop; SIGTERM if 0
}

// Process is a process that was started, and all processes that it started in turn.
type Process struct {
	spec  Spec
	pid   int
	guard *guard
	done  chan struct{}
	err   error // how it ended; read after done

	mu     sync.Mutex
	ended  bool // its number may be another's by now
	paused bool
}

// Start starts a process, in a process group of its own: Ctrl-C in the terminal does not reach it. It, and all of its
// group, are killed when this process ends, however that happens.
func Start(spec Spec) (*Process, error) {
	if spec.Signal == 0 {
		spec.Signal = syscall.SIGTERM
	}
	p := &Process{spec: spec, done: make(chan struct{})}
	var err error
	if p.guard, err = newGuard(); err != nil {
		return nil, fmt.Errorf("%s: start its guard: %w", spec.Name, err)
	}
	cmd := exec.Command(spec.Path, spec.Args...) //nolint:noctx // it outlives the call: Stop and Kill end it
	cmd.Env, cmd.Dir, cmd.SysProcAttr = spec.Env, spec.Dir, attributes(spec.Account)
	drained, err := p.output(cmd)
	if err != nil {
		p.guard.release()
		return nil, fmt.Errorf("%s: its output: %w", spec.Name, err)
	}
	started := make(chan error)
	go p.run(cmd, started, drained)
	if err := <-started; err != nil {
		p.guard.release()
		return nil, fmt.Errorf("%s: start %s: %w", spec.Name, spec.Path, err)
	}
	return p, nil
}

// output connects what the process writes. The pipe is ours, not exec's: exec would wait for every process that still
// holds its other end, even after this one has ended.
func (p *Process) output(cmd *exec.Cmd) (drained func(), err error) {
	if p.spec.Output == nil {
		return func() {}, nil
	}
	if f, ok := p.spec.Output.(*os.File); ok {
		cmd.Stdout, cmd.Stderr = f, f
		return func() {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer r.Close()
		if _, err := io.Copy(p.spec.Output, r); err != nil {
			_, _ = io.Copy(io.Discard, r) // a writer that fails must not block the process
		}
	}()
	return func() {
		w.Close()
		select {
		case <-copied:
		case <-time.After(drainLimit):
			r.Close()
		}
	}, nil
}

// run starts the process and waits for its end. It keeps its thread to itself: the kernel sends a child its parent-death
// signal when the thread that started it ends, and Go ends threads as it likes.
func (p *Process) run(cmd *exec.Cmd, started chan<- error, drained func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		drained()
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	p.guard.watch(p.pid, nil)
	started <- nil

	var err error
	unburied := await(p.pid)
	if !unburied {
		err = cmd.Wait()
	}
	p.mu.Lock()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	if unburied { // so far its number could not be given to another
		err = cmd.Wait()
	}
	p.ended = true
	p.mu.Unlock()
	p.guard.release()
	drained()
	p.err = err
	close(p.done)
}

// Name is what the process is called.
func (p *Process) Name() string { return p.spec.Name }

// PID is the number of the process, which is also its group's.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended, its group is gone and its output is written.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the process ended: nil while it runs and if it ended with code 0.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop asks the process to stop and waits until it has. When ctx ends first, or after 30 s where it has no deadline, it
// is killed, which is an error. A paused process is resumed, so that it can stop.
func (p *Process) Stop(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, stopLimit)
		defer cancel()
	}
	began := time.Now()
	if err := p.Resume(); err != nil {
		return err
	}
	p.signal(p.spec.Signal)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return fmt.Errorf("%s: did not stop within %v and was killed (process %d)", p.spec.Name, time.Since(began).Round(time.Millisecond), p.pid)
}

// Kill ends the process and all that it started, as kill -9 does, paused or not, and waits until they are gone.
func (p *Process) Kill() error {
	p.mu.Lock()
	if !p.ended {
		// Its children first have to be known: a child in a group of its own could not be found without its parent. Those
		// that were stopped cannot start others meanwhile.
		family, _ := p.freeze(killLimit)
		for _, pid := range family {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	p.mu.Unlock()
	select {
	case <-p.done:
		return nil
	case <-time.After(endLimit):
		return fmt.Errorf("%s: process %d does not end after it was killed", p.spec.Name, p.pid)
	}
}

// Pause stops the process and all that it started from running, as a machine that hangs: connections stay open and
// nobody answers. Pausing twice is pausing once.
func (p *Process) Pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return p.gone("pause")
	}
	family, err := p.freeze(endLimit)
	p.guard.watch(p.pid, family)
	p.paused = true
	if err != nil {
		return fmt.Errorf("%s: pause: %w", p.spec.Name, err)
	}
	return nil
}

// Resume lets a paused process run on. It does nothing to one that runs or has ended.
func (p *Process) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || !p.paused {
		return nil
	}
	family, err := descendants(p.pid)
	for _, pid := range append(family, -p.pid) {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	p.paused = false
	p.guard.watch(p.pid, nil)
	if err != nil {
		return fmt.Errorf("%s: resume: %w", p.spec.Name, err)
	}
	return nil
}

// freeze stops the process and all below it, and returns those. PostgreSQL gives each of its processes a group of its
// own, so the group alone would leave it answering. As a stopped process starts no others and does not bury its dead,
// whoever was found stays who it is, and a pass that finds nobody new has found all.
func (p *Process) freeze(limit time.Duration) ([]int, error) {
	_ = syscall.Kill(-p.pid, syscall.SIGSTOP)
	deadline := time.Now().Add(limit)
	for known := -1; ; time.Sleep(time.Millisecond) {
		family, err := descendants(p.pid)
		if err != nil {
			return nil, err
		}
		for _, pid := range family {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
		if len(family) == known && stopped(append(family, p.pid)) {
			return family, nil
		}
		known = len(family)
		if time.Now().After(deadline) {
			return family, errors.New("some of its processes do not stop")
		}
	}
}

func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		_ = syscall.Kill(p.pid, s)
	}
}

func (p *Process) gone(what string) error {
	return fmt.Errorf("%s: %s: process %d has ended", p.spec.Name, what, p.pid)
}
