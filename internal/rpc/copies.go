package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// Copies is a region's replicator as whoever declares another region lost sees it.
type Copies struct {
	client antipodev1.ReplicatorClient
	region im.Region
}

// NewCopies returns a client of the replicator of a region.
func NewCopies(conn grpc.ClientConnInterface, r im.Region) *Copies {
	return &Copies{antipodev1.NewReplicatorClient(conn), r}
}

// Hold tells what the region's copies of an origin hold. Unless the generation is 0, they are held under it first.
func (c *Copies) Hold(ctx context.Context, o im.Origin, generation uint32) ([]im.CopyState, error) {
	return c.states(c.client.CopyHold(ctx, &antipodev1.CopyHoldRequest{Origin: string(o), Generation: generation}))
}

// Fill brings copies up to where others are.
func (c *Copies) Fill(ctx context.Context, o im.Origin, generation uint32, fills []im.CopyFill) ([]im.CopyState, error) {
	return c.states(c.client.CopyFill(ctx, &antipodev1.CopyFillRequest{Origin: string(o), Generation: generation, Partitions: copyFills(fills)}))
}

// Seal appends final markers.
func (c *Copies) Seal(ctx context.Context, o im.Origin, generation uint32, seals []im.CopyFill) ([]im.CopyState, error) {
	return c.states(c.client.CopySeal(ctx, &antipodev1.CopySealRequest{Origin: string(o), Generation: generation, Partitions: copyFills(seals)}))
}

// Read calls take with batches of the records [from, to) of a partition.
func (c *Copies) Read(ctx context.Context, p im.Partition, from, to int64, take func(*wire.LinkBatch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.client.CopyRead(ctx, &antipodev1.CopyReadRequest{Topic: p.Topic, Partition: uint32(p.Number), From: from, To: to})
	for err == nil {
		var b *antipodev1.LinkBatch
		if b, err = stream.Recv(); err == nil {
			err = take(b)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("read the copy of %v in %s: %w", p, c.region, err)
}

func (c *Copies) states(r *antipodev1.CopyStates, err error) ([]im.CopyState, error) {
	if err != nil {
		return nil, fmt.Errorf("replicator of %s: %w", c.region, err)
	}
	if im.Region(r.Region) != c.region {
		return nil, im.Errorf(im.CodeWrongRegion, "the replicator of %s was called, that of %q answered: correct replicator.peers", c.region, r.Region)
	}
	states := make([]im.CopyState, 0, len(r.Partitions))
	for _, s := range r.Partitions {
		state := im.CopyState{
			Partition: im.Partition{Topic: s.Topic, Number: int(s.Partition)}, Next: s.Next, Generation: s.Generation,
			Checksum: s.Checksum, Checked: s.Checked, Held: im.Stamp(s.HeldStamp),
		}
		if len(s.LogId) == len(state.Log) {
			state.Log = im.UUID(s.LogId)
		}
		states = append(states, state)
	}
	return states, nil
}

func copyFills(fills []im.CopyFill) []*antipodev1.CopyFill {
	all := make([]*antipodev1.CopyFill, len(fills))
	for i, f := range fills {
		all[i] = &antipodev1.CopyFill{Topic: f.Partition.Topic, Partition: uint32(f.Partition.Number), To: f.To, From: string(f.From)}
	}
	return all
}

// ReadCopy reads another region's copy over a connection of its own.
func (l *Links) ReadCopy(ctx context.Context, peer im.Region, p im.Partition, from, to int64, take func(*wire.LinkBatch) error) error {
	conn, err := l.Dial(peer)
	if err != nil {
		return err
	}
	defer conn.Close()
	return NewCopies(conn, peer).Read(ctx, p, from, to, take)
}

// CopyStates tells what another region's copies of an origin hold.
func (l *Links) CopyStates(ctx context.Context, peer im.Region, o im.Origin) ([]im.CopyState, error) {
	conn, err := l.Dial(peer)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return NewCopies(conn, peer).Hold(ctx, o, 0)
}

// Dial returns a connection to a region's replicator for a few calls. The caller closes it.
func (l *Links) Dial(peer im.Region) (*grpc.ClientConn, error) {
	t, err := l.target(peer)
	if err != nil {
		return nil, fmt.Errorf("replicator of %s: %w", peer, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+t.Addr,
		grpc.WithTransportCredentials(transport(t.TLS)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return fromStatus(ctx, t.Addr, invoke(ctx, method, req, reply, cc, opts...))
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("replicator of %s: %w", peer, err)
	}
	return conn, nil
}

func (s *replicatorServer) CopyHold(ctx context.Context, r *antipodev1.CopyHoldRequest) (*antipodev1.CopyStates, error) {
	o, err := s.copies(ctx, r.Origin)
	if err != nil {
		return nil, err
	}
	return s.states(s.service.CopyHold(ctx, o, r.Generation))
}

func (s *replicatorServer) CopyFill(ctx context.Context, r *antipodev1.CopyFillRequest) (*antipodev1.CopyStates, error) {
	o, err := s.copies(ctx, r.Origin)
	if err != nil {
		return nil, err
	}
	return s.states(s.service.CopyFill(ctx, o, r.Generation, fillsOf(r.Partitions)))
}

func (s *replicatorServer) CopySeal(ctx context.Context, r *antipodev1.CopySealRequest) (*antipodev1.CopyStates, error) {
	o, err := s.copies(ctx, r.Origin)
	if err != nil {
		return nil, err
	}
	return s.states(s.service.CopySeal(ctx, o, r.Generation, fillsOf(r.Partitions)))
}

func (s *replicatorServer) CopyRead(r *antipodev1.CopyReadRequest, stream grpc.ServerStreamingServer[antipodev1.LinkBatch]) error {
	p := im.Partition{Topic: r.Topic, Number: int(r.Partition)}
	if _, err := s.copies(stream.Context(), string(p.Origin())); err != nil {
		return err
	}
	_, reader, err := s.caller(stream.Context())
	if err != nil {
		return err
	}
	return s.service.CopyRead(stream.Context(), reader, p, r.From, r.To, stream.Send)
}

// copies lets replicators call, those of other regions as well: whoever declares a region lost does it with the
// certificate of one.
func (s *replicatorServer) copies(ctx context.Context, origin string) (im.Origin, error) {
	service, region, err := s.caller(ctx)
	if err != nil {
		return "", err
	}
	if s.access.Identify != nil && service != "replicator" {
		return "", im.Errorf(im.CodeBadToken, "%s of region %s may not call this: only replicators may", service, region)
	}
	o, err := im.ParseOrigin(origin)
	if err != nil {
		return "", im.Errorf(im.CodeBadRequest, "%v", err)
	}
	return o, nil
}

func fillsOf(all []*antipodev1.CopyFill) []im.CopyFill {
	fills := make([]im.CopyFill, len(all))
	for i, f := range all {
		fills[i] = im.CopyFill{Partition: im.Partition{Topic: f.Topic, Number: int(f.Partition)}, To: f.To, From: im.Region(f.From)}
	}
	return fills
}

func (s *replicatorServer) states(states []im.CopyState, err error) (*antipodev1.CopyStates, error) {
	if err != nil {
		return nil, err
	}
	m := &antipodev1.CopyStates{Region: string(s.access.Region), Partitions: make([]*antipodev1.CopyState, len(states))}
	for i := range states {
		m.Partitions[i] = copyState(&states[i])
	}
	return m, nil
}

func copyState(c *im.CopyState) *antipodev1.CopyState {
	return &antipodev1.CopyState{
		Topic: c.Partition.Topic, Partition: uint32(c.Partition.Number), Next: c.Next, Generation: c.Generation,
		LogId: c.Log[:], Checksum: c.Checksum, Checked: c.Checked, HeldStamp: uint64(c.Held),
	}
}

// Digest tells what a stretch of a partition comes to in the region.
func (c *Copies) Digest(ctx context.Context, p im.Partition, from, to int64, piece int) (im.CopyDigest, error) {
	r, err := c.client.CopyDigest(ctx, &antipodev1.CopyDigestRequest{
		Topic: p.Topic, Partition: uint32(p.Number), From: from, To: to, Piece: uint32(piece),
	})
	if err != nil {
		return im.CopyDigest{}, fmt.Errorf("digest of %v in %s: %w", p, c.region, err)
	}
	return im.CopyDigest{First: r.First, Next: r.Next, Sums: r.Sums}, nil
}

func (s *replicatorServer) CopyDigest(ctx context.Context, r *antipodev1.CopyDigestRequest) (*antipodev1.CopyDigestResponse, error) {
	p := im.Partition{Topic: r.Topic, Number: int(r.Partition)}
	if _, err := s.copies(ctx, string(p.Origin())); err != nil {
		return nil, err
	}
	d, err := s.service.CopyDigest(ctx, p, r.From, r.To, int(r.Piece))
	if err != nil {
		return nil, err
	}
	return &antipodev1.CopyDigestResponse{First: d.First, Next: d.Next, Sums: d.Sums}, nil
}
