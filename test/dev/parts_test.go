package dev

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/antipode-im/antipode/internal/app"
)

// The end of what all regions share is told, with what goes on without it and what to do; and readiness shows it.
func TestDevTellsOfPostgresEnd(t *testing.T) {
	data := t.TempDir()
	var mu sync.Mutex
	var told []string
	d, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu"}, Listen: "127.0.0.1:0", Data: data, Pages: true,
		Progress: func(line string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, line)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	readiness := func() (int, map[string]string) {
		resp, err := http.Get(d.URL() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct{ Checks map[string]string }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer.Checks
	}
	if status, checks := readiness(); status != http.StatusOK || checks["postgres"] != "ok" || checks["eu/imserver"] != "ok" {
		t.Fatalf("before: %d %v", status, checks)
	}

	file, err := os.ReadFile(filepath.Join(data, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(file), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "what ended is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		all := strings.Join(told, "\n")
		return strings.Contains(all, "PostgreSQL ended by itself") && strings.Contains(all, "postgres.log") &&
			strings.Contains(all, "start the same command again")
	})
	if status, checks := readiness(); status != http.StatusServiceUnavailable || !strings.Contains(checks["postgres"], "ended by itself") {
		t.Errorf("afterwards: %d %v", status, checks)
	}
}
