package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	maxLogBytes  = 16 << 20 // of a member's log file; then the former part is kept in one more of that size
	maxLineBytes = 64 << 10 // longer lines are broken
	tailLines    = 20
)

// sink takes what a member writes: it keeps it in a file, remembers the last lines, and shows each line to whoever
// watches.
type sink struct {
	name, path string
	show       func(name, line string)

	mu      sync.Mutex
	file    *os.File
	size    int64
	partial []byte
	last    []string
}

// LauncherLog is the name under which what the launcher itself says is kept.
const LauncherLog = "launcher"

// LogsDir is the folder of all log files.
func (p *Plan) LogsDir() string { return filepath.Join(p.Data, logsFolder) }

// LogFile is where a member's output is kept.
func (p *Plan) LogFile(name string) string {
	return filepath.Join(p.LogsDir(), filepath.FromSlash(name)+".log")
}

func newSink(name, path string, show func(name, line string)) (*sink, error) {
	s := &sink{name: name, path: path, show: show}
	return s, s.open()
}

func (s *sink) open() error {
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log of %s: %w", s.name, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("log of %s: %w", s.name, err)
	}
	s.file, s.size = f, info.Size()
	return nil
}

// Write implements io.Writer. It never fails: a member must not block or die because its log cannot be kept.
func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partial = append(s.partial, b...)
	for {
		end := bytes.IndexByte(s.partial, '\n')
		if end < 0 && len(s.partial) < maxLineBytes {
			break
		}
		rest := end + 1
		if end < 0 || end > maxLineBytes {
			end, rest = maxLineBytes, maxLineBytes
		}
		s.line(string(bytes.TrimRight(s.partial[:end], "\r")))
		s.partial = s.partial[rest:]
	}
	s.partial = append([]byte(nil), s.partial...)
	return len(b), nil
}

func (s *sink) line(text string) {
	s.last = append(s.last, text)
	if len(s.last) > tailLines {
		s.last = s.last[len(s.last)-tailLines:]
	}
	if s.file != nil {
		if s.size > maxLogBytes {
			s.file.Close()
			s.file = nil
			_ = os.Rename(s.path, s.path+".old") // else it grows on
			if s.open() != nil {
				return
			}
		}
		n, _ := s.file.WriteString(text + "\n")
		s.size += int64(n)
	}
	if s.show != nil {
		s.show(s.name, text)
	}
}

func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// reason is the last thing that the member said of what is wrong, for an error of one line.
func (s *sink) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.last) - 1; i >= 0; i-- {
		if text := complaint(s.last[i]); text != "" {
			return text
		}
	}
	for i := len(s.last) - 1; i >= 0; i-- {
		if l, ok := parseJSON(s.last[i]); ok {
			return l.Msg
		}
		if text := strings.TrimSpace(s.last[i]); text != "" {
			return text
		}
	}
	return "it said nothing"
}

// complaint is what a line says is wrong, "" for nothing.
func complaint(line string) string {
	if l, ok := parseJSON(line); ok {
		if l.Level == "ERROR" {
			return strings.TrimSuffix(l.Msg+": "+l.Error, ": ")
		}
		return ""
	}
	if text, ok := strings.CutPrefix(line, "antipode: "); ok {
		return text
	}
	for _, word := range []string{"FATAL", "ERROR", "[ERR", "Exception", "Error:", "Can't", "Fatal"} {
		if strings.Contains(line, word) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// waitsFor is what a service that has not become ready warned of last, "" for nothing.
func (s *sink) waitsFor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.last) - 1; i >= 0; i-- {
		l, ok := parseJSON(s.last[i])
		switch {
		case !ok:
		case l.Msg == "starting": // what is older was said by the process before
			return ""
		case l.Backend != "":
			return fmt.Sprintf("waits for %s at %s: %s", l.Backend, l.Address, cmp.Or(l.Reason, l.Error))
		}
	}
	return ""
}

// jsonLine is what matters of a line that a service logged.
type jsonLine struct {
	Level, Msg, Error        string
	Backend, Address, Reason string
}

func parseJSON(line string) (l jsonLine, ok bool) {
	if !strings.HasPrefix(line, "{") {
		return l, false
	}
	return l, json.Unmarshal([]byte(line), &l) == nil && l.Msg != ""
}
