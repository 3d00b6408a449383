package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// SnapshotService makes snapshots of timelines.
type SnapshotService interface {
	SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error)
	Snapshot(ctx context.Context, r *wire.SnapshotRequest, send func(*wire.SnapshotChunk) error) error
}

func (s *viewServer) SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	return s.view.SnapshotCut(ctx, r)
}

func (s *viewServer) Snapshot(r *wire.SnapshotRequest, stream grpc.ServerStreamingServer[wire.SnapshotChunk]) error {
	return s.view.Snapshot(stream.Context(), r, stream.Send)
}

// SnapshotCut asks where a snapshot that begins now is cut.
func (v *View) SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	response, err := v.client.SnapshotCut(ctx, r)
	return response, fromSnapshot(ctx, "imserver", err)
}

// Snapshot calls take with the chunks of a snapshot.
func (v *View) Snapshot(ctx context.Context, r *wire.SnapshotRequest, take func(*wire.SnapshotChunk) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v.client.Snapshot(ctx, r)
	if err != nil {
		return fromSnapshot(ctx, "imserver", err)
	}
	return takeChunks(ctx, "imserver", stream, take)
}

func (s *replicatorServer) SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	if err := s.seeded(ctx); err != nil {
		return nil, err
	}
	return s.service.SnapshotCut(ctx, r)
}

func (s *replicatorServer) Snapshot(r *wire.SnapshotRequest, stream grpc.ServerStreamingServer[wire.SnapshotChunk]) error {
	if err := s.seeded(stream.Context()); err != nil {
		return err
	}
	return s.service.Snapshot(stream.Context(), r, stream.Send)
}

// seeded lets replicators call: a region is seeded with the certificate of its own.
func (s *replicatorServer) seeded(ctx context.Context) error {
	service, region, err := s.caller(ctx)
	if err == nil && s.access.Identify != nil && service != "replicator" {
		err = im.Errorf(im.CodeBadToken, "%s of region %s may not take a snapshot of timelines: only replicators may", service, region)
	}
	return err
}

// SnapshotCut asks where a snapshot of the region's timelines that begins now is cut.
func (c *Copies) SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	response, err := c.client.SnapshotCut(ctx, r)
	return response, fromSnapshot(ctx, "region "+string(c.region), err)
}

// Snapshot calls take with the chunks of a snapshot of the region's timelines.
func (c *Copies) Snapshot(ctx context.Context, r *wire.SnapshotRequest, take func(*wire.SnapshotChunk) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	what := "region " + string(c.region)
	stream, err := c.client.Snapshot(ctx, r)
	if err != nil {
		return fromSnapshot(ctx, what, err)
	}
	return takeChunks(ctx, what, stream, take)
}

// takeChunks reads a snapshot to its last chunk: a stream that ends without it is not one that has ended.
func takeChunks(ctx context.Context, what string, stream grpc.ServerStreamingClient[wire.SnapshotChunk], take func(*wire.SnapshotChunk) error) error {
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = im.Errorf(im.CodeUnavailable, "it ended before its last chunk")
		}
		if err != nil {
			return fromSnapshot(ctx, what, err)
		}
		if err := take(c); err != nil || c.Last {
			return err
		}
	}
}

func fromSnapshot(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unimplemented:
		return im.Errorf(im.CodeUnknownMethod, "%s is of a build that gives no snapshots: upgrade it", what)
	}
	return fmt.Errorf("snapshot of the timelines of %s: %w", what, fromStatus(ctx, what, err))
}
