package rpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// ViewService tells how far an imserver's timelines are and what they add up to.
type ViewService interface {
	Positions(ctx context.Context, origin im.Origin) ([]im.Position, error)
	Digest(ctx context.Context) (map[string]string, error)
	SnapshotService
}

// RegisterView serves v.
func RegisterView(s grpc.ServiceRegistrar, v ViewService) {
	antipodev1.RegisterViewServer(s, &viewServer{view: v})
}

type viewServer struct {
	antipodev1.UnimplementedViewServer
	view ViewService
}

func (s *viewServer) Positions(ctx context.Context, r *antipodev1.PositionsRequest) (*antipodev1.PositionsResponse, error) {
	positions, err := s.view.Positions(ctx, im.Origin(r.Origin))
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	response := &antipodev1.PositionsResponse{Positions: make([]*antipodev1.Position, len(positions))}
	for i, p := range positions {
		response.Positions[i] = &antipodev1.Position{
			Topic: p.Partition.Topic, Partition: uint32(p.Partition.Number), Next: p.Next, Local: p.Local,
		}
		if p.Log != (im.UUID{}) {
			response.Positions[i].LogId = p.Log[:]
		}
	}
	return response, nil
}

func (s *viewServer) Digest(ctx context.Context, _ *antipodev1.DigestRequest) (*antipodev1.DigestResponse, error) {
	digests, err := s.view.Digest(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &antipodev1.DigestResponse{Digests: digests}, nil
}

// View asks an imserver how far its timelines are.
type View struct{ client antipodev1.ViewClient }

// NewView returns the caller's end of a connection to an imserver.
func NewView(cc grpc.ClientConnInterface) *View { return &View{antipodev1.NewViewClient(cc)} }

// Positions are how far the region's timelines are in an origin's logs, or in all of them for the empty origin. Local
// offsets are those of the region that is asked.
func (v *View) Positions(ctx context.Context, origin im.Origin) ([]im.Position, error) {
	r, err := v.client.Positions(ctx, &antipodev1.PositionsRequest{Origin: string(origin)})
	if err != nil {
		return nil, fmt.Errorf("ask an imserver for positions of %q: %w", origin, err)
	}
	positions := make([]im.Position, len(r.Positions))
	for i, p := range r.Positions {
		positions[i] = im.Position{Partition: im.Partition{Topic: p.Topic, Number: int(p.Partition)}, Next: p.Next, Local: p.Local}
		if len(p.LogId) == len(positions[i].Log) {
			positions[i].Log = im.UUID(p.LogId)
		}
	}
	return positions, nil
}

// Digest returns a digest of each part of the region's timelines.
func (v *View) Digest(ctx context.Context) (map[string]string, error) {
	r, err := v.client.Digest(ctx, &antipodev1.DigestRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask an imserver for its digest: %w", err)
	}
	return r.Digests, nil
}
