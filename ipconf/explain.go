package ipconf

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
	"github.com/antipode-im/antipode/wire"
)

// Explanation is the answer of Explain.
type Explanation struct {
	Region   im.Region      `json:"region"`
	Location []string       `json:"location"` // what is known of where the client is
	Regions  []RegionReason `json:"regions"`
	Ranked   []Reason       `json:"ranked"`   // one draw
	LeftOut  []Reason       `json:"left_out"` // gateways that no draw names
	Policy   wire.Policy    `json:"policy"`
	Room     Room           `json:"room"`
	Catalogs []CatalogueAge `json:"catalogues"`
}

// RegionReason says how a region looks to the client.
type RegionReason struct {
	Region    im.Region `json:"region"`
	RTTMs     int64     `json:"rtt_ms"`
	Proximity float64   `json:"proximity"`
	Share     float64   `json:"share"`
	Ramp      float64   `json:"ramp"`
	Free      float64   `json:"free"`
	Open      float64   `json:"open"` // the probability that it takes this client, if it is the nearest
	Usable    int       `json:"usable_gateways"`
	Closed    string    `json:"closed,omitempty"`
}

// Reason says why a gateway is where it is.
type Reason struct {
	Gateway  string       `json:"gateway"`
	Region   im.Region    `json:"region"`
	Score    float64      `json:"score"`
	Why      string       `json:"why"`
	Weight   float64      `json:"weight"` // newcomers that it should get, against others of its region
	Factors  rank.Factors `json:"factors"`
	Conns    int          `json:"conns"`
	Capacity int          `json:"capacity"`
	InFlight float64      `json:"in_flight"`
	Recent   float64      `json:"recent"`
	CPU      float64      `json:"cpu"`
	Net      float64      `json:"net"`
	Errors   float64      `json:"errors"`
	Version  string       `json:"version,omitempty"`
	AgeMs    int64        `json:"age_ms"` // of its load; negative: never heard
}

// Room says whether newcomers are let in.
type Room struct {
	Free      float64 `json:"free"`       // part of the open regions' capacity
	ToldLater float64 `json:"told_later"` // part of newcomers that are told to wait for want of room
	PerSecond float64 `json:"per_second"` // newcomers that this ipconf lets in
}

// CatalogueAge says how old the last reading of a region's catalogue is, and whether it is held back.
type CatalogueAge struct {
	Region im.Region `json:"region"`
	AgeMs  int64     `json:"age_ms"`
	Held   bool      `json:"held_back"`
	Known  bool      `json:"known"`
}

// Explain serves the ranking that a client with the same parameters would get, with its reasons, for operators: mount it on
// the admin port only. Parameters are those of GET /v1/endpoints, and ip. It counts nobody in.
func (s *IPConf) Explain() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := parseQuery(r.URL.RawQuery)
		var ip netip.Addr
		if text := r.URL.Query().Get("ip"); text != "" {
			var err error
			if ip, err = netip.ParseAddr(text); err != nil {
				s.deny(w, im.CodeBadRequest, "ip: "+err.Error(), 0)
				return
			}
		}
		b, err := json.MarshalIndent(s.explain(&q, ip.Unmap(), time.Now()), "", "  ")
		if err != nil {
			http.Error(w, "internal", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		write(w, http.StatusOK, b)
	})
}

func (s *IPConf) explain(q *request, ip netip.Addr, now time.Time) Explanation {
	v := s.current.Load()
	e := Explanation{Region: s.cfg.Region, Location: []string{}, Regions: []RegionReason{}, Ranked: []Reason{}, LeftOut: []Reason{}}
	c := s.locator.locate(q, ip, now, func(line string) { e.Location = append(e.Location, line) })
	c.Last = findLast(v, s.locator, q.last)
	busy := true
	for i, r := range v.regions {
		st := v.table.Standing(i, &c)
		usable, free := v.table.State(i)
		e.Regions = append(e.Regions, RegionReason{
			Region: r.Name, RTTMs: st.RTT.Milliseconds(), Proximity: st.Proximity, Share: r.Share, Ramp: r.Ramp, Free: free,
			Open: st.Open, Usable: usable, Closed: st.Closed,
		})
	}
	reason := func(i int, score float64, why string) Reason {
		g := v.table.Gateway(i)
		f, weight := v.table.Factors(i)
		return Reason{
			Gateway: g.ID, Region: v.regions[g.Region].Name, Score: score, Why: why, Weight: weight, Factors: f,
			Conns: g.Conns, Capacity: g.Capacity, InFlight: g.InFlight, Recent: g.Recent, CPU: g.CPU, Net: g.Net, Errors: g.Errors,
			Version: s.fleet.version(v.gateways[i]), AgeMs: g.Age.Milliseconds(),
		}
	}
	named := map[int]bool{}
	for i, p := range v.table.Draw(nil, &c, rand.Uint64()) {
		named[p.Gateway] = true
		e.Ranked = append(e.Ranked, reason(p.Gateway, float64(p.Score), p.Why.String()))
		if i == 0 {
			busy = v.regions[v.table.Gateway(p.Gateway).Region].Share < 1 || p.Why == rank.Displaced
		}
	}
	for i := range v.gateways {
		if !named[i] {
			e.LeftOut = append(e.LeftOut, reason(i, 0, e.leftOut(v, i)))
		}
	}
	free := v.table.Free(c.Forbidden)
	e.Room = Room{Free: free, ToldLater: rank.Shortage(free, s.cfg.Reserve), PerSecond: s.cfg.GatewayRate * v.open / v.ipconfs}
	e.Policy = policyFor(s.cfg.Policy, kindOf(q.platform), classOf(q.network), busy || e.Room.ToldLater > 0)
	for _, name := range s.regions() {
		age, held, known := s.fleet.age(name, now)
		if !known {
			age = 0
		}
		e.Catalogs = append(e.Catalogs, CatalogueAge{name, age.Milliseconds(), held, known})
	}
	return e
}

// leftOut says why a gateway is not in an answer.
func (e *Explanation) leftOut(v *view, i int) string {
	g := v.table.Gateway(i)
	f, weight := v.table.Factors(i)
	region := &e.Regions[g.Region]
	switch {
	case region.Closed != "":
		return "region " + string(region.Region) + " is " + region.Closed
	case g.Draining:
		return "draining"
	case g.Dead:
		return "unhealthy"
	case f.Room <= 0:
		return "full"
	case weight <= 0:
		return "weight 0"
	case g.Canary:
		return "for canary users"
	}
	return "not drawn"
}
