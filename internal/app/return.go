package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// Returned is what a region brought back.
type Returned struct {
	Former, Origin im.Origin
	Resent         regions.Resent
	Copied         int64 // records of the former epoch that other regions gave back
}

// Return brings the own region back under the next epoch of its origin, after it was declared lost. The configuration says
// which: origin_epoch is the next one, and origins lists both. None of the region's services may run. The others hear of the
// next epoch from discovery.
//
// What the region took and nobody received is appended to the new epoch's log; the former epoch's log is replaced by a
// copy that ends at the seals, as every other region has it; the views are emptied, to be derived again from the logs. Then
// the region is marked as joining. Every step may be repeated: after a failure run it again.
//
// Views that are to be seeded (see Seed) need no log from its start: then the former epoch's log is left empty, and nothing is
// asked of the others' logs.
func (o *Operator) Return(ctx context.Context, seeded bool, progress func(string)) (Returned, error) {
	former, err := o.former()
	if err != nil {
		return Returned{}, err
	}
	r := Returned{Former: former, Origin: o.site.Origin}
	if err := o.away(ctx); err != nil {
		return r, err
	}
	seals, source, done, err := o.seals(ctx, former)
	if err != nil {
		return r, err
	}
	defer done()
	log, err := kafka.Open(ctx, o.site.Kafka, kafka.Deps{})
	if err != nil {
		return r, err
	}
	defer log.Close()
	if !seeded {
		if err := o.whole(ctx, log, former, seals, source); err != nil {
			return r, err
		}
	}
	progress(fmt.Sprintf("sending again under %s what %s took past its seals", o.site.Origin, former))
	if err := MigrateLog(ctx, log, o.site); err != nil {
		return r, err
	}
	remainder := regions.Remainder{Former: former, Next: o.site.Origin, Sealed: seals, Log: log}
	if r.Resent, err = remainder.Resubmit(ctx); err != nil {
		return r, err
	}
	if r.Copied, err = o.replace(ctx, log, former, seals, source, seeded, progress); err != nil {
		return r, err
	}
	next := "services derive them again from the logs"
	if seeded {
		next = "seed them now, before any service starts"
	}
	progress("emptying the views: " + next)
	if err := o.clear(ctx); err != nil {
		return r, err
	}
	if err := o.announce(ctx); err != nil {
		return r, err
	}
	progress(fmt.Sprintf("the others are told of %s", o.site.Origin))
	state := im.RegionState{Region: o.site.Region, State: im.StateJoining, Stamp: im.StampAt(time.Now())}
	return r, o.env.Discovery.SetRegionState(ctx, state)
}

// announce tells the other regions all epochs of the own one, so that they follow the new one without being configured or
// started again. Ways to the replicator that were told before stay.
func (o *Operator) announce(ctx context.Context) error {
	said, err := o.env.Discovery.Members(ctx)
	if err != nil {
		return fmt.Errorf("what was said of region %s is not known: %w", o.site.Region, err)
	}
	m := im.Member{Region: o.site.Region, Replicator: o.addr}
	if i := slices.IndexFunc(said, func(m im.Member) bool { return m.Region == o.site.Region }); i >= 0 {
		m = said[i]
	}
	m.Origins, m.Stamp = nil, max(im.StampAt(time.Now()), m.Stamp+1)
	for _, origin := range o.site.Origins {
		if origin.Region() == o.site.Region {
			m.Origins = append(m.Origins, origin)
		}
	}
	slices.SortFunc(m.Origins, func(a, b im.Origin) int { return cmp.Compare(a.Epoch(), b.Epoch()) })
	if err := o.env.Discovery.SetMember(ctx, m); err != nil {
		return fmt.Errorf("the others were not told of %s: %w", o.site.Origin, err)
	}
	return nil
}

// former is the epoch of the own region that was lost.
func (o *Operator) former() (im.Origin, error) {
	var former im.Origin
	for _, origin := range o.site.Origins {
		if origin.Region() == o.site.Region && origin.Epoch() < o.site.Origin.Epoch() && (former == "" || origin.Epoch() > former.Epoch()) {
			former = origin
		}
	}
	if former == "" {
		next := im.NewOrigin(o.site.Region, o.site.Origin.Epoch()+1)
		return "", &ConfigError{fmt.Errorf("region %s is configured for its epoch %d only: set origin_epoch to the one after that which was lost, and list both in origins, such as %s and %s",
			o.site.Region, o.site.Origin.Epoch(), o.site.Origin, next)}
	}
	return former, nil
}

// away fails unless the region was declared lost and none of its services runs.
func (o *Operator) away(ctx context.Context) error {
	states, err := o.env.Discovery.RegionStates(ctx)
	if err != nil {
		return fmt.Errorf("whether region %s was declared lost is not known: %w", o.site.Region, err)
	}
	if !slices.ContainsFunc(states, func(s im.RegionState) bool { return s.Region == o.site.Region && s.State.Gone() }) {
		return fmt.Errorf("region %s is not marked dead: there is nothing to return from", o.site.Region)
	}
	for _, service := range []string{ServiceIMServer, ServiceRouter, ServiceReplicator} {
		instances, err := o.env.Discovery.Instances(ctx, service, o.site.Region)
		if err != nil {
			return err
		}
		if len(instances) > 0 {
			return fmt.Errorf("%s %s of region %s still runs: stop it first", service, instances[0].ID, o.site.Region)
		}
	}
	return nil
}

// seals asks the other regions where the former epoch ends. Those that do not answer are passed over: a seal is the same
// everywhere. The returned source is a region that answered.
func (o *Operator) seals(ctx context.Context, former im.Origin) ([]im.CopyState, *rpc.Copies, func(), error) {
	others := slices.DeleteFunc(slices.Clone(o.site.Regions), func(r im.Region) bool { return r == o.site.Region })
	copies, done, err := o.peers(others)
	if err != nil {
		return nil, nil, nil, err
	}
	asked := map[im.Region][]im.CopyState{}
	var source *rpc.Copies
	var silent error
	for _, region := range others {
		call, cancel := context.WithTimeout(ctx, 30*time.Second)
		states, err := copies[region].Hold(call, former, 0)
		cancel()
		if err != nil {
			silent = errors.Join(silent, err)
			continue
		}
		asked[region] = states
		if source == nil {
			source = copies[region]
		}
	}
	if len(asked) == 0 {
		done()
		return nil, nil, nil, fmt.Errorf("no other region tells where %s ends: %w", former, silent)
	}
	seals, err := regions.Agree(former, asked)
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return seals, source, done, nil
}

func keepNothing(*wire.LinkBatch) error { return nil }

// whole fails unless every log that the views are derived from is there from its first record: what retention removed
// cannot be derived again.
func (o *Operator) whole(ctx context.Context, log *kafka.Cluster, former im.Origin, seals []im.CopyState, source *rpc.Copies) error {
	for _, s := range seals {
		if family, _, _ := im.ParseTopic(s.Partition.Topic); family == im.FamilyRoute || s.Next == 0 {
			continue
		}
		if err := source.Read(ctx, s.Partition, 0, 1, keepNothing); err != nil {
			return fmt.Errorf("the log of %s is not whole any more in the region that was asked, so the views cannot be derived from logs alone: %w", former, err)
		}
	}
	for _, origin := range o.site.Origins {
		if origin == former || origin == o.site.Origin {
			continue
		}
		for _, topic := range im.Topics(origin) {
			if family, _, _ := im.ParseTopic(topic); family == im.FamilyRoute {
				continue
			}
			for n := range o.site.Partitions {
				p := im.Partition{Topic: topic, Number: n}
				bounds, err := log.Bounds(ctx, []im.Partition{p})
				if err != nil {
					return err
				}
				b := bounds[p]
				if b.Start > 0 {
					return fmt.Errorf("%v begins at %d here: retention removed what is below, so the views cannot be derived from logs alone", p, b.Start)
				}
				if b.Start == b.End {
					continue
				}
				first, err := log.Read(ctx, p, b.Start, 1)
				if err != nil {
					return err
				}
				if len(first) > 0 && wire.DecodeHead(&first[0]).OriginOffset > 0 { // made anew while the views went on
					return fmt.Errorf("%v begins at record %d here, so the views cannot be derived from logs alone", p, wire.DecodeHead(&first[0]).OriginOffset)
				}
			}
		}
	}
	return nil
}

// replace makes the former epoch's log a copy, ended at the seals.
func (o *Operator) replace(ctx context.Context, log *kafka.Cluster, former im.Origin, seals []im.CopyState, source *rpc.Copies, seeded bool, progress func(string)) (int64, error) {
	unpack, err := replicator.Unpacker()
	if err != nil {
		return 0, err
	}
	var specs []kafka.TopicSpec
	for _, spec := range o.site.topics() {
		if _, origin, _ := im.ParseTopic(spec.Name); origin == former {
			own, err := regions.OwnLog(ctx, log, spec.Name, o.site.Partitions)
			if err != nil {
				return 0, err
			}
			if own {
				specs = append(specs, spec)
			}
		}
	}
	if len(specs) > 0 {
		progress(fmt.Sprintf("replacing %d topics of %s by copies that end at its seals", len(specs), former))
		var names []string
		for _, spec := range specs {
			names = append(names, spec.Name)
		}
		if err := log.DeleteTopics(ctx, names); err != nil {
			return 0, err
		}
		if err := log.CreateTopics(ctx, specs); err != nil {
			return 0, err
		}
	}
	if err := log.KeepTopics(ctx, im.Topics(former)); err != nil {
		return 0, err
	}
	total, told := int64(0), time.Now()
	for i, s := range seals {
		take := regions.Copy
		if seeded {
			take = regions.CopyMarkers
		}
		n, err := take(ctx, log, source, unpack, s, im.StampAt(time.Now()))
		if err != nil {
			return total, err
		}
		total += n
		if time.Since(told) > 5*time.Second {
			progress(fmt.Sprintf("%d of %d partitions, %d records", i+1, len(seals), total))
			told = time.Now()
		}
	}
	return total, nil
}

// clear empties the views.
func (o *Operator) clear(ctx context.Context) error {
	if len(o.site.Timelines.URLs) == 0 || len(o.site.Redis.Addrs) == 0 {
		return &ConfigError{errors.New("returning empties the views of the region: set timelines.urls and routes.addrs")}
	}
	if err := postgres.Clear(ctx, o.site.databases()); err != nil {
		return err
	}
	client := goredis.NewUniversalClient(o.site.Redis)
	defer client.Close()
	return redis.Clear(ctx, client, o.site.RedisPrefix)
}
