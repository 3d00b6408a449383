//go:build !linux

package gateway

import (
	"context"
	"errors"
	"net"
	"time"
)

type predecessor struct {
	offer    struct{ Epoch, ConnNo uint64 }
	listener net.Listener
}

var errNoHandoff = errors.New("gateway: handoff: sockets can be moved to another process on Linux only")

func findPredecessor(*Config) (*predecessor, error) { return nil, errNoHandoff }

func (g *Gateway) takeOverAll(context.Context) error { return errNoHandoff }

type offer struct{}

func (offer) settle(time.Duration) {}

func (offer) close() {}

func (g *Gateway) offerHandoff() (offer, error) { return offer{}, errNoHandoff }
