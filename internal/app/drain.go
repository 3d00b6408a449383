package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/rpc"
)

const (
	drainEvery = time.Second      // how often it is looked how far a drain is
	drainTells = 5 * time.Second  // how often that is told
	drainCall  = 10 * time.Second // for one call to another region
)

// Drain moves a region's clients to the others. It marks the region draining, waits until its gateways have no clients and
// every other region that is not lost holds its log as far as it then was, and marks it drained. When ctx ends before, the
// region stays draining: run it again to wait on, or Undrain.
func (o *Operator) Drain(ctx context.Context, r im.Region, progress func(string)) error {
	if err := o.known(r); err != nil {
		return err
	}
	origin, _ := o.site.newest(r)
	states, err := o.states(ctx)
	if err != nil {
		return err
	}
	switch states[r].State {
	case im.StateDrained:
		return nil
	case im.StateDead, im.StateRemoved:
		return fmt.Errorf("region %s is %s: there is nothing to drain", r, states[r].State)
	}
	others, open := o.others(r, states), false
	for _, other := range others {
		open = open || states[other].State == im.StateActive || states[other].State == ""
	}
	if !open {
		return fmt.Errorf("no other region takes clients: those of %s would have nowhere to go. Let another take clients first: "+
			"antipode region undrain of one that drains or is drained, antipode region activate in one that joins", r)
	}
	if states[r].State != im.StateDraining { // saying it again would begin anew
		if err := o.say(ctx, r, im.StateDraining); err != nil {
			return err
		}
	}
	wait := waiting{progress: progress, why: fmt.Sprintf("region %s is not drained yet and stays draining", r)}
	if err := wait.until(ctx, func(ctx context.Context) (string, error) { return o.clientsOf(ctx, r) }); err != nil {
		return err
	}
	var ends map[im.Partition]int64
	return wait.until(ctx, func(ctx context.Context) (missing string, err error) {
		if missing, err = o.clientsOf(ctx, r); missing != "" || err != nil { // somebody came back: what it sent counts
			ends = nil
			return missing, err
		}
		if ends == nil {
			if ends, err = o.holds(ctx, r, origin); err != nil {
				return "", err
			}
		}
		if missing, err = o.lacking(ctx, origin, others, ends); missing != "" || err != nil {
			return missing, err
		}
		return "", o.say(ctx, r, im.StateDrained)
	})
}

// Undrain takes a drain back. A region that is drained already must be the own one, and is activated as one that joins is:
// it follows the logs, but nobody has looked how far it is.
func (o *Operator) Undrain(ctx context.Context, r im.Region, progress func(string)) error {
	if err := o.known(r); err != nil {
		return err
	}
	states, err := o.states(ctx)
	if err != nil {
		return err
	}
	switch state := states[r].State; {
	case state == im.StateDraining:
		return o.say(ctx, r, im.StateActive)
	case state == im.StateDrained && r == o.site.Region:
		return o.Activate(ctx, progress)
	case state == im.StateDrained:
		return fmt.Errorf("region %s is drained: run antipode region undrain %[1]s in it, with the configuration of its own replicator; "+
			"it then takes clients once it has caught up", r)
	case state == "":
		return fmt.Errorf("region %s is not draining: nothing was said of it", r)
	default:
		return fmt.Errorf("region %s is not draining: it is %s", r, state)
	}
}

// states is what discovery says of regions.
func (o *Operator) states(ctx context.Context) (map[im.Region]im.RegionState, error) {
	said, err := o.env.Discovery.RegionStates(ctx)
	if err != nil {
		return nil, fmt.Errorf("the states of regions are not known: %w", err)
	}
	states := make(map[im.Region]im.RegionState, len(said))
	for _, s := range said {
		states[s.Region] = s
	}
	return states, nil
}

// say sets the state of a region, now.
func (o *Operator) say(ctx context.Context, r im.Region, s im.State) error {
	return o.env.Discovery.SetRegionState(ctx, im.RegionState{Region: r, State: s, Stamp: im.StampAt(time.Now())})
}

// others are the regions beside one that are not lost.
func (o *Operator) others(r im.Region, states map[im.Region]im.RegionState) []im.Region {
	return slices.DeleteFunc(slices.Clone(o.site.Regions), func(other im.Region) bool {
		return other == r || states[other].State.Gone()
	})
}

// clientsOf tells how many clients a region's gateways have, as its ipconfs hear it; empty for none.
func (o *Operator) clientsOf(ctx context.Context, r im.Region) (string, error) {
	gateways, err := o.env.Discovery.Instances(ctx, ServiceGateway, r)
	if err != nil {
		return "", fmt.Errorf("the gateways of %s are not known: %w", r, err)
	}
	if len(gateways) == 0 {
		return "", nil
	}
	loads, err := o.loads(ctx, r)
	if err != nil {
		return "", err
	}
	clients, silent := 0, ""
	for _, g := range gateways {
		l, heard := loads[g.ID]
		if !heard {
			silent = g.ID
		}
		clients += l.Conns
	}
	switch {
	case clients > 0:
		return fmt.Sprintf("%d clients are connected to %d gateways of %s", clients, len(gateways), r), nil
	case silent != "":
		return fmt.Sprintf("gateway %s of %s does not tell how many clients it has", silent, r), nil
	}
	return "", nil
}

// loads asks the ipconfs of a region, one after another, for what its gateways tell of themselves.
func (o *Operator) loads(ctx context.Context, r im.Region) (map[string]im.Load, error) {
	ipconfs, err := o.env.Discovery.Instances(ctx, ServiceIPConf, r)
	if err != nil {
		return nil, fmt.Errorf("the ipconfs of %s are not known: %w", r, err)
	}
	identity, err := o.env.Identity(ServiceReplicator)
	if err != nil {
		return nil, err
	}
	conns := rpc.NewDialer(rpc.DialConfig{TLS: identity.Client(ServiceIPConf, r), Dial: o.env.dial()})
	defer conns.Close()
	peers := rpc.NewIPConfPeers(func(im.Region) rpc.Conns { return conns })
	err = fmt.Errorf("no ipconf of %s runs, which would tell how many clients there are", r)
	for _, i := range ipconfs {
		var list []im.Load
		call, cancel := context.WithTimeout(ctx, drainCall)
		list, _, err = peers.Loads(call, i)
		cancel()
		if err == nil {
			all := make(map[string]im.Load, len(list))
			for _, l := range list {
				all[l.Gateway.ID] = l
			}
			return all, nil
		}
	}
	return nil, err
}

// lacking tells which region does not hold a log as far as ends; empty if none.
func (o *Operator) lacking(ctx context.Context, origin im.Origin, regions []im.Region, ends map[im.Partition]int64) (string, error) {
	for _, r := range regions {
		has, err := o.holds(ctx, r, origin)
		if err != nil {
			return "", err
		}
		missing := int64(0)
		for p, end := range ends {
			missing += max(0, end-has[p])
		}
		if missing > 0 {
			return fmt.Sprintf("region %s lacks %d records of the log of %s", r, missing, origin), nil
		}
	}
	return "", nil
}

// holds is how far a region has an origin's log, or a copy of it, by what its replicator read back.
func (o *Operator) holds(ctx context.Context, r im.Region, origin im.Origin) (map[im.Partition]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, drainCall)
	defer cancel()
	copies, done, err := o.peers([]im.Region{r})
	if err != nil {
		return nil, err
	}
	defer done()
	held, err := copies[r].Hold(ctx, origin, 0)
	if err != nil {
		return nil, fmt.Errorf("how far region %s has the log of %s is not known: %w", r, origin, err)
	}
	has := make(map[im.Partition]int64, len(held))
	for _, s := range held {
		has[s.Partition] = s.Next
	}
	return has, nil
}

// waiting repeats a look until it finds nothing missing, and tells what it waits for.
type waiting struct {
	progress func(string)
	why      string // it ends without
	told     time.Time
	last     string
}

func (w *waiting) until(ctx context.Context, look func(context.Context) (missing string, err error)) error {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		missing, err := look(ctx)
		switch {
		case ctx.Err() != nil:
			if w.last == "" && err != nil {
				w.last = err.Error()
			}
		case err == nil && missing == "":
			return nil
		case err != nil:
			w.last = err.Error()
		default:
			w.last = missing
		}
		if time.Since(w.told) > drainTells && ctx.Err() == nil {
			w.progress("waiting: " + w.last)
			w.told = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s; it waited for this: %s", w.why, w.last), context.Cause(ctx))
		}
	}
}
