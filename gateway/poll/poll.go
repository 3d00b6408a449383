// Package poll reads and writes sockets without a goroutine for each.
//
//	kernel ──ready──▶ loop ──Data, Writable, Closed──▶ Handler
//	                                Socket ◀── Write, Pause, Resume, Close ── anybody
//
// On Linux a few loops wait for all sockets by epoll, edge-triggered, so that an idle socket costs a small struct and no
// call. TLS is read from the loops too, where it is spoken over a Bottom. Elsewhere, and for connections that are no sockets
// (streams of QUIC), each has a goroutine for either direction behind the same interface.
//
// A socket's events come one at a time, from its loop: a Handler must not block. What Write does not take is the caller's
// to keep and to write again once Writable was called: no queue here grows.
package poll

import (
	"errors"
	"net"
)

// Handler is told what happens to a socket.
type Handler interface {
	// Data has bytes that came; it may change them, and they are its own until it returns. After Resume it is called once
	// with none.
	Data(b []byte)
	// Writable says that a Write which did not take everything may be tried again. It may come without such a Write.
	Writable()
	// Closed says that the other end closed, or the socket broke. It is not called after the own Close, and may come beside
	// another call.
	Closed(err error)
}

// Socket is one connection. Its methods never block and are safe for concurrent use, except that Pause is called by the
// Handler inside Data.
type Socket interface {
	// Write takes as much as fits; less than all is no error.
	Write(b []byte) (int, error)
	// Pause stops Data until Resume: what comes waits in the kernel.
	Pause()
	Resume()
	// Close may be called twice.
	Close()
}

// ErrClosed is of a socket closed at this end.
var ErrClosed = errors.New("poll: the socket is closed")

// readSize is how much is read at once: one buffer for each loop.
const readSize = 64 << 10

// New returns a poller of this platform's best kind, with a number of loops.
func New(loops int) (Poller, error) { return newPoller(loops) }

// Poller watches sockets.
type Poller interface {
	// Add takes a connection over: nobody else uses c any more. Events begin after start, which gets the socket.
	Add(c net.Conn, h Handler, start func(Socket)) error
	// Close ends it, after its sockets were closed, and waits for Handlers under way.
	Close()
}
