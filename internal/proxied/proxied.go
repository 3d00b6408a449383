// Package proxied takes the address of a client from the PROXY protocol, versions 1 and 2: a header that a balancer which ends
// TLS, or just forwards connections, sends ahead of what the client sends.
//
// Exactly the header is read. What follows stays in the socket, for whoever takes it over below this package.
package proxied

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	// maxHeader1 and maxHeader2 bound a header: 107 bytes are all that version 1 needs, and 536 what version 2 is to bear.
	maxHeader1 = 107
	maxHeader2 = 2048
)

// ErrNoHeader says that something else came first.
var ErrNoHeader = errors.New("proxied: the connection does not begin with a PROXY header")

// Read reads a header, and no byte more. The address is invalid where the header names none: the proxy speaks for itself, as
// it does to see whether anybody is there.
func Read(r io.Reader) (netip.AddrPort, error) {
	b := make([]byte, len(signature2), 64)
	if _, err := io.ReadFull(r, b); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", ErrNoHeader, err)
	}
	var err error
	switch {
	case string(b) == signature2:
		b, err = more(r, b, 4)
		if n := int(binary.BigEndian.Uint16(b[len(b)-2:])); err == nil && n <= maxHeader2 {
			b, err = more(r, b, n)
		} else if err == nil {
			err = fmt.Errorf("its header has %d bytes; at most %d are taken", n, maxHeader2)
		}
	case bytes.HasPrefix(b, []byte(signature1)):
		for !bytes.HasSuffix(b, []byte("\r\n")) && err == nil {
			if len(b) == maxHeader1 {
				err = fmt.Errorf("its header does not end within %d bytes", maxHeader1)
				break
			}
			b, err = more(r, b, 1)
		}
	default:
		return netip.AddrPort{}, ErrNoHeader
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("proxied: %w", err)
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("proxied: %w", err)
	}
	if tcp, ok := h.SourceAddr.(*net.TCPAddr); ok && !h.Command.IsLocal() {
		return tcp.AddrPort(), nil
	}
	return netip.AddrPort{}, nil
}

func more(r io.Reader, b []byte, n int) ([]byte, error) {
	at := len(b)
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[at:])
	return b, err
}

// Conn is a connection that begins with a header. It is read with the first Read or RemoteAddr, whichever comes first.
type Conn struct {
	net.Conn
	within time.Duration
	admit  func(client netip.Addr) error // may refuse it; nil: anybody

	once   sync.Once
	remote net.Addr
	err    error
}

// New returns a connection whose header is awaited for a time.
func New(c net.Conn, within time.Duration, admit func(client netip.Addr) error) *Conn {
	return &Conn{Conn: c, within: within, admit: admit}
}

func (c *Conn) begin() {
	c.once.Do(func() {
		c.remote = c.Conn.RemoteAddr()
		if c.err = c.SetReadDeadline(time.Now().Add(c.within)); c.err != nil {
			return
		}
		client, err := Read(c.Conn)
		if c.err = errors.Join(err, c.SetReadDeadline(time.Time{})); c.err != nil || !client.IsValid() {
			return
		}
		c.remote = net.TCPAddrFromAddrPort(client)
		if c.admit != nil {
			c.err = c.admit(client.Addr().Unmap())
		}
	})
}

// Read implements net.Conn. Its errors are those of a network, which HTTP servers give no answer to: it would go to whoever
// cannot speak it.
func (c *Conn) Read(b []byte) (int, error) {
	if c.begin(); c.err != nil {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: c.err}
	}
	return c.Conn.Read(b)
}

// RemoteAddr is the client's address, or the proxy's where it has named none.
func (c *Conn) RemoteAddr() net.Addr {
	c.begin()
	return c.remote
}

// Listener accepts from proxies alone: anybody else could name any address.
type Listener struct {
	net.Listener
	Within  time.Duration         // for the header
	Trusted func(netip.Addr) bool // who is a proxy
	Refused func(netip.Addr)      // is told of others
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peer := Peer(c); !l.Trusted(peer) {
			c.Close()
			if l.Refused != nil {
				l.Refused(peer)
			}
			continue
		}
		return New(c, l.Within, nil), nil
	}
}

// Peer is the address at the other end of a TCP connection; invalid if it is none.
func Peer(c net.Conn) netip.Addr {
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
