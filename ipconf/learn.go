package ipconf

import (
	"net/netip"
	"sync"
	"time"

	"github.com/antipode-im/antipode/ipconf/rank"
)

// learned keeps what the clients of a network measured, for those of the same network that measured nothing yet. Reports may
// be forged. So an address has one vote a minute, however often it asks, and a network says nothing until several addresses
// voted: then a lie costs its own network some latency, no more, and operators' tables win.
type learned struct {
	mu     sync.RWMutex
	of     map[uint64]*networkRTT
	minute int64                   // of the clock
	voted  map[netip.Addr]struct{} // addresses (of IPv6: /64s), in this minute
}

type networkRTT struct {
	ms     [rank.MaxRegions]float32
	n      [rank.MaxRegions]uint16
	voters [fewReports]netip.Addr // different ones; the first so many
}

const (
	maxNetworks  = 1 << 16
	maxVoters    = 1 << 17 // in a minute; who comes later than so many has no vote
	fewReports   = 5       // of a region, and voters of a network: below, they say nothing
	reportWeight = 1. / 8  // of a new one in the moving average
	maxReported  = 5_000   // ms; more is a timeout, no distance
	v4Bits       = 20      // of a network whose autonomous system is not known
	v6Bits       = 40
	notAnAS      = 1 << 63 // marks keys that are made of addresses
)

// networkOf names the network of an address; 0: none.
func networkOf(ip netip.Addr, asn uint32) uint64 {
	if asn != 0 {
		return uint64(asn)
	}
	if !ip.IsValid() {
		return 0
	}
	b := ip.As16()
	n := uint64(0)
	if ip.Is4() {
		n = uint64(b[12])<<24 | uint64(b[13])<<16 | uint64(b[14])<<8 | uint64(b[15])
		return notAnAS | n>>(32-v4Bits)
	}
	for _, x := range b[:8] {
		n = n<<8 | uint64(x)
	}
	return notAnAS | 1<<62 | n>>(64-v6Bits)
}

func newLearned() *learned {
	return &learned{of: map[uint64]*networkRTT{}, voted: map[netip.Addr]struct{}{}}
}

// subscriber is what one household or phone is known by: an address, or of IPv6 the /64, all of which is one's own.
func subscriber(ip netip.Addr) netip.Addr {
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// report takes a client's vote, unless its address has had one in this minute.
func (l *learned) report(network uint64, ip netip.Addr, rtt *[rank.MaxRegions]uint16, now time.Time) {
	if network == 0 || !ip.IsValid() {
		return
	}
	voter := subscriber(ip)
	l.mu.Lock()
	defer l.mu.Unlock()
	if minute := now.Unix() / 60; minute != l.minute {
		l.minute = minute
		clear(l.voted)
	}
	if _, ok := l.voted[voter]; ok || len(l.voted) >= maxVoters {
		return
	}
	l.voted[voter] = struct{}{}
	r := l.of[network]
	if r == nil {
		if len(l.of) >= maxNetworks {
			for k := range l.of { // any one: all of it is learned again
				delete(l.of, k)
				break
			}
		}
		r = new(networkRTT)
		l.of[network] = r
	}
	for i := range r.voters {
		if !r.voters[i].IsValid() {
			r.voters[i] = voter
		}
		if r.voters[i] == voter {
			break
		}
	}
	for i, ms := range rtt {
		if ms == 0 || ms > maxReported {
			continue
		}
		if r.n[i] == 0 {
			r.ms[i] = float32(ms)
		}
		r.ms[i] += (float32(ms) - r.ms[i]) * reportWeight
		r.n[i] = min(r.n[i]+1, fewReports)
	}
}

// fill sets what clients of a network measured.
func (l *learned) fill(network uint64, rtt *[rank.MaxRegions]uint16) bool {
	if network == 0 {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	r := l.of[network]
	if r == nil || !r.voters[fewReports-1].IsValid() {
		return false
	}
	any := false
	for i := range rtt {
		if rtt[i] == 0 && r.n[i] >= fewReports {
			rtt[i] = uint16(max(1, r.ms[i]))
			any = true
		}
	}
	return any
}
