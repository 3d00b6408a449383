package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/antipode-im/antipode/im"
)

// State is what an installation must remember: losing the login number makes a new device.
type State struct {
	Device im.DeviceID `json:"device"`
	Login  uint64      `json:"login"` // of the newest socket; grows at every socket
}

// Store keeps the state of one installation. Save returns once the state would survive a crash: a login number is sent
// only after that.
type Store interface {
	Load(ctx context.Context) (State, error) // the zero State if there is none
	Save(ctx context.Context, s State) error
}

// ListStore is a Store that also keeps the last list of gateways, for a start at which no ipconf answers.
type ListStore interface {
	LoadList(ctx context.Context) ([]byte, error) // nothing if there is none
	SaveList(ctx context.Context, list []byte) error
}

// MemoryStore is a Store that forgets.
type MemoryStore struct {
	mu    sync.Mutex
	state State
}

// Load returns the last state saved.
func (m *MemoryStore) Load(context.Context) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, nil
}

// Save keeps it.
func (m *MemoryStore) Save(_ context.Context, s State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	return nil
}

// FileStore is a Store in one JSON file. Only one process may use it at a time.
type FileStore struct{ Path string }

// Load reads the file; one that does not exist is the zero State.
func (f FileStore) Load(context.Context) (State, error) {
	b, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("device state: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("device state %s: %w (delete it to become a new device)", f.Path, err)
	}
	return s, nil
}

// Save writes the file beside itself, syncs it and renames it into place.
func (f FileStore) Save(_ context.Context, s State) error {
	b, err := json.Marshal(s)
	if err == nil {
		err = replace(f.Path, b, true)
	}
	if err != nil {
		return fmt.Errorf("device state: %w", err)
	}
	return nil
}

// LoadList reads the file's neighbour with the suffix .gateways.
func (f FileStore) LoadList(context.Context) ([]byte, error) {
	b, err := os.ReadFile(f.Path + listSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// SaveList writes it. It need not survive a crash.
func (f FileStore) SaveList(_ context.Context, list []byte) error {
	return replace(f.Path+listSuffix, list, false)
}

const listSuffix = ".gateways"

// replace writes a file beside the one that it replaces, and renames it into place.
func replace(path string, b []byte, sync bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil && sync {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}
