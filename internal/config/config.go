// Package config reads what one process of Antipode is told: one YAML file, then ANTIPODE_* variables, then flags, each
// overriding the one before. It is strict: a key it does not know, or a value that cannot be, is an error that names the
// key and where it was set. Defaults stand in one function. Secrets never appear in what it prints.
//
// One schema serves every service; each reads the sections it needs, and CheckFor tells what one of them misses.
//
// A key's variable is its path in upper case behind ANTIPODE_: log.brokers is ANTIPODE_LOG_BROKERS. There, and in flags,
// a list is separated by commas and a map is written key=value,key=value. Durations are written as Go writes them: 5s,
// 1m30s, 200ms. Sizes are bytes.
package config

import (
	"fmt"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Config is everything a process is told.
type Config struct {
	Region      im.Region   `yaml:"region"`             // where it runs; must be set
	Instance    string      `yaml:"instance,omitempty"` // unique within region and service; empty: the machine's name. Of two processes of one name the one that registered first ends with an error
	OriginEpoch uint32      `yaml:"origin_epoch"`       // grows when the region starts over with an empty log
	Origins     []im.Origin `yaml:"origins"`            // every origin that is followed, the own included; empty: the own
	Partitions  int         `yaml:"partitions"`         // of each topic, the same in every region

	Listen    string        `yaml:"listen"`               // public server of gateways and ipconfs
	RPC       string        `yaml:"rpc"`                  // calls between services
	Admin     string        `yaml:"admin"`                // health, metrics, pprof: never public
	Advertise string        `yaml:"advertise,omitempty"`  // host:port by which other services reach rpc; empty: rpc's host, or the machine's name where that is any
	PublicURL string        `yaml:"public_url,omitempty"` // base URL by which clients reach listen; empty: made of listen
	StartWait time.Duration `yaml:"start_wait"`           // how long a start waits for backends that do not answer
	Drain     time.Duration `yaml:"drain"`                // how long a stop may take

	Log        Log        `yaml:"log"`
	Timelines  Timelines  `yaml:"timelines"`
	Routes     Routes     `yaml:"routes"`
	Discovery  Discovery  `yaml:"discovery"`
	TLS        TLS        `yaml:"tls"`
	Auth       Auth       `yaml:"auth"`
	Gateway    Gateway    `yaml:"gateway"`
	IPConf     IPConf     `yaml:"ipconf"`
	Router     Router     `yaml:"router"`
	IMServer   IMServer   `yaml:"imserver"`
	Replicator Replicator `yaml:"replicator"`
	Telemetry  Telemetry  `yaml:"telemetry"`
}

// Origin is the origin under which the region accepts.
func (c *Config) Origin() im.Origin { return im.NewOrigin(c.Region, c.OriginEpoch) }

// Regions lists the regions of the followed origins, once each, in the order of Origins.
func (c *Config) Regions() []im.Region {
	var regions []im.Region
	seen := map[im.Region]bool{}
	for _, o := range c.Origins {
		if r := o.Region(); !seen[r] {
			seen[r] = true
			regions = append(regions, r)
		}
	}
	return regions
}

// Log is the region's Kafka.
type Log struct {
	Brokers     []string `yaml:"brokers"` // host:port of some
	TLS         LogTLS   `yaml:"tls"`
	SASL        SASL     `yaml:"sasl"`
	Replication int      `yaml:"replication"` // of topics, when they are created and checked
	MinInSync   int      `yaml:"min_in_sync"` // replicas that an append waits for

	Linger time.Duration `yaml:"linger"` // appends are gathered this long while a request to their broker is under way
	Gather time.Duration `yaml:"gather"` // and this long while none is: more in one request, for a broker that is short of CPU; 0: a lone append waits for nothing
}

// LogTLS says how brokers are reached.
type LogTLS struct {
	Enabled bool   `yaml:"enabled"`
	CA      string `yaml:"ca,omitempty"`   // PEM file; empty: the machine's
	Cert    string `yaml:"cert,omitempty"` // PEM files, where brokers ask for one
	Key     string `yaml:"key,omitempty"`
}

// SASL says as whom.
type SASL struct {
	Mechanism    string `yaml:"mechanism,omitempty"` // plain, scram-sha-256 or scram-sha-512; empty: none
	User         string `yaml:"user,omitempty"`
	Password     Secret `yaml:"password,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty"`
}

// Timelines is the region's PostgreSQL.
type Timelines struct {
	URLs         []URL  `yaml:"urls"` // postgres://user@host:port/database; partition p lives in the p mod n-th
	Password     Secret `yaml:"password,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty"`
	MaxConns     int    `yaml:"max_conns"` // of one process, to each

	ConnectTimeout   time.Duration `yaml:"connect_timeout"`   // for a connection to be made
	StatementTimeout time.Duration `yaml:"statement_timeout"` // for one statement, held by the server
	LockTimeout      time.Duration `yaml:"lock_timeout"`      // for one lock, held by the server
	ConnLifetime     time.Duration `yaml:"conn_lifetime"`     // after which a connection is made anew
}

// Routes is the region's Redis.
type Routes struct {
	Addrs        []string `yaml:"addrs"`   // host:port; several are a cluster
	Cluster      bool     `yaml:"cluster"` // a cluster though one address is given
	User         string   `yaml:"user,omitempty"`
	Password     Secret   `yaml:"password,omitempty"`
	PasswordFile string   `yaml:"password_file,omitempty"`
	TLS          bool     `yaml:"tls"`
}

// Discovery says where instances register.
type Discovery struct {
	Kind      string        `yaml:"kind"`              // memory (one process: antipode dev, tests) or consul
	Address   string        `yaml:"address,omitempty"` // host:port of the Consul agent
	TLS       DiscoveryTLS  `yaml:"tls"`
	Token     Secret        `yaml:"token,omitempty"`
	TokenFile string        `yaml:"token_file,omitempty"`
	Prefix    string        `yaml:"prefix,omitempty"` // of service names and KV paths, where clusters share a Consul; empty: antipode
	TTL       time.Duration `yaml:"ttl"`              // an instance that stopped renewing disappears after it
}

// DiscoveryTLS says how the Consul agent is reached: its HTTPS port.
type DiscoveryTLS struct {
	Enabled    bool   `yaml:"enabled"`
	CA         string `yaml:"ca,omitempty"`   // PEM file; empty: the machine's
	Cert       string `yaml:"cert,omitempty"` // PEM files, where the agent asks for one
	Key        string `yaml:"key,omitempty"`
	ServerName string `yaml:"server_name,omitempty"` // in the agent's certificate, as server.eu.consul; empty: address's host
}

// TLS is this process's certificate for calls between services: PEM files, all three or none.
type TLS struct {
	CA   string `yaml:"ca,omitempty"`
	Cert string `yaml:"cert,omitempty"`
	Key  string `yaml:"key,omitempty"`
}

// Auth says which tokens of clients are good.
type Auth struct {
	Issuer string        `yaml:"issuer,omitempty"` // empty: any
	Leeway time.Duration `yaml:"leeway"`           // for clocks that differ
	Keys   []AuthKey     `yaml:"keys"`             // several at once allow rotation
}

// AuthKey verifies tokens that name its id.
type AuthKey struct {
	ID      string `yaml:"id"`
	Alg     string `yaml:"alg"`                // EdDSA or HS256
	Key     Secret `yaml:"key,omitempty"`      // EdDSA: the public key, PEM or base64; HS256: base64 of at least 32 bytes
	KeyFile string `yaml:"key_file,omitempty"` // or a file that holds it
}

// Gateway bounds what clients may do to a gateway.
type Gateway struct {
	WebOrigins     []string      `yaml:"web_origins"`     // web pages that may connect, such as https://chat.example; * is any
	TrustedProxies []string      `yaml:"trusted_proxies"` // CIDRs whose X-Forwarded-For is believed, and PROXY header
	ProxyProtocol  bool          `yaml:"proxy_protocol"`  // trusted proxies send the PROXY protocol (1 or 2) before TLS or HTTP; nobody else may connect
	MaxConns       int           `yaml:"max_conns"`       // what it is sized for: sockets, whatever they have said so far
	MaxConnsPerIP  int           `yaml:"max_conns_per_ip"`
	Bandwidth      uint64        `yaml:"bandwidth,omitempty"` // bytes per second it is sized for, for ipconf; 0: not known
	MaxFrame       int           `yaml:"max_frame"`           // bytes
	MaxText        int           `yaml:"max_text"`            // bytes
	Rate           float64       `yaml:"rate"`                // frames per second and conn
	Burst          int           `yaml:"burst"`
	HelloTimeout   time.Duration `yaml:"hello_timeout"`
	CallTimeout    time.Duration `yaml:"call_timeout"`
	Heartbeat      time.Duration `yaml:"heartbeat"`
	IdleTimeout    time.Duration `yaml:"idle_timeout"`
	ResumeWindow   time.Duration `yaml:"resume_window"`
	MoveTimeout    time.Duration `yaml:"move_timeout"`     // how long another gateway may take to give up a session that a client resumes here
	MaxLogins      int           `yaml:"max_logins"`       // under way at once; resumes may be twice as many
	HandshakeRate  float64       `yaml:"handshake_rate"`   // connections, and calls over HTTP, per second of one address (of IPv6: each /64, as with all limits of addresses)
	HandshakeBurst int           `yaml:"handshake_burst"`  // and how many above that at once
	LoginRate      float64       `yaml:"login_rate"`       // logins per second of one user
	LoginBurst     int           `yaml:"login_burst"`      // and how many above that at once
	FailureRate    float64       `yaml:"failure_rate"`     // bad tokens per second of one address, past which it may neither connect nor call
	FailureBurst   int           `yaml:"failure_burst"`    // and how many above that at once
	MaxMemory      int           `yaml:"max_memory"`       // bytes of the process past which newcomers are refused; 0: 85 % of what its cgroup or the machine has; -1: any
	MaxCPU         float64       `yaml:"max_cpu"`          // share of all cores past which newcomers are refused, 0 to 1; 0: any
	MaxPolls       int           `yaml:"max_polls"`        // clients by long poll; they count as conns too, and take some 30 KB each
	PollHold       time.Duration `yaml:"poll_hold"`        // how long the answer of a long poll waits: below the idle limits of proxies in between. Half of idle_timeout at most
	TCPKeepAlive   time.Duration `yaml:"tcp_keepalive"`    // silence after which the kernel probes a client; 0: never. Heartbeats tell earlier
	TCPUserTimeout time.Duration `yaml:"tcp_user_timeout"` // how long bytes to a client may be unacknowledged before its socket is given up; 0: as the kernel likes
	SendBuffer     int           `yaml:"send_buffer"`      // bytes of a socket's send buffer; 0: the kernel's choice
	ReceiveBuffer  int           `yaml:"receive_buffer"`   // bytes of a socket's receive buffer; 0: the kernel's choice
	TLS            ClientTLS     `yaml:"tls"`
	QUIC           string        `yaml:"quic,omitempty"`    // host:port, of UDP, on which WebTransport is served with the pair of tls; clients find it at public_url's host and this port; empty: nowhere
	MaxQUIC        int           `yaml:"max_quic"`          // clients by WebTransport; they count as conns too, and take some 120 KB each
	Handoff        string        `yaml:"handoff,omitempty"` // path of a Unix socket: a gateway that is started on it takes the place of the running one
}

// ClientTLS makes a gateway speak TLS, 1.2 or newer, on listen. The files are looked at every 10 seconds, and taken when they changed.
type ClientTLS struct {
	Cert       string `yaml:"cert,omitempty"` // PEM file: the certificate for public_url's host, and its chain; empty: TLS ends before the gateway
	Key        string `yaml:"key,omitempty"`  // PEM file
	Handshakes int    `yaml:"handshakes"`     // clients whose handshake or first request is awaited at once, each for hello_timeout
}

// IPConf says how clients are told where to go.
type IPConf struct {
	WebOrigins     []string      `yaml:"web_origins"`     // web pages that may ask; empty: any
	TrustedProxies []string      `yaml:"trusted_proxies"` // CIDRs whose X-Forwarded-For is believed
	ProxyProtocol  bool          `yaml:"proxy_protocol"`  // trusted proxies send the PROXY protocol before HTTP; nobody else may connect
	BatchFrom      []string      `yaml:"batch_from"`      // CIDRs that may ask for others (/v1/endpoints:batch); empty: nobody
	TTL            time.Duration `yaml:"ttl"`             // of a list of gateways
	DeadAfter      time.Duration `yaml:"dead_after"`      // a gateway whose load was not heard for so long is left out
	DrainOver      time.Duration `yaml:"drain_over"`      // in which a draining region's share of newcomers steps down to nothing
	ReturnOver     time.Duration `yaml:"return_over"`     // in which a region that is back takes up its share
	AddressRate    float64       `yaml:"address_rate"`    // requests a second of one public address, of IPv6 one /64; ten seconds' worth may come at once
	GatewayRate    float64       `yaml:"gateway_rate"`    // newcomers a second and gateway, from all ipconfs together; more are told when to come
	Reserve        float64       `yaml:"reserve"`         // part of all capacity, 0 to 1, below which some newcomers are told to come later

	Geo       Geo                  `yaml:"geo"`
	Places    map[im.Region]string `yaml:"places,omitempty"`    // region: "latitude longitude" in degrees, for distances
	Overrides map[string]im.Region `yaml:"overrides,omitempty"` // CIDR: region, whatever else is known; the longest prefix counts
	Networks  map[string]im.Region `yaml:"networks,omitempty"`  // AS64500: region, near which that autonomous system is
	Residency []Residency          `yaml:"residency,omitempty"`
	Canary    Canary               `yaml:"canary"`
	Versions  []VersionWeight      `yaml:"versions,omitempty"`
	Signing   Signing              `yaml:"signing"`
	Policy    Policy               `yaml:"policy"`
}

// Geo names databases in MaxMind's format, which are read anew when they change.
type Geo struct {
	City  string        `yaml:"city,omitempty"` // file of cities or countries
	ASN   string        `yaml:"asn,omitempty"`  // file of autonomous systems
	Every time.Duration `yaml:"every"`          // how often to look whether they changed
}

// Residency keeps clients to which any of its conditions applies in some regions.
type Residency struct {
	Countries []string    `yaml:"countries,omitempty"` // of the address, as in DE
	Networks  []string    `yaml:"networks,omitempty"`  // CIDRs of the address
	Homes     []im.Region `yaml:"homes,omitempty"`     // of the user
	Regions   []im.Region `yaml:"regions"`             // the only ones allowed
}

// Canary sends a part of the users to gateways of one version, and nobody else.
type Canary struct {
	Version string  `yaml:"version,omitempty"`
	Percent float64 `yaml:"percent"` // of the users, by a hash of the uid
}

// VersionWeight makes gateways of a version get more or fewer newcomers.
type VersionWeight struct {
	Version string  `yaml:"version"`
	Weight  float64 `yaml:"weight"` // 1 is what others have; 0 takes nobody
}

// Signing signs the catalogue of gateways, so that clients can trust a copy of it.
type Signing struct {
	ID      string `yaml:"id,omitempty"`       // of the key, by which clients know it; empty: no catalogue is signed
	Key     Secret `yaml:"key,omitempty"`      // Ed25519 private key: PEM, or base64 of its 32-byte seed
	KeyFile string `yaml:"key_file,omitempty"` // or a file that holds it
}

// Policy is what every client must follow.
type Policy struct {
	HeartbeatMin   time.Duration `yaml:"heartbeat_min"`
	HeartbeatMax   time.Duration `yaml:"heartbeat_max"`
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	RaceWidth      int           `yaml:"race_width"` // gateways dialled at once
	RaceStagger    time.Duration `yaml:"race_stagger"`
	BackoffBase    time.Duration `yaml:"backoff_base"`
	BackoffCap     time.Duration `yaml:"backoff_cap"`
	BackoffJitter  float64       `yaml:"backoff_jitter"` // 0 to 1
	PollFallback   time.Duration `yaml:"poll_fallback"`
	FallbackPull   time.Duration `yaml:"fallback_pull"`
	MarkInterval   time.Duration `yaml:"mark_interval"`
	PushAck        time.Duration `yaml:"push_ack"`
	WebTransport   bool          `yaml:"webtransport"` // clients may try it, at gateways that serve it (gateway.quic)
}

// Router bounds what routes may take.
type Router struct {
	HeartbeatTimeout time.Duration  `yaml:"heartbeat_timeout"` // a gateway silent for so long is down, unless discovery says otherwise
	Silence          time.Duration  `yaml:"silence"`           // a region not heard of for so long is unreachable
	ClaimTimeout     time.Duration  `yaml:"claim_timeout"`
	Snapshot         string         `yaml:"snapshot"`      // a file in which the routes are saved every 5 minutes and at the end, of this router alone: a start reads it and what the logs hold since; empty: a start reads the logs
	DeviceLimits     map[string]int `yaml:"device_limits"` // of a platform: how many devices a user may have connected, over all regions (those that logged in last stay; unnamed: any number); the same in every region
}

// IMServer bounds what accept and apply may take.
type IMServer struct {
	MaxMembers    int           `yaml:"max_members"` // of a group
	Rate          float64       `yaml:"rate"`        // submits per second and user
	Burst         int           `yaml:"burst"`
	AppendTimeout time.Duration `yaml:"append_timeout"`
	GlobalTimeout time.Duration `yaml:"global_timeout"`       // for a peer to hold a record whose sender asked for it
	MaxSkew       time.Duration `yaml:"max_skew"`             // of stamps ahead of this clock
	BatchRows     int           `yaml:"batch_rows"`           // of one transaction
	BatchWait     time.Duration `yaml:"batch_wait"`           // for records to gather before they are delivered
	CommitPace    time.Duration `yaml:"commit_pace"`          // between the beginnings of commits, unless a batch is full; deliveries do not wait for them, pulls and lists do
	InterestAfter time.Duration `yaml:"interest_after"`       // for which every gateway of the region must have taken what is for those interested in a group, before super groups are delivered so
	FetchPace     time.Duration `yaml:"fetch_pace"`           // between fetches of logs and copies; what this instance appended is applied without one
	ClockFile     string        `yaml:"clock_file,omitempty"` // holds a duration by which this clock is off, for game days; empty: none
}

// Replicator says where the peers are.
type Replicator struct {
	Peers        map[im.Region]string    `yaml:"peers"`        // region: host:port of its replicator
	WindowBytes  int                     `yaml:"window_bytes"` // under way on a link, at most: it grows to what a round trip carries
	BatchBytes   int                     `yaml:"batch_bytes"`
	Compression  string                  `yaml:"compression"`         // of links, by zstd: capped (those that a cap holds back), always or never
	Via          map[im.Region]im.Region `yaml:"via,omitempty"`       // of a region that cannot be reached from here: the region, of replicator.peers, from whose copy its log is taken: {ap: us}
	StandIns     []im.Region             `yaml:"stand_ins,omitempty"` // regions, of replicator.peers, from whose copies, in turn, a log may be taken while its own way does not work; this region is passed over, so that all can have one list; empty: it is waited for
	StandInAfter time.Duration           `yaml:"stand_in_after"`      // for how long it must not have worked
	Caps         []Cap                   `yaml:"caps,omitempty"`      // on what links carry, by time of day: {peer: us, from: "08:00", to: "18:00", bytes_per_second: 5000000}
	FetchPace    time.Duration           `yaml:"fetch_pace"`          // between fetches of logs and copies, while records keep coming; what is shipped may wait so long
	HeldLinger   time.Duration           `yaml:"held_linger"`         // between reads of a copy that bring something; a global ack may wait so long
	LinkTimeout  time.Duration           `yaml:"link_timeout"`        // a link silent for longer is opened anew
	JoinLag      time.Duration           `yaml:"join_lag"`            // how far behind the others a new region may be when it begins to take clients
	Processors   int                     `yaml:"processors"`          // that the process uses at most, unless GOMAXPROCS says otherwise; 0: all there are
}

// Cap bounds what goes to a peer at a time of day. The lowest that holds counts.
type Cap struct {
	Peer           im.Region `yaml:"peer"`
	From           string    `yaml:"from,omitempty"` // HH:MM, UTC; neither from nor to: all day
	To             string    `yaml:"to,omitempty"`   // HH:MM, UTC; before from: of the next day
	BytesPerSecond int       `yaml:"bytes_per_second"`
}

// Hours returns From and To as times since midnight; both 0: all day.
func (c *Cap) Hours() (from, to time.Duration, err error) {
	if c.From == "" && c.To == "" {
		return 0, 0, nil
	}
	for _, v := range []struct {
		text string
		into *time.Duration
	}{{c.From, &from}, {c.To, &to}} {
		at, err := time.Parse("15:04", v.text)
		if err != nil {
			return 0, 0, fmt.Errorf("%q is no time of day: want HH:MM", v.text)
		}
		*v.into = time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
	}
	return from, to, nil
}

// Telemetry says what is told to whom.
type Telemetry struct {
	OTLP        string  `yaml:"otlp,omitempty"` // gRPC endpoint for traces: host:port, or https://host:port
	SampleRatio float64 `yaml:"sample_ratio"`   // of traces, 0 to 1
	LogLevel    string  `yaml:"log_level"`      // debug, info, warn or error
}

// Defaults returns what holds for every key that is not set.
func Defaults() *Config {
	return &Config{
		OriginEpoch: 1,
		Partitions:  16,
		Listen:      ":7400",
		RPC:         ":7401",
		Admin:       ":7402",
		StartWait:   10 * time.Second,
		Drain:       15 * time.Second,
		Log:         Log{Replication: 3, MinInSync: 2, Linger: 2 * time.Millisecond},
		Timelines: Timelines{
			MaxConns: 8, ConnectTimeout: 5 * time.Second, StatementTimeout: 10 * time.Second, LockTimeout: 3 * time.Second,
			ConnLifetime: 30 * time.Minute,
		},
		Discovery: Discovery{Kind: "consul", Address: "127.0.0.1:8500", TTL: 2 * time.Second},
		Auth:      Auth{Leeway: 10 * time.Second},
		Gateway: Gateway{
			MaxConns: 50_000, MaxConnsPerIP: 10_000, MaxFrame: 64 << 10, MaxText: 8 << 10, Rate: 100, Burst: 400,
			HelloTimeout: 5 * time.Second, CallTimeout: 10 * time.Second,
			Heartbeat: 25 * time.Second, IdleTimeout: time.Minute, ResumeWindow: time.Minute, MoveTimeout: time.Second,
			MaxLogins: 4096, HandshakeRate: 1000, HandshakeBurst: 10_000, LoginRate: 1, LoginBurst: 100, FailureRate: 10, FailureBurst: 200,
			TCPKeepAlive: 2 * time.Minute, TCPUserTimeout: 30 * time.Second,
			MaxPolls: 5000, PollHold: 25 * time.Second, TLS: ClientTLS{Handshakes: 4096}, MaxQUIC: 5000,
		},
		IPConf: IPConf{
			TTL: time.Minute, DeadAfter: 5 * time.Second, DrainOver: time.Minute, ReturnOver: time.Minute,
			AddressRate: 100, GatewayRate: 2000, Reserve: 0.05, Geo: Geo{Every: 10 * time.Second},
			Policy: Policy{
				HeartbeatMin: 5 * time.Second, HeartbeatMax: 4 * time.Minute, ConnectTimeout: 5 * time.Second,
				RaceWidth: 3, RaceStagger: 200 * time.Millisecond,
				BackoffBase: 250 * time.Millisecond, BackoffCap: 30 * time.Second, BackoffJitter: 0.8,
				PollFallback: 15 * time.Second, FallbackPull: time.Minute,
				MarkInterval: time.Second, PushAck: 200 * time.Millisecond,
			},
		},
		Router: Router{HeartbeatTimeout: 3 * time.Second, Silence: 30 * time.Second, ClaimTimeout: 5 * time.Second},
		IMServer: IMServer{
			MaxMembers: 500, Rate: 20, Burst: 40,
			AppendTimeout: 5 * time.Second, GlobalTimeout: 3 * time.Second, MaxSkew: im.MaxSkew,
			BatchRows: 2000, BatchWait: 2 * time.Millisecond, CommitPace: 10 * time.Millisecond, FetchPace: 10 * time.Millisecond,
			InterestAfter: 3 * time.Minute,
		},
		Replicator: Replicator{WindowBytes: 32 << 20, BatchBytes: 512 << 10, Compression: "capped", StandInAfter: 30 * time.Second, FetchPace: 5 * time.Millisecond, HeldLinger: 10 * time.Millisecond, LinkTimeout: 5 * time.Second, JoinLag: 10 * time.Second, Processors: 1},
		Telemetry:  Telemetry{SampleRatio: 0.01, LogLevel: "info"},
	}
}
