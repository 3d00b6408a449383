package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Account is who a process runs as. The zero value is this process's own.
type Account struct {
	name     string
	other    bool // not ourselves
	uid, gid uint32
	caps     []uintptr // kept by the child, so that folders closed to the account can be passed
}

// Ordinary returns the account of the first of the users that exists, if this process is root's, for servers that
// refuse to run as root. The process keeps the right to pass through folders that are closed to that user (mktemp -d,
// /root), where the system lets it. If this process is not root's, it returns the zero value.
func Ordinary(names ...string) (Account, error) {
	if os.Geteuid() != 0 {
		return Account{}, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return Account{}, fmt.Errorf("account %s: %w", name, err)
		}
		return Account{name: "user " + u.Username, other: true, uid: uint32(uid), gid: uint32(gid), caps: passageCaps()}, nil
	}
	return Account{}, fmt.Errorf("there is no user %s: make one, or run as an ordinary user", strings.Join(names, " or "))
}

// Other tells whether it is another account than this process's.
func (a Account) Other() bool { return a.other }

// Passes tells whether the account keeps the right to pass through folders that are closed to it.
func (a Account) Passes() bool { return len(a.caps) > 0 }

// String is the account's name in a sentence.
func (a Account) String() string { return cmp.Or(a.name, "this user") }

// ClosedAbove returns the first folder on the way to path that the account cannot enter by itself, or "".
func (a Account) ClosedAbove(path string) string {
	if !a.other {
		return ""
	}
	if up := filepath.Dir(path); up != path {
		if closed := a.ClosedAbove(up); closed != "" {
			return closed
		}
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return ""
	}
	mode := info.Mode().Perm()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		switch {
		case s.Uid == a.uid:
			mode >>= 6
		case s.Gid == a.gid:
			mode >>= 3
		}
	}
	if mode&1 == 0 {
		return path
	}
	return ""
}

// Own gives a file, or a folder with all below it, to the account. Nothing above or beside it is touched.
func (a Account) Own(path string) error {
	if !a.other {
		return nil
	}
	return filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid == a.uid && s.Gid == a.gid {
			return nil
		}
		return os.Lchown(path, int(a.uid), int(a.gid))
	})
}

// Command returns a command that runs as the account, in /, and does not outlive this process: for the small programs
// that prepare a server. Its environment is env alone.
func (a Account) Command(ctx context.Context, env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", env, attributes(a)
	return cmd
}
