package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

func TestSkew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clock")
	s := &skew{path: path, log: slog.New(slog.DiscardHandler)}
	others := s.ahead(func(context.Context) (map[im.Region]time.Duration, error) {
		return map[im.Region]time.Duration{"us": time.Second}, nil
	})
	for _, c := range []struct {
		text string
		by   time.Duration
	}{{"", 0}, {"4s\n", 4 * time.Second}, {"-10s", -10 * time.Second}, {"soon", 0}, {"0s", 0}} {
		if c.text != "" {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.look()
		if d := time.Until(s.now()) - c.by; d.Abs() > time.Second {
			t.Errorf("%q: the clock is %v from what it should say", c.text, d)
		}
		if all, err := others(t.Context()); err != nil || all["us"] != time.Second-c.by {
			t.Errorf("%q: us is %v ahead, %v", c.text, all["us"], err)
		}
	}
}
