package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// bootFile names this boot of the machine, on Linux.
const bootFile = "/proc/sys/kernel/random/boot_id"

// unsynced keeps watch over a data folder whose server never waits for the disk: a mark beside it names the boot of
// the machine that may hold writes in memory only. A process that dies loses none of them; a machine that does tears
// files, and nothing in them tells. So a mark of another boot means that the folder cannot be trusted.
type unsynced struct {
	data string // the folder
	mark string // the file that names the boot
	boot string // where the machine names its boot
}

// begin removes a folder that another boot may have torn, and sets the mark. It reports whether it removed one.
// Where the machine does not name its boots it fails with fs.ErrNotExist: then the server has to wait for the disk.
func (u unsynced) begin() (torn bool, err error) {
	boot, err := os.ReadFile(u.boot)
	if err != nil {
		return false, err
	}
	marked, err := os.ReadFile(u.mark)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case !bytes.Equal(marked, boot):
		if err := os.RemoveAll(u.data); err != nil {
			return false, err
		}
		torn = true
	}
	if err := os.WriteFile(u.mark, boot, 0o644); err != nil {
		return false, err
	}
	return torn, errors.Join(syncPath(u.mark), syncPath(filepath.Dir(u.mark)))
}

// end, after the server has stopped, writes the folder to the disk and takes the mark away.
func (u unsynced) end(ctx context.Context) error {
	err := filepath.WalkDir(u.data, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return syncPath(path)
	})
	if err != nil {
		return fmt.Errorf("write %s to the disk: %w (after a crash of the machine it is derived again)", u.data, err)
	}
	return os.Remove(u.mark)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
