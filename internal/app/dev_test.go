package app

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDevRefusesImpossibleSample(t *testing.T) {
	for _, sample := range []float64{-0.1, 1.1, 3, math.NaN()} {
		d, err := NewDev(DevConfig{Regions: []string{"eu"}, Listen: "127.0.0.1:0", Data: t.TempDir(), Sample: sample})
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "--sample") {
			t.Errorf("%v: %v", sample, err)
		}
	}
}

// A folder that a dev runs on belongs to it: another one deletes nothing there, and takes nothing from it.
func TestDevHoldsItsFolder(t *testing.T) {
	cfg := DevConfig{Regions: []string{"eu"}, Listen: "127.0.0.1:0", Data: t.TempDir()}
	first, err := NewDev(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cfg.Data, "kept")
	if err := os.WriteFile(kept, []byte("a log"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, fresh := range []bool{true, false} {
		cfg.Fresh = fresh
		second, err := NewDev(cfg)
		if err == nil {
			second.Close()
			t.Fatal("two run on one folder")
		}
		if !strings.Contains(err.Error(), cfg.Data) || !strings.Contains(err.Error(), "--data") {
			t.Errorf("fresh=%v: want an error that names the folder and what to do, got: %v", fresh, err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Fatalf("fresh=%v: the second one deleted what the first one holds: %v", fresh, err)
		}
	}
	first.Close()
	cfg.Fresh = true
	again, err := NewDev(cfg)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := os.Stat(kept); err == nil {
		t.Error("--fresh left what was there")
	}
}
