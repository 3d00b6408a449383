package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/listoffsets"

	"github.com/antipode-im/antipode/im"
)

// want is what to fetch of one partition.
type want struct {
	partition im.Partition
	from      int64
}

// got is what a fetch found in one partition.
type got struct {
	batch im.Batch
	next  int64 // where to go on
	err   error // *RangeError, or one that may pass
}

// fetch asks one leader for many partitions in one request. It waits on the broker until one of them has something, or
// for wait. Partitions that the answer leaves out are left out here: they had nothing, or the answer was full.
func (c *Cluster) fetch(ctx context.Context, wants []want, wait time.Duration, maxBytes int) (map[im.Partition]*got, error) {
	req := &fetch.Request{
		ReplicaID:    -1,
		MaxWaitTime:  int32(wait.Milliseconds()),
		MinBytes:     1,
		MaxBytes:     int32(c.cfg.FetchBytes),
		SessionEpoch: -1, // no session: it would keep state on the broker for what one long request does as well
	}
	topics := make(map[string]int, 8)
	asked := make(map[im.Partition]int64, len(wants))
	for _, w := range wants {
		asked[w.partition] = w.from
		i, ok := topics[w.partition.Topic]
		if !ok {
			i = len(req.Topics)
			topics[w.partition.Topic] = i
			req.Topics = append(req.Topics, fetch.RequestTopic{Topic: w.partition.Topic})
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, fetch.RequestPartition{
			Partition: int32(w.partition.Number), CurrentLeaderEpoch: -1, FetchOffset: w.from, LogStartOffset: -1,
			PartitionMaxBytes: int32(maxBytes),
		})
	}
	res, err := c.roundTrip(ctx, wait, req)
	if err != nil {
		return nil, err
	}
	answer := res.(*fetch.Response)
	if err := codeError(answer.ErrorCode, ""); err != nil {
		return nil, err
	}
	found := make(map[im.Partition]*got)
	for i := range answer.Topics {
		t := &answer.Topics[i]
		for j := range t.Partitions {
			p := im.Partition{Topic: t.Topic, Number: int(t.Partitions[j].Partition)}
			from, ok := asked[p]
			if !ok {
				continue
			}
			g := &got{}
			found[p] = g
			if err := codeError(t.Partitions[j].ErrorCode, ""); err != nil {
				g.err = err
				continue
			}
			g.batch.Partition = p
			g.batch.End = t.Partitions[j].HighWatermark
			g.batch.Entries, g.next, g.err = decodeEntries(p, from, &t.Partitions[j].RecordSet)
		}
	}
	return found, nil
}

// decodeEntries copies a partition's records out of the fetch's pooled pages. Those below from, which a broker sends
// because batches are whole, are left out.
func decodeEntries(p im.Partition, from int64, set *protocol.RecordSet) (entries []im.Entry, next int64, err error) {
	next = from
	stream, ok := set.Records.(*protocol.RecordStream)
	if !ok { // no records
		return nil, next, nil
	}
	for _, records := range stream.Records {
		_, control := records.(*protocol.ControlBatch) // a transaction's end: no record of ours, but it takes an offset
		for {
			r, err := records.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return entries, next, fmt.Errorf("decode a record from offset %d: %w", next, err)
			}
			skip := control || r.Offset < next
			e, err := copyRecord(r, skip)
			if err != nil {
				return entries, next, fmt.Errorf("decode the record at offset %d: %w", r.Offset, err)
			}
			if r.Offset >= next {
				next = r.Offset + 1
			}
			if skip {
				continue
			}
			e.Partition, e.Offset = p, r.Offset
			entries = append(entries, e)
		}
	}
	return entries, next, nil
}

// copyRecord copies key and value, in one piece of memory, and gives the record's pages back. Headers are memory of
// their own already.
func copyRecord(r *protocol.Record, skip bool) (e im.Entry, err error) {
	keyLen, valueLen := 0, 0
	if r.Key != nil {
		defer r.Key.Close()
		keyLen = r.Key.Len()
	}
	if r.Value != nil {
		defer r.Value.Close()
		valueLen = r.Value.Len()
	}
	if skip {
		return e, nil
	}
	b := make([]byte, keyLen+valueLen)
	if r.Key != nil {
		e.Key = b[:keyLen:keyLen]
		if _, err := io.ReadFull(r.Key, e.Key); err != nil {
			return e, fmt.Errorf("key: %w", err)
		}
	}
	if r.Value != nil {
		e.Value = b[keyLen:]
		if _, err := io.ReadFull(r.Value, e.Value); err != nil {
			return e, fmt.Errorf("value: %w", err)
		}
	}
	if len(r.Headers) > 0 {
		e.Headers = make([]im.Header, len(r.Headers))
		for i, h := range r.Headers {
			e.Headers[i] = im.Header(h)
		}
	}
	return e, nil
}

// Read returns what stands in a partition from an offset on, at most about maxBytes but at least one entry, or nothing
// at the end. An offset that the partition does not hold is a *RangeError.
func (c *Cluster) Read(ctx context.Context, p im.Partition, from int64, maxBytes int) (entries []im.Entry, err error) {
	maxBytes = min(max(maxBytes, 1), c.cfg.FetchBytes)
	err = c.retry(ctx, c.cfg.RequestTimeout, func(ctx context.Context) error {
		if _, err := c.lay.layout().leader(p); err != nil {
			return fmt.Errorf("read %v: %w: %s", p, err, remedy(err))
		}
		found, err := c.fetch(ctx, []want{{p, from}}, 0, maxBytes)
		if err != nil {
			return fmt.Errorf("read %v: %w", p, err)
		}
		g := found[p]
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
// after all, as they may while leaders change.
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
			offsets, err := c.offsets(ctx, group, at)
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

func (c *Cluster) offsets(ctx context.Context, ps []im.Partition, at int64) (map[im.Partition]int64, error) {
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
			Partition: int32(p.Number), CurrentLeaderEpoch: -1, Timestamp: at,
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
