//go:build !linux

package embedded

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes keeps a child out of the terminal's Ctrl-C and runs it as the account. Only Linux signals a parent's death:
// elsewhere the next start stops a server that was left behind.
func (a account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.other {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

func passageCaps() []uintptr { return nil }

// runsIn tells whether process pid is a PostgreSQL server on the data folder.
func runsIn(pid int, data string) bool {
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "-D "+data)
}
