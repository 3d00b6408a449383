package ipconf

import (
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// regions are those that are known, in the order of their places in views.
func (s *IPConf) regions() []im.Region { return *s.followed.Load() }

// Follow makes more regions known. It may be called at any time. One that is not named stays known: it has no gateways if
// it is gone, and its state says so.
func (s *IPConf) Follow(regions []im.Region) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.regions())
	var fresh []im.Region
	for _, r := range regions {
		if !slices.Contains(all, r) {
			all, fresh = append(all, r), append(fresh, r)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if len(all) > rank.MaxRegions {
		return fmt.Errorf("ipconf: %d regions are more than %d", len(all), rank.MaxRegions)
	}
	s.deps.Logger.Info("handing out other regions too", "regions", fmt.Sprint(all))
	first := len(all) - len(fresh)
	s.fleet.add(fresh)
	s.metrics.name(first, fresh)
	s.metrics.begin(first, fresh)
	s.locator.regions.Store(&all) // first: who may not be sent there must not be
	s.followed.Store(&all)
	wake(s.changed)
	if s.begin != nil {
		for _, r := range fresh {
			s.begin(r)
		}
	}
	return nil
}
