package app

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
)

// skew puts a process's clock off by the duration in a file, for game days: a real clock cannot be set for one process.
type skew struct {
	path string // empty: the clock is right
	log  *slog.Logger
	by   atomic.Int64 // ns
}

// skewEvery is how often the file is looked at.
const skewEvery = 100 * time.Millisecond

func (s *skew) now() time.Time { return time.Now().Add(time.Duration(s.by.Load())) }

// ahead corrects how far others are ahead of the real clock to how far they are ahead of this one.
func (s *skew) ahead(ask func(context.Context) (map[im.Region]time.Duration, error)) func(context.Context) (map[im.Region]time.Duration, error) {
	return func(ctx context.Context) (map[im.Region]time.Duration, error) {
		others, err := ask(ctx)
		others = maps.Clone(others)
		for r := range others {
			others[r] -= time.Duration(s.by.Load())
		}
		return others, err
	}
}

// run follows the file until ctx ends. One that is not there, or that says nothing sensible, leaves the clock right.
func (s *skew) run(ctx context.Context) error {
	if s.path == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(skewEvery)
	defer tick.Stop()
	for {
		s.look()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *skew) look() {
	text, err := os.ReadFile(s.path)
	var by time.Duration
	if err == nil {
		by, err = time.ParseDuration(strings.TrimSpace(string(text)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the clock is not put off", "file", s.path, "error", err)
	}
	if was := time.Duration(s.by.Swap(int64(by))); was != by {
		s.log.Warn("this clock is put off on purpose", "file", s.path, "by", by)
	}
}
