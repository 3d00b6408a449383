package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

// membership is what regions there are, as a service follows them: those that the configuration names, and what discovery
// says beside it.
type membership struct {
	origins []im.Origin          // every epoch of every region, whose logs the views are derived from
	gone    map[im.Region]bool   // regions that take no part any more: their logs are sealed
	removed map[im.Region]bool   // of these, those that are not expected back
	addrs   map[im.Region]string // of the replicators
}

// members adds to what the configuration names what discovery says.
func (s *Site) members(said []im.Member, states []im.RegionState) *membership {
	m := &membership{
		origins: slices.Clone(s.Origins), addrs: maps.Clone(s.Peers), gone: map[im.Region]bool{}, removed: map[im.Region]bool{},
	}
	if m.addrs == nil {
		m.addrs = map[im.Region]string{}
	}
	for _, member := range said {
		for _, o := range member.Origins {
			if !slices.Contains(m.origins, o) {
				m.origins = append(m.origins, o)
			}
		}
		if _, named := s.Peers[member.Region]; !named && member.Region != s.Region {
			m.addrs[member.Region] = member.From(s.Region)
		}
	}
	for _, state := range states {
		m.gone[state.Region] = state.State.Gone()
		m.removed[state.Region] = state.State == im.StateRemoved
	}
	return m
}

// regions are all that were heard of, by name.
func (m *membership) regions() []im.Region {
	var all []im.Region
	for _, o := range m.origins {
		if !slices.Contains(all, o.Region()) {
			all = append(all, o.Region())
		}
	}
	slices.Sort(all)
	return all
}

// newest is the origin under which a region writes.
func (m *membership) newest(r im.Region) (newest im.Origin) {
	for _, o := range m.origins {
		if o.Region() == r && (newest == "" || o.Epoch() > newest.Epoch()) {
			newest = o
		}
	}
	return newest
}

// live are the origins that are written: the newest of each region that takes part.
func (m *membership) live() []im.Origin {
	var live []im.Origin
	for _, r := range m.regions() {
		if !m.gone[r] {
			live = append(live, m.newest(r))
		}
	}
	return live
}

// sealed are the origins that are written no more.
func (m *membership) sealed() []im.Origin {
	live := m.live()
	return slices.DeleteFunc(slices.Clone(m.origins), func(o im.Origin) bool { return slices.Contains(live, o) })
}

// linked are the newest origins of the regions that links are kept open to: a region that was lost is told so over a link, one
// that was removed is not expected.
func (m *membership) linked(own im.Region) []im.Origin {
	var linked []im.Origin
	for _, r := range m.regions() {
		if r != own && !m.removed[r] {
			linked = append(linked, m.newest(r))
		}
	}
	return linked
}

// learn reads what discovery says of regions before the process is built. What it does not say stands as configured.
func (p *process) learn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	said, err := p.env.Discovery.Members(ctx)
	states, err2 := p.env.Discovery.RegionStates(ctx)
	if err := errors.Join(err, err2); err != nil {
		p.tel.Log.Warn("what regions there are is taken from the configuration alone, until discovery answers", "error", err)
	}
	p.membership.Store(p.site.members(said, states))
}

// members is what regions there are now.
func (p *process) members() *membership { return p.membership.Load() }

// fresh makes the topics of those origins that the configuration does not name, as antipode migrate does for the others.
func (p *process) fresh(ctx context.Context, log *kafka.Cluster, m *membership) error {
	site := p.site
	site.Origins = slices.DeleteFunc(slices.Clone(m.origins), func(o im.Origin) bool { return slices.Contains(p.site.Origins, o) })
	if len(site.Origins) == 0 {
		return nil
	}
	specs := site.topics()
	if err := log.CreateTopics(ctx, specs); err != nil {
		return fmt.Errorf("make topics for %v: %w", site.Origins, err)
	}
	return log.VerifyTopics(ctx, specs)
}

// followMembers calls follow with what regions there are whenever that changes, while the process runs. log is where topics are
// to be made for logs that are new; it may be nil.
func (p *process) followMembers(log *kafka.Cluster, follow func(*membership) error) {
	p.push("members", func(ctx context.Context) error {
		f := memberFeed{site: &p.site, changed: make(chan struct{}, 1)}
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		wg.Go(func() { _ = p.env.Discovery.WatchMembers(ctx, f.setMembers) }) // ends with ctx only
		wg.Go(func() { _ = p.env.Discovery.WatchRegionStates(ctx, f.setStates) })
		failures := 0
		for {
			var again <-chan time.Time
			if failures > 0 {
				again = time.After(min(100*time.Millisecond<<min(failures, 6), 5*time.Second))
			}
			select {
			case <-ctx.Done():
				return nil
			case <-f.changed:
			case <-again:
			}
			m := f.latest()
			if m == nil {
				continue
			}
			err := p.change(ctx, log, m, follow)
			if err != nil && ctx.Err() == nil {
				p.tel.Log.Error("regions changed, and this process does not follow yet; trying on", "regions", fmt.Sprint(m.regions()), "error", err)
				failures++
				continue
			}
			failures = 0
		}
	})
}

func (p *process) change(ctx context.Context, log *kafka.Cluster, m *membership, follow func(*membership) error) error {
	if log != nil {
		ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
		defer cancel()
		if err := p.fresh(ctx, log, m); err != nil {
			return err
		}
	}
	p.membership.Store(m)
	return follow(m)
}

// memberFeed joins what is said of members and of their states.
type memberFeed struct {
	site    *Site
	changed chan struct{}

	mu      sync.Mutex
	members []im.Member
	states  []im.RegionState
	heard   int // of both
}

func (f *memberFeed) setMembers(all []im.Member) {
	f.mu.Lock()
	f.members, f.heard = all, f.heard|1
	f.mu.Unlock()
	f.wake()
}

func (f *memberFeed) setStates(all []im.RegionState) {
	f.mu.Lock()
	f.states, f.heard = all, f.heard|2
	f.mu.Unlock()
	f.wake()
}

func (f *memberFeed) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// latest is what is known now; nil before both were heard of: a region that was removed is not to be followed for a moment.
func (f *memberFeed) latest() *membership {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heard != 3 {
		return nil
	}
	return f.site.members(f.members, f.states)
}
