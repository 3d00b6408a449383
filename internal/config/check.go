package config

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Check tells what of a configuration that was put together in code cannot be. Load has checked what it returns.
func Check(c *Config) error {
	l := &loader{cfg: c, file: "configuration", sources: map[string]string{}}
	check(c, l.problem)
	return l.err()
}

// CheckFor tells what a service (ipconf, gateway, router, imserver, replicator) misses.
func CheckFor(c *Config, service string) error {
	l := &loader{cfg: c, file: "for " + service, sources: map[string]string{}}
	needs := func(key string, has bool, why string) {
		if !has {
			l.problem(key, "must be set: %s", why)
		}
	}
	if c.Discovery.Kind != "consul" {
		l.problem("discovery.kind", "must be consul: memory is of one process, which finds nobody else")
	}
	needs("rpc", c.RPC != "", "other services call it")
	needs("tls.cert", c.TLS.Cert != "", "calls between services are encrypted, and both ends show a certificate: set tls.ca, tls.cert and tls.key")
	brokers := func() { needs("log.brokers", len(c.Log.Brokers) > 0, "it reads and writes the region's logs") }
	switch service {
	case "ipconf":
		needs("listen", c.Listen != "", "clients ask it over HTTP")
	case "gateway":
		needs("listen", c.Listen != "", "clients connect to it")
		needs("auth.keys", len(c.Auth.Keys) > 0, "without a key no token is good")
		if c.Gateway.TLS.Cert != "" && strings.HasPrefix(c.PublicURL, "http:") {
			l.problem("public_url", "%s is not https, and with gateway.tls the gateway speaks nothing else", c.PublicURL)
		}
	case "router":
		brokers()
		needs("routes.addrs", len(c.Routes.Addrs) > 0, "it keeps the region's routes in Redis")
	case "imserver":
		brokers()
		needs("timelines.urls", len(c.Timelines.URLs) > 0, "it keeps the region's timelines in PostgreSQL")
	case "replicator":
		brokers()
		for _, r := range c.Regions() {
			if r != c.Region {
				needs("replicator.peers."+string(r), c.Replicator.Peers[r] != "" || c.Replicator.Via[r] != "", "origins names a log of region "+string(r)+", which comes over a link")
			}
		}
	default:
		return fmt.Errorf("config: %q is no service: want ipconf, gateway, router, imserver or replicator", service)
	}
	return l.err()
}

// report notes what is wrong with a key.
type report func(key, format string, args ...any)

// check holds every value to what it can be.
func check(c *Config, bad report) {
	checkPlace(c, bad)
	checkAddresses(c, bad)
	checkBackends(c, bad)
	checkAuth(&c.Auth, bad)
	checkLimits(c, bad)
	checkReplicator(c, bad)
	checkIPConf(c, bad)
	if r := c.Telemetry.SampleRatio; r < 0 || r > 1 {
		bad("telemetry.sample_ratio", "%v is not between 0 and 1", r)
	}
	oneOf(bad, "telemetry.log_level", c.Telemetry.LogLevel, "debug", "info", "warn", "error")
	eachSecret(reflect.ValueOf(c).Elem(), "", func(key string, secret, _ reflect.Value) {
		if secret.String() == mask {
			bad(key, "is the mask that stands for a secret in print, not a secret")
		}
	})
}

func checkPlace(c *Config, bad report) {
	if c.Region == "" {
		bad("region", "must be set")
		return
	}
	if _, err := im.ParseRegion(string(c.Region)); err != nil {
		bad("region", "%v", err)
		return
	}
	if c.OriginEpoch < 1 {
		bad("origin_epoch", "must be 1 or more")
	}
	seen := map[im.Origin]bool{}
	for i, o := range c.Origins {
		key := fmt.Sprintf("origins[%d]", i)
		if _, err := im.ParseOrigin(string(o)); err != nil {
			bad(key, "%v", err)
		}
		if seen[o] {
			bad(key, "%s is listed twice", o)
		}
		seen[o] = true
	}
	if len(c.Origins) > 0 && !seen[c.Origin()] {
		bad("origins", "does not list the own origin, %s (region %s in epoch %d)", c.Origin(), c.Region, c.OriginEpoch)
	}
	if c.Partitions < 1 || c.Partitions > 1024 {
		bad("partitions", "%d is not between 1 and 1024", c.Partitions)
	}
}

func checkAddresses(c *Config, bad report) {
	used := map[string]string{}
	for _, a := range [][2]string{{"listen", c.Listen}, {"rpc", c.RPC}, {"admin", c.Admin}} {
		key, addr := a[0], a[1]
		if addr == "" {
			continue
		}
		if why := badAddr(addr, true); why != "" {
			bad(key, "%s", why)
			continue
		}
		if _, port, _ := net.SplitHostPort(addr); port != "0" {
			if other, taken := used[addr]; taken {
				bad(key, "%s is the address of %s too", addr, other)
			}
			used[addr] = key
		}
	}
	checkClientTLS(&c.Gateway.TLS, bad)
	checkQUIC(&c.Gateway, bad)
	if c.Advertise != "" {
		if why := badAddr(c.Advertise, false); why != "" {
			bad("advertise", "%s", why)
		}
	}
	if c.PublicURL != "" {
		if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			bad("public_url", "%q is not a URL of http or https", c.PublicURL)
		} else if u.RawQuery != "" || u.Fragment != "" {
			bad("public_url", "%q must end before ? and #", c.PublicURL)
		}
	}
	for _, list := range []struct {
		key   string
		items []string
	}{{"gateway.web_origins", c.Gateway.WebOrigins}, {"ipconf.web_origins", c.IPConf.WebOrigins}} {
		for i, o := range list.items {
			if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
				bad(fmt.Sprintf("%s[%d]", list.key, i), "%q is not an origin, such as https://chat.example, nor *", o)
			}
		}
	}
	for _, list := range []struct {
		key   string
		items []string
	}{
		{"gateway.trusted_proxies", c.Gateway.TrustedProxies},
		{"ipconf.trusted_proxies", c.IPConf.TrustedProxies},
		{"ipconf.batch_from", c.IPConf.BatchFrom},
	} {
		for i, p := range list.items {
			if _, err := netip.ParsePrefix(p); err != nil {
				bad(fmt.Sprintf("%s[%d]", list.key, i), "%q is not a network, such as 10.0.0.0/8", p)
			}
		}
	}
}

// checkClientTLS reads the pair as a gateway does at start.
func checkClientTLS(t *ClientTLS, bad report) {
	if (t.Cert == "") != (t.Key == "") {
		bad("gateway.tls", "cert and key go together: set both or none")
		return
	}
	checkPair("gateway.tls", t.Cert, t.Key, bad)
}

// checkPair reads a certificate and its key, if a section names them.
func checkPair(section, cert, key string, bad report) {
	if cert == "" {
		return
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	switch {
	case err != nil:
		bad(section, "%s and %s are no pair: %v", cert, key, err)
	case time.Now().After(pair.Leaf.NotAfter):
		bad(section+".cert", "the certificate in %s was good until %s: renew it", cert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
}

// checkAuthority reads the certificates that a section trusts, if it names them.
func checkAuthority(section, ca string, bad report) {
	if ca == "" {
		return
	}
	if text, err := os.ReadFile(ca); err != nil {
		bad(section+".ca", "%v", err)
	} else if !x509.NewCertPool().AppendCertsFromPEM(text) {
		bad(section+".ca", "%s holds no certificate in PEM", ca)
	}
}

// checkDialTLS holds a section that says how a backend is reached over TLS to what can be used.
func checkDialTLS(section string, enabled bool, ca, cert, key string, bad report) {
	if !enabled {
		if ca != "" || cert != "" || key != "" {
			bad(section+".enabled", "must be true for the other keys of %s to mean anything", section)
		}
		return
	}
	checkAuthority(section, ca, bad)
	if (cert == "") != (key == "") {
		bad(section, "cert and key go together: set both or none")
		return
	}
	checkPair(section, cert, key, bad)
}

// checkQUIC holds the address of WebTransport to what a gateway can serve and clients can find.
func checkQUIC(g *Gateway, bad report) {
	if g.QUIC == "" {
		return
	}
	if why := badAddr(g.QUIC, true); why != "" {
		bad("gateway.quic", "%s", why)
	} else if _, port, _ := net.SplitHostPort(g.QUIC); port == "0" && g.Handoff != "" {
		bad("gateway.quic", "%q: choose a port: the process that takes over by gateway.handoff needs the same", g.QUIC)
	}
	if g.TLS.Cert == "" {
		bad("gateway.quic", "needs gateway.tls.cert and gateway.tls.key: there is no QUIC without TLS, and none that ends outside")
	}
}

// badAddr tells what is wrong with host:port; one to listen on may lack the host and have port 0.
func badAddr(addr string, listen bool) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Sprintf("%q is not of the form host:port", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Sprintf("%q: the port must be a number up to 65535", addr)
	}
	if listen {
		return ""
	}
	if n == 0 {
		return fmt.Sprintf("%q: port 0 cannot be called", addr)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return fmt.Sprintf("%q: needs a host that others can call", addr)
	}
	return ""
}

func checkBackends(c *Config, bad report) {
	addrs := func(key string, list []string) {
		for i, a := range list {
			if why := badAddr(a, false); why != "" {
				bad(fmt.Sprintf("%s[%d]", key, i), "%s", why)
			}
		}
	}
	addrs("log.brokers", c.Log.Brokers)
	addrs("routes.addrs", c.Routes.Addrs)
	for i, u := range c.Timelines.URLs {
		key := fmt.Sprintf("timelines.urls[%d]", i)
		switch {
		case u.url == nil || u.url.Scheme != "postgres" && u.url.Scheme != "postgresql" || u.url.Host == "":
			bad(key, "%q is not of the form postgres://user@host:port/database", u.String())
		case strings.Trim(u.url.Path, "/") == "":
			bad(key, "%q names no database", u.String())
		}
	}
	oneOf(bad, "log.sasl.mechanism", c.Log.SASL.Mechanism, "", "plain", "scram-sha-256", "scram-sha-512")
	if s := c.Log.SASL; s.Mechanism != "" {
		if s.User == "" {
			bad("log.sasl.user", "must be set with mechanism %s", s.Mechanism)
		}
		if s.Password == "" {
			bad("log.sasl.password", "must be set, or password_file, with mechanism %s", s.Mechanism)
		}
	}
	if c.Log.MinInSync > c.Log.Replication {
		bad("log.min_in_sync", "%d is more than log.replication, %d: no append would succeed", c.Log.MinInSync, c.Log.Replication)
	}
	if c.Log.Gather < 0 {
		bad("log.gather", "%v: must be 0 or more", c.Log.Gather)
	}
	checkDialTLS("log.tls", c.Log.TLS.Enabled, c.Log.TLS.CA, c.Log.TLS.Cert, c.Log.TLS.Key, bad)
	d := c.Discovery.TLS
	checkDialTLS("discovery.tls", d.Enabled, d.CA, d.Cert, d.Key, bad)
	if d.ServerName != "" && !d.Enabled {
		bad("discovery.tls.enabled", "must be true for server_name to mean anything")
	}
	oneOf(bad, "discovery.kind", c.Discovery.Kind, "memory", "consul")
	if p := c.Discovery.Prefix; strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		bad("discovery.prefix", "%q: may hold a to z, 0 to 9 and -", p)
	}
	if c.Discovery.Kind == "consul" {
		if why := badAddr(c.Discovery.Address, false); why != "" {
			bad("discovery.address", "%s", why)
		}
	}
	if t := c.TLS; t.CA != "" && t.Cert != "" && t.Key != "" {
		checkAuthority("tls", t.CA, bad)
		checkPair("tls", t.Cert, t.Key, bad)
	} else if t != (TLS{}) {
		bad("tls", "ca, cert and key go together: set all three or none")
	}
}

func checkAuth(a *Auth, bad report) {
	if a.Leeway < 0 || a.Leeway > 5*time.Minute {
		bad("auth.leeway", "%v is not between 0s and 5m", a.Leeway)
	}
	seen := map[string]bool{}
	for i, k := range a.Keys {
		key := fmt.Sprintf("auth.keys[%d]", i)
		if k.ID == "" {
			bad(key+".id", "must be set: tokens name the key they are signed with")
		} else if seen[k.ID] {
			bad(key+".id", "%q is the id of two keys", k.ID)
		}
		seen[k.ID] = true
		oneOf(bad, key+".alg", k.Alg, "EdDSA", "HS256")
		switch secret := k.Key.Reveal(); {
		case secret == "":
			bad(key+".key", "must be set, or key_file")
		case k.Alg == "HS256" && secret != mask:
			if raw, err := base64.StdEncoding.DecodeString(secret); err != nil {
				bad(key+".key", "is not base64")
			} else if len(raw) < 32 {
				bad(key+".key", "holds %d bytes: want at least 32, or it can be guessed", len(raw))
			}
		case k.Alg == "EdDSA" && secret != mask:
			if why := badPublicKey(secret); why != "" {
				bad(key+".key", "%s", why)
			}
		}
	}
}

// badPublicKey tells why a text is no public key of Ed25519, as a gateway reads them; empty if it is one.
func badPublicKey(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err != nil || len(raw) != ed25519.PublicKeySize {
			return fmt.Sprintf("is no public key: want PEM, or base64 of %d bytes", ed25519.PublicKeySize)
		}
		return ""
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Sprintf("is PEM of %q and holds no public key: %v", block.Type, err)
	}
	if _, ok := key.(ed25519.PublicKey); !ok {
		return fmt.Sprintf("is a key of another kind (%T): want Ed25519", key)
	}
	return ""
}

// checkSockets holds the options of a gateway's sockets to what the kernel takes: seconds, and buffers that hold a frame.
func checkSockets(g *Gateway, bad report) {
	if v := g.TCPKeepAlive; v != 0 && v < time.Second {
		bad("gateway.tcp_keepalive", "%v: must be 0, or 1s or more", v)
	}
	if v := g.TCPUserTimeout; v != 0 && v < time.Second {
		bad("gateway.tcp_user_timeout", "%v: must be 0, or 1s or more", v)
	}
	if v := g.SendBuffer; v != 0 && v < 4096 {
		bad("gateway.send_buffer", "%d: must be 0, or 4096 bytes or more", v)
	}
	if v := g.ReceiveBuffer; v != 0 && v < 4096 {
		bad("gateway.receive_buffer", "%d: must be 0, or 4096 bytes or more", v)
	}
}

func checkLimits(c *Config, bad report) {
	ints := map[string]int{
		"log.replication": c.Log.Replication, "log.min_in_sync": c.Log.MinInSync, "timelines.max_conns": c.Timelines.MaxConns,
		"gateway.max_conns": c.Gateway.MaxConns, "gateway.max_conns_per_ip": c.Gateway.MaxConnsPerIP,
		"gateway.max_text": c.Gateway.MaxText, "gateway.max_polls": c.Gateway.MaxPolls, "gateway.burst": c.Gateway.Burst, "gateway.max_logins": c.Gateway.MaxLogins,
		"gateway.handshake_burst": c.Gateway.HandshakeBurst, "gateway.login_burst": c.Gateway.LoginBurst, "gateway.failure_burst": c.Gateway.FailureBurst,
		"gateway.max_quic":         c.Gateway.MaxQUIC,
		"gateway.tls.handshakes":   c.Gateway.TLS.Handshakes,
		"ipconf.policy.race_width": c.IPConf.Policy.RaceWidth,
		"imserver.max_members":     c.IMServer.MaxMembers, "imserver.burst": c.IMServer.Burst, "imserver.batch_rows": c.IMServer.BatchRows,
	}
	for _, key := range slices.Sorted(maps.Keys(ints)) {
		if v := ints[key]; v < 1 {
			bad(key, "%d: must be 1 or more", v)
		}
	}
	for _, platform := range slices.Sorted(maps.Keys(c.Router.DeviceLimits)) {
		if n := c.Router.DeviceLimits[platform]; n < 1 {
			bad("router.device_limits."+platform, "%d: must be 1 or more; a platform without a limit is left out", n)
		}
	}
	if c.Gateway.MaxMemory < -1 {
		bad("gateway.max_memory", "%d: must be -1 (any) or more", c.Gateway.MaxMemory)
	}
	if v := c.Gateway.MaxCPU; v < 0 || v > 1 {
		bad("gateway.max_cpu", "%v: must be 0 to 1", v)
	}
	if c.Gateway.ProxyProtocol && len(c.Gateway.TrustedProxies) == 0 {
		bad("gateway.proxy_protocol", "nobody is trusted to send it: set gateway.trusted_proxies")
	}
	checkSockets(&c.Gateway, bad)
	rates := map[string]float64{
		"gateway.rate": c.Gateway.Rate, "gateway.handshake_rate": c.Gateway.HandshakeRate, "gateway.login_rate": c.Gateway.LoginRate, "gateway.failure_rate": c.Gateway.FailureRate,
		"imserver.rate": c.IMServer.Rate, "ipconf.address_rate": c.IPConf.AddressRate, "ipconf.gateway_rate": c.IPConf.GatewayRate,
	}
	for _, key := range slices.Sorted(maps.Keys(rates)) {
		if v := rates[key]; v <= 0 {
			bad(key, "%v: must be more than 0", v)
		}
	}
	g, p := &c.Gateway, &c.IPConf.Policy
	times := map[string]time.Duration{
		"timelines.connect_timeout": c.Timelines.ConnectTimeout, "timelines.statement_timeout": c.Timelines.StatementTimeout,
		"timelines.lock_timeout": c.Timelines.LockTimeout, "timelines.conn_lifetime": c.Timelines.ConnLifetime,
		"log.linger": c.Log.Linger, "start_wait": c.StartWait, "drain": c.Drain, "discovery.ttl": c.Discovery.TTL,
		"gateway.hello_timeout": g.HelloTimeout, "gateway.call_timeout": g.CallTimeout, "gateway.heartbeat": g.Heartbeat,
		"gateway.idle_timeout": g.IdleTimeout, "gateway.poll_hold": g.PollHold, "gateway.resume_window": g.ResumeWindow,
		"gateway.move_timeout": g.MoveTimeout,
		"ipconf.ttl":           c.IPConf.TTL, "ipconf.dead_after": c.IPConf.DeadAfter, "ipconf.drain_over": c.IPConf.DrainOver,
		"ipconf.return_over": c.IPConf.ReturnOver, "ipconf.geo.every": c.IPConf.Geo.Every,
		"ipconf.policy.heartbeat_min": p.HeartbeatMin, "ipconf.policy.heartbeat_max": p.HeartbeatMax,
		"ipconf.policy.connect_timeout": p.ConnectTimeout, "ipconf.policy.race_stagger": p.RaceStagger,
		"ipconf.policy.backoff_base": p.BackoffBase, "ipconf.policy.backoff_cap": p.BackoffCap,
		"ipconf.policy.poll_fallback": p.PollFallback, "ipconf.policy.fallback_pull": p.FallbackPull,
		"ipconf.policy.mark_interval": p.MarkInterval, "ipconf.policy.push_ack": p.PushAck,
		"router.heartbeat_timeout": c.Router.HeartbeatTimeout, "router.silence": c.Router.Silence, "router.claim_timeout": c.Router.ClaimTimeout,
		"imserver.append_timeout": c.IMServer.AppendTimeout, "imserver.global_timeout": c.IMServer.GlobalTimeout,
		"imserver.max_skew": c.IMServer.MaxSkew, "imserver.batch_wait": c.IMServer.BatchWait,
		"imserver.commit_pace": c.IMServer.CommitPace, "imserver.fetch_pace": c.IMServer.FetchPace,
		"imserver.interest_after": c.IMServer.InterestAfter,
		"replicator.fetch_pace":   c.Replicator.FetchPace, "replicator.held_linger": c.Replicator.HeldLinger,
		"replicator.link_timeout": c.Replicator.LinkTimeout, "replicator.join_lag": c.Replicator.JoinLag,
	}
	for _, key := range slices.Sorted(maps.Keys(times)) {
		if v := times[key]; v < time.Millisecond {
			bad(key, "%v: must be 1ms or more", v)
		}
	}
	if g.MaxFrame < 1024 {
		bad("gateway.max_frame", "%d: must be 1024 bytes or more, for a hello to fit", g.MaxFrame)
	}
	if g.MaxText >= g.MaxFrame {
		bad("gateway.max_text", "%d does not fit into a frame of gateway.max_frame, %d", g.MaxText, g.MaxFrame)
	}
	if g.IdleTimeout <= g.Heartbeat {
		bad("gateway.idle_timeout", "%v is not longer than gateway.heartbeat, %v: every quiet client would be closed", g.IdleTimeout, g.Heartbeat)
	}
	if p.HeartbeatMin > p.HeartbeatMax {
		bad("ipconf.policy.heartbeat_min", "%v is longer than heartbeat_max, %v", p.HeartbeatMin, p.HeartbeatMax)
	}
	if p.BackoffBase > p.BackoffCap {
		bad("ipconf.policy.backoff_base", "%v is longer than backoff_cap, %v", p.BackoffBase, p.BackoffCap)
	}
	if p.BackoffJitter <= 0 || p.BackoffJitter > 1 {
		bad("ipconf.policy.backoff_jitter", "%v is not above 0 and up to 1: clients without jitter return all at once", p.BackoffJitter)
	}
}

func checkReplicator(c *Config, bad report) {
	for _, r := range slices.Sorted(maps.Keys(c.Replicator.Peers)) {
		key := "replicator.peers." + string(r)
		if _, err := im.ParseRegion(string(r)); err != nil {
			bad(key, "%v", err)
		}
		if r == c.Region {
			bad(key, "is this region: a region is no peer of itself")
		}
		if why := badAddr(c.Replicator.Peers[r], false); why != "" {
			bad(key, "%s", why)
		}
		if !slices.Contains(c.Regions(), r) {
			bad(key, "origins lists no log of this region, so nothing would come over the link")
		}
	}
	for _, r := range slices.Sorted(maps.Keys(c.Replicator.Via)) {
		key, via := "replicator.via."+string(r), c.Replicator.Via[r]
		switch {
		case r == c.Region:
			bad(key, "is this region: it has its log itself")
		case !slices.Contains(c.Regions(), r):
			bad(key, "origins lists no log of this region, so nothing would come over the link")
		case via == r:
			bad(key, "is %s itself: leave it out, and name its address in replicator.peers", r)
		case c.Replicator.Peers[via] == "":
			bad(key, "%q is no region of replicator.peers: its copy cannot be reached", via)
		case c.Replicator.Via[via] != "":
			bad(key, "%q is reached via %s itself: a log is passed on once", via, c.Replicator.Via[via])
		}
	}
	for i, r := range c.Replicator.StandIns {
		if key := fmt.Sprintf("replicator.stand_ins[%d]", i); r != c.Region && c.Replicator.Peers[r] == "" {
			bad(key, "%q is no region of replicator.peers: its copies cannot be reached", r)
		} else if slices.Contains(c.Replicator.StandIns[:i], r) {
			bad(key, "%q is named twice", r)
		}
	}
	if c.Replicator.StandInAfter < time.Second {
		bad("replicator.stand_in_after", "%v: must be 1s or more: links come and go while others are restarted", c.Replicator.StandInAfter)
	}
	if c.Replicator.WindowBytes < 64<<10 {
		bad("replicator.window_bytes", "%d: must be 65536 or more", c.Replicator.WindowBytes)
	}
	if b := c.Replicator.BatchBytes; b < 1024 || b > c.Replicator.WindowBytes {
		bad("replicator.batch_bytes", "%d is not between 1024 and window_bytes, %d", b, c.Replicator.WindowBytes)
	}
	if c.Replicator.Processors < 0 {
		bad("replicator.processors", "%d: must be 1 or more, or 0 for all there are", c.Replicator.Processors)
	}
	oneOf(bad, "replicator.compression", c.Replicator.Compression, "capped", "always", "never")
	for i := range c.Replicator.Caps {
		at := &c.Replicator.Caps[i]
		key := fmt.Sprintf("replicator.caps[%d]", i)
		if _, ok := c.Replicator.Peers[at.Peer]; !ok {
			bad(key+".peer", "%q is no peer", at.Peer)
		}
		if _, _, err := at.Hours(); err != nil {
			bad(key, "%v", err)
		}
		if at.BytesPerSecond < 1000 {
			bad(key+".bytes_per_second", "%d: must be 1000 or more", at.BytesPerSecond)
		}
	}
}

func oneOf(bad report, key, value string, want ...string) {
	if slices.Contains(want, value) {
		return
	}
	named := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return w == "" })
	bad(key, "%q is not one of %s", value, strings.Join(named, ", "))
}
