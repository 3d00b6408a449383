package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// pipe is where a detached launcher tells that everything is ready; nil tells nobody.
type pipe struct{ file *os.File }

func readyPipe(fd int) *pipe {
	if fd <= 0 {
		return &pipe{}
	}
	syscall.CloseOnExec(fd) // the parts must not hold it open
	return &pipe{os.NewFile(uintptr(fd), "ready")}
}

func (p *pipe) tell() {
	if p.file != nil {
		_, _ = p.file.WriteString("ready\n") // whoever waited may be gone
	}
	p.Close()
}

// Close closes it.
func (p *pipe) Close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}

// runDetached starts a launcher of its own session, shows what it says, and returns when everything is ready. Ctrl-C
// before that stops it.
func (u *clusterUp) runDetached(ctx context.Context, f *clusterFlags) error {
	if _, err := f.read(); err != nil { // told here, with its exit code
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	said, err := os.CreateTemp("", "antipode-up-")
	if err != nil {
		return err
	}
	defer said.Close()
	defer os.Remove(said.Name()) // the launcher goes on writing to it, and to its log in the data folder
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	args := append([]string{"cluster", "up", "--ready-fd", "3", "--logs", u.logs}, f.args()...)
	if u.fresh {
		args = append(args, "--fresh")
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...) // it outlives this process
	cmd.Args[0] = os.Args[0]                                                 // as it was called: it says what to call next
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = said, said, []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return err
	}
	over := make(chan error, 1) // nil once everything is ready
	go func() {
		if line, _ := bufio.NewReader(ready).ReadString('\n'); line != "" {
			over <- nil
			return
		}
		over <- errors.Join(errors.New("it ended before everything was ready"), cmd.Wait())
	}()
	shown := &follower{path: said.Name()}
	defer shown.close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	interrupted := ctx.Done()
	for {
		select {
		case <-tick.C:
			shown.copy()
		case <-interrupted:
			interrupted = nil
			_ = cmd.Process.Signal(syscall.SIGTERM) // it stops what it started, and ends
		case err := <-over:
			shown.copy()
			if err != nil {
				return errReported // it said why
			}
			if ctx.Err() == nil {
				return cmd.Process.Release()
			}
			_ = cmd.Wait() // it was told to stop when it had just become ready
			shown.copy()
			return errReported
		}
	}
}

// follower copies what is appended to a file to standard error.
type follower struct {
	path string
	file *os.File
}

func (f *follower) copy() {
	if f.file == nil {
		f.file, _ = os.Open(f.path)
	}
	if f.file != nil {
		_, _ = io.Copy(os.Stderr, f.file)
	}
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
}
