package gateway

import (
	"errors"
	"net"
	"time"
)

// socketOptions are those of every accepted socket. They are the kernel's, so they stay with a socket that another process
// takes over: that one's own configuration is for the sockets that it accepts.
//
//   - TCP_NODELAY, always: a flusher writes all that there is at once, and a small frame must not wait for the
//     acknowledgement of the one before.
//   - TCP_USER_TIMEOUT: how long bytes may be unacknowledged before the socket is broken. Without it Linux tries for some
//     15 minutes, while pushes go to a phone that has left. Longer than a tunnel or a handover takes, shorter than
//     Config.IdleTimeout.
//   - SO_KEEPALIVE, seldom: the protocol's heartbeats tell whether a client lives, and the kernel's probes would wake up
//     phones. It comes after Config.IdleTimeout, for whatever that does not watch, such as idle HTTP connections behind a
//     proxy that died.
//   - SO_SNDBUF and SO_RCVBUF, left to the kernel unless set: it takes memory for bytes that are there, and sizes windows by
//     what a path bears. A fixed send buffer bounds what a slow client holds of the kernel's memory, and makes a push wait
//     here, where it can still be replaced by a later one.
type socketOptions struct {
	keepAlive, userTimeout    time.Duration // 0: none
	sendBuffer, receiveBuffer int           // bytes; 0: the kernel's choice
}

const (
	keepAliveInterval = 15 * time.Second // between probes without an answer
	keepAliveCount    = 3                // of them, and the socket is broken
)

func (c *Config) socketOptions() socketOptions {
	return socketOptions{max(c.KeepAlive, 0), max(c.UserTimeout, 0), c.SendBuffer, c.ReceiveBuffer}
}

// apply sets the options. Go sets some of them by its own defaults when it accepts, which differ between a listener that it
// bound and one that it was given.
func (o socketOptions) apply(c *net.TCPConn) error {
	errs := []error{c.SetNoDelay(true)}
	if o.keepAlive > 0 {
		errs = append(errs, c.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: o.keepAlive, Interval: keepAliveInterval, Count: keepAliveCount,
		}))
	} else {
		errs = append(errs, c.SetKeepAlive(false))
	}
	if o.userTimeout > 0 {
		errs = append(errs, setUserTimeout(c, o.userTimeout))
	}
	if o.sendBuffer > 0 {
		errs = append(errs, c.SetWriteBuffer(o.sendBuffer))
	}
	if o.receiveBuffer > 0 {
		errs = append(errs, c.SetReadBuffer(o.receiveBuffer))
	}
	return errors.Join(errs...)
}
