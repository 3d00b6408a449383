package gateway

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/antipode-im/antipode/gateway/poll"
)

// secure is a listener of TLS. Whoever accepts does not wait for a handshake: the HTTP server makes it on the connection's own
// goroutine, within HelloTimeout. How many connections may be at it is bounded here, from accept to the headers of the first
// request, so that those who connect and say nothing take neither memory without bound nor the turn of others.
type secure struct {
	net.Listener
	config  *tls.Config
	max     int64
	under   atomic.Int64
	refused func()
}

func (g *Gateway) newSecure(l net.Listener) *secure {
	return &secure{
		Listener: l, config: g.clientTLS("http/1.1"), max: int64(g.cfg.MaxHandshakes),
		refused: func() { g.metrics.shed("tls") },
	}
}

// clientTLS is what clients get.
func (g *Gateway) clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: g.cfg.Certificate, NextProtos: protocols}
}

// Accept implements net.Listener.
func (s *secure) Accept() (net.Conn, error) {
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if s.under.Add(1) <= s.max {
			return tls.Server(&shaking{poll.NewBottom(c), sync.OnceFunc(func() { s.under.Add(-1) })}, s.config), nil
		}
		s.under.Add(-1)
		s.refused()
		c.Close()
	}
}

// shaking is a connection that holds one of the places until it is done with them.
type shaking struct {
	*poll.Bottom
	done func()
}

func (c *shaking) Close() error {
	c.done()
	return c.Bottom.Close()
}

// settle takes away what counts a socket before it is a conn: it is read and written as it is from here on.
func settle(c net.Conn) net.Conn {
	switch c := c.(type) {
	case *entrant:
		return c.TCPConn
	case *tls.Conn:
		if s, ok := c.NetConn().(*shaking); ok {
			s.Conn = settle(s.Conn)
		}
	}
	return c
}

// settled is for http.Server.ConnState.
func settled(c net.Conn, state http.ConnState) {
	if state == http.StateNew {
		return
	}
	if t, ok := c.(*tls.Conn); ok {
		if s, ok := t.NetConn().(*shaking); ok {
			s.done()
			c = s.Conn
		}
	}
	if e, ok := c.(*entrant); ok && (state == http.StateHijacked || state == http.StateClosed) {
		e.leave()
	}
}
