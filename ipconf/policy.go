package ipconf

import (
	"encoding/json"

	"github.com/antipode-im/antipode/wire"
)

// class sorts networks by what clients should expect of them.
type class uint8

const (
	anyNetwork  class = iota // not told, or one that needs nothing special: wifi, ethernet, 4g, 5g
	cellNetwork              // "cell", "3g": radio that sleeps between packets, paid by the byte
	slowNetwork              // "2g", "slow": round trips of a second
	networks
)

func classOf(network string) class {
	switch network {
	case "2g", "slow", "edge", "gprs":
		return slowNetwork
	case "cell", "cellular", "3g", "mobile":
		return cellNetwork
	}
	return anyNetwork
}

// kind sorts platforms.
type kind uint8

const (
	anyPlatform kind = iota
	mobile           // ios, android: batteries, and NATs of carriers
	fixed            // web, desktop
	platforms
)

func kindOf(platform string) kind {
	switch platform {
	case "ios", "android":
		return mobile
	case "web", "desktop":
		return fixed
	}
	return anyPlatform
}

// mss is what fits into one TCP segment on common paths, IPv6 and options taken off 1,500: a frame below it is not split.
const mss = 1400

// policyFor is what a client must follow: the configured policy, adapted to its platform and network, and to whether its
// region is busy (draining, or nearly full): then clients come back later and open fewer sockets.
func policyFor(p wire.Policy, k kind, c class, busy bool) wire.Policy {
	const homeNAT = 60_000 // ms; pings are cheap on mains power, and a dead socket is noticed within one
	if k == fixed {
		p.HeartbeatMaxMs = max(p.HeartbeatMinMs, min(p.HeartbeatMaxMs, homeNAT))
	}
	switch c {
	case cellNetwork:
		p.ConnectTimeoutMs = p.ConnectTimeoutMs * 3 / 2
		p.RaceWidth, p.RaceStaggerMs = min(p.RaceWidth, 2), p.RaceStaggerMs*2
		p.PushAckMs *= 2
		p.MaxFrameBytes = mss
	case slowNetwork:
		p.ConnectTimeoutMs *= 3
		p.RaceWidth, p.RaceStaggerMs = min(p.RaceWidth, 2), p.RaceStaggerMs*5
		p.BackoffBaseMs *= 2
		p.PollFallbackMs *= 2
		p.FallbackPullMs *= 2
		p.MarkIntervalMs *= 2
		p.PushAckMs *= 4
		p.MaxFrameBytes = mss
	}
	if k == mobile && c != anyNetwork {
		p.HeartbeatMinMs = min(p.HeartbeatMaxMs, max(p.HeartbeatMinMs, 15_000)) // each ping wakes the radio for seconds
	}
	if busy {
		p.BackoffBaseMs *= 2
		p.BackoffCapMs *= 2
		p.BackoffJitter = 1
		p.RaceWidth = max(1, p.RaceWidth-1)
		p.FallbackPullMs *= 2
	}
	return p.Within()
}

// policies are all variants, encoded.
type policies [platforms][networks][2][]byte

func newPolicies(p wire.Policy) (*policies, error) {
	all := new(policies)
	for k := range platforms {
		for c := range networks {
			for busy := range 2 {
				b, err := json.Marshal(policyFor(p, k, c, busy == 1))
				if err != nil {
					return nil, err
				}
				all[k][c][busy] = b
			}
		}
	}
	return all, nil
}

// of returns a variant, and a number that names it.
func (p *policies) of(k kind, c class, busy bool) ([]byte, uint64) {
	b := 0
	if busy {
		b = 1
	}
	return p[k][c][b], uint64(k)<<8 | uint64(c)<<1 | uint64(b)
}
