package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/antipode-im/antipode/internal/process"
)

// Hosts is how many addresses an environment has.
const Hosts = 16

// claimPort is listened on by who uses a block of addresses, as the sign that it is taken. No server here has it by custom.
const claimPort = "40021"

// block is Hosts loopback addresses in a row, 127.21.x.y.
type block struct {
	third, fourth int
	taken         net.Listener
}

// claim finds a block that no other test process on this machine uses.
func claim() (*block, error) {
	const blocks = 256 * (256 / Hosts)
	var last error
	for _, n := range rand.Perm(blocks)[:64] {
		b := &block{third: n / (256 / Hosts), fourth: n % (256 / Hosts) * Hosts}
		if b.taken, last = net.Listen("tcp", net.JoinHostPort(b.host(0), claimPort)); last == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("test environment: no free addresses in 127.21.0.0/16: real servers need Linux, where all of 127.0.0.0/8 is this machine: %w", last)
}

func (b *block) host(i int) string {
	if i < 0 || i >= Hosts {
		panic(fmt.Sprintf("test environment: it has %d addresses, not one with number %d", Hosts, i))
	}
	return fmt.Sprintf("127.21.%d.%d", b.third, b.fourth+i)
}

func (b *block) release() { b.taken.Close() }

// scratch makes a folder for this process, locked, and removes those whose processes are gone.
func scratch(parent string) (dir string, lock *os.File, err error) {
	const prefix = "antipode-testenv-"
	old, _ := filepath.Glob(filepath.Join(parent, prefix+"*"))
	for _, dir := range old {
		if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue // somebody may be about to lock it
		}
		if lock, err := process.Lock(filepath.Join(dir, "lock")); err == nil {
			os.RemoveAll(dir) // what cannot be removed is another user's
			lock.Close()
		}
	}
	if dir, err = os.MkdirTemp(parent, prefix); err != nil {
		return "", nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may run as another user
		return "", nil, err
	}
	if lock, err = process.Lock(filepath.Join(dir, "lock")); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, lock, nil
}
