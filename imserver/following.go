package imserver

import (
	"fmt"
	"slices"
	"sync"

	"github.com/antipode-im/antipode/im"
)

// following is whose logs are applied. It only grows: what was applied stays, and so does the place where it ends.
type following struct {
	mu      sync.Mutex
	origins []im.Origin   // replaced, not changed
	heard   []im.Origin   // of these, those that are expected to be heard of
	changed chan struct{} // closed and replaced when there are more
}

// now are the origins that are applied; changed is closed when there are more.
func (f *following) now() (origins []im.Origin, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.origins, f.changed
}

// expected are the origins whose silence is told.
func (f *following) expected() []im.Origin {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard
}

// Follow applies the logs of these origins too, whose topics must be there. Live are those that are expected to be heard of:
// not those that are sealed. It may be called at any time.
func (s *Server) Follow(origins, live []im.Origin) error {
	for _, o := range origins {
		if _, err := im.ParseOrigin(string(o)); err != nil {
			return fmt.Errorf("imserver: %w", err)
		}
	}
	f := &s.follow
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard = slices.Clone(live)
	all := slices.Clone(f.origins)
	for _, o := range origins {
		if !slices.Contains(all, o) {
			all = append(all, o)
			s.meter.begin(o)
		}
	}
	if len(all) == len(f.origins) {
		return nil
	}
	s.deps.Logger.Info("applying other origins' logs too", "origins", fmt.Sprint(all), "before", fmt.Sprint(f.origins))
	rules := *s.rules.Load()
	rules.Origins = all
	s.rules.Store(&rules)
	f.origins = all
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}
