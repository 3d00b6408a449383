//go:build real && linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

// disk is a small file system of its own, in memory, that can be filled.
type disk struct {
	path, mounted string // empty: not mounted, and why
	why           error
}

// diskName begins the names of these disks in the list of mounts; the process that made one follows.
const diskName = "antipode-fault-"

// small is how large each disk is that gets full.
var small = map[string]int{"us/kafka": 192 << 20, "us/postgres": 384 << 20}

// mount gives members small disks before they start. Where that is forbidden, the tests that fill them fail and say so.
func (w *world) mount(c *app.Cluster) error {
	unmountOld()
	for _, m := range c.Plan().Members() {
		size, ok := small[m.Name]
		if !ok {
			continue
		}
		if err := os.MkdirAll(m.Dir, 0o755); err != nil {
			return err
		}
		d := &disk{path: m.Dir}
		w.disks[m.Name] = d
		options := fmt.Sprintf("size=%d,mode=0755", size)
		if err := syscall.Mount(diskName+strconv.Itoa(os.Getpid()), m.Dir, "tmpfs", 0, options); err != nil {
			d.why = fmt.Errorf("mount a small disk on %s: %w: this test needs root", m.Dir, err)
			continue
		}
		d.mounted = m.Dir
	}
	return nil
}

// fill takes all the room that is left.
func (d *disk) fill() error {
	if d.why != nil {
		return d.why
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 { // the last bytes too
		block := make([]byte, size)
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, io.ErrShortWrite) {
			return err
		}
	}
	return nil
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// free gives the room back.
func (d *disk) free() error {
	if err := os.Remove(d.ballast()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (d *disk) unmount() error {
	if d.mounted == "" {
		return nil
	}
	return syscall.Unmount(d.mounted, syscall.MNT_DETACH)
}

// unmountOld unmounts what test processes left that were killed.
func unmountOld() {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		name, ok := strings.CutPrefix(fields[0], diskName)
		if pid, err := strconv.Atoi(name); ok && err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH) // the next start fails on it if it stays
		}
	}
}

func TestKafkaDiskFull(t *testing.T) {
	f := begin(t, "full disk of Kafka")
	f.full("us/kafka")
	f.notices(60*time.Second, us)
	f.flows(time.Now(), 30*time.Second, []im.Region{eu}, []im.Region{eu})
	f.heals(f.frees("us/kafka"))
	f.ends()
}

func TestPostgresDiskFull(t *testing.T) {
	f := begin(t, "full disk of PostgreSQL")
	f.full("us/postgres")
	f.stands(us, 2*time.Second, 60*time.Second)
	f.accepts(time.Now(), 30*time.Second)
	f.flows(time.Now(), 30*time.Second, nil, []im.Region{eu})
	f.heals(f.frees("us/postgres"))
	f.ends()
}

// stands waits until the views of a region have stood still for so long although there is more to apply. Users are shown
// what is numbered meanwhile (ADR 011), up to a bound that they do not reach here.
func (f *fault) stands(region im.Region, still, limit time.Duration) {
	f.Helper()
	type stop struct {
		next  int64
		since time.Time
	}
	stops := map[im.Partition]stop{}
	f.await(limit, func() (bool, string) {
		behind, err := f.Behind(f.Context())
		if err != nil {
			return false, err.Error()
		}
		now, seen := time.Now(), map[im.Partition]stop{}
		for _, b := range behind {
			if b.Region != region {
				continue
			}
			s, ok := stops[b.Partition]
			if !ok || s.next != b.Next {
				s = stop{b.Next, now}
			}
			if now.Sub(s.since) >= still {
				return true, ""
			}
			seen[b.Partition] = s
		}
		stops = seen
		return false, "apply in " + string(region) + " has not stopped"
	})
}

// full fills a member's disk.
func (f *fault) full(member string) {
	f.Helper()
	f.broke = time.Now()
	if err := shared.disks[member].fill(); err != nil {
		f.Fatal(err)
	}
}

// frees makes room on a member's disk, and starts the member again if it ended for want of it.
func (f *fault) frees(member string) func(context.Context) error {
	return func(ctx context.Context) error {
		return errors.Join(shared.disks[member].free(), f.Start(ctx, member))
	}
}
