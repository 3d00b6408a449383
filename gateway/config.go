package gateway

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Config is what a gateway is told. Zero values take the defaults of Defaults, except where a field says otherwise.
type Config struct {
	Gateway im.Gateway // id, unique within the region, and the epoch of this boot
	Region  im.Region
	Origin  im.Origin // under which the region accepts; told in welcome

	Listen string // host:port of the public address
	URL    string // public base URL, http or https; empty: the bound address, https if it speaks TLS

	// Certificate makes the public address speak TLS, 1.2 or newer: it gives the certificate of the moment. nil: TLS ends before
	// the gateway, or there is none. With TLS, no other process can take sockets over.
	Certificate   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	MaxHandshakes int    // TLS connections whose first request has not come, each for HelloTimeout at most
	QUIC          string // host:port, of UDP, on which WebTransport is served; empty: nowhere
	MaxQUIC       int    // conns by WebTransport, which count as sockets too
	// QUICCertificate gives the certificate of WebTransport, where it is not the other one.
	QUICCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	Handoff    string // path of the Unix socket by which the next process of this gateway takes over; empty: none may
	Goroutines bool   // every socket is read and written by goroutines of its own, as where there is no epoll

	Origins        []string       // origins of web pages that may connect, such as https://chat.example; "*" is any. A page of the gateway's own host always may
	TrustedProxies []netip.Prefix // whose X-Forwarded-For, and PROXY header, tells the client's address
	ProxyProtocol  bool           // trusted proxies send the PROXY protocol, version 1 or 2, before anything else; nobody else may connect

	HelloTimeout time.Duration // from the socket's opening to a valid hello
	CallTimeout  time.Duration // of a call to a backend
	ClaimTimeout time.Duration // of a claim before welcome
	WriteTimeout time.Duration // of one WebSocket message; past it the socket is dropped as slow_consumer
	Heartbeat    time.Duration // told in welcome: the client pings when it sent nothing for so long
	IdleTimeout  time.Duration // without any frame: closed as idle
	ResumeWindow time.Duration // how long a session waits without a socket
	SlowTimeout  time.Duration // how long after the first dropped push a session may go on without acknowledging
	MoveTimeout  time.Duration // how long another gateway may take to give up a session; what comes late is passed on for twice as long
	DrainTimeout time.Duration // from the end of Run's context to its return

	KeepAlive     time.Duration // silence after which the kernel probes a client; negative: never
	UserTimeout   time.Duration // how long what was written may be unacknowledged before the kernel gives a socket up; negative: as long as it likes
	SendBuffer    int           // bytes of a socket's send buffer; 0: the kernel's choice
	ReceiveBuffer int           // and of its receive buffer

	MaxConns      int    // sockets, those that have not been upgraded yet included; also what Load tells as capacity. Sessions without a socket are at most as many again
	MaxConnsPerIP int    // sockets of one address
	Bandwidth     uint64 // bytes per second it is sized for, which Load tells; 0: not known
	Version       string // of the build, which Load tells
	MaxFrame      int    // bytes of one message from a client, and of an HTTP body
	MaxText       int    // bytes of a text, told to clients and backends
	MaxCalls      int    // calls under way on one conn
	MaxQueue      int    // submits of one conn that wait for an earlier one of their key
	MaxHTTPCalls  int    // calls under way over HTTP
	MaxPolls      int    // conns by long poll, which count as sockets too: each takes some 30 KB while its request is held

	PollHold time.Duration // the longest that the answer of a poll waits for frames: below the idle limits of proxies. At most half of IdleTimeout

	MaxLogins      int     // logins under way at once; resumes may be twice as many
	HandshakeRate  float64 // connections and HTTP calls per second of one address (of IPv6: each /64), as all limits of addresses
	HandshakeBurst int
	LoginRate      float64 // logins per second of one user
	LoginBurst     int
	FailureRate    float64 // logins with a bad token per second of one address, past which it may not connect
	FailureBurst   int
	MaxMemory      int     // bytes that the process may have from the system before newcomers are refused; 0: 85 % of what its cgroup or the machine has; -1: any
	MaxCPU         float64 // share of all cores that it may use before newcomers are refused, 0 to 1; 0: any

	Rate  float64 // frames per second of one conn, and HTTP calls per second of one user
	Burst int     // frames above the rate

	MaxUnacked      int // pushes of one session that are kept until acknowledged
	MaxUnackedBytes int
	MaxSendBytes    int // replies and other frames queued on one conn, pushes not counted
}

// memoryPercent of the memory that there is, is when a gateway begins to refuse newcomers: what it holds goes on growing for a while.
const memoryPercent = 85

// Defaults returns c with its zero values filled in.
func (c Config) Defaults() Config {
	duration := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	number := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	duration(&c.HelloTimeout, 5*time.Second)
	duration(&c.CallTimeout, 10*time.Second)
	duration(&c.ClaimTimeout, 5*time.Second)
	duration(&c.WriteTimeout, 10*time.Second)
	duration(&c.Heartbeat, 25*time.Second)
	duration(&c.IdleTimeout, 60*time.Second)
	duration(&c.ResumeWindow, 60*time.Second)
	duration(&c.SlowTimeout, 10*time.Second)
	duration(&c.MoveTimeout, time.Second)
	duration(&c.DrainTimeout, 10*time.Second)
	duration(&c.KeepAlive, 2*time.Minute)
	duration(&c.UserTimeout, 30*time.Second)
	number(&c.MaxConns, 50_000)
	number(&c.MaxConnsPerIP, 10_000)
	number(&c.MaxFrame, 64<<10)
	number(&c.MaxText, 8<<10)
	number(&c.MaxCalls, 64)
	number(&c.MaxQueue, 256)
	number(&c.MaxHTTPCalls, 1024)
	number(&c.MaxPolls, 5000)
	duration(&c.PollHold, 25*time.Second)
	c.PollHold = min(c.PollHold, max(c.IdleTimeout/2, 1))
	number(&c.Burst, 400)
	number(&c.MaxUnacked, 1024)
	number(&c.MaxUnackedBytes, 1<<20)
	number(&c.MaxSendBytes, 1<<20)
	number(&c.MaxLogins, 4096)
	number(&c.MaxHandshakes, 4096)
	number(&c.MaxQUIC, 5000)
	number(&c.HandshakeBurst, c.MaxConnsPerIP)
	number(&c.LoginBurst, 100)
	number(&c.FailureBurst, 200)
	share := func(f *float64, v float64) {
		if *f == 0 {
			*f = v
		}
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = int(memoryBytes() / 100 * memoryPercent) // where it is not known: any
	}
	share(&c.Rate, 200)
	share(&c.HandshakeRate, 1000)
	share(&c.LoginRate, 1)
	share(&c.FailureRate, 10)
	return c
}

// Check tells the first value that cannot be.
func (c Config) Check() error {
	if c.Gateway.ID == "" {
		return fmt.Errorf("gateway: id: must not be empty")
	}
	if c.Gateway.Epoch == 0 {
		return fmt.Errorf("gateway: epoch: must not be 0")
	}
	if _, err := im.ParseRegion(string(c.Region)); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if _, err := im.ParseOrigin(string(c.Origin)); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("gateway: url %q: want http://host[:port] or https://host[:port]", c.URL)
		}
	}
	if c.QUIC != "" {
		_, port, err := net.SplitHostPort(c.QUIC)
		switch {
		case err != nil:
			return fmt.Errorf("gateway: quic %q: want host:port", c.QUIC)
		case c.Certificate == nil && c.QUICCertificate == nil:
			return fmt.Errorf("gateway: quic: there is no QUIC without TLS: set the certificate")
		case c.Handoff != "" && port == "0":
			return fmt.Errorf("gateway: quic %q: the next process needs to find the port: choose one", c.QUIC)
		}
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"hello_timeout", c.HelloTimeout},
		{"call_timeout", c.CallTimeout},
		{"claim_timeout", c.ClaimTimeout},
		{"write_timeout", c.WriteTimeout},
		{"heartbeat", c.Heartbeat},
		{"idle_timeout", c.IdleTimeout},
		{"resume_window", c.ResumeWindow},
		{"slow_timeout", c.SlowTimeout},
		{"move_timeout", c.MoveTimeout},
		{"drain_timeout", c.DrainTimeout},
		{"poll_hold", c.PollHold},
	} {
		if d.v <= 0 {
			return fmt.Errorf("gateway: %s: must be more than 0, is %v", d.name, d.v)
		}
	}
	for _, n := range []struct {
		name string
		v    int
	}{
		{"max_conns", c.MaxConns},
		{"max_conns_per_ip", c.MaxConnsPerIP},
		{"max_frame", c.MaxFrame},
		{"max_text", c.MaxText},
		{"max_calls", c.MaxCalls},
		{"max_queue", c.MaxQueue},
		{"max_http_calls", c.MaxHTTPCalls},
		{"max_polls", c.MaxPolls},
		{"max_logins", c.MaxLogins},
		{"max_handshakes", c.MaxHandshakes},
		{"max_quic", c.MaxQUIC},
		{"handshake_burst", c.HandshakeBurst},
		{"login_burst", c.LoginBurst},
		{"failure_burst", c.FailureBurst},
		{"burst", c.Burst},
		{"max_unacked", c.MaxUnacked},
		{"max_unacked_bytes", c.MaxUnackedBytes},
		{"max_send_bytes", c.MaxSendBytes},
	} {
		if n.v <= 0 {
			return fmt.Errorf("gateway: %s: must be more than 0, is %d", n.name, n.v)
		}
	}
	for _, n := range []struct {
		name string
		v    float64
	}{
		{"rate", c.Rate},
		{"handshake_rate", c.HandshakeRate},
		{"login_rate", c.LoginRate},
		{"failure_rate", c.FailureRate},
	} {
		if n.v <= 0 {
			return fmt.Errorf("gateway: %s: must be more than 0, is %v", n.name, n.v)
		}
	}
	if c.SendBuffer < 0 || c.ReceiveBuffer < 0 {
		return fmt.Errorf("gateway: send_buffer and receive_buffer: must not be less than 0, are %d and %d", c.SendBuffer, c.ReceiveBuffer)
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		return fmt.Errorf("gateway: proxy_protocol: nobody is trusted to send it: set trusted_proxies")
	}
	if c.MaxMemory < -1 {
		return fmt.Errorf("gateway: max_memory: must be -1 or more, is %d", c.MaxMemory)
	}
	if c.MaxCPU < 0 || c.MaxCPU > 1 {
		return fmt.Errorf("gateway: max_cpu: must be 0 to 1, is %v", c.MaxCPU)
	}
	if c.IdleTimeout <= c.Heartbeat {
		return fmt.Errorf("gateway: idle_timeout: must be more than heartbeat (%v), is %v", c.Heartbeat, c.IdleTimeout)
	}
	if c.MaxText >= c.MaxFrame {
		return fmt.Errorf("gateway: max_text: must be less than max_frame (%d), is %d", c.MaxFrame, c.MaxText)
	}
	return nil
}
