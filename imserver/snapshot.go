package imserver

import (
	"context"
	"errors"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxSnapshots is how many snapshots an imserver gives at a time: each reads a database through.
const maxSnapshots = 2

// Snapshots reads snapshots of the timelines.
type Snapshots interface {
	SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error)
	Snapshot(ctx context.Context, r *wire.SnapshotRequest, send func(*wire.SnapshotChunk) error) error
}

var errNoSnapshots = im.Errorf(im.CodeUnknownMethod, "this imserver gives no snapshots")

// SnapshotCut tells where a snapshot of the timelines that begins now is cut, for a region that is seeded.
func (s *Server) SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	if s.deps.Snapshots == nil {
		return nil, errNoSnapshots
	}
	cut, err := s.deps.Snapshots.SnapshotCut(ctx, r)
	return cut, s.snapshotFailed(ctx, err)
}

// Snapshot sends what the timelines hold of the records below a cut. The receiver decides how fast: what it does not take
// is not read.
func (s *Server) Snapshot(ctx context.Context, r *wire.SnapshotRequest, send func(*wire.SnapshotChunk) error) error {
	if s.deps.Snapshots == nil {
		return errNoSnapshots
	}
	select {
	case s.snapshots <- struct{}{}:
		defer func() { <-s.snapshots }()
	default:
		return im.Errorf(im.CodeOverloaded, "%d snapshots of the timelines are being read here already", maxSnapshots)
	}
	return s.snapshotFailed(ctx, s.deps.Snapshots.Snapshot(ctx, r, func(c *wire.SnapshotChunk) error {
		if err := send(c); err != nil {
			return err
		}
		s.meter.snapshots.Add(ctx, int64(wire.SnapshotSize(c)))
		return nil
	}))
}

// snapshotFailed lets the caller try again what it may.
func (s *Server) snapshotFailed(ctx context.Context, err error) error {
	if _, named := errors.AsType[*im.Error](err); err == nil || named || ctx.Err() != nil {
		return err
	}
	s.deps.Logger.Error("a snapshot of the timelines cannot be read", "error", err)
	return im.Errorf(im.CodeUnavailable, "%v", err)
}
