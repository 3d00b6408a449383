//go:build !linux

package gateway

import (
	"net"
	"time"
)

// setUserTimeout is for Linux: elsewhere the kernel's own patience counts.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
