package app

import (
	"fmt"
	"net/netip"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/ipconf"
	"github.com/antipode-im/antipode/wire"
)

// ipconfOf turns the configuration of ipconf into what its builder takes.
func ipconfOf(c *config.IPConf) (ipconf.Config, error) {
	proxies, err := prefixes(c.TrustedProxies)
	if err != nil {
		return ipconf.Config{}, fmt.Errorf("ipconf.trusted_proxies: %w", err)
	}
	cfg := ipconf.Config{
		Origins: c.WebOrigins, TTL: c.TTL, DeadAfter: c.DeadAfter, TrustedProxies: proxies, ProxyProtocol: c.ProxyProtocol,
		DrainOver: c.DrainOver, ReturnOver: c.ReturnOver, AddressRate: c.AddressRate, GatewayRate: c.GatewayRate, Reserve: c.Reserve,
		Canary: ipconf.Canary{Version: c.Canary.Version, Percent: c.Canary.Percent}, Versions: map[string]float64{},
	}
	if len(c.BatchFrom) > 0 {
		if cfg.BatchFrom, err = prefixes(c.BatchFrom); err != nil {
			return cfg, fmt.Errorf("ipconf.batch_from: %w", err)
		}
	}
	for _, v := range c.Versions {
		cfg.Versions[v.Version] = v.Weight
	}
	key, err := c.Signing.PrivateKey()
	if err != nil {
		return cfg, fmt.Errorf("ipconf.signing.key: %w", err)
	}
	if key != nil {
		cfg.Signing = &ipconf.Signing{ID: c.Signing.ID, Key: key}
	}
	if cfg.Location, err = locationOf(c); err != nil {
		return cfg, err
	}
	p := c.Policy
	cfg.Policy = wire.Policy{
		HeartbeatMinMs: p.HeartbeatMin.Milliseconds(), HeartbeatMaxMs: p.HeartbeatMax.Milliseconds(),
		ConnectTimeoutMs: p.ConnectTimeout.Milliseconds(), RaceWidth: p.RaceWidth, RaceStaggerMs: p.RaceStagger.Milliseconds(),
		BackoffBaseMs: p.BackoffBase.Milliseconds(), BackoffCapMs: p.BackoffCap.Milliseconds(), BackoffJitter: p.BackoffJitter,
		PollFallbackMs: p.PollFallback.Milliseconds(), FallbackPullMs: p.FallbackPull.Milliseconds(),
		MarkIntervalMs: p.MarkInterval.Milliseconds(), PushAckMs: p.PushAck.Milliseconds(), WebTransport: p.WebTransport,
	}
	return cfg, nil
}

func locationOf(c *config.IPConf) (l ipconf.Location, err error) {
	l = ipconf.Location{
		Regions: map[im.Region]im.Location{}, Overrides: map[netip.Prefix]im.Region{}, Networks: map[uint32]im.Region{},
	}
	for r, text := range c.Places {
		if l.Regions[r], err = config.ParsePlace(text); err != nil {
			return l, fmt.Errorf("ipconf.places.%s: %w", r, err)
		}
	}
	for text, r := range c.Overrides {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return l, fmt.Errorf("ipconf.overrides: %w", err)
		}
		l.Overrides[p.Masked()] = r
	}
	for text, r := range c.Networks {
		asn, err := config.ParseASN(text)
		if err != nil {
			return l, fmt.Errorf("ipconf.networks: %w", err)
		}
		l.Networks[asn] = r
	}
	for i, rule := range c.Residency {
		networks, err := prefixes(rule.Networks)
		if err != nil {
			return l, fmt.Errorf("ipconf.residency[%d].networks: %w", i, err)
		}
		l.Residency = append(l.Residency, ipconf.Residency{
			Countries: rule.Countries, Networks: networks, Homes: rule.Homes, Regions: rule.Regions,
		})
	}
	return l, nil
}
