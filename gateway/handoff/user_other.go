//go:build unix && !linux

package handoff

import "net"

// sameUser relies on the socket's permissions where the kernel does not tell.
func sameUser(*net.UnixConn) error { return nil }
