package ipconf

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// locator brings clients to regions. What counts, the first that is known:
//
//	the region     an operator's override for the address; what the client asks for
//	a round trip   as the client measured it; as others of its network did; near, for the region that the table of networks
//	               names; by distance; near, for the region that was asked; far
//
// What was measured has the delay of an access in it, which is the same to every region (half a second on 2G); an estimate
// has not. So that the two can be compared, the client's own access delay goes on top of what it did not measure itself, and
// that of the others of its network comes off what they did.
type locator struct {
	cfg     Location
	canary  Canary
	regions atomic.Pointer[[]im.Region] // by place; it grows
	near    int
	geo     Geo
	cidrs   []overrides
	learned *learned
}

// overrides are those of one prefix length.
type overrides struct {
	bits   int
	v6     bool
	region map[netip.Prefix]int
}

func newLocator(cfg *Config, geo Geo) *locator {
	l := &locator{cfg: cfg.Location, canary: cfg.Canary, near: slices.Index(cfg.Regions, cfg.Region), geo: geo, learned: newLearned()}
	l.regions.Store(&cfg.Regions)
	for p, r := range cfg.Location.Overrides {
		p = p.Masked()
		v6 := p.Addr().Is6()
		i := slices.IndexFunc(l.cidrs, func(o overrides) bool { return o.bits == p.Bits() && o.v6 == v6 })
		if i < 0 {
			i = len(l.cidrs)
			l.cidrs = append(l.cidrs, overrides{p.Bits(), v6, map[netip.Prefix]int{}})
		}
		l.cidrs[i].region[p] = l.index(r)
	}
	slices.SortFunc(l.cidrs, func(a, b overrides) int { return cmp.Compare(b.bits, a.bits) })
	return l
}

func (l *locator) names() []im.Region { return *l.regions.Load() }

func (l *locator) index(r im.Region) int { return slices.Index(l.names(), r) }

// parse returns the index of a region that a client names; -1 for none.
func (l *locator) parse(name string) int {
	for i, r := range l.names() {
		if string(r) == name {
			return i
		}
	}
	return -1
}

func (l *locator) override(ip netip.Addr) int {
	for _, o := range l.cidrs {
		if o.v6 != ip.Is6() {
			continue
		}
		if p, err := ip.Prefix(o.bits); err == nil {
			if r, ok := o.region[p]; ok {
				return r
			}
		}
	}
	return -1
}

// kmPerMs is how many kilometres of distance cost a millisecond of round trip: light in fibre goes 200 km/ms one way, and
// cables are about half as long again as great circles.
const (
	kmPerMs  = 67.0
	lastMile = 8 // ms to the first router of the provider and back
	nearASN  = 5 // ms, of a region that the table of networks names
)

// locate turns what a request says into what the ranking takes. What it measured is learned, if it asks for itself. explain,
// if it is not nil, is told why.
func (l *locator) locate(q *request, ip netip.Addr, now time.Time, explain func(string)) rank.Client {
	c := rank.Nobody()
	c.Near = l.near
	var at im.Location
	if l.geo != nil && ip.IsValid() {
		at = l.geo.Find(ip)
	}
	measured := l.reported(q.rtt, &c)
	network := networkOf(ip, at.ASN)
	var others [rank.MaxRegions]uint16
	fromNetwork := l.learned.fill(network, &others)
	if measured && q.itself {
		l.learned.report(network, ip, &c.RTT, now)
	}
	if measured || fromNetwork || at.Placed || at.ASN != 0 {
		l.complete(&c.RTT, &others, at, measured)
	}
	c.Want = l.parse(q.region)
	forced := l.override(ip)
	if forced >= 0 {
		c.Want = forced
	}
	c.Home = l.parse(q.home)
	c.Canary = l.inCanary(q.uid)
	rule := -1
	for i := range l.cfg.Residency {
		if l.applies(&l.cfg.Residency[i], ip, at.Country, c.Home) {
			c.Forbidden |= l.others(l.cfg.Residency[i].Regions)
			rule = i
		}
	}
	if explain != nil {
		l.explain(explain, q, ip, at, &c, measured, fromNetwork, forced, rule)
	}
	return c
}

// complete fills in the round trips that the client did not measure, from those of others of its network and from estimates.
func (l *locator) complete(rtt, others *[rank.MaxRegions]uint16, at im.Location, measured bool) {
	var path [rank.MaxRegions]int
	n := len(l.names())
	for i := range n {
		path[i] = l.estimate(i, at)
	}
	theirs := max(0, longer(others[:n], path[:n]))
	access := theirs
	if measured {
		access = max(0, longer(rtt[:n], path[:n]))
		var known [rank.MaxRegions]int // of those that it measured, as others did
		both := false
		for i := range n {
			if known[i] = math.MaxInt; others[i] > 0 && rtt[i] > 0 {
				known[i], both = int(others[i]), true
			}
		}
		if both { // the others tell better than an estimate
			access = max(0, theirs+longer(rtt[:n], known[:n]))
		}
	}
	for i := range n {
		switch {
		case rtt[i] > 0:
			continue
		case others[i] > 0:
			path[i] = int(others[i]) - theirs
		}
		rtt[i] = uint16(min(max(1, path[i]+access), math.MaxUint16))
	}
}

// longer is the least that any round trip is longer than what it is compared with: what all of them have in common.
// math.MaxInt there is left out; 0 if nothing is known.
func longer(rtt []uint16, than []int) int {
	least := math.MaxInt
	for i, ms := range rtt {
		if ms > 0 && than[i] != math.MaxInt {
			least = min(least, int(ms)-than[i])
		}
	}
	if least == math.MaxInt {
		return 0
	}
	return least
}

// estimate is the round trip to a region, in milliseconds, of a client at a place, nothing being measured.
func (l *locator) estimate(i int, at im.Location) int {
	if r, ok := l.cfg.Networks[at.ASN]; ok && at.ASN != 0 && r == l.names()[i] {
		return nearASN
	}
	if place, ok := l.cfg.Regions[l.names()[i]]; ok && at.Placed && place.Placed {
		return int(lastMile + at.Kilometres(place)/kmPerMs)
	}
	if i == l.near {
		return int(rank.NearRTT.Milliseconds())
	}
	return int(rank.FarRTT.Milliseconds())
}

func (l *locator) explain(say func(string), q *request, ip netip.Addr, at im.Location, c *rank.Client, measured, fromNetwork bool, forced, rule int) {
	if ip.IsValid() {
		where := "address " + ip.String()
		if at.Country != "" {
			where += ", country " + at.Country
		}
		if at.ASN != 0 {
			where += ", AS" + strconv.FormatUint(uint64(at.ASN), 10)
		}
		if at.Placed {
			where += fmt.Sprintf(", at %.2f,%.2f", at.Lat, at.Lon)
		}
		say(where)
	}
	if forced >= 0 {
		say("an override sends this address to " + string(l.names()[forced]))
	} else if c.Want >= 0 {
		say("the client asks for " + string(l.names()[c.Want]))
	}
	if measured {
		say("the client measured " + q.rtt)
	}
	if fromNetwork {
		say("clients of its network measured round trips")
	}
	if r, ok := l.cfg.Networks[at.ASN]; ok && at.ASN != 0 {
		say("the table of networks says that it is near " + string(r))
	}
	if c.Home >= 0 {
		say("the user is at home in " + string(l.names()[c.Home]))
	}
	if c.Canary {
		say("the user gets version " + l.canary.Version)
	}
	if rule >= 0 {
		say(fmt.Sprintf("ipconf.residency[%d] allows %v only", rule, l.cfg.Residency[rule].Regions))
	}
}

// reported reads the round trips that a client measured, as in eu:23,us:110.
func (l *locator) reported(text string, c *rank.Client) bool {
	any := false
	for n := 0; text != "" && n < rank.MaxRegions; n++ {
		var part string
		part, text, _ = strings.Cut(text, ",")
		name, number, _ := strings.Cut(part, ":")
		ms, err := strconv.ParseUint(number, 10, 16)
		if i := l.parse(name); i >= 0 && err == nil {
			c.RTT[i] = uint16(max(ms, 1))
			any = true
		}
	}
	return any
}

func (l *locator) applies(r *Residency, ip netip.Addr, country string, home int) bool {
	if country != "" && slices.Contains(r.Countries, country) || home >= 0 && slices.Contains(r.Homes, l.names()[home]) {
		return true
	}
	return ip.IsValid() && slices.ContainsFunc(r.Networks, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// others is a bit for each region but those allowed.
func (l *locator) others(allowed []im.Region) (mask uint32) {
	for i, r := range l.names() {
		if !slices.Contains(allowed, r) {
			mask |= 1 << i
		}
	}
	return mask
}

// inCanary tells whether a user gets the canary version: a hash of version and uid decides, so it stays as it is while the
// percentage grows, and other users are first with the next version.
func (l *locator) inCanary(uid string) bool {
	if l.canary.Percent <= 0 || l.canary.Version == "" || uid == "" {
		return false
	}
	h := fnv.New64a()
	h.Write([]byte(l.canary.Version))
	h.Write([]byte{0})
	h.Write([]byte(uid))
	const parts = 1 << 20
	return float64(mix(h.Sum64())%parts) < l.canary.Percent/100*parts
}

// mix spreads a hash's bits over all of it (splitmix64).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// weigh tells the ranking about a version.
func weigh(versions map[string]float64, canary Canary) func(string) (float64, bool) {
	return func(version string) (float64, bool) {
		weight := 1.0
		if w, ok := versions[version]; ok {
			weight = w
			if w <= 0 {
				weight = -1
			}
		}
		return weight, canary.Version != "" && version == canary.Version
	}
}

// hostAddr is the address of a host:port.
func hostAddr(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// clientAddr walks X-Forwarded-For from the nearest proxy outwards, for as long as proxies are trusted.
func clientAddr(remote netip.Addr, forwarded []string, trusted []netip.Prefix) netip.Addr {
	trust := func(ip netip.Addr) bool {
		for _, p := range trusted {
			if p.Contains(ip) {
				return true
			}
		}
		return false
	}
	ip := remote
	for i := len(forwarded) - 1; i >= 0; i-- {
		for list := forwarded[i]; list != "" && trust(ip); {
			var last string
			if at := strings.LastIndexByte(list, ','); at >= 0 {
				list, last = list[:at], list[at+1:]
			} else {
				list, last = "", list
			}
			next, err := netip.ParseAddr(strings.TrimSpace(last))
			if err != nil {
				return ip
			}
			ip = next.Unmap()
		}
	}
	return ip
}
