package client

import (
	"net"
	"time"
)

// dialTimeout bounds a TCP connect, within what the policy gives a connection as a whole.
const dialTimeout = 30 * time.Second

// dialer opens sockets with TCP_NODELAY, as Go does by itself, and two options of its own:
//
//   - no keepalive of the kernel. The client's pulse (heartbeat.go) looks for the longest silence that the network bears: probes
//     that it does not know of would keep NATs awake, so that it learned nothing true, and would wake up the radio that it
//     spares.
//   - TCP_USER_TIMEOUT: a call whose bytes are not acknowledged for as long as a call may take is lost. Without it the kernel
//     sends them again for a quarter of an hour, and a write blocks once its buffer is full.
func dialer(patience time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, KeepAlive: -1, Control: userTimeout(patience)}
}
