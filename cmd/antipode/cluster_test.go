package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/cluster"
)

func TestLogEntryText(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.Local)
	line := `{"time":"` + at.Format(time.RFC3339Nano) + `","level":"WARN","msg":"link closed","service":"replicator","region":"eu","instance":"r-1","peer":"us","again_in":1.5,"reason":"it is \"cut\""}`
	e, ok := parseLog(line)
	if !ok {
		t.Fatal("it is no entry")
	}
	if got, want := e.text(), `03:04:05.678 WARN link closed again_in=1.5 peer=us reason="it is \"cut\""`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, other := range []string{"", "{", "LOG:  database system is ready", `{"level":"INFO"}`} {
		if _, ok := parseLog(other); ok {
			t.Errorf("%q is taken for an entry", other)
		}
	}
}

func TestLogPrinterShows(t *testing.T) {
	const info, warning, kafka = `{"level":"INFO","msg":"fine"}`, `{"level":"WARN","msg":"not fine"}`, "[2026] INFO started"
	for which, want := range map[string]string{
		"none":     "",
		"warnings": "eu/a           │ WARN not fine\n",
		"services": "eu/a           │ fine\neu/a           │ WARN not fine\n",
		"all":      "eu/a           │ fine\neu/a           │ WARN not fine\neu/a           │ [2026] INFO started\n",
	} {
		var b bytes.Buffer
		p := &logPrinter{w: &b, which: which, width: 14}
		p.show("eu/a", `{"level":"WARN","msg":"while it starts"}`)
		b.Reset()
		p.ready.Store(true)
		for _, line := range []string{info, warning, kafka} {
			p.show("eu/a", line)
		}
		if b.String() != want {
			t.Errorf("%s: got %q, want %q", which, b.String(), want)
		}
	}
}

// A tail goes on in the file that took the place of the one it reads.
func TestLogTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write("one\ntwo\nthree\npart")
	tail := &logTail{name: "x", path: path}
	defer tail.close()
	last, err := tail.last(2)
	if err != nil || strings.Join(last, " ") != "two three" {
		t.Fatalf("got %q, %v", last, err)
	}
	write("ial\nfour\n")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write("five\n")
	var more []string
	if err := tail.more(func(line string) { more = append(more, line) }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(more, " "); got != "partial four five" {
		t.Errorf("got %q", got)
	}
}

func TestMatchLogs(t *testing.T) {
	plan, err := cluster.NewPlan(cluster.DefaultFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want string }{
		{"eu/gateway", "eu/gateway-1 eu/gateway-2"},
		{"us/migrate", "us/migrate"},
		{"launcher", "launcher"},
	} {
		got, err := matchLogs(plan, []string{c.name})
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, %v", c.name, got, err)
		}
	}
	if _, err := matchLogs(plan, []string{"eu/nobody"}); err == nil || !strings.Contains(err.Error(), `no part is called "eu/nobody"`) {
		t.Errorf("got %v", err)
	}
}

// Commands that come after a start find the cluster by what names its place; the rest is kept in the data folder.
func TestClusterFlags(t *testing.T) {
	dir := t.TempDir()
	f := clusterFlags{set: []string{"data=" + dir, "kafka.brokers=3"}}
	plan, err := f.plan()
	if err != nil {
		t.Fatal(err)
	}
	if plan.Data != dir || plan.File.Kafka.Brokers != 3 {
		t.Errorf("got %+v", plan.File)
	}
	if got := strings.Join(f.place(), " "); got != "--set data="+dir {
		t.Errorf("place: %s", got)
	}
	if _, err := (&clusterFlags{set: []string{"kafka.brokers"}}).read(); err == nil || !strings.Contains(err.Error(), "want key=value") {
		t.Errorf("got %v", err)
	}
}
