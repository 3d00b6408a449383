package app

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/gateway"
	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/geo"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/router"
)

// logRetention must be longer than the longest outage to survive: a link that falls behind it halts.
const logRetention = 7 * 24 * time.Hour

// SiteOf turns configuration into what the builders take.
func SiteOf(c *config.Config) (Site, error) {
	if err := config.Check(c); err != nil {
		return Site{}, err
	}
	s := Site{
		Region: c.Region, Origin: c.Origin(), Regions: c.Regions(), Origins: c.Origins, Partitions: c.Partitions,
		Topic: kafka.TopicSpec{Replication: c.Log.Replication, MinISR: c.Log.MinInSync, Retention: logRetention},
		Peers: c.Replicator.Peers, JoinLag: c.Replicator.JoinLag,
	}
	if len(s.Origins) == 0 {
		s.Origins, s.Regions = []im.Origin{s.Origin}, []im.Region{s.Region}
	}
	logTLS, err := dialTLS("log.tls", c.Log.TLS.Enabled, c.Log.TLS.CA, c.Log.TLS.Cert, c.Log.TLS.Key)
	if err != nil {
		return Site{}, err
	}
	s.Kafka = kafka.Config{
		Brokers: c.Log.Brokers, TLS: logTLS, Linger: c.Log.Linger, Gather: c.Log.Gather,
		SASL: kafka.SASL{Mechanism: c.Log.SASL.Mechanism, User: c.Log.SASL.User, Password: c.Log.SASL.Password.Reveal()},
	}
	for _, u := range c.Timelines.URLs {
		s.Timelines.URLs = append(s.Timelines.URLs, u.Reveal())
	}
	s.Timelines.MaxConns = c.Timelines.MaxConns
	s.Timelines.ConnectTimeout, s.Timelines.ConnLifetime = c.Timelines.ConnectTimeout, c.Timelines.ConnLifetime
	s.Timelines.StatementTimeout, s.Timelines.LockTimeout = c.Timelines.StatementTimeout, c.Timelines.LockTimeout
	d := c.Discovery.TLS
	discoveryTLS, err := dialTLS("discovery.tls", d.Enabled, d.CA, d.Cert, d.Key)
	if err != nil {
		return Site{}, err
	}
	if discoveryTLS != nil {
		discoveryTLS.ServerName = d.ServerName
	}
	s.Consul = consul.Config{
		Address: c.Discovery.Address, TLS: discoveryTLS, Token: c.Discovery.Token.Reveal(), Region: c.Region, Regions: s.Regions,
		Prefix: c.Discovery.Prefix, TTL: c.Discovery.TTL,
	}
	s.PublicURL = c.PublicURL
	s.ClientCert, s.ClientKey = c.Gateway.TLS.Cert, c.Gateway.TLS.Key
	s.Redis = &goredis.UniversalOptions{
		Addrs: c.Routes.Addrs, IsClusterMode: c.Routes.Cluster, Username: c.Routes.User, Password: c.Routes.Password.Reveal(),
	}
	if c.Routes.TLS {
		s.Redis.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	s.RedisPrefix = string(c.Region)
	s.Tokens = auth.Config{Issuer: c.Auth.Issuer, Leeway: c.Auth.Leeway}
	for _, k := range c.Auth.Keys {
		key := auth.Key{ID: k.ID, Algorithm: k.Alg}
		if k.Alg == auth.EdDSA {
			key.Public = k.Key.Reveal()
		} else {
			key.Secret = k.Key.Reveal()
		}
		s.Tokens.Keys = append(s.Tokens.Keys, key)
	}
	return s, s.tune(c)
}

// orNever is a time that 0 turns off, for a config in which 0 is the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// takeOverGrace is several times what discovery takes to tell others of an instance.
const takeOverGrace = 200 * time.Millisecond

// tune sets what each service is told beside who and where it is.
func (s *Site) tune(c *config.Config) error {
	gatewayProxies, err := prefixes(c.Gateway.TrustedProxies)
	if err != nil {
		return fmt.Errorf("gateway.trusted_proxies: %w", err)
	}
	g := c.Gateway
	s.Gateway = gateway.Config{
		URL: c.PublicURL, Origins: g.WebOrigins, TrustedProxies: gatewayProxies, ProxyProtocol: g.ProxyProtocol,
		HelloTimeout: g.HelloTimeout, CallTimeout: g.CallTimeout, Heartbeat: g.Heartbeat, IdleTimeout: g.IdleTimeout,
		ResumeWindow: g.ResumeWindow, MoveTimeout: g.MoveTimeout, DrainTimeout: c.Drain, Bandwidth: g.Bandwidth, MaxConns: g.MaxConns, MaxConnsPerIP: g.MaxConnsPerIP,
		MaxFrame: g.MaxFrame, MaxText: g.MaxText, Rate: g.Rate, Burst: g.Burst,
		MaxLogins: g.MaxLogins, HandshakeRate: g.HandshakeRate, HandshakeBurst: g.HandshakeBurst, LoginRate: g.LoginRate, LoginBurst: g.LoginBurst,
		FailureRate: g.FailureRate, FailureBurst: g.FailureBurst, MaxMemory: g.MaxMemory, MaxCPU: g.MaxCPU, Handoff: g.Handoff,
		KeepAlive: orNever(g.TCPKeepAlive), UserTimeout: orNever(g.TCPUserTimeout), SendBuffer: g.SendBuffer, ReceiveBuffer: g.ReceiveBuffer,
		MaxPolls: g.MaxPolls, PollHold: g.PollHold, MaxHandshakes: g.TLS.Handshakes,
		QUIC: g.QUIC, MaxQUIC: g.MaxQUIC,
	}
	if s.IPConf, err = ipconfOf(&c.IPConf); err != nil {
		return err
	}
	s.RouteSnapshot = c.Router.Snapshot
	s.Geo = geo.Config{City: c.IPConf.Geo.City, ASN: c.IPConf.Geo.ASN, Every: c.IPConf.Geo.Every}
	s.Router = router.Config{
		HeartbeatTimeout: c.Router.HeartbeatTimeout, Silence: c.Router.Silence, ClaimTimeout: c.Router.ClaimTimeout,
		DeviceLimits: make(map[im.Platform]int, len(c.Router.DeviceLimits)),
	}
	for platform, n := range c.Router.DeviceLimits {
		s.Router.DeviceLimits[im.Platform(platform)] = n
	}
	i := c.IMServer
	s.IMServer = imserver.Config{
		MaxText: g.MaxText, MaxMembers: i.MaxMembers, Rate: i.Rate, Burst: i.Burst,
		AppendTimeout: i.AppendTimeout, GlobalTimeout: i.GlobalTimeout, MaxSkew: i.MaxSkew,
		BatchRows: i.BatchRows, BatchWait: i.BatchWait, CommitPace: i.CommitPace, JoinGrace: takeOverGrace, InterestAfter: i.InterestAfter,
	}
	s.ApplyPace, s.LinkPace = i.FetchPace, c.Replicator.FetchPace
	s.ClockFile = i.ClockFile
	s.Replicator = replicator.Config{
		WindowBytes: c.Replicator.WindowBytes, BatchBytes: c.Replicator.BatchBytes, LinkTimeout: c.Replicator.LinkTimeout,
		HeldLinger:  c.Replicator.HeldLinger,
		Compression: replicator.Compression(c.Replicator.Compression),
		Via:         c.Replicator.Via, StandInAfter: c.Replicator.StandInAfter,
		StandIns: slices.DeleteFunc(slices.Clone(c.Replicator.StandIns), func(r im.Region) bool { return r == c.Region }),
	}
	for i := range c.Replicator.Caps {
		at := &c.Replicator.Caps[i]
		from, to, err := at.Hours()
		if err != nil {
			return fmt.Errorf("replicator.caps[%d]: %w", i, err)
		}
		s.Replicator.Caps = append(s.Replicator.Caps, replicator.Cap{Peer: at.Peer, From: from, To: to, BytesPerSecond: at.BytesPerSecond})
	}
	return nil
}

func prefixes(cidrs []string) ([]netip.Prefix, error) {
	list := make([]netip.Prefix, 0, len(cidrs))
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// dialTLS reads the files by which a section says how a backend is reached; nil: without TLS.
func dialTLS(section string, enabled bool, ca, cert, key string) (*tls.Config, error) {
	if !enabled {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("%s.ca: %w", section, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s.ca: %s holds no certificate", section, ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s.cert: %w", section, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
