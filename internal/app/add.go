package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/antipode-im/antipode/im"
)

// learn adds to what the configuration names what discovery says of regions. One that was removed is none any more.
func (o *Operator) learn() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	said, err := o.env.Discovery.Members(ctx)
	if err != nil {
		return fmt.Errorf("what regions there are is not known: %w", err)
	}
	states, err := o.env.Discovery.RegionStates(ctx)
	if err != nil {
		return fmt.Errorf("the states of regions are not known: %w", err)
	}
	m := o.site.members(said, states)
	o.site.Origins, o.site.Peers = m.origins, m.addrs
	o.site.Regions = slices.DeleteFunc(m.regions(), func(r im.Region) bool { return m.removed[r] && r != o.site.Region })
	return nil
}

// Addable tells why a region cannot be added now. One that was added before can, also with other addresses: those are corrected.
func (o *Operator) Addable(ctx context.Context, m im.Member) error {
	said, err := o.env.Discovery.Members(ctx)
	if err != nil {
		return fmt.Errorf("what regions there are is not known: %w", err)
	}
	states, err := o.states(ctx)
	if err != nil {
		return err
	}
	return o.addable(m, said, states)
}

func (o *Operator) addable(m im.Member, said []im.Member, states map[im.Region]im.RegionState) error {
	added := slices.ContainsFunc(said, func(n im.Member) bool { return n.Region == m.Region && slices.Equal(n.Origins, m.Origins) })
	switch {
	case states[m.Region].State.Gone():
		return fmt.Errorf("region %s was lost or removed: it comes back by antipode region return", m.Region)
	case slices.Contains(o.site.Regions, m.Region) && !added:
		return fmt.Errorf("region %s is known already, and was not added by this command", m.Region)
	}
	return nil
}

// reachable tells why nobody can reach a replicator at an address of a member.
func reachable(m im.Member) error {
	for _, addr := range append([]string{m.Replicator}, slices.Sorted(maps.Values(m.Via))...) {
		host, port, err := net.SplitHostPort(addr)
		if n, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || n == 0 || host == "" {
			return &ConfigError{fmt.Errorf("%q is no address of a replicator: want host:port, such as %s-replicator.example:7401", addr, m.Region)}
		}
	}
	return nil
}

// sealed are the regions of which the log of some epoch is sealed: no link tells a new region that there were any.
func (o *Operator) sealed(states map[im.Region]im.RegionState) (sealed []im.Region) {
	for _, origin := range o.site.Origins {
		r := origin.Region()
		if newest, _ := o.site.newest(r); (newest != origin || states[r].State.Gone()) && !slices.Contains(sealed, r) {
			sealed = append(sealed, r)
		}
	}
	return sealed
}

// tellSealed has a region that is added hear of all logs that are sealed, also where only the configuration of the others names them:
// its timelines are derived from them as well.
func (o *Operator) tellSealed(ctx context.Context, said []im.Member, states map[im.Region]im.RegionState) error {
	for _, r := range o.sealed(states) {
		m := im.Member{Region: r, Replicator: o.site.Peers[r], Stamp: im.StampAt(time.Now())}
		if r == o.site.Region {
			m.Replicator = o.addr
		}
		for _, origin := range o.site.Origins {
			if origin.Region() == r {
				m.Origins = append(m.Origins, origin)
			}
		}
		slices.SortFunc(m.Origins, func(a, b im.Origin) int { return cmp.Compare(a.Epoch(), b.Epoch()) })
		known := slices.ContainsFunc(said, func(has im.Member) bool {
			return has.Region == r && !slices.ContainsFunc(m.Origins, func(o im.Origin) bool { return !slices.Contains(has.Origins, o) })
		})
		if known {
			continue
		}
		if err := m.Check(); err != nil {
			return fmt.Errorf("a log of region %s is sealed, and discovery cannot be told of it: %w", r, err)
		}
		if err := o.env.Discovery.SetMember(ctx, m); err != nil {
			return fmt.Errorf("discovery was not told that a log of region %s is sealed: %w", r, err)
		}
	}
	return nil
}

// announced tells whether a member was said before, whenever that was.
func announced(m im.Member, said []im.Member) bool {
	return slices.ContainsFunc(said, func(n im.Member) bool {
		n.Stamp = m.Stamp
		return n.Equal(m)
	})
}

// Add makes a region known to all others, which follow it from then on: they make topics for its log, link to it, and apply
// what comes. It returns when they do, or when ctx ends; then they do so later, and who runs it again waits on. Of one that was
// added before it corrects the addresses.
func (o *Operator) Add(ctx context.Context, m im.Member, progress func(string)) error {
	m.Stamp = im.StampAt(time.Now())
	if err := cmp.Or(m.Check(), reachable(m)); err != nil {
		return err
	}
	said, err := o.env.Discovery.Members(ctx)
	if err != nil {
		return fmt.Errorf("what regions there are is not known: %w", err)
	}
	states, err := o.states(ctx)
	if err != nil {
		return err
	}
	if err := o.addable(m, said, states); err != nil {
		return err
	}
	if !announced(m, said) {
		if err := o.tellSealed(ctx, said, states); err != nil {
			return fmt.Errorf("region %s is not added: %w", m.Region, err)
		}
		if err := o.env.Discovery.SetMember(ctx, m); err != nil {
			return fmt.Errorf("region %s is not added: %w", m.Region, err)
		}
	}
	origin := m.Origins[len(m.Origins)-1]
	wait := waiting{progress: progress, why: fmt.Sprintf("region %s is added, and not all others follow it yet", m.Region)}
	return wait.until(ctx, func(ctx context.Context) (string, error) {
		for _, r := range o.others(m.Region, states) {
			if _, err := o.holds(ctx, r, origin); err != nil {
				return "", err
			}
		}
		return "", nil
	})
}

// Active waits until a region takes clients, which one that joins does by itself.
func (o *Operator) Active(ctx context.Context, r im.Region, progress func(string)) error {
	wait := waiting{progress: progress, why: fmt.Sprintf("region %s takes no clients yet", r)}
	return wait.until(ctx, func(ctx context.Context) (string, error) {
		states, err := o.states(ctx)
		switch said := states[r]; {
		case err != nil:
			return "", err
		case said.State == im.StateActive:
			return "", nil
		case said.State == "":
			return fmt.Sprintf("nothing is said of region %s", r), nil
		default:
			return fmt.Sprintf("region %s is %s", r, said.State), nil
		}
	})
}

// Remove takes a region out for good that is drained or was lost. The log of a drained one is sealed first, as that of a lost
// one is: its services stop by that. The others end their links to it, drop its routes and keep its copies. What a drained one alone
// has of others' logs is waited for: it may have been acknowledged as global because that region had it.
func (o *Operator) Remove(ctx context.Context, r im.Region, progress func(string)) error {
	if err := o.known(r); err != nil {
		return err
	}
	states, err := o.states(ctx)
	if err != nil {
		return err
	}
	switch state := states[r].State; state {
	case im.StateRemoved:
		return nil
	case im.StateDrained:
		if err := o.shared(ctx, r, states, progress); err != nil {
			return err
		}
		settled, err := o.Lose(ctx, LoseOrder{Region: r, Reachable: true, Progress: progress})
		if err != nil {
			return err
		}
		for _, s := range settled {
			progress(DescribeSettled(s))
		}
		if states, err = o.states(ctx); err != nil {
			return err
		}
	case im.StateDead:
	case "":
		return fmt.Errorf("region %s is not drained: nothing was said of it; drain it first, or declare it lost", r)
	default:
		return fmt.Errorf("region %s is %s: drain it first, or declare it lost", r, state)
	}
	state := im.RegionState{Region: r, State: im.StateRemoved, Stamp: max(im.StampAt(time.Now()), states[r].Stamp)}
	return o.env.Discovery.SetRegionState(ctx, state)
}

// shared waits until what a region has of others' logs is in a third region too, where there is any. It is told of a region that
// does not answer, and goes on.
func (o *Operator) shared(ctx context.Context, r im.Region, states map[im.Region]im.RegionState, progress func(string)) error {
	has := map[im.Origin]map[im.Partition]int64{}
	others := o.others(r, states)
	for _, owner := range others {
		origin, _ := o.site.newest(owner)
		held, err := o.holds(ctx, r, origin)
		if err != nil {
			progress(fmt.Sprintf("%v: what it alone has is not waited for", err))
			return nil
		}
		has[origin] = held
	}
	wait := waiting{progress: progress, why: fmt.Sprintf("region %s is not removed", r)}
	return wait.until(ctx, func(ctx context.Context) (string, error) {
		for _, origin := range slices.Sorted(maps.Keys(has)) {
			var of []map[im.Partition]int64
			var silent error
			for _, third := range others {
				if third == origin.Region() {
					continue
				}
				held, err := o.holds(ctx, third, origin)
				if err != nil {
					silent = err
					continue
				}
				of = append(of, held)
			}
			if len(of) == 0 && silent != nil {
				return "", silent
			}
			if n := alone(has[origin], of); n > 0 {
				return fmt.Sprintf("no other region has %d records of the log of %s that region %s has", n, origin, r), nil
			}
		}
		return "", nil
	})
}

// alone counts the records that a region has of another's log and none of the others has; 0 where there are no others. Routes do not
// count: nobody was told that they are safe.
func alone(has map[im.Partition]int64, others []map[im.Partition]int64) (records int64) {
	for p, next := range has {
		best := int64(0)
		for _, held := range others {
			best = max(best, held[p])
		}
		if family, _, _ := im.ParseTopic(p.Topic); family != im.FamilyRoute && len(others) > 0 {
			records += max(0, next-best)
		}
	}
	return records
}
