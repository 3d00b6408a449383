package app

import (
	"context"
	"sync"
	"time"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/im"
)

// evacuation tells a gateway's clients to leave once its region takes no newcomers any more, and again whoever came in
// spite of it. Who stayed while the region joined is told to pull once it is active: what a region was seeded with no push
// brings.
type evacuation struct {
	drainOver time.Duration                                   // in which ipconf's share of the region steps down to nothing
	evacuate  func(within time.Duration)                      // tells them
	behind    func(ctx context.Context, within time.Duration) // tells them that they are behind
	now       func() time.Time
}

// within is the time in which clients go: half of that in which newcomers went, so that other regions take them one after
// another.
func (e *evacuation) within() time.Duration { return e.drainOver / 2 }

// next is when clients are to be told, if nothing is said until then; false for a region that keeps them.
func (e *evacuation) next(s im.RegionState, told time.Time) (time.Time, bool) {
	switch {
	case s.State == im.StateDraining && told.IsZero():
		return s.Stamp.Time().Add(e.drainOver), true
	case s.State == im.StateDraining, s.State == im.StateDrained:
		return told.Add(2 * e.within()), true // zero: long ago
	}
	return time.Time{}, false
}

// run acts on the states that come until ctx ends.
func (e *evacuation) run(ctx context.Context, states <-chan im.RegionState) {
	var (
		state im.RegionState
		told  time.Time
		timer = time.NewTimer(time.Hour)
	)
	defer timer.Stop()
	var telling sync.WaitGroup
	defer telling.Wait()
	for {
		at, leave := e.next(state, told)
		if leave {
			timer.Reset(at.Sub(e.now()))
		} else {
			told = time.Time{}
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case s := <-states:
			if state.State == im.StateJoining && s.State == im.StateActive {
				telling.Go(func() { e.behind(ctx, e.within()) })
			}
			state = s
		case <-timer.C:
			e.evacuate(e.within())
			told = e.now()
		}
	}
}

// evacuate follows the state of the own region.
func (p *process) evacuate(g *gateway.Gateway) {
	e := evacuation{drainOver: p.site.IPConf.DrainOver, evacuate: g.Evacuate, behind: g.Behind, now: time.Now}
	p.push("evacuation", func(ctx context.Context) error {
		states := make(chan im.RegionState)
		ended := make(chan struct{})
		defer func() { <-ended }()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			defer close(ended)
			e.run(ctx, states)
		}()
		err := p.env.Discovery.WatchRegionStates(ctx, func(all []im.RegionState) {
			for _, s := range all {
				if s.Region == p.site.Region {
					select {
					case states <- s:
					case <-ctx.Done():
					}
				}
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
}
