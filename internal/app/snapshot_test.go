package app

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestSnapshotFile: the last one that was written whole is the one that is read.
func TestSnapshotFile(t *testing.T) {
	s := snapshotFile{filepath.Join(t.TempDir(), "routes")}
	text := func() (got string, err error) {
		err = s.Load(func(r io.Reader) error {
			b, err := io.ReadAll(r)
			got = string(b)
			return err
		})
		return got, err
	}
	save := func(what string, err error) error {
		return s.Save(func(w io.Writer) error {
			_, wrote := io.WriteString(w, what)
			return errors.Join(err, wrote)
		})
	}
	if _, err := text(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a file: %v", err)
	}
	if err := save("one", nil); err != nil {
		t.Fatal(err)
	}
	if err := save("two", errors.New("no")); err == nil {
		t.Fatal("a write that failed was not told")
	}
	if got, err := text(); got != "one" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if files, err := os.ReadDir(filepath.Dir(s.path)); err != nil || len(files) != 1 {
		t.Fatalf("files: %v, %v", files, err)
	}
}
