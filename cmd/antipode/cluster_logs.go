package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/internal/cluster"
)

// logPrinter prints lines of many parts, each behind its part's name.
type logPrinter struct {
	w      io.Writer
	colour bool
	raw    bool   // services' JSON as it is
	which  string // all, services, warnings or none

	ready atomic.Bool // from when on warnings are shown: parts that start complain of those that have not yet

	mu    sync.Mutex
	width int
	order map[string]int // of the parts, for their colours
}

func newLogPrinter(w *os.File, which string) (*logPrinter, error) {
	if !slices.Contains([]string{"all", "services", "warnings", "none"}, which) {
		return nil, fmt.Errorf("--logs %q: want all, services, warnings or none", which)
	}
	return &logPrinter{w: w, which: which, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "", width: 14, order: map[string]int{}}, nil
}

// align makes room for the longest name.
func (p *logPrinter) align(plan *cluster.Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range plan.Members() {
		p.width = max(p.width, len(m.Name))
		p.order[m.Name] = i
	}
}

func (p *logPrinter) progress(line string) { p.line("antipode", line) }

// banner prints a text of several lines as it is, when everything is ready.
func (p *logPrinter) banner(text string) {
	p.ready.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprint(p.w, "\n"+text+"\n")
}

// show prints what a part said, if that was asked for.
func (p *logPrinter) show(name, line string) {
	entry, service := parseLog(line)
	switch p.which {
	case "none":
		return
	case "services":
		if !service {
			return
		}
	case "warnings":
		if !service || !p.ready.Load() || entry.level != "WARN" && entry.level != "ERROR" {
			return
		}
	}
	p.print(name, line)
}

func (p *logPrinter) print(name, line string) {
	if entry, ok := parseLog(line); ok && !p.raw {
		line = entry.text()
	}
	p.line(name, line)
}

func (p *logPrinter) line(name, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	label := fmt.Sprintf("%-*s │", p.width, name)
	if p.colour {
		n, known := p.order[name]
		code := 1 // bold: not a part
		if known {
			code = []int{36, 33, 32, 35, 34, 96, 93, 92, 95, 94}[n%10]
		}
		label = fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, label)
	}
	fmt.Fprintln(p.w, label, line)
}

// logEntry is a line of JSON that a service logged.
type logEntry struct {
	at, level, msg string
	rest           map[string]any
}

func parseLog(line string) (e logEntry, ok bool) {
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e.rest) != nil {
		return e, false
	}
	take := func(key string) string {
		s, _ := e.rest[key].(string)
		delete(e.rest, key)
		return s
	}
	e.at, e.level, e.msg = take("time"), take("level"), take("msg")
	for _, known := range []string{"service", "region", "instance"} { // its name says so
		delete(e.rest, known)
	}
	return e, e.msg != ""
}

// text is the entry for people.
func (e logEntry) text() string {
	var b strings.Builder
	if at, err := time.Parse(time.RFC3339Nano, e.at); err == nil {
		b.WriteString(at.Local().Format("15:04:05.000 "))
	}
	if e.level != "INFO" {
		b.WriteString(e.level + " ")
	}
	b.WriteString(e.msg)
	for _, key := range slices.Sorted(maps.Keys(e.rest)) {
		value := e.rest[key]
		if s, isText := value.(string); isText {
			if strings.ContainsAny(s, " \"=") {
				s = fmt.Sprintf("%q", s)
			}
			fmt.Fprintf(&b, " %s=%s", key, s)
			continue
		}
		text, _ := json.Marshal(value)
		fmt.Fprintf(&b, " %s=%s", key, text)
	}
	return b.String()
}

func newClusterLogs(f *clusterFlags) *cobra.Command {
	var (
		follow, raw bool
		lines       int
	)
	cmd := &cobra.Command{
		Use:   "logs [PART…]",
		Short: "Show what the parts said, also of a cluster that does not run",
		RunE: func(cmd *cobra.Command, names []string) error {
			plan, err := f.plan()
			if err != nil {
				return err
			}
			parts, err := matchLogs(plan, names)
			if err != nil {
				return err
			}
			p, err := newLogPrinter(os.Stdout, "all")
			if err != nil {
				return err
			}
			p.raw = raw
			p.align(plan)
			return printLogs(cmd.Context(), p, plan, parts, lines, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what they say from now on")
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how many of the last lines of each part")
	cmd.Flags().BoolVar(&raw, "raw", false, "services' lines as they are, JSON")
	return cmd
}

// logTail reads what is appended to a log file, also when the file is replaced by a new one.
type logTail struct {
	name, path string
	file       *os.File
	partial    strings.Builder
}

func printLogs(ctx context.Context, p *logPrinter, plan *cluster.Plan, parts []string, lines int, follow bool) error {
	tails := make([]*logTail, len(parts))
	found := false
	for i, name := range parts {
		tails[i] = &logTail{name: name, path: plan.LogFile(name)}
		defer tails[i].close()
		last, err := tails[i].last(lines)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		found = found || err == nil
		for _, line := range last {
			p.print(name, line)
		}
	}
	if !found && !follow {
		return fmt.Errorf("there are no logs in %s yet", plan.LogsDir())
	}
	if !follow {
		return nil
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, t := range tails {
			if err := t.more(func(line string) { p.print(t.name, line) }); err != nil {
				return err
			}
		}
	}
}

func (t *logTail) close() {
	if t.file != nil {
		t.file.Close()
	}
}

// last returns the last lines, and leaves the file open at its end.
func (t *logTail) last(n int) ([]string, error) {
	var err error
	if t.file, err = os.Open(t.path); err != nil {
		t.file = nil
		return nil, err
	}
	var lines []string
	err = t.read(func(line string) {
		lines = append(lines, line)
		if len(lines) > n {
			lines = lines[1:]
		}
	})
	return lines, err
}

// replaced tells whether another file has the name now. While there is none, it is about to be: the next look tells.
func (t *logTail) replaced() bool {
	was, err1 := t.file.Stat()
	now, err2 := os.Stat(t.path)
	return err1 == nil && err2 == nil && !os.SameFile(was, now)
}

// more reads what was appended, and then of the file that took the place of this one, if one did.
func (t *logTail) more(each func(string)) error {
	if t.file != nil {
		if err := t.read(each); err != nil {
			return err
		}
		if !t.replaced() {
			return nil
		}
		t.file.Close()
		t.file = nil
	}
	file, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.file = file
	return t.read(each)
}

func (t *logTail) read(each func(string)) error {
	r := bufio.NewReader(t.file)
	for {
		text, err := r.ReadString('\n')
		t.partial.WriteString(text)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log of %s: %w", t.name, err)
		}
		each(strings.TrimSuffix(t.partial.String(), "\n"))
		t.partial.Reset()
	}
}
