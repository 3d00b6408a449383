package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSink(t *testing.T) {
	var shown []string
	path := filepath.Join(t.TempDir(), "log")
	s, err := newSink("eu/kafka", path, func(name, line string) { shown = append(shown, name+" "+line) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, part := range []string{"one\ntw", "o\r\nthree", "\n"} {
		if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := strings.Join(shown, ", "); got != "eu/kafka one, eu/kafka two, eu/kafka three" {
		t.Errorf("shown: %s", got)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "one\ntwo\nthree\n" {
		t.Errorf("kept: %q, %v", text, err)
	}
	shown = nil
	if _, err := s.Write([]byte(strings.Repeat("x", maxLineBytes+10) + "\n")); err != nil {
		t.Fatal(err)
	}
	if len(shown) != 2 || !strings.HasSuffix(shown[1], " "+strings.Repeat("x", 10)) {
		t.Errorf("a long line became %d lines", len(shown))
	}
}

// A log file does not grow for ever: the former part is kept once.
func TestSinkStartsOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s, err := newSink("eu/kafka", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.size = maxLogBytes + 1
	if _, err := s.Write([]byte("after\n")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "after\n" {
		t.Errorf("kept: %q, %v", text, err)
	}
	if _, err := os.Stat(path + ".old"); err != nil {
		t.Error(err)
	}
}

func TestReason(t *testing.T) {
	for _, c := range []struct{ name, said, want string }{
		{"a service's last line", "{\"level\":\"INFO\",\"msg\":\"starting\"}\nantipode: kafka at 127.0.0.11:9092: connection refused: start Kafka\n", "kafka at 127.0.0.11:9092: connection refused: start Kafka"},
		{"an error in JSON", "{\"level\":\"ERROR\",\"msg\":\"it broke\",\"error\":\"in two\"}\n{\"level\":\"INFO\",\"msg\":\"bye\"}\n", "it broke: in two"},
		{"PostgreSQL", "LOG:  starting\nFATAL:  could not create lock file\nLOG:  database system is shut down\n", "FATAL:  could not create lock file"},
		{"nothing that looks wrong", "one\ntwo\n\n", "two"},
		{"nothing", "", "it said nothing"},
	} {
		s, err := newSink("x", filepath.Join(t.TempDir(), "log"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte(c.said)); err != nil {
			t.Fatal(err)
		}
		if got := s.reason(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		s.close()
	}
}

// What a service waits for is what it said last, but not before its last start.
func TestWaitsFor(t *testing.T) {
	for _, c := range []struct{ name, said, want string }{
		{"a backend", `{"level":"WARN","msg":"waiting for a backend","backend":"consul","address":"127.0.0.11:8500","reason":"connection refused"}`, "waits for consul at 127.0.0.11:8500: connection refused"},
		{"a start after it", `{"level":"WARN","msg":"waiting for a backend","backend":"consul"}` + "\n" + `{"level":"INFO","msg":"starting"}`, ""},
		{"nothing", "", ""},
	} {
		s, err := newSink("x", filepath.Join(t.TempDir(), "log"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte(c.said + "\n")); err != nil {
			t.Fatal(err)
		}
		if got := s.waitsFor(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		s.close()
	}
}
