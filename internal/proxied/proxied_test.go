package proxied

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func header2(t testing.TB, h *proxyproto.Header) string {
	t.Helper()
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What follows the header is not read, whatever its form.
func TestRead(t *testing.T) {
	tcp := func(a string) *net.TCPAddr {
		addr, err := net.ResolveTCPAddr("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		return addr
	}
	v2 := &proxyproto.Header{
		Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv6,
		SourceAddr: tcp("[2001:db8::9]:4711"), DestinationAddr: tcp("[2001:db8::1]:443"),
	}
	if err := v2.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("chat.example")}}); err != nil {
		t.Fatal(err)
	}
	local := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	for _, c := range []struct {
		name, header, want string
		fails              bool
	}{
		{"version 1", "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", "192.0.2.7:4711", false},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n", "[2001:db8::9]:4711", false},
		{"version 1, nobody's", "PROXY UNKNOWN\r\n", "invalid AddrPort", false},
		{"version 2 with options", header2(t, v2), "[2001:db8::9]:4711", false},
		{"version 2, the proxy's own", header2(t, local), "invalid AddrPort", false},
		{"none", "GET /v1/ws HTTP/1.1\r\n", "", true},
		{"half of one", "PROXY TCP4 192.0.2.7", "", true},
		{"version 1 without end", "PROXY TCP4 " + strings.Repeat("1", 200), "", true},
		{"version 1 without sense", "PROXY TCP4 here there 1 2\r\n", "", true},
		{"version 2, too long", signature2 + "\x21\x11\xff\xff", "", true},
		{"version 2, cut short", signature2 + "\x21", "", true},
		{"nothing", "", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := strings.NewReader(c.header + "rest")
			if c.fails {
				r = strings.NewReader(c.header)
			}
			got, err := Read(r)
			if c.fails {
				if err == nil {
					t.Fatalf("%v was taken", got)
				}
				return
			}
			rest, _ := io.ReadAll(r)
			if err != nil || got.String() != c.want || string(rest) != "rest" {
				t.Errorf("got %v, %v, and %q was left", got, err, rest)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nrest"))
	f.Add([]byte(signature2 + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbbrest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if _, err := Read(r); err == nil && len(b)-r.Len() > maxHeader2+16 {
			t.Errorf("%d bytes were read", len(b)-r.Len())
		}
	})
}

// A connection whose proxy says nothing ends in time, and one that is refused is not read.
func TestConn(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	silent := New(ours, time.Millisecond, nil)
	if n, err := silent.Read(make([]byte, 9)); n > 0 || !errors.Is(err, ErrNoHeader) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
