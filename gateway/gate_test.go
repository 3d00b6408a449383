package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// raw opens a socket that says what it is told to.
func (r *rig) raw(say string) net.Conn {
	r.t.Helper()
	c, err := net.DialTimeout("tcp", r.g.Addr(), 20*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, say); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// closed waits for the other end to close, and returns what it said before.
func closed(t testing.TB, c net.Conn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("it stays open, having said %q", b)
	}
	return string(b)
}

// entrants is how many sockets are counted in that are no conns.
func (r *rig) entrants(ip string) (all, of int) {
	addr := netip.MustParseAddr(ip)
	s := r.g.conns.ip(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(r.g.conns.entrants.Load()), s.count[addr].entrants
}

// dribble opens sockets on which a byte comes now and then, until they are closed.
func (r *rig) dribble(n int) (all []net.Conn) {
	for i := range n {
		c := r.raw([]string{"", "G", "GET /v1/ws HTTP/1.1\r\nHost: x\r\nX: "}[i%3])
		all = append(all, c)
		if i%3 > 0 {
			go func() {
				for {
					if _, err := c.Write([]byte("x")); err != nil {
						return
					}
					time.Sleep(20 * time.Millisecond) // the pace of a slowloris
				}
			}()
		}
	}
	return all
}

const alive = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// Whoever opens sockets and says nothing, or little, is counted from the start.
func TestSlowlorisIsCounted(t *testing.T) {
	const most = 8
	for name, change := range map[string]func(*Config){
		"for its address": func(c *Config) { c.MaxConnsPerIP = most },
		"for all":         func(c *Config) { c.MaxConns = most },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, change, func(c *Config) { c.HelloTimeout = time.Minute })
			all := r.dribble(most + spare(most))
			eventually(t, "all are counted", func() bool {
				n, of := r.entrants("127.0.0.1")
				return n == len(all) && of == n
			})
			if said := closed(t, r.raw(alive)); said != "" {
				t.Errorf("one socket more is answered %q", said)
			}
			for _, c := range all {
				c.Close()
			}
			eventually(t, "all are counted out", func() bool { n, of := r.entrants("127.0.0.1"); return n == 0 && of == 0 })
			p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
			p.expectAlive()
			eventually(t, "a conn is no entrant", func() bool { n, of := r.entrants("127.0.0.1"); return n == 0 && of == 0 })
			if said := closed(t, r.raw(alive)); !strings.Contains(said, "200") {
				t.Errorf("afterwards: %q", said)
			}
		})
	}
}

// And let go in time.
func TestSlowlorisIsLetGo(t *testing.T) {
	r := newRig(t, func(c *Config) { c.HelloTimeout = 200 * time.Millisecond })
	for _, c := range r.dribble(30) {
		closed(t, c)
	}
	eventually(t, "all are counted out", func() bool { n, of := r.entrants("127.0.0.1"); return n == 0 && of == 0 })
}

// Past the limit of an address a handshake is still told so.
func TestFullAddressIsToldSo(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConnsPerIP = 2 })
	first, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.login(wire.SubprotocolProtobuf, "bob", 1)
	if _, response, err := r.tryDial(wire.SubprotocolProtobuf, nil); err == nil || response == nil || response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%v, %v", err, response)
	}
	first.ws.Close()
	eventually(t, "there is room again", func() bool {
		p, _, err := r.tryDial(wire.SubprotocolProtobuf, nil)
		if err == nil {
			p.ws.Close()
		}
		return err == nil
	})
}

// Headers that do not end are cut off.
func TestGiantHeaders(t *testing.T) {
	r := newRig(t)
	c := r.raw("GET /v1/ws HTTP/1.1\r\nHost: x\r\n")
	written := 0
	for written < 1<<20 {
		n, err := fmt.Fprintf(c, "X-%d: %s\r\n", written, strings.Repeat("x", 1000))
		if written += n; err != nil {
			break
		}
	}
	if said := closed(t, c); said != "" && !strings.Contains(said, "431") { // it may be lost to the reset
		t.Errorf("answered %q", said)
	}
	if n := r.g.conns.reserved.Load(); n != 0 {
		t.Errorf("%d conns are counted", n)
	}
}

// Behind a proxy of the PROXY protocol each client has its own address and limits; nobody else may connect.
func TestProxyProtocol(t *testing.T) {
	t.Run("trusted", func(t *testing.T) {
		r := newRig(t, func(c *Config) {
			c.TrustedProxies, c.ProxyProtocol = prefixes(t, "127.0.0.0/8"), true
			c.MaxConnsPerIP, c.HelloTimeout = 2, 5*time.Second
		})
		from := func(header string) (*peer, *http.Response, error) {
			d := websocket.Dialer{
				Subprotocols: []string{wire.SubprotocolProtobuf}, HandshakeTimeout: 20 * time.Second,
				NetDial: func(_, addr string) (net.Conn, error) {
					c, err := net.DialTimeout("tcp", addr, 20*time.Second)
					if err == nil {
						_, err = io.WriteString(c, header)
					}
					return c, err
				},
			}
			ws, response, err := d.Dial(r.g.WebSocketURL(), nil)
			if err != nil {
				return nil, response, err
			}
			t.Cleanup(func() { ws.Close() })
			codec, err := wire.NewCodec(ws.Subprotocol())
			return &peer{t: t, ws: ws, codec: codec}, response, err
		}
		for i, header := range []string{
			"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb", // version 2, the same address
		} {
			p, _, err := from(header)
			if err != nil {
				t.Fatal(err)
			}
			p.send(r.hello(im.UID(fmt.Sprint("u", i)), 1))
			expect(p, (*wire.Frame).GetWelcome)
		}
		for _, c := range r.g.conns.all() {
			if c.ip.String() != "192.0.2.7" {
				t.Errorf("a conn is of %v", c.ip)
			}
		}
		if _, response, err := from("PROXY TCP4 192.0.2.7 198.51.100.1 4712 443\r\n"); err == nil || response == nil || response.StatusCode != http.StatusTooManyRequests {
			t.Errorf("a third of that address: %v, %v", err, response)
		}
		if _, _, err := from("PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n"); err != nil {
			t.Errorf("another address: %v", err)
		}
		for range 2 + spare(2) - 2 { // those that say no more than who they are
			r.raw("PROXY TCP4 192.0.2.7 198.51.100.1 4713 443\r\n")
		}
		eventually(t, "they are counted", func() bool { _, of := r.entrants("192.0.2.7"); return of >= spare(2) })
		if said := closed(t, r.raw("PROXY TCP4 192.0.2.7 198.51.100.1 4713 443\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")); said != "" {
			t.Errorf("one socket more is answered %q", said)
		}
		local := r.raw("PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if response, err := http.ReadResponse(bufio.NewReader(local), nil); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("the proxy's own question: %v, %v", err, response)
		}
		if said := closed(t, r.raw("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")); strings.Contains(said, "200") {
			t.Errorf("without a header: %q", said)
		}
	})
	t.Run("others", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.TrustedProxies, c.ProxyProtocol = prefixes(t, "192.0.2.0/24"), true })
		if said := closed(t, r.raw("PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")); said != "" {
			t.Errorf("one who is not trusted is answered %q", said)
		}
	})
}
