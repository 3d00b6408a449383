package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
)

// LoseOrder declares a region lost for good.
type LoseOrder struct {
	Region    im.Region
	Accept    []im.Region  // peers that cannot be reached and are given up with it
	Reachable bool         // do it though the region's replicator answers
	Progress  func(string) // told one line at a time; may be nil
}

// Operator runs an order about regions with what a region's replicator is told: its certificate, its peers, its discovery.
type Operator struct {
	site  Site
	env   Env
	addr  string // where other regions reach the own replicator, as far as nobody said otherwise
	links *rpc.Links
	close []func()
}

// NewOperator takes what the builders take. The environment must know the identity of a replicator.
func NewOperator(site Site, env Env) (*Operator, error) {
	identity, err := env.Identity(ServiceReplicator)
	if err != nil {
		return nil, err
	}
	o := &Operator{site: site, env: env}
	if err := o.learn(); err != nil {
		return nil, err
	}
	site = o.site
	o.links = rpc.NewLinks(func(r im.Region) (rpc.LinkTarget, error) {
		addr, ok := site.Peers[r]
		if !ok && r == site.Region {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			instances, err := env.Discovery.Instances(ctx, ServiceReplicator, r)
			if err != nil {
				return rpc.LinkTarget{}, fmt.Errorf("the replicator of %s is not known: %w", r, err)
			}
			if len(instances) == 0 {
				return rpc.LinkTarget{}, fmt.Errorf("no replicator of %s runs", r)
			}
			addr, ok = instances[0].Addr, true
		}
		if !ok {
			return rpc.LinkTarget{}, fmt.Errorf("no address of region %s is configured: set replicator.peers.%s", r, r)
		}
		return rpc.LinkTarget{Addr: addr, TLS: identity.Client(ServiceReplicator, r)}, nil
	})
	return o, nil
}

// OperatorOf is NewOperator for a replicator's configuration.
func OperatorOf(ctx context.Context, c *config.Config, file string, log io.Writer) (*Operator, error) {
	if err := config.CheckFor(c, ServiceReplicator); err != nil {
		return nil, &ConfigError{fmt.Errorf("%w (regions are managed with the configuration of a region's replicator)", err)}
	}
	site, err := SiteOf(c)
	if err != nil {
		return nil, &ConfigError{err}
	}
	site.File = file
	binding, err := bindingOf(c)
	if err != nil {
		return nil, &ConfigError{err}
	}
	identity, err := identityOf(c, ServiceReplicator)
	if err != nil {
		return nil, &ConfigError{err}
	}
	logger := newPlainLog(cmp.Or[io.Writer](log, os.Stderr))
	discovery, err := consul.New(site.Consul, consul.Deps{Log: logger, Meter: noop.NewMeterProvider().Meter("operator")})
	if err != nil {
		return nil, err
	}
	at := consulAt(c)
	if err := at.reach(ctx, &site, time.Now().Add(c.StartWait), logger, discovery.Check); err != nil {
		discovery.Close()
		return nil, err
	}
	o, err := NewOperator(site, Env{
		Discovery: discovery, Identity: func(string) (*certs.Identity, error) { return identity, nil }, StartWait: c.StartWait,
	})
	if err != nil {
		discovery.Close()
		return nil, err
	}
	o.addr = cmp.Or(binding.Advertise, binding.RPC)
	o.close = append(o.close, func() { discovery.Close() })
	return o, nil
}

// Close lets go of discovery.
func (o *Operator) Close() {
	for _, f := range o.close {
		f()
	}
}

// known tells which of those that are named is no region that the own one knows.
func (o *Operator) known(names ...im.Region) error {
	var all []im.Region
	for _, origin := range o.site.Origins {
		all = append(all, origin.Region())
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, r := range names {
		if !slices.Contains(all, r) {
			return &ConfigError{fmt.Errorf("region %s is not known in %s: it knows %v", r, o.site.Region, all)}
		}
	}
	return nil
}

// newest is the origin under which a region writes, as this region follows it.
func (s *Site) newest(r im.Region) (im.Origin, bool) {
	var newest im.Origin
	for _, o := range s.Origins {
		if o.Region() == r && (newest == "" || o.Epoch() > newest.Epoch()) {
			newest = o
		}
	}
	return newest, newest != ""
}

// peers returns the replicators of regions; the connections are closed with the returned function.
func (o *Operator) peers(names []im.Region) (map[im.Region]*rpc.Copies, func(), error) {
	all := map[im.Region]*rpc.Copies{}
	var closers []func()
	closeAll := func() {
		for _, f := range closers {
			f()
		}
	}
	for _, r := range names {
		conn, err := o.links.Dial(r)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		closers = append(closers, func() { conn.Close() })
		all[r] = rpc.NewCopies(conn, r)
	}
	return all, closeAll, nil
}

// Lose seals the logs of a region, and of those whose loss is accepted with it, and marks them dead. It may be run again
// after any failure.
func (o *Operator) Lose(ctx context.Context, order LoseOrder) ([]regions.Settled, error) {
	if order.Progress == nil {
		order.Progress = func(string) {}
	}
	lost := append([]im.Region{order.Region}, order.Accept...)
	if err := o.known(lost...); err != nil {
		return nil, err
	}
	origins := make([]im.Origin, len(lost))
	for i, r := range lost {
		if r == o.site.Region {
			return nil, fmt.Errorf("region %s cannot declare itself lost: run this in a region that is to go on", r)
		}
		origins[i], _ = o.site.newest(r)
	}
	if !order.Reachable {
		for _, r := range lost {
			if o.answers(ctx, r) {
				return nil, fmt.Errorf("the replicator of %s answers: the region is not lost. Stop its services first, or say --reachable: "+
					"then it stops by itself, and what it took and did not ship is sent again when it returns", r)
			}
		}
	}
	left := slices.DeleteFunc(slices.Clone(o.site.Regions), func(r im.Region) bool { return slices.Contains(lost, r) })
	copies, done, err := o.peers(left)
	if err != nil {
		return nil, err
	}
	defer done()
	peers := make(map[im.Region]regions.Peer, len(copies))
	for r, c := range copies {
		peers[r] = c
	}
	var all []regions.Settled
	for i, origin := range origins {
		s, err := regions.Lose(ctx, regions.Loss{Origin: origin, Peers: peers, Progress: order.Progress, Stands: o.nobodyCame})
		if err != nil {
			return all, fmt.Errorf("%w\nIf a region that is named above is lost as well, give it up by name: --accept-loss-of REGION", err)
		}
		all = append(all, s)
		state := im.RegionState{Region: lost[i], State: im.StateDead, Stamp: s.Stamp}
		if err := o.env.Discovery.SetRegionState(ctx, state); err != nil {
			return all, fmt.Errorf("%s is sealed, but discovery was not told that the region is dead: run the same command again: %w", origin, err)
		}
	}
	return all, nil
}

// nobodyCame fails if a region was added since this operator looked what regions there are.
func (o *Operator) nobodyCame(ctx context.Context) error {
	said, err := o.env.Discovery.Members(ctx)
	if err != nil {
		return fmt.Errorf("whether regions were added meanwhile is not known: %w", err)
	}
	for _, m := range said {
		if o.known(m.Region) != nil {
			return fmt.Errorf("region %s was added meanwhile, and was not asked what it has", m.Region)
		}
	}
	return nil
}

// answers tells whether a region's replicator is reached.
func (o *Operator) answers(ctx context.Context, r im.Region) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	copies, done, err := o.peers([]im.Region{r})
	if err != nil {
		return false
	}
	defer done()
	origin, _ := o.site.newest(o.site.Region)
	_, err = copies[r].Hold(ctx, origin, 0)
	return err == nil || im.CodeOf(err) == im.CodeBadRequest
}

// sentence keeps a service from running in a region that was declared lost, or under an epoch after which the region has begun
// another: what it took would count nowhere. It reads what is said once now, as far as discovery answers, and then follows it.
func (p *process) sentence(ctx context.Context) error {
	read, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if states, err := p.env.Discovery.RegionStates(read); err == nil {
		if err := p.lost(states); err != nil {
			return err
		}
	}
	if members, err := p.env.Discovery.Members(read); err == nil {
		if err := p.outlived(members); err != nil {
			return err
		}
	}
	p.push("sentence", p.obey)
	return nil
}

// obey ends when the region is declared lost, or begins another epoch.
func (p *process) obey(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	sentence := func(err error) {
		if err != nil {
			p.tel.Log.Error("stopping", "error", err.Error())
			cancel(err)
		}
	}
	watch.Go(func() { _ = p.env.Discovery.WatchMembers(ctx, func(all []im.Member) { sentence(p.outlived(all)) }) }) // ends with ctx
	err := p.env.Discovery.WatchRegionStates(ctx, func(all []im.RegionState) { sentence(p.lost(all)) })
	lost, isLost := errors.AsType[*im.LostError](context.Cause(ctx))
	outlived, isOutlived := errors.AsType[*ConfigError](context.Cause(ctx))
	switch {
	case isLost:
		return lost
	case isOutlived:
		return outlived
	}
	return err
}

// lost is an *im.LostError if the own region was declared lost.
func (p *process) lost(states []im.RegionState) error {
	for _, s := range states {
		if s.Region == p.site.Region && s.State.Gone() {
			return &im.LostError{Origin: p.site.Origin, By: s.Region, Stamp: s.Stamp}
		}
	}
	return nil
}

// outlived is a *ConfigError if the own region goes on under a later epoch than the configured one, whose log is sealed.
func (p *process) outlived(members []im.Member) error {
	for _, m := range members {
		if n := len(m.Origins); m.Region == p.site.Region && n > 0 && m.Origins[n-1].Epoch() > p.site.Origin.Epoch() {
			return &ConfigError{fmt.Errorf("the log of %s is sealed, and nothing that is written there counts: region %s goes on as %s. Set origin_epoch: %d, and list %s in origins as well",
				p.site.Origin, m.Region, m.Origins[n-1], m.Origins[n-1].Epoch(), m.Origins[n-1])}
		}
	}
	return nil
}

// confess tells the own region's discovery what a peer said over a link, so that every service of the region hears it.
func (p *process) confess(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := run(ctx)
		if lost, ok := errors.AsType[*im.LostError](err); ok {
			tell, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			state := im.RegionState{Region: p.site.Region, State: im.StateDead, Stamp: lost.Stamp}
			if told := p.env.Discovery.SetRegionState(tell, state); told != nil {
				p.tel.Log.Error("discovery was not told that this region was declared lost", "error", told)
			}
		}
		return err
	}
}

// DescribeSettled is what an operator reads after a loss.
func DescribeSettled(s regions.Settled) string {
	var b strings.Builder
	total := int64(0)
	for _, p := range slices.SortedFunc(maps.Keys(s.Seals), im.Partition.Compare) {
		total += s.Seals[p]
	}
	if s.Already {
		fmt.Fprintf(&b, "%s was sealed before: ", s.Origin)
	} else {
		fmt.Fprintf(&b, "%s is sealed: ", s.Origin)
	}
	fmt.Fprintf(&b, "%d partitions, %d records of its log count in every region", len(s.Seals), total)
	if s.Shipped > 0 {
		fmt.Fprintf(&b, "; %d of them were shipped between the regions that are left", s.Shipped)
	}
	return b.String()
}
