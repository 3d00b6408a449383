package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// LinkTarget is where a peer's replicator is and how to reach it.
type LinkTarget struct {
	Addr string
	TLS  *tls.Config // naming the peer's replicator; nil: plain text, for tests
}

// Links opens links to other regions' replicators, each on a connection of its own: a link that went silent is left
// together with its socket, and opened again on a new one.
type Links struct {
	target func(peer im.Region) (LinkTarget, error)
}

// NewLinks returns Links; target is asked at every attempt.
func NewLinks(target func(peer im.Region) (LinkTarget, error)) *Links { return &Links{target} }

// linkWindow is how many compressed bytes may be under way: at 200 ms round trip, 160 MB/s.
const linkWindow = 32 << 20

// Link dials a peer's replicator. It fails, rather than waits, when the peer refuses.
func (l *Links) Link(ctx context.Context, peer im.Region) (wire.LinkReceiver, error) {
	t, err := l.target(peer)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", peer, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+t.Addr,
		grpc.WithTransportCredentials(transport(t.TLS)),
		grpc.WithInitialWindowSize(linkWindow), grpc.WithInitialConnWindowSize(linkWindow),
		grpc.WithReadBufferSize(256<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", peer, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := antipodev1.NewReplicatorClient(conn).Link(ctx)
	if err != nil {
		cancel()
		conn.Close()
		return nil, fmt.Errorf("link to %s: %w", peer, fromStatus(ctx, t.Addr, err))
	}
	return &link{stream, t.Addr, cancel, conn}, nil
}

type link struct {
	stream grpc.BidiStreamingClient[antipodev1.LinkRequest, antipodev1.LinkResponse]
	addr   string
	cancel context.CancelFunc
	conn   *grpc.ClientConn
}

func (l *link) Send(m *wire.LinkRequest) error {
	return fromStatus(l.stream.Context(), l.addr, l.stream.Send(m))
}

func (l *link) Recv() (*wire.LinkResponse, error) {
	m, err := l.stream.Recv()
	return m, fromStatus(l.stream.Context(), l.addr, err)
}

// Close drops the link and its connection.
func (l *link) Close() {
	l.cancel()
	l.conn.Close()
}

// ReplicatorService is the replicator behind the RPC server.
type ReplicatorService interface {
	Link(ctx context.Context, from im.Region, s wire.LinkSender) error
	Notify(ctx context.Context, to im.Region, ds []im.Delivery) error
	Held(ctx context.Context, send func(im.Held) error) error
	ClockOffsets() map[im.Region]time.Duration
	CopyHold(ctx context.Context, o im.Origin, generation uint32) ([]im.CopyState, error)
	CopyRead(ctx context.Context, reader im.Region, p im.Partition, from, to int64, send func(*wire.LinkBatch) error) error
	CopyDigest(ctx context.Context, p im.Partition, from, to int64, piece int) (im.CopyDigest, error)
	CopyFill(ctx context.Context, o im.Origin, generation uint32, fills []im.CopyFill) ([]im.CopyState, error)
	CopySeal(ctx context.Context, o im.Origin, generation uint32, seals []im.CopyFill) ([]im.CopyState, error)
	CopyCheck(ctx context.Context, o im.Origin) (im.CopyHealth, error)
	CopyRepair(ctx context.Context, o im.Origin, repairs []im.CopyRepair, bytesPerSecond int, tell func(im.CopyProgress) error) error
	SnapshotService
}

// ReplicatorAccess says who may call: links are for replicators of other regions, everything else for the own region.
type ReplicatorAccess struct {
	Region im.Region
	// Identify reads service and region from a client's certificate; nil lets everyone call, for tests of one process.
	Identify func(*x509.Certificate) (service string, region im.Region, err error)
}

// RegisterReplicator serves a replicator.
func RegisterReplicator(s grpc.ServiceRegistrar, r ReplicatorService, access ReplicatorAccess) {
	antipodev1.RegisterReplicatorServer(s, &replicatorServer{service: r, access: access})
}

type replicatorServer struct {
	antipodev1.UnimplementedReplicatorServer
	service ReplicatorService
	access  ReplicatorAccess
}

func (s *replicatorServer) Link(stream grpc.BidiStreamingServer[antipodev1.LinkRequest, antipodev1.LinkResponse]) error {
	service, region, err := s.caller(stream.Context())
	if err != nil {
		return err
	}
	if s.access.Identify != nil && (service != "replicator" || region == s.access.Region) {
		return im.Errorf(im.CodeBadToken, "%s of region %s may not open a link to region %s: only replicators of other regions may",
			service, region, s.access.Region)
	}
	return s.service.Link(stream.Context(), region, stream)
}

func (s *replicatorServer) Notify(ctx context.Context, r *antipodev1.NotifyRequest) (*antipodev1.NotifyResponse, error) {
	if err := s.own(ctx); err != nil {
		return nil, err
	}
	to, err := im.ParseRegion(r.To)
	if err != nil {
		return nil, im.Errorf(im.CodeBadRequest, "notify: %v", err)
	}
	if err := s.service.Notify(ctx, to, wire.DeliveriesOf(r)); err != nil {
		return nil, err
	}
	return &antipodev1.NotifyResponse{}, nil
}

func (s *replicatorServer) Held(_ *antipodev1.HeldRequest, stream grpc.ServerStreamingServer[antipodev1.HeldResponse]) error {
	if err := s.own(stream.Context()); err != nil {
		return err
	}
	return s.service.Held(stream.Context(), func(h im.Held) error {
		m := &antipodev1.HeldResponse{Peers: uint32(h.Peers), Held: make([]*antipodev1.Position, 0, len(h.Offsets))}
		for p, offset := range h.Offsets {
			m.Held = append(m.Held, &antipodev1.Position{Topic: p.Topic, Partition: uint32(p.Number), Next: offset})
		}
		return stream.Send(m)
	})
}

// own lets only services of the own region call.
func (s *replicatorServer) own(ctx context.Context) error {
	service, region, err := s.caller(ctx)
	if err != nil {
		return err
	}
	if s.access.Identify != nil && region != s.access.Region {
		return im.Errorf(im.CodeBadToken, "%s of region %s may not call this: only region %s may", service, region, s.access.Region)
	}
	return nil
}

// caller identifies the client by its certificate; empty where none is asked for.
func (s *replicatorServer) caller(ctx context.Context) (string, im.Region, error) {
	if s.access.Identify == nil {
		return "", "", nil
	}
	return callerOf(ctx, s.access.Identify)
}

// callerOf reads the caller's service and region from its certificate.
func callerOf(ctx context.Context, identify func(*x509.Certificate) (string, im.Region, error)) (string, im.Region, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", "", im.Errorf(im.CodeBadToken, "the caller has no address")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return "", "", im.Errorf(im.CodeBadToken, "the caller shows no certificate")
	}
	service, region, err := identify(info.State.PeerCertificates[0])
	if err != nil {
		return "", "", im.Errorf(im.CodeBadToken, "%v", err)
	}
	return service, region, nil
}

func (s *replicatorServer) Clock(ctx context.Context, _ *antipodev1.ClockRequest) (*antipodev1.ClockResponse, error) {
	if err := s.own(ctx); err != nil {
		return nil, err
	}
	response := &antipodev1.ClockResponse{}
	for region, ahead := range s.service.ClockOffsets() {
		response.Peers = append(response.Peers, &antipodev1.PeerClock{Region: string(region), AheadUs: ahead.Microseconds()})
	}
	response.ClockUs = time.Now().UnixMicro()
	return response, nil
}

// Replicator calls the own region's replicator.
type Replicator struct {
	client antipodev1.ReplicatorClient
	region im.Region
}

// NewReplicator returns a client of the own region's replicator.
func NewReplicator(conn grpc.ClientConnInterface, own im.Region) *Replicator {
	return &Replicator{antipodev1.NewReplicatorClient(conn), own}
}

// notifyTimeout bounds a notify: one that is late is worth nothing, since the log brings the record.
const notifyTimeout = time.Second

// Notify hands deliveries for another region to the replicator. They may be lost; the error says so when it is known.
func (r *Replicator) Notify(ctx context.Context, to im.Region, ds []im.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	_, err := r.client.Notify(ctx, wire.NotifyOf(r.region, to, ds))
	return err
}

// Clock tells how far the clocks of other regions are ahead of this process's own, as the replicator measured them on its
// links, to half a round trip of both ways.
func (r *Replicator) Clock(ctx context.Context) (map[im.Region]time.Duration, error) {
	asked := time.Now()
	response, err := r.client.Clock(ctx, &antipodev1.ClockRequest{})
	if err != nil {
		return nil, err
	}
	ahead := time.UnixMicro(response.ClockUs).Sub(asked.Add(time.Since(asked) / 2)) // the replicator's, of the own
	all := make(map[im.Region]time.Duration, len(response.Peers))
	for _, p := range response.Peers {
		all[im.Region(p.Region)] = ahead + time.Duration(p.AheadUs)*time.Microsecond
	}
	return all, nil
}
