package console

import (
	"context"
	"time"

	"github.com/antipode-im/antipode/im"
)

// State is everything that the console page shows, as it was at one moment. Its JSON is the answer of GET
// /dev/state.json: durations in it are float seconds or integer milliseconds, as the names say; rates are per second,
// averaged over the last few seconds.
type State struct {
	NowMS    int64     `json:"now_ms"` // Unix ms
	Version  string    `json:"version,omitempty"`
	Data     string    `json:"data,omitempty"` // the data folder
	Regions  []Region  `json:"regions"`        // sorted by name
	Links    []Link    `json:"links"`          // every ordered pair of regions, sorted
	Gateways []Gateway `json:"gateways"`       // sorted by region and id
}

// Power says whether something runs.
type Power string

// The states of regions and gateways.
const (
	PowerUp       Power = "up"
	PowerDown     Power = "down"     // killed
	PowerStarting Power = "starting" // restarted, not ready yet
	PowerDraining Power = "draining" // of gateways: takes no newcomers
)

// Region is one region.
type Region struct {
	Name       im.Region             `json:"name"`
	Origin     im.Origin             `json:"origin"` // the origin under which it accepts
	State      Power                 `json:"state"`
	IPConf     string                `json:"ipconf"`            // base URL
	SubmitRate float64               `json:"submit_rate"`       // records accepted per second
	ApplyLag   map[im.Origin]float64 `json:"apply_lag"`         // seconds between a record's stamp and its apply here, latest, per origin
	Log        int64                 `json:"log,omitempty"`     // records in its own log
	Note       string                `json:"note,omitempty"`    // what is wrong, for people
	Digests    map[string]string     `json:"digests,omitempty"` // parts of the view: equal digests are equal views
}

// LinkState says whether a link carries records.
type LinkState string

// The states of a link.
const (
	LinkOpen       LinkState = "open"
	LinkCut        LinkState = "cut"        // somebody cut it
	LinkConnecting LinkState = "connecting" // it should be open and is not: a side is down or is backing off
)

// Link carries the log of region From to region To.
type Link struct {
	From       im.Region `json:"from"`
	To         im.Region `json:"to"`
	State      LinkState `json:"state"`
	DelayMS    int64     `json:"delay_ms"`    // one way, injected
	LagRecords int64     `json:"lag_records"` // in From's log, not yet in To's copy
	LagSeconds float64   `json:"lag_seconds"` // age of the oldest of these; 0 if there is none
	LastError  string    `json:"last_error,omitempty"`
}

// Gateway is one gateway.
type Gateway struct {
	Region im.Region `json:"region"`
	ID     string    `json:"id"`
	URL    string    `json:"url"` // WebSocket URL
	State  Power     `json:"state"`
	Conns  int       `json:"conns"`
	Rate   float64   `json:"rate"` // calls and pushes per second
	Epoch  uint64    `json:"epoch,omitempty"`
}

// Watcher tells the state. It is asked about once a second for each open page; an answer may be up to a second old.
type Watcher interface {
	State(ctx context.Context) (State, error)
}

// Links orders faults on the links between regions. An unknown link is an error that wraps ErrUnknown.
type Links interface {
	// Cut drops the link's connections and refuses new ones until Heal.
	Cut(ctx context.Context, from, to im.Region) error
	// Heal lets the link carry again. Its delay stays.
	Heal(ctx context.Context, from, to im.Region) error
	// Delay sets the one-way delay of the link, open or cut.
	Delay(ctx context.Context, from, to im.Region, delay time.Duration) error
}

// Target names what is killed or restarted: a gateway, or with an empty Gateway the whole region.
type Target struct {
	Region  im.Region
	Gateway string
}

// Switch kills and restarts parts of the cluster. An unknown target is an error that wraps ErrUnknown; killing what is
// down and restarting what is up do nothing.
type Switch interface {
	// Kill stops the target like a crash: no drain, no goodbye.
	Kill(ctx context.Context, t Target) error
	// Restart starts what was killed, with its data. It returns when the target is starting or up.
	Restart(ctx context.Context, t Target) error
}

// TokenFunc issues a token for a user. Dev only: in production nothing of Antipode issues tokens.
type TokenFunc func(uid im.UID) (token string, expires time.Time, err error)

// Trace is one line of the list of recent traces.
type Trace struct {
	ID           string          `json:"id"` // 32 hex digits
	Conversation im.Conversation `json:"conversation,omitempty"`
	Sender       im.UID          `json:"sender,omitempty"`
	Root         string          `json:"root"` // name of the first span: "submit"
	StartUS      int64           `json:"start_us"`
	DurationUS   int64           `json:"duration_us"` // first start to last end
	Spans        int             `json:"spans"`
	Regions      []string        `json:"regions"` // in the order in which the trace reached them
	Error        bool            `json:"error,omitempty"`
}

// Span is one span of a trace.
type Span struct {
	ID         string            `json:"id"`               // 16 hex digits
	Parent     string            `json:"parent,omitempty"` // of the same trace; it may be missing from the store
	Name       string            `json:"name"`             // a verb of the data path: submit, append, ship, apply, deliver, notify, pull
	Region     string            `json:"region"`
	Service    string            `json:"service"`
	StartUS    int64             `json:"start_us"` // Unix µs
	DurationUS int64             `json:"duration_us"`
	Error      string            `json:"error,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Traces answers from a bounded store of recent spans.
type Traces interface {
	// Recent lists traces that began lately, latest first, at most limit.
	Recent(ctx context.Context, limit int) ([]Trace, error)
	// Spans returns the spans of one trace, in any order; none if it is unknown or was evicted.
	Spans(ctx context.Context, trace string) ([]Span, error)
}

// Endpoint says where a client asks for gateways.
type Endpoint struct {
	Region im.Region `json:"region"`
	IPConf string    `json:"ipconf"` // base URL

	Certificate string `json:"certificate,omitempty"` // SHA-256 in base64 of the one that gateways show to WebTransport, where no authority vouches for it
}
