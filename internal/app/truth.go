package app

import (
	"context"
	"fmt"
	"maps"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/wire"
)

// truth asks what the regions hold, past their clients: their logs, and the views that their services derived.
type truth []truthRegion

// truthRegion is where one region is asked.
type truthRegion struct {
	site      Site
	positions func(context.Context) ([]im.Position, error)     // of the timelines, in all origins' logs
	timelines func(context.Context) (map[string]string, error) // digests of their parts
	routes    func(context.Context) (map[string]string, error) // of a router's view
}

// Logged reads every origin's message log from its start, and every other region's copy of it. Of an origin that was lost,
// and of the former epochs of one that came back, there are copies up to the seal.
func (t truth) Logged(ctx context.Context) ([]checker.Logged, error) {
	var all []checker.Logged
	for _, r := range t {
		log, err := kafka.Open(ctx, r.site.Kafka, kafka.Deps{})
		if err != nil {
			return nil, err
		}
		for _, o := range r.site.Origins {
			for _, p := range r.site.messages(o) {
				first := len(all)
				if all, err = logged(ctx, log, p, all); err != nil {
					log.Close()
					return nil, err
				}
				for i := first; i < len(all); i++ {
					all[i].In = r.site.Region
				}
			}
		}
		log.Close()
	}
	return all, nil
}

// logged adds the records of one partition, as a reader takes them.
func logged(ctx context.Context, log *kafka.Cluster, p im.Partition, all []checker.Logged) ([]checker.Logged, error) {
	bounds, err := log.Bounds(ctx, []im.Partition{p})
	if err != nil {
		return nil, err
	}
	f, begun := im.Follower{}, bounds[p].Start == 0
	for offset := bounds[p].Start; ; {
		entries, err := log.Read(ctx, p, offset, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("read %v: %w", p, err)
		}
		if len(entries) == 0 {
			return all, nil
		}
		for i := range entries {
			offset = entries[i].Offset + 1
			head := wire.DecodeHead(&entries[i])
			if !begun && !head.Marker() { // retention removed what was before
				f.Next, begun = head.OriginOffset, true
			}
			if f.See(head.OriginOffset, head.Generation, head.Marker()) != im.Take || head.Conversation == "" {
				continue
			}
			record, err := wire.DecodeRecord(&entries[i], head)
			if err != nil {
				return nil, err
			}
			all = append(all, checker.Logged{Origin: head.Origin, ID: record.ID, Stamp: head.Stamp})
		}
	}
}

func (s Site) ownMessages() []im.Partition { return s.messages(s.Origin) }

func (s Site) messages(o im.Origin) []im.Partition {
	var all []im.Partition
	for _, l := range im.Lanes {
		for n := range s.Partitions {
			all = append(all, im.Partition{Topic: im.MsgTopic(o, l), Number: n})
		}
	}
	return all
}

// Behind lists the partitions of which a region's timelines lack what is in the origin's log now.
func (t truth) Behind(ctx context.Context) ([]checker.Behind, error) {
	ends := map[im.Partition]int64{}
	for _, r := range t {
		log, err := kafka.Open(ctx, r.site.Kafka, kafka.Deps{})
		if err != nil {
			return nil, err
		}
		partitions := r.site.ownMessages()
		for n := range r.site.Partitions {
			partitions = append(partitions, im.Partition{Topic: im.ReadTopic(r.site.Origin), Number: n})
		}
		bounds, err := log.Bounds(ctx, partitions)
		log.Close()
		if err != nil {
			return nil, err
		}
		for p, b := range bounds {
			ends[p] = b.End
		}
	}
	var behind []checker.Behind
	for _, r := range t {
		positions, err := r.positions(ctx)
		if err != nil {
			return nil, err
		}
		next := map[im.Partition]int64{}
		for _, p := range positions {
			next[p.Partition] = p.Next
		}
		for p, end := range ends {
			if next[p] < end {
				behind = append(behind, checker.Behind{Region: r.site.Region, Partition: p, Next: next[p], End: end})
			}
		}
	}
	return behind, nil
}

// Digests returns the digests of the views of all regions.
func (t truth) Digests(ctx context.Context) (map[im.Region]map[string]string, error) {
	all := map[im.Region]map[string]string{}
	for _, r := range t {
		parts := map[string]string{}
		for _, ask := range []func(context.Context) (map[string]string, error){r.timelines, r.routes} {
			digests, err := ask(ctx)
			if err != nil {
				return nil, fmt.Errorf("digest of %s: %w", r.site.Region, err)
			}
			maps.Copy(parts, digests)
		}
		all[r.site.Region] = parts
	}
	return all, nil
}
