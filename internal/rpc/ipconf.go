package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// IPConfService is the ipconf behind the RPC server.
type IPConfService interface {
	// Loads returns the loads of the own region's gateways, and how old the oldest is.
	Loads(ctx context.Context) (loads []im.Load, age time.Duration, err error)
}

// RegisterIPConf serves a region's loads to the ipconfs of other regions.
func RegisterIPConf(s grpc.ServiceRegistrar, i IPConfService, region im.Region) {
	antipodev1.RegisterIPConfServer(s, &ipconfServer{ipconf: i, region: region})
}

type ipconfServer struct {
	antipodev1.UnimplementedIPConfServer
	ipconf IPConfService
	region im.Region
}

func (s *ipconfServer) Loads(ctx context.Context, _ *antipodev1.LoadsRequest) (*antipodev1.LoadsResponse, error) {
	loads, age, err := s.ipconf.Loads(ctx)
	if err != nil {
		return nil, err
	}
	r := &antipodev1.LoadsResponse{Region: string(s.region), AgeMs: age.Milliseconds(), Loads: make([]*antipodev1.LoadResponse, len(loads))}
	for i, l := range loads {
		r.Loads[i] = loadMessage(l)
	}
	return r, nil
}

// GatewayLoads asks gateways that discovery knows for their load.
type GatewayLoads struct{ gateways *Gateways }

// NewGatewayLoads returns GatewayLoads over the connections.
func NewGatewayLoads(conns Conns) *GatewayLoads { return &GatewayLoads{NewGateways(conns)} }

// Load asks one gateway, within ctx. Another gateway at its address is unavailable: discovery will hear of it.
func (g *GatewayLoads) Load(ctx context.Context, gateway im.Instance) (im.Load, error) {
	l, err := g.gateways.Load(ctx, gateway.Addr)
	if err == nil && l.Gateway.ID != gateway.ID {
		return im.Load{}, im.Errorf(im.CodeUnavailable, "gateway %s is expected at %s, %s answers", gateway.ID, gateway.Addr, l.Gateway.ID)
	}
	return l, err
}

// IPConfPeers asks the ipconfs of other regions.
type IPConfPeers struct{ conns func(im.Region) Conns }

// NewIPConfPeers returns IPConfPeers over each region's connections.
func NewIPConfPeers(conns func(im.Region) Conns) *IPConfPeers { return &IPConfPeers{conns} }

// Loads asks one ipconf for the loads of its region's gateways, within ctx.
func (p *IPConfPeers) Loads(ctx context.Context, ipconf im.Instance) (loads []im.Load, age time.Duration, err error) {
	cc, err := p.conns(ipconf.Region).Conn(ipconf.Addr)
	if err != nil {
		return nil, 0, fromStatus(ctx, ipconf.Addr, err)
	}
	r, err := antipodev1.NewIPConfClient(cc).Loads(ctx, &antipodev1.LoadsRequest{})
	if err != nil {
		return nil, 0, fromStatus(ctx, ipconf.Addr, err)
	}
	if r.Region != string(ipconf.Region) {
		return nil, 0, im.Errorf(im.CodeUnavailable, "ipconf %s of %s is expected at %s, one of %q answers", ipconf.ID, ipconf.Region, ipconf.Addr, r.Region)
	}
	for _, l := range r.Loads {
		loads = append(loads, loadOf(l))
	}
	return loads, time.Duration(max(r.AgeMs, 0)) * time.Millisecond, nil
}
