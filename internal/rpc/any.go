package rpc

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/antipode-im/antipode/im"
)

// Any is a connection to some live instance of a service of which every instance can answer. It keeps to one while that
// answers, and takes the next one for the call after a failure.
type Any struct {
	conns Conns
	live  func() []im.Instance
	next  atomic.Uint64
}

// NewAny returns a connection to whichever instance live lists.
func NewAny(conns Conns, live func() []im.Instance) *Any { return &Any{conns: conns, live: live} }

// Invoke implements grpc.ClientConnInterface.
func (a *Any) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn, err := a.pick()
	if err != nil {
		return err
	}
	err = conn.Invoke(ctx, method, args, reply, opts...)
	if unreachable(err) {
		a.next.Add(1)
	}
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (a *Any) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	conn, err := a.pick()
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(ctx, desc, method, opts...)
	if unreachable(err) {
		a.next.Add(1)
	}
	return stream, err
}

func (a *Any) pick() (grpc.ClientConnInterface, error) {
	live := a.live()
	if len(live) == 0 {
		return nil, im.Errorf(im.CodeUnavailable, "no live instance is known")
	}
	return a.conns.Conn(live[a.next.Load()%uint64(len(live))].Addr)
}
