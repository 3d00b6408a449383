package rpc

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/antipode-im/antipode/im"
)

type fixedLoad im.Load

func (l fixedLoad) Load() im.Load { return im.Load(l) }

func (fixedLoad) GiveUp(_ im.SessionAsk, out TakeOutlet) {
	out.Refused("", im.Errorf(im.CodeSessionExpired, "none"))
}

func (fixedLoad) Settled(im.SessionID) {}

type dialer struct{ t *testing.T }

func (d dialer) Conn(addr string) (grpc.ClientConnInterface, error) {
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		d.t.Cleanup(func() { cc.Close() })
	}
	return cc, err
}

func TestGatewayLoad(t *testing.T) {
	want := im.Load{
		Gateway: im.Gateway{ID: "g1", Epoch: 7}, Conns: 3, Capacity: 10, BytesPerSecond: 1 << 40, CPU: 0.25, Draining: true,
	}
	s, err := NewServer(ServerConfig{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	RegisterGateway(t.Context(), s, fixedLoad(want), GatewayAccess{})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	gateways := NewGateways(dialer{t})
	got, err := gateways.Load(t.Context(), s.Addr())
	if err != nil || got != want {
		t.Errorf("load is %+v (%v), want %+v", got, err, want)
	}
	cancel(im.ErrKilled)
	if err := <-done; err != nil {
		t.Error(err)
	}
	short, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if _, err := gateways.Load(short, s.Addr()); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("a dead gateway answers %v, want %s", err, im.CodeUnavailable)
	}
}
