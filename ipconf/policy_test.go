package ipconf

import (
	"testing"

	"github.com/antipode-im/antipode/wire"
)

func TestPolicyByPlatformNetworkAndState(t *testing.T) {
	base := wire.DefaultPolicy()
	for _, c := range []struct {
		platform, network string
		busy              bool
		change            func(p *wire.Policy) // of the configured policy
	}{
		{"", "", false, func(*wire.Policy) {}},
		{"toaster", "wifi", false, func(*wire.Policy) {}},
		{"ios", "wifi", false, func(*wire.Policy) {}},
		{"android", "5g", false, func(*wire.Policy) {}},
		{"web", "wifi", false, func(p *wire.Policy) { p.HeartbeatMaxMs = 60_000 }},
		{"desktop", "", false, func(p *wire.Policy) { p.HeartbeatMaxMs = 60_000 }},
		{"", "3g", false, cellular},
		{"", "cell", false, cellular},
		{"ios", "cellular", false, func(p *wire.Policy) { cellular(p); p.HeartbeatMinMs = 15_000 }},
		{"android", "mobile", false, func(p *wire.Policy) { cellular(p); p.HeartbeatMinMs = 15_000 }},
		{"desktop", "cell", false, func(p *wire.Policy) { cellular(p); p.HeartbeatMaxMs = 60_000 }},
		{"", "2g", false, slow},
		{"", "slow", false, slow},
		{"android", "edge", false, func(p *wire.Policy) { slow(p); p.HeartbeatMinMs = 15_000 }},
		{"ios", "gprs", false, func(p *wire.Policy) { slow(p); p.HeartbeatMinMs = 15_000 }},
		{"", "", true, busy},
		{"web", "wifi", true, func(p *wire.Policy) { busy(p); p.HeartbeatMaxMs = 60_000 }},
		{"ios", "2g", true, func(p *wire.Policy) {
			slow(p)
			p.HeartbeatMinMs = 15_000
			p.BackoffBaseMs, p.BackoffCapMs, p.BackoffJitter = 2*p.BackoffBaseMs, 2*p.BackoffCapMs, 1
			p.RaceWidth, p.FallbackPullMs = 1, 2*p.FallbackPullMs
		}},
	} {
		want := base
		c.change(&want)
		if got := policyFor(base, kindOf(c.platform), classOf(c.network), c.busy); got != want {
			t.Errorf("platform %q, network %q, busy %v:\n got %+v\nwant %+v", c.platform, c.network, c.busy, got, want)
		}
	}
}

func cellular(p *wire.Policy) {
	p.ConnectTimeoutMs, p.RaceWidth, p.RaceStaggerMs, p.PushAckMs, p.MaxFrameBytes = 7_500, 2, 400, 400, 1_400
}

func slow(p *wire.Policy) {
	p.ConnectTimeoutMs, p.RaceWidth, p.RaceStaggerMs, p.PushAckMs, p.MaxFrameBytes = 15_000, 2, 1_000, 800, 1_400
	p.BackoffBaseMs, p.PollFallbackMs, p.FallbackPullMs, p.MarkIntervalMs = 500, 30_000, 120_000, 2_000
}

func busy(p *wire.Policy) {
	p.BackoffBaseMs, p.BackoffCapMs, p.BackoffJitter, p.RaceWidth, p.FallbackPullMs = 500, 60_000, 1, 2, 120_000
}

// What operators configured bounds what is adapted: nothing comes out upside down.
func TestPolicyKeepsItsBounds(t *testing.T) {
	p := wire.DefaultPolicy()
	p.HeartbeatMinMs, p.HeartbeatMaxMs, p.RaceWidth = 90_000, 120_000, 1
	if got := policyFor(p, fixed, anyNetwork, true); got.HeartbeatMinMs != 90_000 || got.HeartbeatMaxMs != 90_000 || got.RaceWidth != 1 {
		t.Errorf("%+v", got)
	}
	p.HeartbeatMinMs, p.HeartbeatMaxMs = 2_000, 10_000
	if got := policyFor(p, mobile, slowNetwork, false); got.HeartbeatMinMs != 10_000 || got.HeartbeatMaxMs != 10_000 {
		t.Errorf("%+v", got)
	}
}
