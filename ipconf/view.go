package ipconf

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// view is everything that answers are made of, at one moment. It is made anew ten times a second, never changed, and read
// without a lock; only the counts of newcomers in it go on.
type view struct {
	table     *rank.Table
	gateways  []*gateway // as in table
	regions   []rank.Region
	open      float64 // usable gateways of open regions
	ipconfs   float64 // that share the work, as far as is known, this one included
	epoch     uint64  // changes when lists that were handed out should be asked for again
	catalogue *signed // nil: none
}

// look makes a view.
func (s *IPConf) view(now time.Time) *view {
	names := s.regions()
	v := &view{regions: make([]rank.Region, len(names)), ipconfs: s.peerCount(), catalogue: s.catalogue.Load()}
	var list []rank.Gateway
	list, v.gateways = s.fleet.candidates(names, s.weigh, now)
	for i, name := range names {
		var state im.RegionState
		if s.deps.States != nil {
			state = s.deps.States.State(name)
		}
		r := rank.Region{Name: name}
		r.Share, r.Ramp, r.Why = share(state, s.fleet.back(name), s.cfg.DrainOver, s.cfg.ReturnOver, now)
		v.regions[i] = r
	}
	v.table = rank.Build(list, v.regions, rank.Settings{Limit: s.cfg.MaxAnswer})
	h := fnv.New64a()
	note := func(n float64) { h.Write([]byte{byte(n), byte(int(n) >> 8)}) }
	for i, r := range v.regions {
		usable, free := v.table.State(i)
		if r.Share > 0 {
			v.open += float64(usable)
		}
		note(float64(usable))
		note(10 * free)
		note(10 * r.Share)
	}
	if v.catalogue != nil {
		h.Write([]byte(v.catalogue.version))
	}
	canaries := make([]int, len(v.regions))
	for i := range list {
		if list[i].Canary && !list[i].Dead && !list[i].Draining {
			canaries[list[i].Region]++
		}
	}
	for _, n := range canaries {
		note(float64(n))
	}
	_, changes := s.fleet.all(nil)
	note(float64(changes))
	v.epoch = mix(h.Sum64())
	return v
}

// peerCount is how many ipconfs share the work. Of other regions those count that answered when they were last asked: a dead
// region's stay in the catalogue, and the part of the rate that was theirs would be missing just when its clients come. Of
// the own region discovery notices a death itself.
func (s *IPConf) peerCount() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := max(1, len(s.ipconfs[s.cfg.Region]))
	for r, list := range s.ipconfs {
		for i := range list {
			if r != s.cfg.Region && !s.mute[r][list[i].ID] {
				n++
			}
		}
	}
	return float64(n)
}

// refresh keeps the view fresh.
func (s *IPConf) refresh(ctx context.Context) {
	t := time.NewTicker(s.cfg.ViewInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.changed:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		s.sign(now)
		s.current.Store(s.view(now))
	}
}
