package app

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenShared binds a port beside another process of the same user that has bound it in this way: a gateway that takes
// over from another one calls and is called under the same addresses. nil: ports are not shared.
func (s *Site) listenShared(service string) func(addr string) (net.Listener, error) {
	if service != ServiceGateway || s.Gateway.Handoff == "" {
		return nil
	}
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if outer := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); outer != nil {
			return outer
		}
		return err
	}}
	return func(addr string) (net.Listener, error) { return shared.Listen(context.Background(), "tcp", addr) }
}
