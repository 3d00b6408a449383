package ipconf

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
	"github.com/antipode-im/antipode/wire"
)

// maxRTTs bounds the round trips that one client may report.
const maxRTTs = 64

// Handler serves GET /v1/endpoints. Parameters, all optional: uid, device, platform, network (not used yet), region (a
// wanted one), last (the gateway used last, as region/id or id), rtt (milliseconds per region, as in eu:23,us:110). Malformed hints are
// passed over: a list is worth more than an error.
func (s *IPConf) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/endpoints", s.endpoints)
	mux.HandleFunc("OPTIONS /v1/endpoints", func(w http.ResponseWriter, r *http.Request) {
		s.allow(w, r)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// allow sets the CORS headers.
func (s *IPConf) allow(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	origin := r.Header.Get("Origin")
	switch {
	case len(s.cfg.Origins) == 0 || slices.Contains(s.cfg.Origins, "*"):
		h.Set("Access-Control-Allow-Origin", "*")
	case slices.Contains(s.cfg.Origins, origin):
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
	default:
		h.Add("Vary", "Origin")
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET")
	h.Set("Access-Control-Max-Age", "600")
}

func (s *IPConf) endpoints(w http.ResponseWriter, r *http.Request) {
	s.allow(w, r)
	now := time.Now()
	gateways, instances := s.fleet.candidates(now)
	ranked, _ := rank.Rank(gateways, s.closed(), clientOf(s.cfg.Region, r.URL.Query()), s.settings(), rand.Uint64())
	if len(ranked) == 0 {
		s.metrics.answered(r.Context(), "none")
		e := wire.ErrorFrame(&im.Error{Code: im.CodeUnready, Detail: "no gateway takes newcomers now", RetryAfter: time.Second})
		b, err := wire.ErrorJSON(e)
		if err != nil {
			b = nil
		}
		answer(w, im.CodeUnready.Spec().HTTP, b)
		return
	}
	list := wire.Endpoints{
		Policy: s.cfg.Policy, Region: s.cfg.Region, TTLMs: s.cfg.TTL.Milliseconds(), ServerTimeMs: now.UnixMilli(),
		Gateways: make([]wire.Endpoint, len(ranked)),
	}
	for i, g := range ranked {
		list.Gateways[i] = endpoint(instances[g.Index], g.Score)
	}
	first := list.Gateways[0]
	s.fleet.sent(first.Region, first.ID, now)
	s.metrics.answered(r.Context(), first.Region)
	b, err := json.Marshal(list)
	if err != nil { // numbers and strings: cannot fail
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	answer(w, http.StatusOK, b)
}

func answer(w http.ResponseWriter, status int, b []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client is gone
}

func (s *IPConf) settings() rank.Settings { return rank.Settings{Limit: s.cfg.MaxAnswer} }

// closed lists the regions that take no newcomers.
func (s *IPConf) closed() rank.Closed {
	closed := rank.Closed{}
	if s.deps.States == nil {
		return closed
	}
	for _, r := range s.cfg.Regions {
		if state := s.deps.States.State(r); state != "" && state != im.StateActive {
			closed[r] = string(state)
		}
	}
	return closed
}

// endpoint is how a client is told of a gateway.
func endpoint(i im.Instance, score float64) wire.Endpoint {
	base := strings.TrimSuffix(strings.TrimSuffix(i.URL, "/"), "/v1/ws")
	if rest, ok := strings.CutPrefix(base, "ws"); ok { // registered by its WebSocket URL
		base = "http" + rest
	}
	return wire.Endpoint{ID: i.ID, Region: i.Region, URL: wire.WebSocketURL(base), PullURL: base, Score: float64(int(score*1000)) / 1000}
}

// clientOf reads a request's hints.
func clientOf(near im.Region, q url.Values) rank.Client {
	c := rank.Client{Near: near, Last: q.Get("last")}
	if r, err := im.ParseRegion(q.Get("region")); err == nil {
		c.Region = r
	}
	if text := q.Get("rtt"); text != "" {
		c.RTT = map[im.Region]time.Duration{}
		for part := range strings.SplitSeq(text, ",") {
			name, number, _ := strings.Cut(part, ":")
			r, err := im.ParseRegion(name)
			n, err2 := strconv.ParseUint(number, 10, 16)
			if err == nil && err2 == nil && len(c.RTT) < maxRTTs {
				c.RTT[r] = time.Duration(n) * time.Millisecond
			}
		}
	}
	return c
}

// Explanation is the answer of Explain.
type Explanation struct {
	Region   im.Region      `json:"region"`
	Ranked   []Reason       `json:"ranked"`
	LeftOut  []Reason       `json:"left_out"`
	Catalogs []CatalogueAge `json:"catalogues"`
}

// Reason says why a gateway is where it is.
type Reason struct {
	Gateway string    `json:"gateway"`
	Region  im.Region `json:"region"`
	Score   float64   `json:"score"`
	Conns   int       `json:"conns"`
	CPU     float64   `json:"cpu"`
	AgeMs   int64     `json:"age_ms"` // of its load; negative: never heard
	Why     string    `json:"why"`
}

// CatalogueAge says how old the last reading of a region's catalogue is, and whether it is held back.
type CatalogueAge struct {
	Region im.Region `json:"region"`
	AgeMs  int64     `json:"age_ms"`
	Held   bool      `json:"held_back"`
	Known  bool      `json:"known"`
}

// Explain serves the ranking that a client with the same parameters would get, with its reasons, for operators: mount it
// on the admin port only.
func (s *IPConf) Explain() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		gateways, _ := s.fleet.candidates(now)
		ranked, left := rank.Rank(gateways, s.closed(), clientOf(s.cfg.Region, r.URL.Query()), s.settings(), rand.Uint64())
		e := Explanation{Region: s.cfg.Region, Ranked: []Reason{}, LeftOut: []Reason{}}
		reason := func(i int, score float64, why string) Reason {
			g := gateways[i]
			return Reason{g.ID, g.Region, score, g.Conns, g.CPU, g.Age.Milliseconds(), why}
		}
		for _, g := range ranked {
			e.Ranked = append(e.Ranked, reason(g.Index, g.Score, g.Why))
		}
		for _, g := range left {
			e.LeftOut = append(e.LeftOut, reason(g.Index, 0, g.Why))
		}
		for _, name := range s.cfg.Regions {
			age, held, known := s.fleet.age(name, now)
			if !known {
				age = 0
			}
			e.Catalogs = append(e.Catalogs, CatalogueAge{name, age.Milliseconds(), held, known})
		}
		b, err := json.MarshalIndent(e, "", "  ")
		if err != nil {
			http.Error(w, "internal", http.StatusInternalServerError)
			return
		}
		answer(w, http.StatusOK, b)
	})
}
