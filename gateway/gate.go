package gateway

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/antipode-im/antipode/internal/proxied"
)

// gate is the public listener. It counts every socket in from the moment it is accepted: those who say nothing, or a byte
// now and then, take as much of a gateway as others. It can hold its accepts up.
type gate struct {
	net.Listener
	g    *Gateway
	shut sync.RWMutex
}

// newGate accepts with the configured options of sockets.
func (g *Gateway) newGate(l net.Listener) *gate { return &gate{Listener: l, g: g} }

// Accept implements net.Listener.
func (l *gate) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, l.held(err)
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok { // a test's
			return c, l.held(nil)
		}
		e := l.g.enter(tcp)
		if e == nil {
			l.g.metrics.shed("sockets")
			tcp.Close()
			continue
		}
		if err := l.g.cfg.socketOptions().apply(tcp); err != nil { // most likely it has left again
			l.g.log.Debug("a socket does not take its options; it goes on without", "err", err)
		}
		return e, l.held(nil)
	}
}

// held waits while the gate is shut.
func (l *gate) held(err error) error {
	l.shut.RLock()
	defer l.shut.RUnlock()
	return err
}

// enter counts a socket in; nil: it may not come in. Of a proxy all sockets are let in, as far as there is room: those
// behind it are counted when they are known.
func (g *Gateway) enter(tcp *net.TCPConn) *entrant {
	peer := proxied.Peer(tcp)
	e := &entrant{TCPConn: tcp, table: g.conns}
	switch trusted := g.trusted(peer); {
	case g.cfg.ProxyProtocol && !trusted:
		return nil
	case g.cfg.ProxyProtocol:
		e.header = proxied.New(tcp, g.cfg.HelloTimeout, e.comesFrom)
	case !trusted:
		e.ip = subscriber(peer)
	}
	if !g.conns.enter(e.ip) {
		return nil
	}
	return e
}

// entrant is a socket that is no conn yet, or one of HTTP.
type entrant struct {
	*net.TCPConn
	table  *table
	header *proxied.Conn // nil: none comes

	mu   sync.Mutex
	ip   netip.Addr // that it is counted for; invalid: a proxy's
	left bool
}

var errTooManyOfAddress = errors.New("gateway: too many sockets of one address")

// comesFrom counts the socket for the client that the proxy's header names.
func (e *entrant) comesFrom(client netip.Addr) error {
	ip := subscriber(client)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left || !e.table.enterFrom(ip) {
		return errTooManyOfAddress
	}
	e.ip = ip
	return nil
}

// leave counts it out, once.
func (e *entrant) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.left {
		e.left = true
		e.table.leave(e.ip)
	}
}

// Read implements net.Conn.
func (e *entrant) Read(b []byte) (int, error) {
	if e.header != nil {
		return e.header.Read(b)
	}
	return e.TCPConn.Read(b)
}

// RemoteAddr is the client's address, as far as it is known.
func (e *entrant) RemoteAddr() net.Addr {
	if e.header != nil {
		return e.header.RemoteAddr()
	}
	return e.TCPConn.RemoteAddr()
}

// Close implements net.Conn.
func (e *entrant) Close() error {
	e.leave()
	return e.TCPConn.Close()
}
