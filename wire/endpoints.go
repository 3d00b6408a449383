package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Endpoints is the JSON answer of ipconf's GET /v1/endpoints: the gateways to try, best first, and the policy that the
// client must follow. The order of Gateways is the ranking; scores only explain it.
type Endpoints struct {
	Policy       Policy     `json:"policy"`
	Gateways     []Endpoint `json:"gateways"`
	Region       im.Region  `json:"region"`              // of the ipconf that answered
	TTLMs        int64      `json:"ttl_ms"`              // ask again after so long; keep the list as a fallback for longer
	ServerTimeMs int64      `json:"server_time_ms"`      // Unix ms: client_ids are made on this clock until a welcome gives a better one
	Catalogue    string     `json:"catalogue,omitempty"` // version of the signed catalogue that the gateways are in; empty: none is signed
}

// Endpoint is one gateway.
type Endpoint struct {
	ID      string    `json:"id"` // unique within its region
	Region  im.Region `json:"region"`
	URL     string    `json:"url"`      // of its WebSocket: ws(s)://host:port/v1/ws
	PullURL string    `json:"pull_url"` // base of its HTTP fallback: append /v1/pull, /v1/submit, /v1/call/{service}/{method}
	Score   float64   `json:"score"`    // 0 to 1
	// WebTransport is the URL of its WebTransport: https://host:port/v1/ws, over UDP. Empty: it serves none.
	WebTransport string `json:"webtransport_url,omitempty"`
}

// Key names the gateway among those of all regions: region/id. Ids are unique within a region only.
func (e Endpoint) Key() string { return string(e.Region) + "/" + e.ID }

// Policy is what ipconf asks of every client, so that a region can slow its clients down without a release of theirs.
// All times are milliseconds. A zero or absent field leaves the client's default (DefaultPolicy).
type Policy struct {
	// HeartbeatMinMs and HeartbeatMaxMs bound the ping interval that a welcome asks for.
	HeartbeatMinMs int64 `json:"heartbeat_min_ms"`
	HeartbeatMaxMs int64 `json:"heartbeat_max_ms"`
	// ConnectTimeoutMs bounds one dial and upgrade, and again the wait for the welcome.
	ConnectTimeoutMs int64 `json:"connect_timeout_ms"`
	// RaceWidth is how many gateways may be dialled at once; the first to upgrade wins, the others are closed before hello.
	RaceWidth int `json:"race_width"`
	// RaceStaggerMs is how long a dial runs alone before the next one starts beside it (RFC 8305 calls this the
	// connection attempt delay).
	RaceStaggerMs int64 `json:"race_stagger_ms"`
	// BackoffBaseMs, BackoffCapMs: the wait after n failures in a row is min(cap, base·2ⁿ⁻¹), of which the part
	// BackoffJitter (0 to 1) is random: full jitter is 1.
	BackoffBaseMs int64   `json:"backoff_base_ms"`
	BackoffCapMs  int64   `json:"backoff_cap_ms"`
	BackoffJitter float64 `json:"backoff_jitter"`
	// PollFallbackMs: without a socket for so long, the client lists, pulls and submits over HTTP until it has one again.
	PollFallbackMs int64 `json:"poll_fallback_ms"`
	// FallbackPullMs: having heard of no record for so long (±20 %), the client asks for its list, and pulls what it misses.
	FallbackPullMs int64 `json:"fallback_pull_ms"`
	// MarkIntervalMs: delivered and read cursors of one conversation are sent at most this often, the latest of each.
	MarkIntervalMs int64 `json:"mark_interval_ms"`
	// PushAckMs: pushes are acknowledged at most so late, many with one frame.
	PushAckMs int64 `json:"push_ack_ms"`
	// MaxFrameBytes: frames should be no larger, on networks where one more segment costs a round trip; 0: no such wish.
	MaxFrameBytes int64 `json:"max_frame_bytes,omitempty"`
	// WebTransport: the client may try it, at gateways that have a URL of it, before the WebSocket.
	WebTransport bool `json:"webtransport,omitempty"`
}

// DefaultPolicy is what a client does until it has heard from an ipconf, and what an ipconf serves unless configured.
func DefaultPolicy() Policy {
	return Policy{
		HeartbeatMinMs: 5_000, HeartbeatMaxMs: 240_000,
		ConnectTimeoutMs: 5_000, RaceWidth: 3, RaceStaggerMs: 200,
		BackoffBaseMs: 250, BackoffCapMs: 30_000, BackoffJitter: 0.8,
		PollFallbackMs: 15_000, FallbackPullMs: 60_000, MarkIntervalMs: 1_000, PushAckMs: 200,
	}
}

// Within returns the policy with what is missing, or out of any sensible range, replaced: a client must survive a bad
// answer.
func (p Policy) Within() Policy {
	d := DefaultPolicy()
	bound := func(v *int64, fallback, low, high int64) {
		if *v <= 0 {
			*v = fallback
		}
		*v = min(max(*v, low), high)
	}
	hour := time.Hour.Milliseconds()
	bound(&p.HeartbeatMinMs, d.HeartbeatMinMs, 10, hour)
	bound(&p.HeartbeatMaxMs, d.HeartbeatMaxMs, p.HeartbeatMinMs, hour)
	bound(&p.ConnectTimeoutMs, d.ConnectTimeoutMs, 100, 60_000)
	bound(&p.RaceStaggerMs, d.RaceStaggerMs, 1, 10_000)
	bound(&p.BackoffBaseMs, d.BackoffBaseMs, 1, 60_000)
	bound(&p.BackoffCapMs, d.BackoffCapMs, p.BackoffBaseMs, hour)
	bound(&p.PollFallbackMs, d.PollFallbackMs, 100, hour)
	bound(&p.FallbackPullMs, d.FallbackPullMs, 100, hour)
	bound(&p.MarkIntervalMs, d.MarkIntervalMs, 10, 60_000)
	bound(&p.PushAckMs, d.PushAckMs, 1, 10_000)
	if p.MaxFrameBytes != 0 {
		p.MaxFrameBytes = min(max(p.MaxFrameBytes, 512), 1<<20)
	}
	if p.RaceWidth <= 0 {
		p.RaceWidth = d.RaceWidth
	}
	p.RaceWidth = min(p.RaceWidth, 8)
	if !(p.BackoffJitter > 0) {
		p.BackoffJitter = d.BackoffJitter
	}
	p.BackoffJitter = min(p.BackoffJitter, 1)
	return p
}

// WebSocketURL is where the WebSocket of a gateway with a public base URL (http or https) is.
func WebSocketURL(base string) string {
	return "ws" + strings.TrimPrefix(strings.TrimSuffix(base, "/"), "http") + "/v1/ws"
}

// MaxEndpointsBytes bounds an answer of ipconf.
const MaxEndpointsBytes = 1 << 20

// DecodeEndpoints reads an ipconf's answer; unknown fields are passed over, the policy is put within its bounds.
func DecodeEndpoints(b []byte) (Endpoints, error) {
	var e Endpoints
	if err := json.Unmarshal(b, &e); err != nil {
		return Endpoints{}, fmt.Errorf("endpoints: %w", err)
	}
	for i, g := range e.Gateways {
		if g.ID == "" || g.URL == "" {
			return Endpoints{}, fmt.Errorf("endpoints: gateway %d has no id or no url", i)
		}
	}
	e.Policy = e.Policy.Within()
	return e, nil
}
