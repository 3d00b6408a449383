package ipconf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// from asks as a connection from an address would, and returns the status and the region of the first gateway.
func from(p *IPConf, remote, path string, header map[string]string) (status int, region im.Region) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = remote
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, r)
	if e, err := wire.DecodeEndpoints(w.Body.Bytes()); err == nil && len(e.Gateways) > 0 {
		region = e.Gateways[0].Region
	}
	return w.Code, region
}

// A client is known by the address of its socket, of either family, unless a trusted proxy says otherwise.
func TestAddressesOfSockets(t *testing.T) {
	cfg := quick()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("fd00::/8")}
	cfg.Location.Overrides = map[netip.Prefix]im.Region{
		netip.MustParsePrefix("2001:db8::/32"): "us", netip.MustParsePrefix("192.0.2.0/24"): "us", netip.MustParsePrefix("fe80::/10"): "us",
	}
	p := run(t, two(1), cfg, nil)
	eventually(t, p, "", "e0 u0")
	for _, c := range []struct {
		remote, forwarded string
		want              im.Region
	}{
		{"[2001:db8::9]:4711", "", "us"},
		{"[2001:db9::9]:4711", "", "eu"},
		{"[::ffff:192.0.2.9]:4711", "", "us"}, // IPv4 on a socket of both families
		{"192.0.2.9:4711", "", "us"},
		{"[2001:db8::9]:4711", "203.0.113.1", "us"}, // not trusted
		{"[fd00::1]:4711", "2001:db8::9", "us"},
		{"[fd00::1]:4711", "2001:db8::9, fd00::2", "us"},
		{"[fd00::1]:4711", "2001:db8::9, 203.0.113.1", "eu"},
		{"[fd00::1]:4711", "::ffff:192.0.2.9", "us"},
	} {
		if status, got := from(p, c.remote, "/v1/endpoints", map[string]string{"X-Forwarded-For": c.forwarded}); status != http.StatusOK || got != c.want {
			t.Errorf("%+v: %d, sent to %q", c, status, got)
		}
	}
}

// Both versions of the PROXY protocol, both families; and nobody but the trusted proxies may connect.
func TestPROXY(t *testing.T) {
	cfg := quick()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	cfg.ProxyProtocol = true
	cfg.Location.Overrides = map[netip.Prefix]im.Region{
		netip.MustParsePrefix("2001:db8::/32"): "us", netip.MustParsePrefix("192.0.2.0/24"): "us",
	}
	p := run(t, two(1), cfg, nil)
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	closed := run(t, two(1), cfg, nil)
	exchange := func(p *IPConf, header string) (answered bool, region im.Region) {
		t.Helper()
		c, err := net.DialTimeout("tcp", p.Addr(), 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(c, "%sGET /v1/endpoints HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", header)
		b, _ := io.ReadAll(c) // one that is refused is reset
		if _, body, ok := bytes.Cut(b, []byte("\r\n\r\n")); ok {
			answered = true
			if e, err := wire.DecodeEndpoints(body); err == nil && len(e.Gateways) > 0 {
				region = e.Gateways[0].Region
			}
		}
		return answered, region
	}
	measured(t, p, 2)
	for name, c := range map[string]struct {
		header string
		want   im.Region
	}{
		"v1, IPv4":            {"PROXY TCP4 192.0.2.9 198.51.100.1 4711 443\r\n", "us"},
		"v1, IPv4, elsewhere": {"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n", "eu"},
		"v1, IPv6":            {"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n", "us"},
		"v2, IPv4":            {version2("192.0.2.9"), "us"},
		"v2, IPv4, elsewhere": {version2("203.0.113.9"), "eu"},
		"v2, IPv6":            {version2("2001:db8::9"), "us"},
		"v2, IPv6, elsewhere": {version2("2001:db9::9"), "eu"},
	} {
		if answered, region := exchange(p, c.header); !answered || region != c.want {
			t.Errorf("%s: answered %v, sent to %q, want %q", name, answered, region, c.want)
		}
		if answered, _ := exchange(closed, c.header); answered {
			t.Errorf("%s: a stranger is answered", name)
		}
	}
	for name, header := range map[string]string{"none": "", "v1, torn": "PROXY TCP4 192.0.2.9\r\n", "v2, torn": version2("192.0.2.9")[:13] + "\r\n"} {
		if answered, region := exchange(p, header); answered && region != "" {
			t.Errorf("%s: a connection without a whole header is sent to %s", name, region)
		}
	}
}

// version2 is a header of the PROXY protocol, version 2, from an address.
func version2(source string) string {
	ip := netip.MustParseAddr(source)
	family, to := byte(0x11), netip.MustParseAddr("198.51.100.1")
	if ip.Is6() {
		family, to = 0x21, netip.MustParseAddr("2001:db8::1")
	}
	addresses := append(ip.AsSlice(), to.AsSlice()...)
	addresses = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(addresses, 4711), 443)
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, family)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(len(addresses))), addresses...))
}

// A canary's users get its gateways and nobody else does, while there are others.
func TestCanaryGateways(t *testing.T) {
	cfg := quick()
	cfg.Regions = []im.Region{"eu"}
	cfg.Canary = Canary{Version: "v2", Percent: 30}
	s := two(3)
	s.loads["e2"] = im.Load{Gateway: im.Gateway{ID: "e2", Epoch: 1}, Capacity: 100_000, Version: "v2"}
	p := run(t, s, cfg, nil)
	stays, gets := "", ""
	for i := 0; stays == "" || gets == ""; i++ {
		if uid := fmt.Sprintf("user-%d", i); p.locator.inCanary(uid) {
			gets = uid
		} else {
			stays = uid
		}
	}
	eventually(t, p, "?uid="+stays, "e0 e1")
	for range 20 {
		if _, e, _ := get(t, p, "?uid="+gets); e.Gateways[0].ID != "e2" || len(e.Gateways) != 3 {
			t.Fatalf("a user of the canary is sent to %+v", e.Gateways)
		}
	}
	s.change(func() { s.dead["e0"], s.dead["e1"] = true, true })
	eventually(t, p, "?uid="+stays, "e2") // better than none
}

// Residency binds by country, network and home; where none is left that is allowed, nobody is named.
func TestResidency(t *testing.T) {
	cfg := quick()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	cfg.Location.Residency = []Residency{
		{Countries: []string{"US"}, Regions: []im.Region{"us"}},
		{Networks: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}, Regions: []im.Region{"us"}},
		{Homes: []im.Region{"us"}, Regions: []im.Region{"us"}},
		{Countries: []string{"DE"}, Regions: []im.Region{"eu"}},
	}
	s := two(1)
	p := run(t, s, cfg, places{"192.0.2.1": {Country: "US"}, "192.0.2.2": {Country: "FR"}, "192.0.2.3": {Country: "DE"}})
	eventually(t, p, "", "e0 u0")
	s.change(func() { s.say("us", im.StateDead) })
	eventually(t, p, "", "e0")
	s.change(func() { s.say("us", im.StateActive) })
	eventually(t, p, "", "e0 u0")
	for _, c := range []struct {
		remote, query, home string
		want                im.Region // "": none
	}{
		{"192.0.2.1:1", "?region=eu&rtt=eu:1,us:300", "", "us"},
		{"192.0.2.2:1", "?rtt=eu:1,us:300", "", "eu"},
		{"[2001:db8::1]:1", "?region=eu&last=eu/e0", "", "us"},
		{"192.0.2.2:1", "?home=us&region=eu", "", "us"},
		{"192.0.2.2:1", "?region=eu", "us", "eu"},        // anybody can write a header
		{"10.0.0.1:1", "?region=eu", "us", "us"},         // a proxy that knows the user
		{"10.0.0.1:1", "?home=us&region=eu", "eu", "eu"}, // against the client's word
		{"10.0.0.1:1", "?home=us&region=eu", "us", "us"},
		{"192.0.2.3:1", "?home=us", "", ""}, // two rules that leave none
	} {
		header := map[string]string{}
		if c.home != "" {
			header["Antipode-Home"] = c.home
		}
		status, got := from(p, c.remote, "/v1/endpoints"+c.query, header)
		if got != c.want || (status == http.StatusOK) != (c.want != "") {
			t.Errorf("%+v: %d, sent to %q", c, status, got)
		}
	}
	s.change(func() { s.say("us", im.StateDead) })
	eventually(t, p, "", "e0")
	if status, got := from(p, "192.0.2.1:1", "/v1/endpoints", nil); status != http.StatusServiceUnavailable || got != "" {
		t.Errorf("while the only region that is allowed is dead: %d, sent to %q", status, got)
	}
}
