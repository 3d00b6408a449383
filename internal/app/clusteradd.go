package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/config"
)

// AddRegion starts a region beside those that run and returns when it serves: all others follow it, it takes clients, and every
// ipconf hands it out. Nothing of the others is started again: they hear of it as they would of one that is elsewhere, by
// antipode region add. Run again after a failure, it goes on.
func (c *Cluster) AddRegion(ctx context.Context, r cluster.Region, progress func(string)) error {
	began := time.Now()
	present := c.Plan()
	operator, err := c.operator(ctx, r.Name)
	if err != nil {
		return err
	}
	defer operator.Close()
	if _, running := present.Region(r.Name); !running { // look before anything is started
		if err := operator.Addable(ctx, im.Member{Region: r.Name}); err != nil {
			return err
		}
	}
	if err := c.Add(ctx, r, progress); err != nil {
		return err
	}
	if err := c.show(); err != nil {
		return err
	}
	progress(fmt.Sprintf("%s runs (%.1f s); telling the others of it", r.Name, time.Since(began).Seconds()))
	ctx, cancel := context.WithTimeoutCause(ctx, present.File.StartIn, fmt.Errorf("after %v (start_in)", present.File.StartIn))
	defer cancel()
	again := func(err error) error {
		return fmt.Errorf("%w: %s runs on, and does not serve yet: run the same command again to wait on", err, r.Name)
	}
	if err := operator.Add(ctx, memberOf(c.Plan(), r.Name), progress); err != nil {
		return again(err)
	}
	progress(fmt.Sprintf("all others follow %s (%.1f s)", r.Name, time.Since(began).Seconds()))
	if err := errors.Join(c.Configure(), operator.Active(ctx, r.Name, progress)); err != nil {
		return again(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		return again(err)
	}
	progress(fmt.Sprintf("%s serves (%.1f s)", r.Name, time.Since(began).Seconds()))
	return nil
}

// operator gives orders about regions in one that runs, other than the one that is named.
func (c *Cluster) operator(ctx context.Context, other im.Region) (*Operator, error) {
	up := map[string]bool{}
	for _, s := range c.Status() {
		up[s.Name] = s.State == cluster.StateUp && s.Ready
	}
	plan := c.Plan()
	for i := range plan.Regions {
		for _, m := range plan.Regions[i].Of(ServiceReplicator) {
			if m.Region == other || !up[m.Name] {
				continue
			}
			conf, err := config.Load(m.Config, nil, nil)
			if err != nil {
				return nil, err
			}
			return OperatorOf(ctx, conf, m.Config, io.Discard)
		}
	}
	return nil, errors.New("no replicator of another region is ready: the new one would get nothing from anybody; start one first")
}

// memberOf is a region as the others of a cluster follow it: each reaches it through its own proxy.
func memberOf(plan *cluster.Plan, name im.Region) im.Member {
	r, _ := plan.Region(name)
	m := im.Member{
		Region: name, Origins: []im.Origin{r.Origin}, Replicator: r.Of(ServiceReplicator)[0].RPC, Via: map[im.Region]string{},
	}
	for _, l := range plan.Links {
		if l.From == name {
			m.Via[l.To] = l.Addr
		}
	}
	return m
}
