package ipconf

import (
	"context"
	"encoding/binary"
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
	rooms     []int   // of the regions: which tenth of their capacity is free, as far as epoch goes
	scarce    bool    // less than the reserve is free, as far as epoch goes
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
	for i, r := range v.regions {
		if usable, _ := v.table.State(i); r.Share > 0 {
			v.open += float64(usable)
		}
	}
	v.settle(s.current.Load(), s.cfg.Reserve)
	return v
}

// settle makes the view's epoch of what lists depend on, and not of how the view came about: all ipconfs that see the same have the
// same. Room fluctuates all the time: the last view's word for it stands until it is clearly wrong.
func (v *view) settle(last *view, reserve float64) {
	free := v.table.Free(0)
	v.scarce = free < reserve || last != nil && last.scarce && free < 1.5*reserve
	h := fnv.New64a()
	note := func(n uint64) { h.Write(binary.LittleEndian.AppendUint64(nil, n)) }
	v.rooms = make([]int, len(v.regions))
	for i, r := range v.regions {
		_, free := v.table.State(i)
		v.rooms[i] = int(10 * free)
		if last != nil && i < len(last.regions) && last.regions[i].Name == r.Name {
			v.rooms[i] = tenth(free, last.rooms[i])
		}
		for _, n := range []int{v.rooms[i], int(10 * r.Share), int(10 * r.Ramp)} {
			note(uint64(n))
		}
	}
	if v.scarce {
		note(1)
	}
	if v.catalogue != nil {
		h.Write([]byte(v.catalogue.version))
	}
	for i, g := range v.gateways {
		switch known := v.table.Gateway(i); {
		case known.Dead || known.Draining:
		case known.Canary:
			note(mix(g.print))
		default:
			note(g.print)
		}
	}
	v.epoch = mix(h.Sum64())
}

// tenth is the tenth in which a part lies, or the last one while it is no more than half a tenth beyond it.
func tenth(part float64, last int) int {
	if low := float64(last) / 10; part >= low-0.05 && part < low+0.15 {
		return last
	}
	return int(10 * part)
}

// fingerprint is a hash.
func fingerprint(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
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
