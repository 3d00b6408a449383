package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// snapshotFile keeps a router's snapshot in a file of this machine.
type snapshotFile struct{ path string }

// Load reads it.
func (s snapshotFile) Load(read func(io.Reader) error) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return nil
}

// Save writes another file beside it and puts that in its place once it is on disk: a crash leaves one or the other.
func (s snapshotFile) Save(write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
