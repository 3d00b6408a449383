package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// Check tells what the region says of the link from an origin, and of its copies.
func (c *Copies) Check(ctx context.Context, o im.Origin) (im.CopyHealth, error) {
	r, err := c.client.CopyCheck(ctx, &antipodev1.CopyCheckRequest{Origin: string(o)})
	if err != nil {
		return im.CopyHealth{}, fmt.Errorf("replicator of %s: %w", c.region, err)
	}
	health := im.CopyHealth{Open: r.Open, Error: r.Error, Copies: make([]im.CopyCheck, len(r.Copies))}
	states := &antipodev1.CopyStates{Region: r.Region}
	for _, k := range r.Copies {
		states.Partitions = append(states.Partitions, k.GetState())
	}
	all, err := c.states(states, nil)
	if err != nil {
		return im.CopyHealth{}, err
	}
	for i, k := range r.Copies {
		check := im.CopyCheck{
			CopyState: all[i], View: k.View, Reach: k.Reach, Refused: k.Refused, Between: im.Region(k.Between), BetweenRefused: k.BetweenRefused,
		}
		if len(k.OriginLogId) == len(check.Origin) {
			check.Origin = im.UUID(k.OriginLogId)
		}
		health.Copies[i] = check
	}
	return health, nil
}

// Repair brings copies what they lack, at so many bytes a second, and calls tell with how far each is.
func (c *Copies) Repair(ctx context.Context, o im.Origin, repairs []im.CopyRepair, bytesPerSecond int, tell func(im.CopyProgress) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &antipodev1.CopyRepairRequest{Origin: string(o), BytesPerSecond: uint64(max(bytesPerSecond, 0))}
	for i := range repairs {
		r := &repairs[i]
		p := &antipodev1.CopyRepairPartition{
			Topic: r.Partition.Topic, Partition: uint32(r.Partition.Number), Begin: r.Begin, To: r.To, From: string(r.From),
		}
		if r.Log != (im.UUID{}) {
			p.LogId = r.Log[:]
		}
		request.Partitions = append(request.Partitions, p)
	}
	stream, err := c.client.CopyRepair(ctx, request)
	for err == nil {
		var m *antipodev1.CopyRepairResponse
		if m, err = stream.Recv(); err == nil {
			err = tell(im.CopyProgress{Partition: im.Partition{Topic: m.Topic, Number: int(m.Partition)}, Next: m.Next})
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("repair the copies of %s in %s: %w", o, c.region, fromStatus(ctx, string(c.region), err))
}

func (s *replicatorServer) CopyCheck(ctx context.Context, r *antipodev1.CopyCheckRequest) (*antipodev1.CopyCheckResponse, error) {
	o, err := s.copies(ctx, r.Origin)
	if err != nil {
		return nil, err
	}
	health, err := s.service.CopyCheck(ctx, o)
	if err != nil {
		return nil, err
	}
	m := &antipodev1.CopyCheckResponse{Region: string(s.access.Region), Open: health.Open, Error: health.Error}
	for i := range health.Copies {
		k := &health.Copies[i]
		check := &antipodev1.CopyCheck{
			State: copyState(&k.CopyState), View: k.View, Reach: k.Reach, Refused: k.Refused, Between: string(k.Between), BetweenRefused: k.BetweenRefused,
		}
		if k.Origin != (im.UUID{}) {
			check.OriginLogId = k.Origin[:]
		}
		m.Copies = append(m.Copies, check)
	}
	return m, nil
}

func (s *replicatorServer) CopyRepair(r *antipodev1.CopyRepairRequest, stream grpc.ServerStreamingServer[antipodev1.CopyRepairResponse]) error {
	o, err := s.copies(stream.Context(), r.Origin)
	if err != nil {
		return err
	}
	repairs := make([]im.CopyRepair, len(r.Partitions))
	for i, p := range r.Partitions {
		repairs[i] = im.CopyRepair{
			Partition: im.Partition{Topic: p.Topic, Number: int(p.Partition)}, Begin: p.Begin, To: p.To, From: im.Region(p.From),
		}
		if len(p.LogId) == len(repairs[i].Log) {
			repairs[i].Log = im.UUID(p.LogId)
		}
	}
	return s.service.CopyRepair(stream.Context(), o, repairs, int(min(r.BytesPerSecond, 1<<40)), func(p im.CopyProgress) error {
		return stream.Send(&antipodev1.CopyRepairResponse{Topic: p.Partition.Topic, Partition: uint32(p.Partition.Number), Next: p.Next})
	})
}
