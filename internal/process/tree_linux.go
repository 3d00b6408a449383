package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes gives a child its own group, the account, and a death that follows this process's.
func attributes(a Account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if a.other {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
		attr.AmbientCaps = a.caps
	}
	return attr
}

// await returns when the process has ended, and tells whether it still has to be waited for, and so keeps its number.
func await(pid int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// descendants lists the processes below pid, parents before their children.
func descendants(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	for _, e := range entries {
		if child, err := strconv.Atoi(e.Name()); err == nil {
			if _, parent, ok := status(child); ok {
				children[parent] = append(children[parent], child)
			}
		}
	}
	family := children[pid]
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

// stopped tells whether none of the processes runs, now that all were told to stop: one that waits for a disk (D) stops
// before it runs again.
func stopped(pids []int) bool {
	for _, pid := range pids {
		if state, _, ok := status(pid); ok && strings.IndexByte("TtDZX", state) < 0 {
			return false
		}
	}
	return true
}

// status reads a process's state and parent: "pid (name) state parent …", where the name may hold anything.
func status(pid int) (state byte, parent int, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false // it has ended
	}
	rest := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(rest) < 2 || len(rest[0]) != 1 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(rest[1]))
	return rest[0][0], parent, err == nil
}

// Runs tells whether process pid is one that was started with these two arguments beside each other: whether the process
// that a file names is the server that wrote it, or a stranger that was given its number.
func Runs(pid int, flag, value string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := bytes.Split(line, []byte{0})
	for i := range len(args) - 1 {
		if string(args[i]) == flag && string(args[i+1]) == value {
			return true
		}
	}
	return false
}
