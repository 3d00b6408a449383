package rpc

import (
	"net"
	"sync"
)

// closableListener can close every connection that it accepted. gRPC's Stop closes those that finished their handshake
// only and waits for the others, up to two minutes across a link that went silent.
type closableListener struct {
	net.Listener

	mu     sync.Mutex
	conns  map[*closableConn]struct{}
	closed bool
}

type closableConn struct {
	net.Conn
	l *closableListener
}

func (l *closableListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	k := &closableConn{c, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return k, nil
	}
	if l.conns == nil {
		l.conns = map[*closableConn]struct{}{}
	}
	l.conns[k] = struct{}{}
	return k, nil
}

// closeConns closes all connections, those that are yet to be accepted too.
func (l *closableListener) closeConns() {
	l.mu.Lock()
	l.closed = true
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

// Close closes the connection.
func (c *closableConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}
