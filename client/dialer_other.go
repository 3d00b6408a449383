//go:build !linux

package client

import (
	"syscall"
	"time"
)

// userTimeout is for Linux: elsewhere the kernel's own patience counts.
func userTimeout(time.Duration) func(network, addr string, c syscall.RawConn) error { return nil }
