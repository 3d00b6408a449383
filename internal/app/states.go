package app

import (
	"sync/atomic"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf"
)

// regionStates holds the latest states of regions from discovery, for ipconf to ask at every answer.
type regionStates struct {
	latest atomic.Pointer[map[im.Region]ipconf.State]
}

func newRegionStates() *regionStates {
	s := new(regionStates)
	s.latest.Store(&map[im.Region]ipconf.State{})
	return s
}

func (s *regionStates) set(states []im.RegionState) {
	m := make(map[im.Region]ipconf.State, len(states))
	for _, r := range states {
		m[r.Region] = r.State
	}
	s.latest.Store(&m)
}

// State returns what is known of a region, "" for nothing.
func (s *regionStates) State(r im.Region) ipconf.State { return (*s.latest.Load())[r] }
