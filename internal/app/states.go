package app

import (
	"sync/atomic"

	"github.com/antipode-im/antipode/im"
)

// regionStates holds the latest states of regions from discovery, for ipconf to ask at every answer.
type regionStates struct {
	latest atomic.Pointer[map[im.Region]im.RegionState]
}

func newRegionStates() *regionStates {
	s := new(regionStates)
	s.latest.Store(&map[im.Region]im.RegionState{})
	return s
}

func (s *regionStates) set(states []im.RegionState) {
	m := make(map[im.Region]im.RegionState, len(states))
	for _, r := range states {
		m[r.Region] = r
	}
	s.latest.Store(&m)
}

// State returns what is known of a region, zero for nothing.
func (s *regionStates) State(r im.Region) im.RegionState { return (*s.latest.Load())[r] }
