package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"

	"github.com/antipode-im/antipode/im"
)

// fetch asks one broker for many partitions in one request. It waits on the broker until one of them has something, or
// for wait. What it found stands at the index of its want; nil: it had nothing, or the answer was full.
func (c *Cluster) fetch(ctx context.Context, broker int32, s *session, wants []want, wait time.Duration, maxBytes int, as form) ([]*got, error) {
	for {
		opening := s.epoch == 0
		named, forgotten := s.ask(wants)
		req := &fetchRequest{
			clientID: c.cfg.ClientID, id: s.id, epoch: s.epoch, parts: s.parts, round: s.round,
			wants: wants, named: named, forgotten: forgotten,
			waitMillis: int32(wait.Milliseconds()), maxBytes: int32(c.cfg.FetchBytes), perPartition: int32(maxBytes),
			buffers: &c.buffers, table: c.app.table, form: as, crates: &c.crates,
		}
		ps := func(yield func(im.Partition) bool) {
			for i := range wants {
				if !yield(wants[i].partition) {
					return
				}
			}
		}
		res, err := c.askLeader(ctx, wait, c.cfg.RequestTimeout+wait, broker, ps, req.prepare())
		if err == nil {
			answer := res.(*fetchResponse)
			if answer.err == nil {
				s.answered(answer.session)
				return answer.found, nil
			}
			err = answer.err
		}
		s.reset()
		if !lost(err) || opening {
			return nil, err
		}
	}
}

// Read returns what stands in a partition from an offset on, at most about maxBytes but at least one entry, or nothing
// at the end. An offset that the partition does not hold is a *RangeError.
func (c *Cluster) Read(ctx context.Context, p im.Partition, from int64, maxBytes int) (entries []im.Entry, err error) {
	maxBytes = min(max(maxBytes, 1), c.cfg.FetchBytes)
	err = c.retry(ctx, c.cfg.RequestTimeout, func(ctx context.Context) error {
		lay := c.lay.layout()
		leader, err := lay.leader(p)
		if err != nil {
			return fmt.Errorf("read %v: %w: %s", p, err, remedy(err))
		}
		wants := []want{{partition: p, from: from, leader: lay.epochs[p], read: -1}}
		found, err := c.fetch(ctx, leader, newSession(-1), wants, 0, maxBytes, asEntries)
		if err != nil {
			return fmt.Errorf("read %v: %s: %w", p, lay.broker(leader), err)
		}
		g := found[0]
		switch {
		case g == nil:
			return nil
		case errors.Is(g.err, kafkago.OffsetOutOfRange):
			return c.outOfRange(ctx, p, from)
		case g.err != nil:
			return fmt.Errorf("read %v: %w: %s", p, g.err, remedy(g.err))
		}
		entries = g.batch.Entries
		return nil
	})
	return entries, err
}

// outOfRange returns the *RangeError of an offset, or another error when the bounds cannot be had or hold the offset
// after all, as they may while leaders change. The epoch goes with the question, so that a former leader does not answer.
func (c *Cluster) outOfRange(ctx context.Context, p im.Partition, wanted int64) error {
	all, err := c.bounds(ctx, []im.Partition{p})
	if err != nil {
		return err
	}
	b := all[p]
	if wanted >= b.Start && wanted <= b.End {
		return kafkago.OffsetNotAvailable
	}
	return &RangeError{Partition: p, Wanted: wanted, Bounds: b}
}

// offsetsRequest is listoffsets.Request without its splitting: kafka-go would send one request per partition.
type offsetsRequest listoffsets.Request

func (*offsetsRequest) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

// Broker routes to the leader of the first partition: all have the same.
func (r *offsetsRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	t := &r.Topics[0]
	leader, ok := cluster.Topics[t.Topic].Partitions[t.Partitions[0].Partition]
	if !ok {
		return protocol.Broker{ID: -1}, kafkago.UnknownTopicOrPartition
	}
	b, ok := cluster.Brokers[leader.Leader]
	if !ok {
		return protocol.Broker{ID: -1}, kafkago.LeaderNotAvailable
	}
	return b, nil
}

// Bounds returns the offsets that partitions hold, with two requests per leader.
func (c *Cluster) Bounds(ctx context.Context, ps []im.Partition) (all map[im.Partition]im.Bounds, err error) {
	err = c.retry(ctx, c.cfg.RequestTimeout, func(ctx context.Context) error {
		all, err = c.bounds(ctx, ps)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: bounds: %w", err)
	}
	return all, nil
}

func (c *Cluster) bounds(ctx context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error) {
	lay := c.lay.layout()
	groups, lost := lay.byLeader(ps)
	for p, err := range lost {
		return nil, fmt.Errorf("%v: %w: %s", p, err, remedy(err))
	}
	all := make(map[im.Partition]im.Bounds, len(ps))
	const earliest, latest = -2, -1
	for leader, group := range groups {
		for _, at := range []int64{earliest, latest} {
			offsets, err := c.offsets(ctx, lay, group, at)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", lay.broker(leader), err)
			}
			for p, offset := range offsets {
				b := all[p]
				if at == earliest {
					b.Start = offset
				} else {
					b.End = offset
				}
				all[p] = b
			}
		}
	}
	return all, nil
}

func (c *Cluster) offsets(ctx context.Context, lay *layout, ps []im.Partition, at int64) (map[im.Partition]int64, error) {
	req := &offsetsRequest{ReplicaID: -1}
	topics := make(map[string]int, 8)
	seen := make(map[im.Partition]bool, len(ps))
	for _, p := range ps {
		if seen[p] { // brokers refuse a partition that is named twice
			continue
		}
		seen[p] = true
		i, ok := topics[p.Topic]
		if !ok {
			i = len(req.Topics)
			topics[p.Topic] = i
			req.Topics = append(req.Topics, listoffsets.RequestTopic{Topic: p.Topic})
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, listoffsets.RequestPartition{
			Partition: int32(p.Number), CurrentLeaderEpoch: lay.epochs[p], Timestamp: at,
		})
	}
	res, err := c.roundTrip(ctx, 0, req)
	if err != nil {
		return nil, err
	}
	offsets := make(map[im.Partition]int64, len(seen))
	for _, t := range res.(*listoffsets.Response).Topics {
		for _, r := range t.Partitions {
			p := im.Partition{Topic: t.Topic, Number: int(r.Partition)}
			if err := codeError(r.ErrorCode, ""); err != nil {
				return nil, fmt.Errorf("%v: %w: %s", p, err, remedy(err))
			}
			offsets[p] = r.Offset
		}
	}
	if len(offsets) != len(seen) {
		return nil, fmt.Errorf("asked for the offsets of %d partitions, told of %d", len(seen), len(offsets))
	}
	return offsets, nil
}
