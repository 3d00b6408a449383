package ipconf

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
	"github.com/antipode-im/antipode/wire"
)

// frankfurt is a client's place; eu is 12 ms from it by estimate, us about 112 ms.
var frankfurt = im.Location{Country: "DE", ASN: 64501, Lat: 50.1, Lon: 8.7, Placed: true}

func located(geo Geo) *locator {
	cfg := Config{Region: "eu", Regions: []im.Region{"ap", "eu", "us"}, Location: Location{Regions: map[im.Region]im.Location{
		"ap": {Lat: 1.3, Lon: 103.8, Placed: true}, "eu": {Lat: 50, Lon: 8, Placed: true}, "us": {Lat: 39, Lon: -77, Placed: true},
	}}}
	return newLocator(&cfg, geo)
}

// What a client measured to one region says how slow its access is, which is as slow to the regions that it did not measure.
func TestAccessDelayIsCommonToAllRegions(t *testing.T) {
	ip := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name    string
		geo     Geo
		learned [3]uint16 // of others of its network: ap, eu, us
		rtt     string
		want    [3][2]uint16 // least and most
	}{
		{
			name: "nothing measured: estimates", geo: places{"192.0.2.1": frankfurt},
			want: [3][2]uint16{{140, 180}, {8, 12}, {100, 120}},
		},
		{
			name: "2G, by estimates", geo: places{"192.0.2.1": frankfurt}, rtt: "eu:600",
			want: [3][2]uint16{{730, 770}, {600, 600}, {690, 710}},
		},
		{
			name: "2G, of whose address nothing is known", rtt: "eu:600",
			want: [3][2]uint16{{740, 740}, {600, 600}, {740, 740}},
		},
		{
			name: "2G, in a network of fast ones", geo: places{"192.0.2.1": frankfurt}, learned: [3]uint16{0, 20, 110}, rtt: "eu:600",
			want: [3][2]uint16{{720, 770}, {600, 600}, {690, 690}},
		},
		{
			name: "2G, where the others measured other regions", geo: places{"192.0.2.1": frankfurt}, learned: [3]uint16{0, 0, 110}, rtt: "eu:600",
			want: [3][2]uint16{{720, 770}, {600, 600}, {690, 710}},
		},
		{
			name: "fast, in a network of slow ones", geo: places{"192.0.2.1": frankfurt}, learned: [3]uint16{0, 500, 590}, rtt: "eu:20",
			want: [3][2]uint16{{140, 190}, {20, 20}, {90, 125}},
		},
		{
			name: "nothing measured, in a network of slow ones", geo: places{"192.0.2.1": frankfurt}, learned: [3]uint16{0, 500, 0},
			want: [3][2]uint16{{620, 680}, {500, 500}, {590, 620}},
		},
		{
			name: "far, as the others are: the estimates are wrong", learned: [3]uint16{20, 250, 0}, rtt: "eu:250",
			want: [3][2]uint16{{20, 20}, {250, 250}, {150, 150}},
		},
		{
			name: "all measured", geo: places{"192.0.2.1": frankfurt}, learned: [3]uint16{20, 250, 300}, rtt: "eu:600,us:640,ap:1",
			want: [3][2]uint16{{1, 1}, {600, 600}, {640, 640}},
		},
		{
			name: "an absurd one", geo: places{"192.0.2.1": frankfurt}, rtt: "eu:65535",
			want: [3][2]uint16{{65535, 65535}, {65535, 65535}, {65535, 65535}},
		},
	} {
		l := located(c.geo)
		if c.learned != [3]uint16{} {
			teach(l, c.geo, c.learned)
		}
		q := parseQuery("rtt=" + c.rtt)
		got := l.locate(&q, ip, time.Unix(1_000, 0), nil)
		for r, want := range c.want {
			if got.RTT[r] < want[0] || got.RTT[r] > want[1] {
				t.Errorf("%s: to %s %d ms, want %d to %d", c.name, l.names()[r], got.RTT[r], want[0], want[1])
			}
		}
	}
}

// teach lets other clients of the network report.
func teach(l *locator, geo Geo, ms [3]uint16) {
	var at im.Location
	if geo != nil {
		at = geo.Find(netip.MustParseAddr("192.0.2.1"))
	}
	var rtt [rank.MaxRegions]uint16
	copy(rtt[:], ms[:])
	for i := range fewReports {
		ip := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
		l.learned.report(networkOf(ip, at.ASN), ip, &rtt, time.Unix(900, 0))
	}
}

// A client on a slow network keeps the gateway that holds its session.
func TestASlowAccessDoesNotDropTheSession(t *testing.T) {
	cfg := quick()
	cfg.Location = located(nil).cfg
	delete(cfg.Location.Regions, "ap")
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p := run(t, two(2), cfg, places{"192.0.2.1": frankfurt})
	eventually(t, p, "", "e0 e1 u0 u1")
	for range 20 {
		_, b := ask(t, p, "/v1/endpoints?last=eu/e1&network=2g&rtt=eu:600", map[string]string{"X-Forwarded-For": "192.0.2.1"})
		if e, err := wire.DecodeEndpoints(b); err != nil || len(e.Gateways) == 0 || e.Gateways[0].ID != "e1" {
			t.Fatalf("its last gateway is not first: %s %v", b, err)
		}
	}
}

// Nobody steers a network alone, by asking often or from many addresses of its own, or for others.
func TestVotesAreByAddressAndMinute(t *testing.T) {
	now := time.Unix(6_000, 0)
	asn := map[string]im.Location{}
	at := func(ip string) netip.Addr {
		asn[ip] = im.Location{ASN: 64501}
		return netip.MustParseAddr(ip)
	}
	l := located(places(asn))
	report := func(ip, rtt string) {
		q := parseQuery("rtt=" + rtt)
		q.itself = true
		l.locate(&q, at(ip), now, nil)
	}
	us := func() uint16 { // as a client that measured nothing is told
		c := l.locate(&request{}, at("198.51.100.200"), now, nil)
		return c.RTT[2]
	}
	for minute := range 3 {
		for i := range 50 {
			report("198.51.100.1", "us:1")
			report(fmt.Sprintf("2001:db8::%x", i), "us:1")
		}
		now = now.Add(time.Duration(minute) * time.Minute)
	}
	if got := us(); got != 150 {
		t.Fatalf("two clients alone made the round trip of their network %d ms", got)
	}
	for i := range 20 {
		report(fmt.Sprintf("198.51.100.%d", 2+i), "us:80")
	}
	before := us()
	if before < 40 || before > 80 {
		t.Fatalf("twenty clients measured 80 ms, others are told %d ms", before)
	}
	for range 50 {
		report("198.51.100.2", "us:3000")
	}
	if got := us(); got != before {
		t.Fatalf("one client that asks often in a minute moved %d ms to %d ms", before, got)
	}
	now = now.Add(time.Minute)
	for i := range 50 { // for others: batches, operators
		q := parseQuery("rtt=us:3000")
		l.locate(&q, at(fmt.Sprintf("203.0.113.%d", i)), now, nil)
	}
	if got := us(); got != before {
		t.Fatalf("asks for others moved %d ms to %d ms", before, got)
	}
	report("198.51.100.3", "us:300")
	if got := us(); got <= before {
		t.Fatalf("in the next minute a client that measured 300 ms moved %d ms to %d ms", before, got)
	}
}

// Only who asks for itself teaches.
func TestOnlyClientsTeach(t *testing.T) {
	cfg := quick()
	cfg.BatchFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p := run(t, two(1), cfg, nil)
	eventually(t, p, "", "e0 u0")
	known := func() int {
		p.locator.learned.mu.RLock()
		defer p.locator.learned.mu.RUnlock()
		return len(p.locator.learned.of)
	}
	resp, err := http.Post("http://"+p.Addr()+"/v1/endpoints:batch", "application/json", strings.NewReader(`{"clients":[{"ip":"192.0.2.1","rtt":"us:5"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	w := httptest.NewRecorder()
	p.Explain().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?ip=192.0.2.1&rtt=us:5", nil))
	if resp.StatusCode != http.StatusOK || w.Code != http.StatusOK || known() != 0 {
		t.Errorf("a batch (%s) or an operator (%d) taught ipconf about %d networks", resp.Status, w.Code, known())
	}
	if ask(t, p, "/v1/endpoints?rtt=us:5", nil); known() != 1 {
		t.Error("a client did not teach ipconf")
	}
}
