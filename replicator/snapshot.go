package replicator

import (
	"context"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// cutTimeout bounds how long an imserver may take to tell where a snapshot is cut.
const cutTimeout = 10 * time.Second

// Snapshots are snapshots of the own region's timelines.
type Snapshots interface {
	SnapshotCut(ctx context.Context, r *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error)
	Snapshot(ctx context.Context, r *wire.SnapshotRequest, take func(*wire.SnapshotChunk) error) error
}

var errNoSnapshots = im.Errorf(im.CodeUnknownMethod, "this replicator knows no imservers that give snapshots")

// SnapshotCut tells a region that is seeded where a snapshot of this region's timelines that begins now is cut.
func (r *Replicator) SnapshotCut(ctx context.Context, asked *wire.SnapshotCutRequest) (*wire.SnapshotCutResponse, error) {
	if r.deps.Snapshots == nil {
		return nil, errNoSnapshots
	}
	ctx, cancel := context.WithTimeout(ctx, cutTimeout)
	defer cancel()
	return r.deps.Snapshots.SnapshotCut(ctx, asked)
}

// Snapshot passes a snapshot on from an imserver to a region that is seeded, as fast as that takes it.
func (r *Replicator) Snapshot(ctx context.Context, asked *wire.SnapshotRequest, send func(*wire.SnapshotChunk) error) error {
	if r.deps.Snapshots == nil {
		return errNoSnapshots
	}
	return r.deps.Snapshots.Snapshot(ctx, asked, send)
}
