package rpc

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// GatewayService is the gateway behind the RPC server.
type GatewayService interface {
	Load() im.Load
	// GiveUp answers another gateway that asks for a session, once, and passes on through out what comes for it afterwards. It
	// must not block.
	GiveUp(ask im.SessionAsk, out TakeOutlet)
	// Settled hears that the new route of a session that was given up is claimed.
	Settled(id im.SessionID)
}

// GatewayAccess says who may take sessions: gateways of the own region.
type GatewayAccess struct {
	Region im.Region
	// Identify reads service and region from a client's certificate; nil lets everyone call, for tests of one process.
	Identify func(*x509.Certificate) (service string, region im.Region, err error)
}

// RegisterGateway serves a gateway's load to ipconf, and its sessions to other gateways until ctx ends.
func RegisterGateway(ctx context.Context, s grpc.ServiceRegistrar, g GatewayService, access GatewayAccess) {
	antipodev1.RegisterGatewayServer(s, &gatewayServer{gateway: g, access: access, ended: ctx.Done()})
}

type gatewayServer struct {
	antipodev1.UnimplementedGatewayServer
	gateway GatewayService
	access  GatewayAccess
	ended   <-chan struct{}
}

func (s *gatewayServer) Load(context.Context, *antipodev1.LoadRequest) (*antipodev1.LoadResponse, error) {
	return loadMessage(s.gateway.Load()), nil
}

// Gateways asks gateways for their load.
type Gateways struct{ conns Conns }

// NewGateways returns Gateways over the connections.
func NewGateways(conns Conns) *Gateways { return &Gateways{conns} }

// Load asks the gateway at addr, within ctx.
func (g *Gateways) Load(ctx context.Context, addr string) (im.Load, error) {
	cc, err := g.conns.Conn(addr)
	if err != nil {
		return im.Load{}, fromStatus(ctx, addr, err)
	}
	r, err := antipodev1.NewGatewayClient(cc).Load(ctx, &antipodev1.LoadRequest{})
	if err != nil {
		return im.Load{}, fromStatus(ctx, addr, err)
	}
	return loadOf(r), nil
}

func loadMessage(l im.Load) *antipodev1.LoadResponse {
	return &antipodev1.LoadResponse{
		Gateway: l.Gateway.ID, Epoch: l.Gateway.Epoch, Conns: uint32(l.Conns), Capacity: uint32(l.Capacity),
		BytesPerSecond: l.BytesPerSecond, BytesCapacity: l.BytesCapacity, Cpu: l.CPU, Draining: l.Draining, Version: l.Version,
	}
}

func loadOf(r *antipodev1.LoadResponse) im.Load {
	return im.Load{
		Gateway: im.Gateway{ID: r.Gateway, Epoch: r.Epoch}, Conns: int(r.Conns), Capacity: int(r.Capacity),
		BytesPerSecond: r.BytesPerSecond, BytesCapacity: r.BytesCapacity, CPU: r.Cpu, Draining: r.Draining, Version: r.Version,
	}
}
