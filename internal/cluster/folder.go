package cluster

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	markerFile  = "antipode-cluster" // by it a data folder is known for one: --fresh deletes nothing else
	lockFile    = "lock"             // held while a launcher runs
	controlFile = "control.json"     // where it is reached
	planFile    = "plan.json"        // the File of the last start, and what was added since
	addedFile   = "added.json"       // the regions that were added to running ones
	logsFolder  = "logs"
)

// Control tells where a running launcher takes orders.
type Control struct {
	URL string `json:"url"`
	PID int    `json:"pid"`
}

// RunningError says that a launcher runs on the data folder already.
type RunningError struct {
	Data string
	Control
}

// Error names the launcher and how to end it.
func (e *RunningError) Error() string {
	at := ""
	if e.URL != "" {
		at = " at " + e.URL
	}
	return fmt.Sprintf("a cluster runs on %s already (process %d%s): stop it with antipode cluster down, or name another data folder",
		e.Data, e.PID, at)
}

// ErrNotRunning is returned where a running cluster is needed.
var ErrNotRunning = errors.New("no cluster runs")

// lock is a held lock file. The kernel lets go of it however this process ends.
type lock struct{ file *os.File }

// openFolder makes the data folder, or checks that it is one and fits, and locks it. fresh forgets what it holds.
func openFolder(p *Plan, fresh bool) (*lock, error) {
	entries, err := os.ReadDir(p.Data)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("data folder: %w", err)
	case len(entries) > 0:
		if _, err := os.Stat(filepath.Join(p.Data, markerFile)); err != nil {
			return nil, fmt.Errorf("data folder %s: it holds files that are not of antipode cluster: name another", p.Data)
		}
	}
	if err := os.MkdirAll(p.Data, 0o755); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	l, err := takeLock(p.Data)
	if err != nil {
		return nil, err
	}
	if err := fitFolder(p, fresh); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// fitFolder empties the folder if it is to be fresh, and checks what it was made for.
func fitFolder(p *Plan, fresh bool) error {
	mark := filepath.Join(p.Data, markerFile)
	if fresh {
		entries, err := os.ReadDir(p.Data)
		if err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		for _, e := range entries {
			if e.Name() == lockFile || e.Name() == markerFile { // the marker goes last: half a folder is still ours
				continue
			}
			if err := os.RemoveAll(filepath.Join(p.Data, e.Name())); err != nil {
				return fmt.Errorf("--fresh: %w", err)
			}
		}
		if err := os.Remove(mark); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	was, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data folder: %w", err)
	}
	if err == nil && string(was) != p.layout() {
		oneLine := func(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", ", ") }
		return fmt.Errorf("data folder %s: it was made for %s, not for %s: go back to that, name another folder (data:), or forget it with --fresh",
			p.Data, oneLine(string(was)), oneLine(p.layout()))
	}
	if err := os.WriteFile(mark, []byte(p.layout()), 0o644); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return p.makeFolders()
}

func (p *Plan) makeFolders() error {
	for _, r := range p.Regions {
		for _, dir := range []string{filepath.Join(p.LogsDir(), string(r.Name)), r.Dir} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("data folder: %w", err)
			}
		}
	}
	return nil
}

func takeLock(data string) (*lock, error) {
	path := filepath.Join(data, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		running := &RunningError{Data: data}
		running.Control, _ = readControl(data)
		if text, err := os.ReadFile(path); err == nil {
			_, _ = fmt.Sscan(string(text), &running.PID)
		}
		return nil, running
	}
	if err := errors.Join(f.Truncate(0), write(f, fmt.Sprintln(os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("data folder: %s: %w", path, err)
	}
	return &lock{f}, nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteString(text)
	return err
}

func (l *lock) release() { l.file.Close() }

// Locked tells whether a launcher holds the data folder, and which process it is.
func Locked(data string) (pid int, held bool) {
	f, err := os.OpenFile(filepath.Join(data, lockFile), os.O_RDWR, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return 0, false
	}
	_, _ = fmt.Fscan(f, &pid)
	return pid, true
}

// record keeps what was asked for, for commands that come later.
func (p *Plan) record() error {
	text, err := json.MarshalIndent(p.File, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.Data, planFile), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

// Recorded is the plan of the cluster that was last started on a data folder: with what was set for that start alone. It
// is os.ErrNotExist where none was.
func Recorded(data string) (*Plan, error) {
	text, err := os.ReadFile(filepath.Join(data, planFile))
	if err != nil {
		return nil, err
	}
	f := DefaultFile()
	f.Regions = nil
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(data, planFile), err)
	}
	f.Data = data
	return NewPlan(f)
}

func (p *Plan) writeControl() error {
	text, err := json.Marshal(Control{URL: p.URL(), PID: os.Getpid()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.Data, controlFile), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

func readControl(data string) (Control, error) {
	var c Control
	text, err := os.ReadFile(filepath.Join(data, controlFile))
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(text, &c)
}

// postgresPassword reads the password of all PostgreSQL servers, or makes it.
func (p *Plan) postgresPassword() (string, error) {
	text, err := os.ReadFile(p.passwordFile())
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(p.KeysDir(), 0o700); err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	password := rand.Text()
	if err := os.WriteFile(p.passwordFile(), []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	return password, nil
}

// writeConfigs writes the configuration files of all services that lie below a folder.
func (p *Plan) writeConfigs(below string) error {
	files, err := p.Configs()
	if err != nil {
		return err
	}
	for path, text := range files {
		if !strings.HasPrefix(path, below+string(filepath.Separator)) {
			continue
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
	}
	return nil
}
