package rank

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
)

// MaxRegions bounds the regions of a table.
const MaxRegions = 32

// Gateway is one gateway as it is known at the moment.
type Gateway struct {
	ID       string
	Region   int // index among the table's regions
	Conns    int
	Capacity int           // conns it is sized for; 0: not known
	InFlight float64       // newcomers sent there and not yet among Conns
	Recent   float64       // newcomers sent there lately, those in flight included
	CPU      float64       // used, 0 to 1, over a sliding window
	Net      float64       // bandwidth used, 0 to 1, over a sliding window; 0 where its limit is not known
	Errors   float64       // part of those sent there that failed, 0 to 1
	Age      time.Duration // of conns, cpu and net; negative: never heard
	Served   time.Duration // since it was first heard of; negative: it is no newer than the others
	Version  float64       // weight of its version; 0 counts as 1, negative takes nobody
	Canary   bool          // runs the version that only canary users get
	Draining bool
	Dead     bool // found unhealthy
}

// Region is one region as operators and the catalogue have it.
type Region struct {
	Name  im.Region
	Share float64 // 0 to 1: the part of its clients that its state lets in
	Ramp  float64 // 0 to 1: the same of those that do not ask for it by name, while it comes back; 0 counts as 1
	Why   string  // what makes them less than 1
}

// returnFloor is the part that a region takes that is back this moment.
const returnFloor = 0.1

// Ramp is the part of its clients that a region takes so long after it came back, if it takes over to take all.
func Ramp(since, over time.Duration) float64 {
	if since >= over {
		return 1
	}
	return returnFloor + (1-returnFloor)*max(0, float64(since))/float64(over)
}

// Settings are the constants of the formula. The zero value takes the defaults in brackets.
type Settings struct {
	HalfLife  time.Duration // after which a load is half trusted [10 s]
	SlowStart time.Duration // until a new gateway has its full weight [30 s]
	RTTScale  time.Duration // at which proximity is a half [50 ms]
	FarRTT    time.Duration // of regions that nothing is known of [150 ms]
	NearRTT   time.Duration // of the near one, unless it was measured [10 ms]
	Spill     float64       // the part of a region's capacity below which newcomers spill over [0.2]
	Home      float64       // how many times nearer its home is to a user [3]
	Limit     int           // gateways in an answer at most, more if there are more regions than a quarter of it [32]
}

func (s Settings) withDefaults() Settings {
	positive := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	positive(&s.HalfLife, 10*time.Second)
	positive(&s.SlowStart, SlowStart)
	positive(&s.RTTScale, 50*time.Millisecond)
	positive(&s.FarRTT, FarRTT)
	positive(&s.NearRTT, NearRTT)
	if s.Spill <= 0 {
		s.Spill = 0.2
	}
	if s.Home <= 0 {
		s.Home = 3
	}
	if s.Limit <= 0 {
		s.Limit = 32
	}
	return s
}

// SlowStart is how long a gateway is new, unless Settings say otherwise.
const SlowStart = 30 * time.Second

// Round trips of regions that nothing is known of, unless Settings say otherwise.
const (
	NearRTT = 10 * time.Millisecond // of the one whose ipconf was asked
	FarRTT  = 150 * time.Millisecond
)

const (
	defaultCapacity = 10_000 // of gateways whose capacity nobody knows
	unknownRoom     = 0.5    // of gateways in a region where no load is known
	knee            = 0.5    // cpu and net have no effect while less than this is used
	cpuFloor        = 0.2    // cpu of gateways that have none to spare: what is used beyond 90 % is noise
	startFloor      = 0.1    // of a gateway that was heard of this moment
	perRegion       = 4      // gateways of each region but the best: clients pull from other regions too
)

// Factors are what a gateway's score is made of, each 0 to 1 but Version.
type Factors struct {
	Room    float64 `json:"room"`
	CPU     float64 `json:"cpu"`
	Net     float64 `json:"net"`
	Sound   float64 `json:"sound"`
	Start   float64 `json:"start"`
	Version float64 `json:"version"`
	Trust   float64 `json:"trust"` // in the measurement; already in Room, CPU and Net
}

// Score is the product.
func (f Factors) Score() float64 { return f.Room * f.CPU * f.Net * f.Sound * f.Start * f.Version }

// Table is a fleet at one moment, prepared for drawing. Draw may be called from many goroutines.
type Table struct {
	settings Settings
	gateways []Gateway
	regions  []region
	score    []float32
	inverse  []float32       // 1 / weight; 0: is not drawn
	fresh    []atomic.Uint32 // newcomers taken since the table was built
}

type region struct {
	Region
	from, to       int // its gateways
	usable         int
	capacity       float64 // conns of the usable gateways
	spare          float64 // conns of them that are free, less what cpu, net and errors take away
	room, cpu, net float64 // averages by capacity of those that were heard
	stable, canary pool
	fresh          atomic.Uint32
}

// free is the part of the region's capacity that is not taken.
func (r *region) free() float64 {
	if r.capacity == 0 {
		return 0
	}
	return max(0, r.spare-float64(r.fresh.Load())) / r.capacity
}

// Build prepares a table. The gateways must be in the order of their regions, and within a region by id. Regions beyond
// MaxRegions are left out.
func Build(gateways []Gateway, regions []Region, s Settings) *Table {
	t := &Table{
		settings: s.withDefaults(), gateways: gateways, regions: make([]region, min(len(regions), MaxRegions)),
		score: make([]float32, len(gateways)), inverse: make([]float32, len(gateways)), fresh: make([]atomic.Uint32, len(gateways)),
	}
	weights := make([]float64, len(gateways))
	var scratch []int32
	at := 0
	for i := range t.regions {
		r := &t.regions[i]
		r.Region = regions[i]
		if r.Ramp == 0 {
			r.Ramp = 1
		}
		for r.from = at; at < len(gateways) && gateways[at].Region == i; at++ {
		}
		r.to = at
		t.average(r)
		stable, canary := 0, 0
		for g := r.from; g < r.to; g++ {
			if !usable(&gateways[g]) {
				continue
			}
			r.usable++
			f := t.factors(r, &gateways[g])
			c := capacity(&gateways[g])
			r.capacity += c
			r.spare += c * f.Room * f.CPU * f.Net * f.Sound
			score := f.Score()
			t.score[g] = float32(min(score, 1))
			weights[g] = c * score
			if weights[g] <= 0 {
				continue
			}
			t.inverse[g] = float32(1 / weights[g])
			if gateways[g].Canary {
				canary++
			} else {
				stable++
			}
		}
		r.stable.members, r.canary.members = make([]int32, 0, stable), make([]int32, 0, canary)
		for g := r.from; g < r.to; g++ {
			switch {
			case t.inverse[g] == 0:
			case gateways[g].Canary:
				r.canary.members = append(r.canary.members, int32(g))
			default:
				r.stable.members = append(r.stable.members, int32(g))
			}
		}
		scratch = r.stable.build(weights, scratch)
		scratch = r.canary.build(weights, scratch)
	}
	return t
}

func usable(g *Gateway) bool { return !g.Draining && !g.Dead }

func capacity(g *Gateway) float64 {
	if g.Capacity <= 0 {
		return defaultCapacity
	}
	return float64(g.Capacity)
}

func own(g *Gateway) (room, cpu, net float64) {
	return 1 - (float64(g.Conns)+g.InFlight)/capacity(g), max(cpuFloor, beyondKnee(g.CPU)), beyondKnee(g.Net)
}

func beyondKnee(used float64) float64 { return min(1, max(0, (1-used)/knee)) }

// average computes what is taken for gateways that were not heard of lately.
func (t *Table) average(r *region) {
	var sum float64
	for i := r.from; i < r.to; i++ {
		g := &t.gateways[i]
		if !usable(g) || g.Age < 0 {
			continue
		}
		c := capacity(g)
		room, cpu, net := own(g)
		r.room += c * room
		r.cpu += c * cpu
		r.net += c * net
		sum += c
	}
	if sum == 0 {
		r.room, r.cpu, r.net = unknownRoom, 1, 1
		return
	}
	r.room, r.cpu, r.net = r.room/sum, r.cpu/sum, r.net/sum
}

func (t *Table) factors(r *region, g *Gateway) Factors {
	room, cpu, net := own(g)
	f := Factors{Room: room, CPU: cpu, Net: net, Trust: 1, Start: 1, Version: g.Version}
	if g.Age != 0 {
		f.Trust = 0
		if g.Age > 0 {
			f.Trust = math.Exp2(-float64(g.Age) / float64(t.settings.HalfLife))
		}
		// What was sent there lately is known however old the measurement is.
		f.Room = f.Trust*room + (1-f.Trust)*min(r.room, 1-g.InFlight/capacity(g))
		f.CPU = f.Trust*cpu + (1-f.Trust)*r.cpu
		f.Net = f.Trust*net + (1-f.Trust)*r.net
	}
	f.Room = min(1, max(0, f.Room))
	sound := 1 - min(1, max(0, g.Errors))
	f.Sound = sound * sound
	if g.Served >= 0 && g.Served < t.settings.SlowStart {
		f.Start = min(1, startFloor+(1-startFloor)*float64(g.Served)/float64(t.settings.SlowStart))
	}
	if f.Version == 0 {
		f.Version = 1
	}
	f.Version = max(0, f.Version)
	return f
}

// Gateway returns the i-th gateway as the table was given it.
func (t *Table) Gateway(i int) *Gateway { return &t.gateways[i] }

// Len is how many gateways the table was given.
func (t *Table) Len() int { return len(t.gateways) }

// Factors tells what the i-th gateway's score is made of, and its weight.
func (t *Table) Factors(i int) (f Factors, weight float64) {
	g := &t.gateways[i]
	f = t.factors(&t.regions[g.Region], g)
	return f, capacity(g) * f.Score()
}

// Take counts a newcomer in who was sent to the i-th gateway.
func (t *Table) Take(i int) {
	t.fresh[i].Add(1)
	t.regions[t.gateways[i].Region].fresh.Add(1)
}

// Free is the part, 0 to 1, of the open regions' capacity that is not taken, the forbidden ones (a bit each) left aside. It
// is 0 if none is open.
func (t *Table) Free(forbidden uint32) float64 {
	var free, sum float64
	for i := range t.regions {
		r := &t.regions[i]
		if forbidden&(1<<i) != 0 || r.usable == 0 || r.Share <= 0 {
			continue
		}
		free += r.Share * r.free() * r.capacity
		sum += r.Share * r.capacity
	}
	if sum == 0 {
		return 0
	}
	return free / sum
}

// State tells of the i-th region: how many of its gateways are usable, and which part of their capacity is free.
func (t *Table) State(i int) (usable int, free float64) {
	return t.regions[i].usable, t.regions[i].free()
}

// Find returns the index of a gateway by its id and region; a negative region looks in all. It returns -1 where there is
// none.
func (t *Table) Find(regionIndex int, id string) int {
	for i := range t.regions {
		if regionIndex >= 0 && regionIndex != i {
			continue
		}
		low, high := t.regions[i].from, t.regions[i].to
		for low < high {
			if m := (low + high) / 2; t.gateways[m].ID < id {
				low = m + 1
			} else {
				high = m
			}
		}
		if low < t.regions[i].to && t.gateways[low].ID == id {
			return low
		}
	}
	return -1
}
