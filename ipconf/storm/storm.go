package storm

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// Config says what is simulated. Zero values take the defaults in brackets.
type Config struct {
	Clients  int           // of the region that dies [3,000,000]
	Gateways int           // that survive, in all regions together [300]
	Regions  int           // that survive [3]
	IPConfs  int           // in each of them [2]
	Capacity int           // conns of an average gateway; others have 20 % more or less [50,000]
	Used     float64       // of the capacity, when the region dies, ±10 % from gateway to gateway [0.55]
	Logins   float64       // that a gateway can take a second [2,000]
	Rate     float64       // newcomers a second and gateway that ipconfs send at most [1,000]
	Length   time.Duration // of the simulation [2 min]
	Strategy Strategy      // [Weighted]
	Seed     uint64
}

// Strategy is how an ipconf chooses.
type Strategy string

// The strategies: what ipconf does, and two to compare it with.
const (
	Weighted Strategy = "weighted" // weights, two choices, accounting, admission: ipconf
	Random   Strategy = "random"   // any gateway of the nearest region
	Best     Strategy = "best"     // the best five of the nearest region by score, for everybody alike
)

func (c Config) withDefaults() Config {
	ints := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	floats := func(v *float64, d float64) {
		if *v <= 0 {
			*v = d
		}
	}
	ints(&c.Clients, 3_000_000)
	ints(&c.Gateways, 300)
	ints(&c.Regions, 3)
	ints(&c.IPConfs, 2)
	ints(&c.Capacity, 50_000)
	floats(&c.Used, 0.55)
	floats(&c.Logins, 2_000)
	floats(&c.Rate, 1_000)
	if c.Length <= 0 {
		c.Length = 2 * time.Minute
	}
	if c.Strategy == "" {
		c.Strategy = Weighted
	}
	c.Regions = min(c.Regions, rank.MaxRegions-1)
	return c
}

// What the clients and gateways of the model do.
const (
	tick           = 10 * time.Millisecond
	rebuild        = 100 * time.Millisecond // of an ipconf's table
	poll           = 2 * time.Second        // of loads
	deadAfter      = 5 * time.Second
	silent         = 3 * time.Second // after which clients' reports are believed
	believed       = 3               // reports
	connectTimeout = 5 * time.Second
	backoffBase    = 250 * time.Millisecond
	backoffCap     = 30 * time.Second
	backoffJitter  = 0.8
	heartbeat      = 25 * time.Second // within which those notice whose sockets were not reset
	unreset        = 0.2              // of the clients
	askTime        = 60 * time.Millisecond
)

// gateway is a real one, as opposed to what ipconfs know of it.
type gateway struct {
	capacity, conns int
	free            int           // when the region died
	busy            time.Duration // until then it works off logins
}

type ipconf struct {
	table   *rank.Table
	loads   []rank.Gateway // as last heard
	heard   []time.Duration
	sent    []rank.Sent
	failed  []int // reports of clients, since it was last heard
	gate    rank.Gate
	polled  time.Duration
	settled time.Duration
}

type client struct {
	failures uint8
	place    uint8 // next one of its answer
	answer   [3]int16
}

type storm struct {
	cfg      Config
	rng      *rand.Rand
	regions  []rank.Region // the first one died
	gateways []gateway     // of the survivors
	ipconfs  []*ipconf
	clients  []client
	due      [][]uint32 // clients by tick
	now      time.Duration
	result   *Result
	places   []rank.Place
}

// time is the simulated moment; the region died at 1000 s.
func (s *storm) time() time.Time { return time.Unix(1_000, 0).Add(s.now) }

// Run simulates.
func Run(cfg Config) (*Result, error) {
	cfg = cfg.withDefaults()
	if cfg.Gateways < cfg.Regions {
		return nil, fmt.Errorf("storm: %d gateways are too few for %d regions", cfg.Gateways, cfg.Regions)
	}
	s := &storm{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 7)), clients: make([]client, cfg.Clients)}
	s.build()
	s.due = make([][]uint32, int(cfg.Length/tick)+1)
	for i := range s.clients {
		at := time.Duration(s.rng.ExpFloat64() * float64(500*time.Millisecond)) // resets arrive
		if s.rng.Float64() < unreset {
			at = time.Duration(s.rng.Float64() * float64(heartbeat))
		}
		// The old gateway is tried first: refused at once, or not answering.
		if s.rng.Float64() < 0.5 {
			at += connectTimeout
		}
		s.clients[i].failures = 1
		s.at(at+s.backoff(1), uint32(i))
	}
	for n := range s.due {
		s.now = time.Duration(n) * tick
		s.refresh()
		for _, i := range s.due[n] {
			s.step(i)
		}
		s.due[n] = nil
	}
	s.result.finish(s)
	return s.result, nil
}

// build makes the survivors, and what every ipconf knew of them when the region died.
func (s *storm) build() {
	s.regions = []rank.Region{{Name: "dead", Share: 1}}
	for r := range s.cfg.Regions {
		s.regions = append(s.regions, rank.Region{Name: im.Region(fmt.Sprintf("r%d", r+1)), Share: 1})
	}
	dead := max(1, s.cfg.Gateways/s.cfg.Regions)
	var known []rank.Gateway
	for i := range dead {
		known = append(known, rank.Gateway{ID: fmt.Sprintf("dead-%04d", i), Capacity: s.cfg.Capacity, Conns: s.cfg.Clients / dead, Served: -1})
	}
	for i := range s.cfg.Gateways {
		c := s.cfg.Capacity * (4 + i%3) / 5
		used := s.cfg.Used * (0.9 + 0.2*s.rng.Float64())
		g := gateway{capacity: c, conns: int(float64(c) * used)}
		g.free = c - g.conns
		s.gateways = append(s.gateways, g)
		known = append(known, rank.Gateway{
			ID: fmt.Sprintf("gw-%04d", i), Region: 1 + i*s.cfg.Regions/s.cfg.Gateways, Capacity: c, Conns: g.conns, Served: -1,
		})
	}
	s.result = newResult(s.cfg, known[dead:])
	for range s.cfg.IPConfs * s.cfg.Regions {
		p := &ipconf{
			loads: append([]rank.Gateway(nil), known...), heard: make([]time.Duration, len(known)), sent: make([]rank.Sent, len(known)),
			failed: make([]int, len(known)),
			polled: -time.Duration(s.rng.Float64() * float64(poll)), settled: -time.Duration(s.rng.Float64() * float64(rebuild)),
		}
		s.ipconfs = append(s.ipconfs, p)
	}
}

func (s *storm) dead() int { return len(s.ipconfs[0].loads) - len(s.gateways) }

func (s *storm) at(t time.Duration, i uint32) {
	n := max(int((t+tick-1)/tick), int(s.now/tick)+1)
	if s.now == 0 && t < tick {
		n = 0
	}
	if n < len(s.due) {
		s.due[n] = append(s.due[n], i)
	}
}

func (s *storm) backoff(failures int) time.Duration {
	d := min(backoffCap, backoffBase<<min(failures-1, 10))
	return time.Duration(float64(d) * (1 - backoffJitter*s.rng.Float64()))
}

// refresh lets ipconfs hear loads and rebuild their tables when it is time.
func (s *storm) refresh() {
	dead := s.dead()
	for _, p := range s.ipconfs {
		if s.now-p.polled >= poll {
			p.polled = s.now
			for g := range s.gateways {
				p.loads[dead+g].Conns = s.gateways[g].conns
				p.heard[dead+g] = s.now
				p.sent[dead+g].Settle(s.time())
			}
		}
		if p.table != nil && s.now-p.settled < rebuild {
			continue
		}
		p.settled = s.now
		list := append([]rank.Gateway(nil), p.loads...)
		for g := range list {
			list[g].Recent, list[g].InFlight = p.sent[g].Count(s.time())
			list[g].Age = s.now - p.heard[g]
			list[g].Dead = list[g].Age > deadAfter || list[g].Age > silent && p.failed[g] >= believed
		}
		p.table = rank.Build(list, s.regions, rank.Settings{Limit: 8})
	}
}

// step lets a client do its next thing: try the next place of its answer, or ask.
func (s *storm) step(i uint32) {
	c := &s.clients[i]
	if int(c.place) < len(c.answer) && c.answer[c.place] > 0 {
		g := int(c.answer[c.place]) - 1
		c.place++
		s.connect(i, g)
		return
	}
	s.ask(i)
}

// ask asks a random ipconf.
func (s *storm) ask(i uint32) {
	c := &s.clients[i]
	p := s.ipconfs[s.rng.IntN(len(s.ipconfs))]
	who := rank.Nobody()
	who.RTT[0] = 10
	for r := 1; r < len(s.regions); r++ {
		who.RTT[r] = uint16(40 + 40*r + s.rng.IntN(20))
	}
	s.result.asked++
	s.places = p.table.Draw(s.places[:0], &who, s.rng.Uint64())
	if s.cfg.Strategy != Weighted {
		s.compare(p)
	} else if len(s.places) > 0 {
		open := 0
		for r := range s.regions {
			if n, free := p.table.State(r); free > 0 {
				open += n
			}
		}
		if short := rank.Shortage(p.table.Free(0), 0.05); s.rng.Float64() < short {
			s.result.told(s.now)
			s.at(s.now+askTime+rank.ShortageWait(s.rng.Float64()), i)
			return
		}
		if wait := p.gate.Ask(s.time(), s.cfg.Rate*float64(open)/float64(len(s.ipconfs)), false, s.rng.Float64()); wait > 0 {
			s.result.told(s.now)
			s.at(s.now+askTime+wait, i)
			return
		}
	}
	if len(s.places) == 0 {
		s.fail(i, 0)
		return
	}
	first := s.places[0].Gateway
	p.table.Take(first)
	p.sent[first].Add(s.time())
	c.place, c.answer = 0, [3]int16{}
	dead, n := s.dead(), 0
	for _, place := range s.places {
		if n == len(c.answer) {
			break
		}
		if place.Gateway < dead {
			if n == 0 { // the ipconf has not noticed yet; the client will tell it
				p.failed[place.Gateway]++
				s.fail(i, connectTimeout)
				return
			}
			continue
		}
		c.answer[n] = int16(place.Gateway-dead) + 1
		n++
	}
	s.at(s.now+askTime, i)
}

// compare replaces the answer by what a simpler ranking gives.
func (s *storm) compare(p *ipconf) {
	dead := s.dead()
	if p.loads[0].Age > deadAfter || s.now > deadAfter {
		nearest := len(s.gateways) / s.cfg.Regions
		s.places = s.places[:0]
		if s.cfg.Strategy == Random {
			s.places = append(s.places, rank.Place{Gateway: dead + s.rng.IntN(nearest)})
			return
		}
		var best [3]int // by free conns
		for g := range nearest {
			free := func(i int) int { return p.loads[dead+i].Capacity - p.loads[dead+i].Conns }
			for k := range best {
				if free(g) > free(best[k]) {
					copy(best[k+1:], best[k:])
					best[k] = g
					break
				}
			}
		}
		for _, g := range best {
			s.places = append(s.places, rank.Place{Gateway: dead + g})
		}
	}
}

// connect lets a gateway take a login, or not.
func (s *storm) connect(i uint32, g int) {
	gw := &s.gateways[g]
	s.result.arrived(s.now, g)
	wait := max(0, gw.busy-s.now)
	if wait > connectTimeout || gw.conns >= gw.capacity {
		s.result.refused++
		s.fail(i, min(wait, connectTimeout))
		return
	}
	gw.busy = max(gw.busy, s.now) + time.Duration(float64(time.Second)/s.cfg.Logins)
	gw.conns++
	s.result.connected(s.now + wait)
}

// fail lets a client back off and go on.
func (s *storm) fail(i uint32, after time.Duration) {
	c := &s.clients[i]
	c.failures = min(c.failures+1, 20)
	s.at(s.now+after+s.backoff(int(c.failures)), i)
}
