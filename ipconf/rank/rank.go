package rank

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Gateway is one gateway as ipconf knows it at the moment.
type Gateway struct {
	ID       string
	Region   im.Region
	Conns    int
	Capacity int           // conns it is sized for; 0: not known
	InFlight float64       // newcomers sent there and not yet among Conns
	CPU      float64       // 0 to 1
	Age      time.Duration // of conns and cpu; negative: never heard
	Draining bool
	Dead     bool // found unhealthy
}

// Client is who asks. All fields are hints.
type Client struct {
	Region im.Region                   // it wants this region; empty: the best
	Near   im.Region                   // the region of the ipconf that it asked
	RTT    map[im.Region]time.Duration // as it measured
	Last   string                      // the gateway it used last: region/id, or an id alone (then of the best region that has it)
}

// Closed says why a region takes no newcomers; regions that are not in it take some.
type Closed map[im.Region]string

// Ranked is one gateway in its place.
type Ranked struct {
	Index int     // in the gateways given
	Score float64 // 0 to 1: the region's score times how free it is
	Why   string
}

// Left is a gateway that was left out.
type Left struct {
	Index int
	Why   string
}

// Settings are the constants of the formula. The zero value takes the defaults in brackets.
type Settings struct {
	HalfLife time.Duration // after which a load is half trusted [10 s]
	RTTScale time.Duration // at which proximity is a half [50 ms]
	FarRTT   time.Duration // assumed of regions that were not measured [150 ms]
	NearRTT  time.Duration // assumed of the near or wanted one [10 ms]
	Spill    float64       // the part of a region's capacity below which newcomers spill over [0.2]
	Limit    int           // gateways in an answer at most, more if there are more regions than a quarter of it [32]
}

func (s Settings) withDefaults() Settings {
	positive := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	positive(&s.HalfLife, 10*time.Second)
	positive(&s.RTTScale, 50*time.Millisecond)
	positive(&s.FarRTT, 150*time.Millisecond)
	positive(&s.NearRTT, 10*time.Millisecond)
	if s.Spill <= 0 {
		s.Spill = 0.2
	}
	if s.Limit <= 0 {
		s.Limit = 32
	}
	return s
}

const (
	defaultCapacity = 10_000 // of gateways whose capacity nobody knows
	unknownFill     = 0.5    // of gateways in a region where no load is known
	perRegion       = 4      // gateways of each region but the best: clients pull from other regions too
)

type region struct {
	name     im.Region
	members  []member
	capacity float64
	fill     float64 // average by capacity, of the loads that are known
	score    float64
	why      string
}

type member struct {
	index    int
	capacity float64
	fill     float64 // 0 empty to 1 full, or more
	known    bool
}

// Rank orders the gateways for a client. seed makes the draw: pass a random one.
func Rank(gateways []Gateway, closed Closed, c Client, s Settings, seed uint64) ([]Ranked, []Left) {
	s = s.withDefaults()
	var left []Left
	var regions []*region
	byName := map[im.Region]*region{}
	for i, g := range gateways {
		why := ""
		switch reason, shut := closed[g.Region]; {
		case shut:
			why = fmt.Sprintf("region %s is %s", g.Region, reason)
		case g.Draining:
			why = "draining"
		case g.Dead:
			why = "unhealthy"
		}
		if why != "" {
			left = append(left, Left{i, why})
			continue
		}
		r := byName[g.Region]
		if r == nil {
			r = &region{name: g.Region}
			byName[g.Region] = r
			regions = append(regions, r)
		}
		r.members = append(r.members, measure(i, g))
	}
	for _, r := range regions {
		r.settle(gateways, c, s)
	}
	slices.SortStableFunc(regions, func(a, b *region) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.name, b.name))
	})
	rng := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	ranked := make([]Ranked, 0, min(len(gateways)-len(left), s.Limit+perRegion*len(regions)))
	for i, r := range regions {
		n := perRegion
		if i == 0 {
			n = max(n, s.Limit-perRegion*(len(regions)-1))
		}
		ranked = r.draw(ranked, n, rng)
	}
	return preferLast(ranked, gateways, regions, c), left
}

func measure(i int, g Gateway) member {
	m := member{index: i, capacity: float64(g.Capacity), known: g.Age >= 0}
	if g.Capacity <= 0 {
		m.capacity = defaultCapacity
	}
	conns := (float64(g.Conns) + g.InFlight) / m.capacity
	// A busy machine is as full as its cpu, above the half: below it, cpu says little about room for one more socket.
	cpu := max(0, 2*g.CPU-1)
	m.fill = max(conns, cpu)
	return m
}

// settle computes what the region's members have in common.
func (r *region) settle(gateways []Gateway, c Client, s Settings) {
	var sum, known float64
	for _, m := range r.members {
		r.capacity += m.capacity
		if m.known {
			sum += m.fill * m.capacity
			known += m.capacity
		}
	}
	r.fill = unknownFill
	if known > 0 {
		r.fill = sum / known
	}
	for i := range r.members {
		m := &r.members[i]
		g := gateways[m.index]
		trust := 0.0
		if m.known {
			trust = math.Exp2(-float64(g.Age) / float64(s.HalfLife))
		}
		// What was sent there lately is known however old the measurement is.
		m.fill = trust*m.fill + (1-trust)*max(r.fill, g.InFlight/m.capacity)
	}
	rtt, measured := c.RTT[r.name]
	why := "measured"
	switch {
	case c.Region == r.name:
		rtt, why = 0, "wanted"
	case measured:
	case c.Near == r.name:
		rtt, why = s.NearRTT, "asked"
	default:
		rtt, why = s.FarRTT, "far"
	}
	proximity := 1 / (1 + float64(rtt)/float64(s.RTTScale))
	room := min(1, max(0, 1-r.fill)/s.Spill)
	r.score = proximity * room
	r.why = fmt.Sprintf("region %s %s (%d ms), %.0f%% full", r.name, why, rtt.Milliseconds(), 100*r.fill)
}

// draw appends n of the region's members in a drawn order. Those that are full come last.
func (r *region) draw(ranked []Ranked, n int, rng *rand.Rand) []Ranked {
	pool := slices.Clone(r.members)
	full := pool[:0:0]
	pool = slices.DeleteFunc(pool, func(m member) bool {
		if m.fill >= 1 {
			full = append(full, m)
		}
		return m.fill >= 1
	})
	for _, group := range [][]member{pool, full} {
		total := 0.0
		for _, m := range group {
			total += m.capacity
		}
		for ; len(group) > 0 && n > 0; n-- {
			a := pick(group, total, -1, rng)
			chosen := a
			if len(group) > 1 {
				b := pick(group, total-group[a].capacity, a, rng)
				if less(group[b], group[a]) {
					chosen = b
				}
			}
			m := group[chosen]
			ranked = append(ranked, r.ranked(m))
			total -= m.capacity
			group[chosen] = group[len(group)-1]
			group = group[:len(group)-1]
		}
	}
	return ranked
}

func (r *region) ranked(m member) Ranked {
	return Ranked{
		Index: m.index, Score: r.score * min(1, max(0, 1-m.fill)),
		Why: fmt.Sprintf("%s; gateway %.0f%% full", r.why, 100*m.fill),
	}
}

func less(a, b member) bool {
	return cmp.Or(cmp.Compare(a.fill, b.fill), cmp.Compare(a.index, b.index)) < 0
}

// pick draws a member by capacity, of all but one.
func pick(group []member, total float64, but int, rng *rand.Rand) int {
	at := rng.Float64() * total
	last := -1
	for i, m := range group {
		if i == but {
			continue
		}
		last = i
		if at -= m.capacity; at < 0 {
			return i
		}
	}
	return last // rounding
}

// preferLast puts the gateway that the client used last first, whether it was drawn or not.
func preferLast(ranked []Ranked, gateways []Gateway, regions []*region, c Client) []Ranked {
	if c.Last == "" {
		return ranked
	}
	for _, r := range regions {
		if c.Region != "" && r.name != c.Region {
			continue
		}
		for _, m := range r.members {
			g := gateways[m.index]
			if c.Last != g.ID && c.Last != string(g.Region)+"/"+g.ID {
				continue
			}
			if measure(m.index, g).fill >= 1 {
				return ranked
			}
			last := r.ranked(m)
			last.Why += "; used last"
			ranked = slices.DeleteFunc(ranked, func(r Ranked) bool { return r.Index == m.index })
			return slices.Insert(ranked, 0, last)
		}
	}
	return ranked
}
