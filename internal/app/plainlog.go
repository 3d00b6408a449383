package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// plainLog writes warnings for the one who runs a command, a line each between the lines that the command prints:
//
//	warning: waiting for a backend (backend consul, address 127.0.0.1:8500, left 20s)
type plainLog struct {
	mu    *sync.Mutex // of w
	w     io.Writer
	known []slog.Attr
	group string // before the names of attributes
}

func newPlainLog(w io.Writer) *slog.Logger { return slog.New(plainLog{mu: new(sync.Mutex), w: w}) }

func (plainLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (p plainLog) Handle(_ context.Context, r slog.Record) error {
	what := "warning"
	if r.Level >= slog.LevelError {
		what = "error"
	}
	var facts []string
	for _, a := range p.known {
		facts = append(facts, fmt.Sprintf("%s %v", a.Key, a.Value))
	}
	r.Attrs(func(a slog.Attr) bool {
		facts = append(facts, fmt.Sprintf("%s%s %v", p.group, a.Key, a.Value))
		return true
	})
	line := what + ": " + r.Message
	if len(facts) > 0 {
		line += " (" + strings.Join(facts, ", ") + ")"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := fmt.Fprintln(p.w, strings.ReplaceAll(line, "\n", "; "))
	return err
}

func (p plainLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	p.known = p.known[:len(p.known):len(p.known)]
	for _, a := range attrs {
		p.known = append(p.known, slog.Attr{Key: p.group + a.Key, Value: a.Value})
	}
	return p
}

func (p plainLog) WithGroup(name string) slog.Handler {
	if name != "" {
		p.group += name + "."
	}
	return p
}
