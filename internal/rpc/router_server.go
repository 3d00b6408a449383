package rpc

import (
	"context"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
)

// Outbox is a gateway's stream at the router's end. Its methods never block; an error says that the stream is gone.
type Outbox interface {
	Push([]im.Push) error
	Kick(im.Kick) error
	Fenced(epoch uint64) error
}

// Attachment is what a router makes of an attached gateway.
type Attachment interface {
	Submit(claims []im.Claim, done func(i int, err error))
	Heartbeat()
	Close()
}

// RouterService is the router behind the RPC server. Attach's results are interfaces, so the composition root wraps
// the router's own Attach in three lines.
type RouterService interface {
	Attach(gw im.Gateway, out Outbox) (Attachment, error)
	Deliver(ctx context.Context, deliveries []im.Delivery) (pushes int, err error)
	Notify(ctx context.Context, from im.Region, deliveries []im.Delivery) error
	Positions(ctx context.Context, origin im.Origin) ([]im.Position, error)
	Digest(ctx context.Context) (map[string]string, error)
}

// RegisterRouter serves a router. When ctx ends, attached streams are closed, so that the gRPC server can stop
// gracefully.
func RegisterRouter(ctx context.Context, s grpc.ServiceRegistrar, r RouterService) {}
