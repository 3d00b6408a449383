package ipconf

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// places is a Geo by script.
type places map[string]im.Location

func (p places) Find(ip netip.Addr) im.Location { return p[ip.String()] }

func two(n int) *site {
	s := newSite()
	for i := range n {
		s.add("eu", fmt.Sprintf("e%d", i), im.Load{Capacity: 100_000})
		s.add("us", fmt.Sprintf("u%d", i), im.Load{Capacity: 100_000})
	}
	return s
}

func ask(t *testing.T, p *IPConf, path string, header map[string]string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+p.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// Trusted proxies tell the address, which decides the region: by override, residency, distance.
func TestWhereAClientIs(t *testing.T) {
	cfg := quick()
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	cfg.Location = Location{
		Regions:   map[im.Region]im.Location{"eu": {Lat: 50, Lon: 8, Placed: true}, "us": {Lat: 39, Lon: -77, Placed: true}},
		Overrides: map[netip.Prefix]im.Region{netip.MustParsePrefix("192.0.2.0/24"): "eu", netip.MustParsePrefix("192.0.2.128/25"): "us", netip.MustParsePrefix("2001:db8::/32"): "us"},
		Networks:  map[uint32]im.Region{64500: "us"},
		Residency: []Residency{{Countries: []string{"DE"}, Regions: []im.Region{"eu"}}},
	}
	geo := places{
		"198.51.100.1": {Country: "CA", Lat: 43, Lon: -79, Placed: true}, "198.51.100.2": {Country: "DE", Lat: 52, Lon: 13, Placed: true},
		"198.51.100.3": {ASN: 64500}, "2001:db8:ffff::1": {Country: "DE"},
	}
	p := run(t, two(2), cfg, geo)
	eventually(t, p, "", "e0 e1 u0 u1")
	for _, c := range []struct{ forwarded, query, region string }{
		{"192.0.2.1", "?rtt=us:1,eu:200", "eu"},
		{"192.0.2.200", "?region=eu", "us"}, // the longer prefix; an override is not the client's to choose
		{"2001:db8::7", "", "us"},
		{"198.51.100.1", "", "us"},              // by distance
		{"198.51.100.3", "", "us"},              // by its autonomous system
		{"198.51.100.2", "?region=us", "eu"},    // residency
		{"198.51.100.1, 10.1.2.3", "", "us"},    // through two proxies
		{"198.51.100.1, 203.0.113.9", "", "eu"}, // who is not trusted says nothing
		{"nonsense", "", "eu"},
		{"198.51.100.9", "?home=us&rtt=us:60,eu:20", "us"},
	} {
		_, b := ask(t, p, "/v1/endpoints"+c.query, map[string]string{"X-Forwarded-For": c.forwarded})
		e, err := wire.DecodeEndpoints(b)
		if err != nil || len(e.Gateways) == 0 || e.Gateways[0].Region != im.Region(c.region) {
			t.Errorf("%+v: %s, %v", c, b, err)
		}
		if c.forwarded == "198.51.100.2" && len(e.Gateways) != 2 {
			t.Errorf("a forbidden region is named: %s", b)
		}
	}
}

// halfFull is two regions whose room is told in tenths, and far from where one begins: newcomers do not change it.
func halfFull() *site {
	s := two(2)
	for id, l := range s.loads {
		l.Conns = 45_000
		s.loads[id] = l
	}
	return s
}

// steady returns the tag of a list once it is that of the next answer, too: loads become known one by one.
func steady(t *testing.T, p *IPConf, path string) string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		resp, _ := ask(t, p, path, nil)
		tag := resp.Header.Get("ETag")
		if resp, _ := ask(t, p, path, map[string]string{"If-None-Match": tag}); tag != "" && resp.StatusCode == http.StatusNotModified {
			return tag
		}
	}
	t.Fatalf("%s: every answer has another tag", path)
	return ""
}

// measured waits until answers are made of so many gateways, the loads of all of them known.
func measured(t *testing.T, p *IPConf, gateways int) {
	t.Helper()
	known := func() bool {
		v := p.current.Load()
		for i := range v.gateways {
			if v.table.Gateway(i).Age < 0 {
				return false
			}
		}
		return len(v.gateways) == gateways
	}
	for end := time.Now().Add(time.Minute); !known(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("some gateway never told its load")
		}
	}
}

// A list that is still good is not sent again; one whose gateways changed is. Errors are not cached.
func TestETag(t *testing.T) {
	s := halfFull()
	p := start(t, s)
	eventually(t, p, "", "e0 e1 u0 u1")
	tag := steady(t, p, "/v1/endpoints?uid=ann")
	if resp, _ := ask(t, p, "/v1/endpoints?uid=ann", nil); resp.Header.Get("Cache-Control") != "private, max-age=42, stale-if-error=86400" {
		t.Fatalf("%v", resp.Header)
	}
	if resp, b := ask(t, p, "/v1/endpoints?uid=ann", map[string]string{"If-None-Match": tag}); resp.StatusCode != http.StatusNotModified || len(b) != 0 || resp.Header.Get("ETag") != tag {
		t.Errorf("the same list: %s %q", resp.Status, b)
	}
	if resp, _ := ask(t, p, "/v1/endpoints?uid=ann&failed=eu/e0", map[string]string{"If-None-Match": tag}); resp.StatusCode != http.StatusOK {
		t.Errorf("a client whose gateway failed is told that its list is good: %s", resp.Status)
	}
	s.change(func() { s.dead["e1"] = true })
	eventually(t, p, "", "e0 u0 u1")
	if resp, _ := ask(t, p, "/v1/endpoints?uid=ann", map[string]string{"If-None-Match": tag}); resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == tag {
		t.Errorf("a list with a gateway that is gone is still good: %s", resp.Status)
	}
	s.change(func() {
		for _, id := range []string{"e0", "u0", "u1"} {
			l := s.loads[id]
			l.Draining = true
			s.loads[id] = l
		}
	})
	eventually(t, p, "", "")
	if resp, _ := ask(t, p, "/v1/endpoints", nil); resp.StatusCode != 503 || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

// A tag names what is so, not what chance made of it: which region a client was drawn into, or on which side of a tenth the room of a
// moment is.
func TestETagStays(t *testing.T) {
	s := two(2)
	for id, l := range s.loads {
		if l.Conns = 20_000; id[0] == 'e' {
			l.Conns = 90_000 // half of its newcomers are sent on
		}
		s.loads[id] = l
	}
	cfg := quick()
	cfg.GatewayRate = 1e9
	p := run(t, s, cfg, nil)
	measured(t, p, 4)
	const path = "/v1/endpoints?uid=ann&rtt=eu:10,us:100"
	resp, _ := ask(t, p, path, nil)
	tag := resp.Header.Get("ETag")
	first := map[string]bool{}
	for i := range 400 {
		if i == 200 {
			s.change(func() {
				for id, l := range s.loads {
					l.Conns += 1_000
					s.loads[id] = l
				}
			})
		}
		resp, b := ask(t, p, path, nil)
		var list wire.Endpoints
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		first[string(list.Gateways[0].Region)] = true
		if now := resp.Header.Get("ETag"); now != tag {
			t.Fatalf("answer %d: the tag went from %s to %s", i, tag, now)
		}
	}
	if len(first) != 2 {
		t.Errorf("the first gateways were all of %v: nothing was left to chance", first)
	}
}

// All ipconfs that see the same give the same tag, however they came to see it: behind a balancer they answer by turns.
func TestETagOfAnotherIPConf(t *testing.T) {
	s := halfFull()
	p := start(t, s)
	eventually(t, p, "", "e0 e1 u0 u1")
	const elsewhere = "http://elsewhere.example:80"
	s.change(func() {
		list := slices.Clone(s.of["gateway/eu"])
		list[0].URL = elsewhere
		list[0].Epoch++
		s.of["gateway/eu"] = list
	})
	const path = "/v1/endpoints?uid=ann"
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if _, b := ask(t, p, path, nil); bytes.Contains(b, []byte(elsewhere)) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a gateway that moved is handed out where it was")
		}
	}
	measured(t, p, 4)
	other := start(t, s)
	measured(t, other, 4)
	if one, two := steady(t, p, path), steady(t, other, path); one != two {
		t.Errorf("one gives %s, the other %s", one, two)
	}
}

// Room between two tenths counts as what it was before, until it clearly is not.
func TestTenths(t *testing.T) {
	was := 5
	for _, step := range []struct {
		free float64
		want int
	}{{0.5, 5}, {0.499, 5}, {0.46, 5}, {0.64, 5}, {0.66, 6}, {0.599, 6}, {0.56, 6}, {0.54, 5}, {0.1, 1}, {0.06, 1}, {0.04, 0}, {0, 0}, {1, 10}} {
		if was = tenth(step.free, was); was != step.want {
			t.Errorf("with %g free: %d tenths, want %d", step.free, was, step.want)
		}
	}
}

// A list is good for where and who the client is: one that moved, or gets another version, is told so.
func TestETagFollowsTheClient(t *testing.T) {
	cfg := quick()
	cfg.Canary = Canary{Version: "v2", Percent: 50}
	s := halfFull()
	s.loads["e1"] = im.Load{Gateway: im.Gateway{ID: "e1", Epoch: 1}, Conns: 45_000, Capacity: 100_000, Version: "v2"}
	p := run(t, s, cfg, nil)
	uids := map[bool]string{} // by whether they get the canary
	for i := 0; len(uids) < 2; i++ {
		uid := fmt.Sprintf("user-%d", i)
		uids[p.locator.inCanary(uid)] = uid
	}
	eventually(t, p, "?uid="+uids[true], "e0 e1 u0 u1")
	eventually(t, p, "?uid="+uids[false], "e0 u0 u1") // the version of e1 is known
	const rtts = "&rtt=eu:20,us:110"
	tag := steady(t, p, "/v1/endpoints?uid="+uids[false]+rtts)
	for _, c := range []struct {
		uid  string
		rtts string
		want int
	}{
		{uids[false], rtts, http.StatusNotModified},
		{uids[false], "&rtt=eu:22,us:117", http.StatusNotModified}, // they jitter
		{uids[false], "&rtt=eu:110,us:20", http.StatusOK},          // it moved
		{uids[false], rtts + "&region=us", http.StatusOK},
		{uids[false], rtts + "&home=us", http.StatusOK},
		{uids[false], rtts + "&network=2g", http.StatusOK},
		{uids[true], rtts, http.StatusOK},
	} {
		resp, _ := ask(t, p, "/v1/endpoints?uid="+c.uid+c.rtts, map[string]string{"If-None-Match": tag})
		if resp.StatusCode != c.want {
			t.Errorf("%+v: %s, want %d", c, resp.Status, c.want)
		}
	}
}

// Newcomers beyond the rate, or beyond the room, are told when to come back.
func TestToldToWait(t *testing.T) {
	cfg := quick()
	cfg.GatewayRate = 10
	p := run(t, two(1), cfg, nil)
	waits := 0
	for end := time.Now().Add(30 * time.Second); waits < 5 && time.Now().Before(end); {
		resp, b := ask(t, p, "/v1/endpoints", nil)
		var e struct {
			Code         string
			RetryAfterMs int64
		}
		if resp.StatusCode == http.StatusServiceUnavailable && json.Unmarshal(b, &e) == nil && e.Code == "overloaded" {
			if e.RetryAfterMs <= 0 || resp.Header.Get("Retry-After") == "" {
				t.Fatalf("%s %v", b, resp.Header)
			}
			waits++
		}
	}
	if waits < 5 {
		t.Error("nobody was told to wait")
	}
	s := newSite()
	s.add("eu", "e0", im.Load{Conns: 100, Capacity: 100})
	p = start(t, s)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if resp, b := ask(t, p, "/v1/endpoints", nil); resp.StatusCode == 503 && bytes.Contains(b, []byte(`"overloaded"`)) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a full region goes on taking newcomers")
		}
	}
}

// When room is scarce, newcomers are told to wait, and those whose last gateway may hold their session are not.
func TestResumesAreLetInWhenRoomIsScarce(t *testing.T) {
	s := newSite()
	for _, id := range []string{"e0", "e1"} {
		s.add("eu", id, im.Load{Conns: 999_000, Capacity: 1_000_000}) // 0.1 % is free: 98 % of newcomers wait
	}
	cfg := quick()
	cfg.GatewayRate = 1e6
	p := run(t, s, cfg, nil)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if _, free := p.current.Load().table.State(0); free > 0 && free < 0.01 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the loads are not known")
		}
	}
	refused := 0
	for range 100 {
		if resp, b := ask(t, p, "/v1/endpoints?last=eu/e1", nil); resp.StatusCode != http.StatusOK || !bytes.Contains(b, []byte(`"gateways":[{"id":"e1"`)) {
			t.Fatalf("a client that comes back: %s %s", resp.Status, b)
		}
		for _, last := range []string{"", "?last=eu/gone"} {
			if resp, _ := ask(t, p, "/v1/endpoints"+last, nil); resp.StatusCode == http.StatusServiceUnavailable {
				refused++
			}
		}
	}
	if refused < 100 {
		t.Errorf("of 200 newcomers %d are told to wait, want 196 or so", refused)
	}
}

func TestCatalogueIsSigned(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick()
	cfg.Signing = &Signing{ID: "k1", Key: private}
	s := two(1)
	p := run(t, s, cfg, nil)
	eventually(t, p, "", "e0 u0")
	read := func(want int) (wire.Catalogue, string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			resp, b := ask(t, p, "/v1/catalogue", nil)
			c, err := wire.OpenCatalogue(b, map[string]ed25519.PublicKey{"k1": public}, time.Now())
			if err == nil && len(c.Gateways) == want && len(c.IPConfs) == 1 {
				return c, resp.Header.Get("ETag")
			}
			if time.Now().After(end) {
				t.Fatalf("%s, %v", b, err)
			}
		}
	}
	c, tag := read(2)
	if resp, _ := ask(t, p, "/v1/catalogue", map[string]string{"If-None-Match": tag}); resp.StatusCode != http.StatusNotModified {
		t.Errorf("an unchanged catalogue: %s", resp.Status)
	}
	s.change(func() { s.add("eu", "e9", im.Load{Capacity: 100_000}) })
	later, _ := read(3)
	if later.Version == c.Version {
		t.Error("another content has the same version")
	}
	eventually(t, p, "", "e0 e9 u0")
	if _, b := ask(t, p, "/v1/endpoints", nil); !bytes.Contains(b, []byte(`"catalogue":"`+later.Version+`"`)) {
		t.Errorf("an answer does not name the catalogue %s: %s", later.Version, b)
	}
}

// Each address has its allowance, of IPv6 each /64; who is not public is no client.
func TestAddressesAreBounded(t *testing.T) {
	cfg := quick()
	cfg.AddressRate = 1
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	p := run(t, two(1), cfg, nil)
	eventually(t, p, "", "e0 u0") // without X-Forwarded-For: more often than once a second
	from := func(path, ip string) (*http.Response, []byte) {
		return ask(t, p, path, map[string]string{"X-Forwarded-For": ip})
	}
	for _, path := range []string{"/v1/endpoints", "/v1/catalogue"} {
		refused := 0
		for i := range 40 { // at most one more a second
			resp, b := from(path, []string{"192.0.2.1", "2001:db8::1", "2001:db8::ffff:2"}[min(i%4, 2)])
			if resp.StatusCode != http.StatusTooManyRequests {
				continue
			}
			refused++
			if !bytes.Contains(b, []byte(`"too_many_requests"`)) || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("%s %v", b, resp.Header)
			}
		}
		if refused == 0 {
			t.Errorf("40 requests for %s of one /32 and one /64 at once are all answered", path)
		}
	}
	for _, ip := range []string{"192.0.2.2", "2001:db8:0:1::1"} {
		if resp, b := from("/v1/endpoints", ip); resp.StatusCode != http.StatusOK {
			t.Errorf("another address, %s, is answered %s %s", ip, resp.Status, b)
		}
	}
}

func TestAllowanceOfAnAddress(t *testing.T) {
	a := newAddresses(2) // 20 at once
	now := time.Unix(1_000, 0)
	ip := netip.MustParseAddr("2001:db8::1")
	for i := range 20 {
		if wait := a.ask(ip, now); wait != 0 {
			t.Fatalf("request %d of 20 waits %v", i, wait)
		}
	}
	wait := a.ask(netip.MustParseAddr("2001:db8::2"), now)
	if wait != 500*time.Millisecond {
		t.Fatalf("the next one, of the same /64, waits %v, want 500ms", wait)
	}
	if again := a.ask(ip, now.Add(wait)); again != 0 {
		t.Fatalf("who waited as told waits %v more", again)
	}
	now = now.Add(time.Hour)
	for i := range 20 {
		if a.ask(ip, now) != 0 {
			t.Fatalf("after an hour only %d may come at once", i)
		}
	}
	for _, own := range []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("127.0.0.1"), {}} {
		for range 50 {
			if a.ask(own, now) != 0 {
				t.Fatalf("%v, which is not public, is bounded", own)
			}
		}
	}
}

func TestBatch(t *testing.T) {
	cfg := quick()
	cfg.BatchFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.Location.Residency = []Residency{{Homes: []im.Region{"eu"}, Regions: []im.Region{"eu"}}}
	p := run(t, two(1), cfg, nil)
	eventually(t, p, "", "e0 u0")
	post := func(p *IPConf, body string) (int, []byte) {
		resp, err := http.Post("http://"+p.Addr()+"/v1/endpoints:batch", "application/json", bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b
	}
	status, b := post(p, `{"clients":[{"uid":"ann","rtt":"us:5,eu:90"},{"uid":"bob","home":"eu","rtt":"us:5,eu:90"},{"ip":"2001:db8::1"}]}`)
	var answer struct{ Answers []wire.Endpoints }
	if err := json.Unmarshal(b, &answer); err != nil || status != 200 || len(answer.Answers) != 3 {
		t.Fatalf("%d %s %v", status, b, err)
	}
	if a := answer.Answers; a[0].Gateways[0].Region != "us" || len(a[1].Gateways) != 1 || a[1].Gateways[0].Region != "eu" {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{"", "{}", `{"clients":[]}`, `[]`} {
		if status, b := post(p, bad); status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", bad, status, b)
		}
	}
	for _, from := range [][]netip.Prefix{nil, {netip.MustParsePrefix("192.0.2.0/24")}} {
		cfg.BatchFrom = from
		if status, b := post(run(t, two(1), cfg, nil), `{"clients":[{}]}`); status != http.StatusForbidden {
			t.Errorf("a stranger asks for others, while %v may: %d %s", from, status, b)
		}
	}
}

func TestShare(t *testing.T) {
	now := time.UnixMilli(10_000_000)
	since := func(d time.Duration) im.Stamp { return im.StampAt(now.Add(-d)) }
	for _, c := range []struct {
		state       im.RegionState
		back        time.Time
		share, ramp float64
	}{
		{im.RegionState{}, time.Time{}, 1, 1},
		{im.RegionState{}, now.Add(-30 * time.Second), 1, 0.55},
		{im.RegionState{State: im.StateActive, Stamp: since(0)}, time.Time{}, 1, 0.1},
		{im.RegionState{State: im.StateActive, Stamp: since(time.Hour)}, time.Time{}, 1, 1},
		{im.RegionState{State: im.StateActive, Stamp: since(-time.Hour)}, time.Time{}, 1, 0.1}, // another clock
		{im.RegionState{State: im.StateDraining, Stamp: since(0)}, time.Time{}, 0.9, 1},
		{im.RegionState{State: im.StateDraining, Stamp: since(29 * time.Second)}, time.Time{}, 0.5, 1},
		{im.RegionState{State: im.StateDraining, Stamp: since(time.Minute)}, time.Time{}, 0, 1},
		{im.RegionState{State: im.StateJoining, Stamp: since(time.Hour)}, time.Time{}, 0, 1},
		{im.RegionState{State: im.StateDead, Stamp: since(0)}, time.Time{}, 0, 1},
	} {
		got, ramp, _ := share(c.state, c.back, time.Minute, time.Minute, now)
		if d := got - c.share; d > 1e-9 || d < -1e-9 {
			t.Errorf("%+v: share %v, want %v", c.state, got, c.share)
		}
		if d := ramp - c.ramp; d > 1e-3 || d < -1e-3 {
			t.Errorf("%+v: ramp %v, want %v", c.state, ramp, c.ramp)
		}
	}
}

func TestCanaryIsSteadyAndInProportion(t *testing.T) {
	in := func(percent float64, version, uid string) bool {
		return (&locator{canary: Canary{version, percent}}).inCanary(uid)
	}
	got := 0
	for i := range 20_000 {
		uid := fmt.Sprintf("user-%d", i)
		if in(5, "v2", uid) {
			got++
			if !in(20, "v2", uid) {
				t.Fatalf("%s leaves when the percentage grows", uid)
			}
		}
	}
	if got < 900 || got > 1100 {
		t.Errorf("%d of 20000 users are 5 %%", got)
	}
	if in(100, "v2", "") {
		t.Error("nobody in particular gets the canary")
	}
}
