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
	IPConfs  int           // in each region [8]
	Asks     float64       // that an ipconf answers a second [50,000]
	Capacity int           // conns of an average gateway; others have 20 % more or less [50,000]
	Used     float64       // of the capacity, when the region dies, ±10 % from gateway to gateway [0.55]
	Logins   float64       // that an average gateway takes a second; others by their capacity [2,500]
	Rate     float64       // newcomers a second and gateway that ipconfs send at most [2,000]
	Silent   float64       // part of the dead region's gateways whose hosts do not even refuse [0]
	Return   time.Duration // when the region is back, after it died [1 min]; negative: never
	Churn    time.Duration // after which a connected client's network changes, on average [2 min]
	Length   time.Duration // of the simulation [4 min]
	Strategy Strategy      // [Weighted]
	Seed     uint64
}

// Strategy is how an ipconf chooses.
type Strategy string

// The strategies: what ipconf does, and two to compare it with.
const (
	Weighted Strategy = "weighted" // weights, two choices, accounting, admission: ipconf
	Random   Strategy = "random"   // any gateway of the nearest region
	Best     Strategy = "best"     // the best three of the nearest region by room, for everybody alike
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
	times := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	ints(&c.Clients, 3_000_000)
	ints(&c.Gateways, 300)
	ints(&c.Regions, 3)
	ints(&c.IPConfs, 8)
	floats(&c.Asks, 50_000)
	ints(&c.Capacity, 50_000)
	floats(&c.Used, 0.55)
	floats(&c.Logins, 2_500)
	floats(&c.Rate, 2_000)
	times(&c.Return, time.Minute)
	times(&c.Churn, 2*time.Minute)
	times(&c.Length, 4*time.Minute)
	if c.Strategy == "" {
		c.Strategy = Weighted
	}
	c.Regions = min(c.Regions, rank.MaxRegions-1)
	return c
}

// What the parts of the model do, as the real ones do by default.
const (
	tick           = 10 * time.Millisecond
	connectTimeout = 5 * time.Second
	raceWidth      = 3
	raceStagger    = 200 * time.Millisecond
	backoffBase    = 250 * time.Millisecond
	backoffCap     = 30 * time.Second
	backoffJitter  = 0.8
	heartbeat      = 25 * time.Second // of silence, after which a client pings
	pongWait       = 10 * time.Second
	maxFailed      = 8 // gateways that a client complains of when it asks
	askTime        = 60 * time.Millisecond
	dialTime       = 100 * time.Millisecond // with TLS and upgrade
	refuseTime     = 30 * time.Millisecond
	maxLogins      = 4096 // under way at a gateway
	tellTime       = time.Second
)

// gateway is a real one, as opposed to what ipconfs know of it. Those of the region that dies come first.
type gateway struct {
	region          int
	capacity, conns int
	logins          float64 // that it takes a second
	down            bool
	silent          bool          // its host is down as well
	busy            time.Duration // until then it works off logins
}

// next is what a client does when its time comes.
type next uint8

const (
	lose   next = iota // its socket ends
	ask                // an ipconf
	answer             // comes, from ipconf at
	login              // on gateway at
)

type client struct {
	next     next
	failures uint8
	failed   uint8 // complaints that it did not tell yet
	at       int16
	last     int16 // gateway used last
	bad      [maxFailed]int16
}

type storm struct {
	cfg      Config
	rng      *rand.Rand
	regions  []rank.Region // the first one dies
	dead     int           // gateways of it
	gateways []gateway
	ipconfs  []*ipconf // of the survivors
	clients  []client
	due      [][]uint32 // clients by tick
	now      time.Duration
	returned bool
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
		s.die(uint32(i))
	}
	for n := range s.due {
		s.now = time.Duration(n) * tick
		if !s.returned && cfg.Return > 0 && s.now >= cfg.Return {
			s.returns()
		}
		for _, p := range s.ipconfs {
			s.refresh(p)
		}
		for _, i := range s.due[n] {
			s.step(i)
		}
		s.due[n] = nil
		if s.now%time.Second == time.Second-tick {
			for g := range s.dead {
				s.result.atHome[s.now/time.Second] += s.gateways[g].conns
			}
		}
	}
	s.result.finish(s)
	return s.result, nil
}

// build makes the gateways, and what every ipconf knew of them when the region died.
func (s *storm) build() {
	s.regions = []rank.Region{{Name: "dead", Share: 1, Ramp: 1}}
	for r := range s.cfg.Regions {
		s.regions = append(s.regions, rank.Region{Name: im.Region(fmt.Sprintf("r%d", r+1)), Share: 1, Ramp: 1})
	}
	s.dead = max(1, s.cfg.Gateways/s.cfg.Regions)
	var known []rank.Gateway
	for i := range s.dead {
		g := gateway{logins: s.cfg.Logins, capacity: max(s.cfg.Capacity, 2*s.cfg.Clients/s.dead), down: true, silent: s.rng.Float64() < s.cfg.Silent}
		s.gateways = append(s.gateways, g)
		known = append(known, rank.Gateway{ID: fmt.Sprintf("dead-%04d", i), Capacity: g.capacity, Conns: s.cfg.Clients / s.dead, Served: -1})
	}
	for i := range s.cfg.Gateways {
		c := s.cfg.Capacity * (4 + i%3) / 5
		used := s.cfg.Used * (0.9 + 0.2*s.rng.Float64())
		g := gateway{region: 1 + i*s.cfg.Regions/s.cfg.Gateways, capacity: c, conns: int(float64(c) * used), logins: s.cfg.Logins * float64(c) / float64(s.cfg.Capacity)}
		s.gateways = append(s.gateways, g)
		known = append(known, rank.Gateway{ID: fmt.Sprintf("gw-%04d", i), Region: g.region, Capacity: c, Conns: g.conns, Served: -1})
	}
	s.result = newResult(s.cfg, known, s.dead)
	for range s.cfg.IPConfs * s.cfg.Regions {
		s.ipconfs = append(s.ipconfs, newIPConf(known, len(s.regions), s.rng))
	}
}

// returns brings the region back, its gateways empty.
func (s *storm) returns() {
	s.returned = true
	for g := range s.dead {
		s.gateways[g] = gateway{capacity: s.gateways[g].capacity, logins: s.cfg.Logins}
	}
}

func (s *storm) at(t time.Duration, i uint32, what next) {
	s.clients[i].next = what
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
