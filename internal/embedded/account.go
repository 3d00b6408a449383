package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who a server runs as: ourselves, or as root somebody else.
type account struct {
	name     string
	other    bool // not ourselves
	uid, gid uint32
	caps     []uintptr // kept by the child, so that folders closed to the account can be passed
}

// postgresAccount chooses the account to run programs in bin on data in dir. As root it checks that the account can
// reach both, because PostgreSQL's own complaint would name a file deep inside.
func postgresAccount(bin, dir string) (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "this user"}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return account{}, errors.New("postgres: it refuses to run as root, and there is no user postgres or nobody to run it as: make one, or run as an ordinary user")
		}
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("postgres: account %s: %w", u.Username, err)
	}
	a := account{name: "user " + u.Username, other: true, uid: uint32(uid), gid: uint32(gid), caps: passageCaps()}
	if closed := a.closedAbove(bin); closed != "" { // no right helps here: PostgreSQL asks access(2), which looks at the user alone
		return account{}, fmt.Errorf("postgres: it refuses to run as root; as %s it cannot pass %s to its programs in %s: open it (chmod o+x %s), or run as an ordinary user",
			a.name, closed, bin, closed)
	}
	if closed := a.closedAbove(dir); closed != "" && len(a.caps) == 0 {
		return account{}, fmt.Errorf("postgres: it refuses to run as root; as %s it cannot pass %s, and this container may not grant it that right (CAP_DAC_OVERRIDE): "+
			"choose a folder below one that everyone can enter, open it (chmod o+x %s), or run as an ordinary user", a.name, closed, closed)
	}
	return a, nil
}

// closedAbove returns the first folder on the way to path that the account cannot enter, or "".
func (a account) closedAbove(path string) string {
	if up := filepath.Dir(path); up != path {
		if closed := a.closedAbove(up); closed != "" {
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

// own gives a file, or a folder with all below it, to the account. Nothing above or beside it is touched.
func (a account) own(path string) error {
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

// command returns a command that runs as the account, with nothing of the environment that changes what PostgreSQL does
// (PG* and locale variables).
func (a account) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.SysProcAttr = "/", a.attributes()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	return cmd
}

// advice explains a failure that only happens as another user.
func (a account) advice() string {
	if !a.other {
		return ""
	}
	return fmt.Sprintf(" (PostgreSQL refuses to run as root, so it ran as %s; running as an ordinary user avoids this)", a.name)
}
