package config

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/antipode-im/antipode/im"
)

// ParsePlace reads "latitude longitude", in degrees north and east.
func ParsePlace(s string) (im.Location, error) {
	lat, lon, _ := strings.Cut(strings.TrimSpace(s), " ")
	y, err1 := strconv.ParseFloat(lat, 64)
	x, err2 := strconv.ParseFloat(strings.TrimSpace(lon), 64)
	if err1 != nil || err2 != nil || y < -90 || y > 90 || x < -180 || x > 180 {
		return im.Location{}, fmt.Errorf("%q is not a latitude and a longitude in degrees, such as 50.11 8.68", s)
	}
	return im.Location{Lat: y, Lon: x, Placed: true}, nil
}

// ParseASN reads the number of an autonomous system, as in AS64500.
func ParseASN(s string) (uint32, error) {
	digits, ok := strings.CutPrefix(strings.ToUpper(s), "AS")
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not an autonomous system, such as AS64500", s)
	}
	return uint32(n), nil
}

// PrivateKey is the signing key; nil if no catalogue is signed.
func (s *Signing) PrivateKey() (ed25519.PrivateKey, error) {
	if s.ID == "" {
		return nil, nil
	}
	text := strings.TrimSpace(s.Key.Reveal())
	if block, _ := pem.Decode([]byte(text)); block != nil {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if private, ok := key.(ed25519.PrivateKey); ok {
			return private, nil
		}
		return nil, errors.New("holds no Ed25519 key (make one: openssl genpkey -algorithm ed25519)")
	}
	seed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("is neither PEM nor base64 of 32 bytes (make one: openssl genpkey -algorithm ed25519)")
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func checkIPConf(c *Config, bad report) {
	p := &c.IPConf
	region := func(key string, r im.Region) {
		if !slices.Contains(c.Regions(), r) && r != c.Region {
			bad(key, "origins lists no log of region %q", r)
		}
	}
	network := func(key, cidr string) {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			bad(key, "%q is not a network, such as 10.0.0.0/8", cidr)
		}
	}
	if p.ProxyProtocol && len(p.TrustedProxies) == 0 {
		bad("ipconf.proxy_protocol", "nobody is trusted to send it: set ipconf.trusted_proxies")
	}
	if p.Reserve < 0 || p.Reserve >= 1 {
		bad("ipconf.reserve", "%v is not from 0 to below 1", p.Reserve)
	}
	for _, r := range slices.Sorted(maps.Keys(p.Places)) {
		key := "ipconf.places." + string(r)
		region(key, r)
		if _, err := ParsePlace(p.Places[r]); err != nil {
			bad(key, "%v", err)
		}
	}
	for _, cidr := range slices.Sorted(maps.Keys(p.Overrides)) {
		key := "ipconf.overrides." + cidr
		network(key, cidr)
		region(key, p.Overrides[cidr])
	}
	for _, name := range slices.Sorted(maps.Keys(p.Networks)) {
		key := "ipconf.networks." + name
		if _, err := ParseASN(name); err != nil {
			bad(key, "%v", err)
		}
		region(key, p.Networks[name])
	}
	for i, rule := range p.Residency {
		key := fmt.Sprintf("ipconf.residency[%d]", i)
		if len(rule.Regions) == 0 {
			bad(key+".regions", "name at least one region that is allowed")
		}
		if len(rule.Countries)+len(rule.Networks)+len(rule.Homes) == 0 {
			bad(key, "applies to nobody: set countries, networks or homes")
		}
		if len(rule.Countries) > 0 && p.Geo.City == "" {
			bad(key+".countries", "needs ipconf.geo.city, which tells the country of an address")
		}
		for n, country := range rule.Countries {
			if len(country) != 2 || strings.ToUpper(country) != country {
				bad(fmt.Sprintf("%s.countries[%d]", key, n), "%q is not a country's code, such as DE", country)
			}
		}
		for n, cidr := range rule.Networks {
			network(fmt.Sprintf("%s.networks[%d]", key, n), cidr)
		}
		for n, r := range append(slices.Clone(rule.Regions), rule.Homes...) {
			region(fmt.Sprintf("%s.regions[%d]", key, n), r)
		}
	}
	if p.Canary.Percent < 0 || p.Canary.Percent > 100 {
		bad("ipconf.canary.percent", "%v is not from 0 to 100", p.Canary.Percent)
	}
	if p.Canary.Percent > 0 && p.Canary.Version == "" {
		bad("ipconf.canary.version", "must be set with percent %v", p.Canary.Percent)
	}
	for i, v := range p.Versions {
		if v.Version == "" || v.Weight < 0 || v.Weight > 100 {
			bad(fmt.Sprintf("ipconf.versions[%d]", i), "want a version, and a weight from 0 to 100")
		}
	}
	if p.Signing.ID != "" && p.Signing.Key.Reveal() == "" {
		bad("ipconf.signing.key", "must be set, or key_file")
	} else if p.Signing.Key.Reveal() != mask {
		if _, err := p.Signing.PrivateKey(); err != nil {
			bad("ipconf.signing.key", "%v", err)
		}
	}
}
