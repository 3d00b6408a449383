package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/rpc"
)

// What a region says of itself while nobody else said anything. The stamps are the lowest there are: whatever an operator
// says, or said, holds against them.
const (
	stampJoining im.Stamp = 1
	stampJoined  im.Stamp = 2
)

const (
	joinEvery = 250 * time.Millisecond
	// joinGrace is how long peers are waited for that do not answer. After it those that do are enough: a region must be able
	// to take clients while another is down.
	joinGrace = 30 * time.Second
	joinTells = 30 * time.Second
	// speakWait is how long a gateway that starts waits for the replicator's word of the region.
	speakWait = 10 * time.Second
)

// joinLinks tells how far the logs of other regions are.
type joinLinks interface {
	// Ends are, by region, where its log ends by its own word; none of one that does not answer.
	Ends() map[im.Region]map[im.Partition]int64
	// Sealed are the ends of logs that are sealed, and those of which the region has not all yet.
	Sealed() (seals map[im.Partition]int64, missing []im.Origin)
	// Empty tells whether nothing of any other region is here.
	Empty(ctx context.Context) (bool, error)
}

// joinViews tells how far the own views are.
type joinViews interface {
	Positions(ctx context.Context, origin im.Origin) ([]im.Position, error)
}

// joiner lets a region take clients, of which nobody said whether it may, once its views are near enough to what the others
// have. A region that is new is joining until then.
type joiner struct {
	bound time.Duration // how far behind its views may be
	links joinLinks
	views joinViews
	now   func() time.Time
}

// undecided tells whether nobody but the region itself said anything of it that holds.
func undecided(said im.RegionState) bool { return said.Stamp <= stampJoining }

// caughtUp returns when the views have applied, within the bound, what the others' logs held: it notes where they end,
// waits until that is applied, and looks how long that took.
func (j *joiner) caughtUp(ctx context.Context, progress func(string)) error {
	began, told := j.now(), j.now()
	var (
		want  map[im.Partition]int64
		noted time.Time
	)
	tick := time.NewTicker(joinEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		missing := ""
		if want == nil {
			want, missing = j.wanted(j.now().Sub(began) >= joinGrace)
			noted = j.now()
		}
		if want != nil {
			left, err := j.left(ctx, want)
			switch {
			case err != nil:
				missing = err.Error()
			case left == 0 && j.now().Sub(noted) <= j.bound:
				return nil
			case left == 0 || j.now().Sub(noted) > j.bound: // too long ago to tell anything
				missing, want = fmt.Sprintf("%d records of others' logs are not applied yet", left), nil
			}
		}
		if missing != "" && j.now().Sub(told) >= joinTells {
			progress(missing)
			told = j.now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// wanted is where others' logs end; nil, with the reason, while too few of them answer.
func (j *joiner) wanted(patient bool) (map[im.Partition]int64, string) {
	want := map[im.Partition]int64{}
	ends := j.links.Ends()
	answering := 0
	for _, r := range slices.Sorted(maps.Keys(ends)) {
		if len(ends[r]) == 0 {
			if !patient {
				return nil, fmt.Sprintf("region %s does not answer yet", r)
			}
			continue
		}
		answering++
		maps.Copy(want, ends[r])
	}
	if answering == 0 && len(ends) > 0 {
		return nil, "no other region answers, which would tell what this one lacks"
	}
	seals, missing := j.links.Sealed()
	if len(missing) > 0 { // and whoever has it is waited for, as nothing else would bring it later
		return nil, fmt.Sprintf("the sealed log of %s is not here yet", missing[0])
	}
	maps.Copy(want, seals)
	return want, ""
}

// left counts the records that the views lack.
func (j *joiner) left(ctx context.Context, want map[im.Partition]int64) (int64, error) {
	if len(want) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	positions, err := j.views.Positions(ctx, "")
	if err != nil {
		return 0, fmt.Errorf("how far the views are is not known: %w", err)
	}
	next := make(map[im.Partition]int64, len(positions))
	for _, p := range positions {
		next[p.Partition] = p.Next
	}
	left := int64(0)
	for p, end := range want {
		left += max(0, end-next[p])
	}
	return left, nil
}

// join says of the own region what nobody else says. That a new one is joining it says before it returns, so before any
// part of the region that takes clients is known; that the region is active, once it has caught up.
func (p *process) join(ctx context.Context, links joinLinks, views joinViews) error {
	said, err := p.said(ctx)
	if err == nil && said.State == "" { // a discovery that is silent takes no gateways either
		empty, err := links.Empty(ctx)
		if err != nil {
			return fmt.Errorf("whether region %s is new is not known: %w", p.site.Region, err)
		}
		if empty {
			if err := p.sayJoining(ctx); err != nil {
				return err
			}
		}
	}
	j := joiner{bound: p.site.JoinLag, links: links, views: views, now: time.Now}
	p.push("joining", func(ctx context.Context) error {
		p.activate(ctx, &j)
		<-ctx.Done() // a part that returned would end the process
		return nil
	})
	return nil
}

// activate lets the region take clients once it has caught up, unless somebody says something else of it first.
func (p *process) activate(ctx context.Context, j *joiner) {
	for ctx.Err() == nil {
		said, err := p.said(ctx)
		if err == nil && !undecided(said) {
			return
		}
		if err == nil {
			err = j.caughtUp(ctx, func(missing string) {
				p.tel.Log.Info("joining: no clients are handed out to a new region until it has caught up", "bound", j.bound, "missing", missing)
			})
		}
		if err == nil {
			state := im.RegionState{Region: p.site.Region, State: im.StateActive, Stamp: stampJoined}
			if err = p.env.Discovery.SetRegionState(ctx, state); err == nil {
				p.tel.Log.Info("the region has caught up and is active, unless an operator said otherwise", "bound", j.bound)
				return
			}
		}
		if ctx.Err() == nil {
			p.tel.Log.Warn("the state of the own region is not known or not told; trying on", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// said is what discovery says of the own region.
func (p *process) said(ctx context.Context) (im.RegionState, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	states, err := p.env.Discovery.RegionStates(ctx)
	for _, s := range states {
		if s.Region == p.site.Region {
			return s, err
		}
	}
	return im.RegionState{}, err
}

// sayJoining marks the own region, which is new, as joining.
func (p *process) sayJoining(ctx context.Context) error {
	state := im.RegionState{Region: p.site.Region, State: im.StateJoining, Stamp: stampJoining}
	if err := p.env.Discovery.SetRegionState(ctx, state); err != nil {
		return fmt.Errorf("region %s is new, and discovery was not told: %w", p.site.Region, err)
	}
	p.tel.Log.Info("the region is new: it takes no clients until it has caught up")
	return nil
}

// joinFirst keeps a gateway from being handed out before the replicator of a new region said that it is joining. What is
// not known is left to the replicator: an imserver that does not run yet takes no calls either.
func (p *process) joinFirst(ctx context.Context) error {
	said, silent := p.said(ctx)
	if silent != nil || said.State != "" || len(p.site.Regions) < 2 {
		return nil
	}
	imservers, _ := p.env.Discovery.Instances(ctx, ServiceIMServer, p.site.Region)
	for _, i := range imservers {
		if positions, err := p.positionsOf(ctx, i); err == nil {
			if slices.ContainsFunc(positions, func(at im.Position) bool {
				return at.Partition.Origin().Region() != p.site.Region && at.Next > 0
			}) || p.spoken(ctx) {
				return nil
			}
			return p.sayJoining(ctx)
		}
	}
	return nil
}

// spoken waits until the replicator has said what it has to say of the region, or was not heard of for too long. One is
// registered only after its word. So of one that is registered and said nothing none will come, as from the versions that
// did not say this yet: were the region joining by another's word, such a replicator would never end it.
func (p *process) spoken(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, speakWait)
	defer cancel()
	for {
		replicators, err := p.env.Discovery.Instances(ctx, ServiceReplicator, p.site.Region)
		if err == nil && len(replicators) > 0 {
			return true
		}
		if said, err := p.said(ctx); err == nil && said.State != "" {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(joinEvery):
		}
	}
}

// positionsOf asks one imserver of the own region how far it is.
func (p *process) positionsOf(ctx context.Context, i im.Instance) ([]im.Position, error) {
	conn, err := p.conns(ServiceIMServer, p.site.Region).Conn(i.Addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return rpc.NewView(conn).Positions(ctx, "")
}
