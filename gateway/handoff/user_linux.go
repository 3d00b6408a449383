package handoff

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// sameUser refuses a process of another user.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("handoff: %w", err)
	}
	var peer *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) { peer, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return fmt.Errorf("handoff: %w", err)
	}
	if optErr != nil {
		return fmt.Errorf("handoff: who is there: %w", optErr)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("handoff: the other process runs as user %d, this one as %d", peer.Uid, os.Geteuid())
	}
	return nil
}
