//go:build !linux

package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes gives a child its own group and the account. Only Linux signals a parent's death: elsewhere the guard alone
// sees to it.
func attributes(a Account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.other {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

// await returns at once: only Linux waits without burying.
func await(int) bool { return false }

// descendants lists the processes below pid, parents before their children.
func descendants(pid int) ([]int, error) {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=").Output() //nolint:noctx // it answers at once
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var child, parent int
		if _, err := fmt.Sscan(lines.Text(), &child, &parent); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	family := children[pid]
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

func passageCaps() []uintptr { return nil }

// stopped believes the signal: it was sent.
func stopped([]int) bool { return true }

// Runs tells whether process pid is one that was started with these two arguments beside each other: whether the process
// that a file names is the server that wrote it, or a stranger that was given its number.
func Runs(pid int, flag, value string) bool {
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output() //nolint:noctx // it answers at once
	return err == nil && strings.Contains(string(out), flag+" "+value)
}
