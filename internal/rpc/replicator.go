package rpc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// Links opens links to other regions' replicators, each on a connection of its own: a link that went silent is left
// together with its socket, and opened again on a new one.
type Links struct {
	dial func(peer im.Region) (*grpc.ClientConn, error)
}

// NewLinks returns Links that dial with a function: it resolves the peer's address and sets the credentials, and passes
// LinkDialOptions on.
func NewLinks(dial func(peer im.Region) (*grpc.ClientConn, error)) *Links { return &Links{dial} }

// LinkDialOptions let one link carry a whole region's log across a long way: at 200 ms round trip, the window allows 160
// MB/s. Keepalive finds a dead peer behind a link that has nothing to ship.
func LinkDialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(32 << 20),
		grpc.WithInitialConnWindowSize(32 << 20),
		grpc.WithReadBufferSize(256 << 10),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(linkMessageBytes)),
	}
}

// linkMessageBytes is the largest message that a link takes: a batch of one record as large as Kafka allows, and room.
const linkMessageBytes = 16 << 20

type link struct {
	grpc.BidiStreamingClient[antipodev1.LinkRequest, antipodev1.LinkResponse]
	cancel context.CancelFunc
	conn   *grpc.ClientConn
}

// Close drops the link and its connection.
func (l *link) Close() {
	l.cancel()
	l.conn.Close()
}

// Link dials a peer's replicator. It fails, rather than waits, when the peer cannot be reached.
func (l *Links) Link(ctx context.Context, peer im.Region) (wire.LinkReceiver, error) {
	conn, err := l.dial(peer)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", peer, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := antipodev1.NewReplicatorClient(conn).Link(ctx)
	if err != nil {
		cancel()
		conn.Close()
		return nil, fmt.Errorf("link to %s: %w", peer, err)
	}
	return &link{stream, cancel, conn}, nil
}

// ReplicatorService is the replicator behind the RPC server.
type ReplicatorService interface {
	Link(ctx context.Context, from im.Region, s wire.LinkSender) error
	Notify(ctx context.Context, to im.Region, ds []im.Delivery) error
	Held(ctx context.Context, send func(im.Held) error) error
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
		return status.Errorf(codes.PermissionDenied, "%s of region %s may not open a link to region %s: only replicators of other regions may",
			service, region, s.access.Region)
	}
	return linkStatus(s.service.Link(stream.Context(), region, stream))
}

func (s *replicatorServer) Notify(ctx context.Context, r *antipodev1.NotifyRequest) (*antipodev1.NotifyResponse, error) {
	if err := s.own(ctx); err != nil {
		return nil, err
	}
	to, err := im.ParseRegion(r.To)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &antipodev1.NotifyResponse{}, linkStatus(s.service.Notify(ctx, to, wire.DeliveriesOf(r)))
}

func (s *replicatorServer) Held(_ *antipodev1.HeldRequest, stream grpc.ServerStreamingServer[antipodev1.HeldResponse]) error {
	if err := s.own(stream.Context()); err != nil {
		return err
	}
	return linkStatus(s.service.Held(stream.Context(), func(h im.Held) error {
		m := &antipodev1.HeldResponse{Peers: uint32(h.Peers), Held: make([]*antipodev1.Position, 0, len(h.Offsets))}
		for p, offset := range h.Offsets {
			m.Held = append(m.Held, &antipodev1.Position{Topic: p.Topic, Partition: uint32(p.Number), Next: offset})
		}
		return stream.Send(m)
	}))
}

// caller identifies the client by its certificate; empty where none is asked for.
func (s *replicatorServer) caller(ctx context.Context) (string, im.Region, error) {
	if s.access.Identify == nil {
		return "", "", nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", "", status.Error(codes.Unauthenticated, "the caller has no address")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return "", "", status.Error(codes.Unauthenticated, "the caller shows no certificate")
	}
	service, region, err := s.access.Identify(info.State.PeerCertificates[0])
	if err != nil {
		return "", "", status.Error(codes.Unauthenticated, err.Error())
	}
	return service, region, nil
}

func (s *replicatorServer) own(ctx context.Context) error {
	service, region, err := s.caller(ctx)
	if err != nil {
		return err
	}
	if s.access.Identify != nil && region != s.access.Region {
		return status.Errorf(codes.PermissionDenied, "%s of region %s may not call this: only region %s may", service, region, s.access.Region)
	}
	return nil
}

// linkStatus gives an error the status that a peer sees: its code and detail in the text.
func linkStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Unavailable
	switch im.CodeOf(err) {
	case im.CodeBadRequest:
		code = codes.InvalidArgument
	case im.CodeWrongRegion, im.CodeBadToken:
		code = codes.PermissionDenied
	case im.CodeOverloaded:
		code = codes.ResourceExhausted
	case im.CodeInternal:
		code = codes.Internal
	}
	return status.Error(code, err.Error())
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
	if _, err := r.client.Notify(ctx, wire.NotifyOf(r.region, to, ds)); err != nil {
		return im.Errorf(im.CodeUnavailable, "notify %s: %s", to, status.Convert(err).Message())
	}
	return nil
}

// Held knows up to which offsets at least one peer holds the own origin's log.
type Held struct {
	client antipodev1.ReplicatorClient

	mu      sync.Mutex
	peers   int
	offsets map[im.Partition]int64 // exclusive; it only grows
	waiting map[im.Partition][]waiter
}

type waiter struct {
	offset int64
	held   chan struct{}
}

// NewHeld returns a Held that knows nothing before Run.
func NewHeld(conn grpc.ClientConnInterface) *Held {
	return &Held{
		client:  antipodev1.NewReplicatorClient(conn),
		offsets: map[im.Partition]int64{}, waiting: map[im.Partition][]waiter{},
	}
}

// Run follows the replicator until ctx ends, through its restarts.
func (h *Held) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Peers is how many peers have their link open now, 0 while the replicator cannot be reached.
func (h *Held) Peers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peers
}

// Wait returns nil once at least one peer holds the record at offset of the own log, or the error of ctx.
func (h *Held) Wait(ctx context.Context, p im.Partition, offset int64) error {
	<-ctx.Done()
	return ctx.Err()
}
