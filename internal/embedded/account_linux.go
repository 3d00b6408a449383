package embedded

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// attributes makes a child end with this process (fast shutdown), keep out of the terminal's Ctrl-C, and run as the
// account.
func (a account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if a.other {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
		attr.AmbientCaps = a.caps
	}
	return attr
}

// passageCaps lists those of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH that this process may hand to a child: containers
// often lack the second, and the first is enough.
func passageCaps() []uintptr {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	permitted, bounding := capSet(status, "CapPrm:"), capSet(status, "CapBnd:")
	var caps []uintptr
	for _, c := range []uintptr{1, 2} { // linux/capability.h
		if permitted&bounding&(1<<c) != 0 {
			caps = append(caps, c)
		}
	}
	if permitted&bounding&(1<<1) == 0 {
		return nil // reading alone does not do
	}
	return caps
}

func capSet(status []byte, field string) uint64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(field)); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(rest)), 16, 64)
			return n
		}
	}
	return 0
}

// runsIn tells whether process pid is a PostgreSQL server on the data folder.
func runsIn(pid int, data string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(line), "\x00")
	for i := range len(args) - 1 {
		if args[i] == "-D" && args[i+1] == data {
			return true
		}
	}
	return false
}
