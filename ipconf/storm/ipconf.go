package storm

import (
	"math/rand/v2"
	"time"

	"github.com/antipode-im/antipode/ipconf/rank"
)

// What an ipconf does by default.
const (
	rebuild    = 100 * time.Millisecond // of its table
	poll       = 2 * time.Second        // of loads
	pollTime   = time.Second            // until one that does not answer is given up
	deadAfter  = 5 * time.Second
	silent     = 3 * time.Second // after which clients' reports are believed
	returnOver = time.Minute
	reserve    = 0.05
	queueTime  = 4 * time.Second        // that clients wait for its answer
	hedgeAfter = 500 * time.Millisecond // until they ask another as well
)

// ipconf is one of the survivors' ipconfs and what it knows.
type ipconf struct {
	table  *rank.Table
	loads  []rank.Gateway  // as last heard
	heard  []time.Duration // when
	sent   []rank.Sent
	failed []rank.Sent     // reports of clients
	banned []time.Duration // until then clients are believed that it cannot be used
	usable []bool          // regions, when the table was made
	back   []time.Duration // since when a region is usable again; 0: it always was
	gate   rank.Gate
	polled time.Duration
	built  time.Duration
	busy   time.Duration // until then it works off asks
}

func newIPConf(known []rank.Gateway, regions int, rng *rand.Rand) *ipconf {
	n := len(known)
	p := &ipconf{
		loads: append([]rank.Gateway(nil), known...), heard: make([]time.Duration, n), sent: make([]rank.Sent, n),
		failed: make([]rank.Sent, n), banned: make([]time.Duration, n), usable: make([]bool, regions), back: make([]time.Duration, regions),
		polled: -time.Duration(rng.Float64() * float64(poll)), built: -time.Duration(rng.Float64() * float64(rebuild)),
	}
	for g := range p.heard { // the last poll before the region died
		p.heard[g] = p.polled
	}
	for r := range p.usable {
		p.usable[r] = true
	}
	return p
}

// refresh lets an ipconf hear loads and make its table anew when it is time.
func (s *storm) refresh(p *ipconf) {
	if s.now-p.polled >= poll {
		p.polled = s.now
		for g := range s.gateways {
			if s.gateways[g].down {
				continue
			}
			if g < s.dead && p.loads[g].Served < 0 { // another epoch of it
				p.loads[g].Served = 0
			}
			p.loads[g].Conns = s.gateways[g].conns
			p.heard[g], p.banned[g] = s.now, 0
			p.sent[g].Settle(s.time())
		}
	}
	if p.table != nil && s.now-p.built < rebuild {
		return
	}
	p.built = s.now
	s.rebuild(p)
}

// rebuild makes the table as ipconf makes its view.
func (s *storm) rebuild(p *ipconf) {
	now := s.time()
	list := append([]rank.Gateway(nil), p.loads...)
	deaf, usable, heard := make([]bool, len(s.regions)), make([]bool, len(s.regions)), make([]bool, len(s.regions))
	banned := make([]int, len(s.regions)) // less the half
	for r := range deaf {
		deaf[r] = true
	}
	for g := range list {
		r := list[g].Region
		list[g].Age = s.now - p.heard[g]
		deaf[r] = deaf[r] && list[g].Age > deadAfter
		banned[r]--
		if s.now < p.banned[g] {
			banned[r] += 2
		}
	}
	for r := range deaf {
		deaf[r] = deaf[r] && banned[r] <= 0
	}
	for g := range list {
		c := &list[g]
		c.Recent, c.InFlight = p.sent[g].Count(now)
		if failed, _ := p.failed[g].Count(now); failed > 0 {
			c.Errors = rank.Errors(failed, c.Recent)
		}
		if c.Served == 0 {
			c.Served = s.now - s.cfg.Return
		}
		c.Dead = !deaf[c.Region] && c.Age > deadAfter || s.now < p.banned[g]
		usable[c.Region] = usable[c.Region] || !c.Dead
		heard[c.Region] = heard[c.Region] || !c.Dead && c.Age <= deadAfter
	}
	regions := append([]rank.Region(nil), s.regions...)
	for r := range regions {
		if usable[r] && !p.usable[r] {
			p.back[r] = s.now
		}
		if p.back[r] > 0 {
			regions[r].Ramp = rank.Ramp(s.now-p.back[r], returnOver)
		}
		p.usable[r] = usable[r] && (p.usable[r] || heard[r])
	}
	p.table = rank.Build(list, regions, rank.Settings{Limit: 32})
}

// report takes a client's complaint about a gateway.
func (s *storm) report(p *ipconf, g int) {
	now := s.time()
	p.failed[g].Add(now)
	if s.now-p.heard[g] <= silent {
		return
	}
	failed, _ := p.failed[g].Count(now)
	sent, _ := p.sent[g].Count(now)
	if rank.Believed(failed, sent) {
		p.banned[g] = s.now + rank.Ban
	}
}

// admit tells how long a client is to wait, to which these places would be told; 0: they are.
func (s *storm) admit(p *ipconf) time.Duration {
	first := s.places[0]
	resumes := first.Why == rank.LastUsed
	if short := rank.Shortage(p.table.Free(0), reserve); !resumes && s.rng.Float64() < short {
		return rank.ShortageWait(s.rng.Float64())
	}
	open := 0
	for r := range s.regions {
		n, _ := p.table.State(r)
		open += n
	}
	sharing := len(s.ipconfs)
	if s.now < poll+pollTime { // the dead region's answer, as far as is known
		sharing += s.cfg.IPConfs
	}
	return p.gate.Ask(s.time(), s.cfg.Rate*float64(open)/float64(sharing), resumes, s.rng.Float64())
}

// compare replaces the answer by what a simpler ranking gives: places in the nearest region that is up.
func (s *storm) compare(p *ipconf) {
	from, to := s.dead, s.dead+len(s.gateways[s.dead:])/s.cfg.Regions
	if s.now <= deadAfter || s.returned && s.now > s.cfg.Return+poll {
		from, to = 0, s.dead
	}
	s.places = s.places[:0]
	if s.cfg.Strategy == Random {
		for range raceWidth {
			s.places = append(s.places, rank.Place{Gateway: from + s.rng.IntN(to-from)})
		}
		return
	}
	best := [3]int{from, from, from} // by free conns
	free := func(i int) int { return p.loads[i].Capacity - p.loads[i].Conns }
	for g := from; g < to; g++ {
		for k := range best {
			if free(g) > free(best[k]) {
				copy(best[k+1:], best[k:])
				best[k] = g
				break
			}
		}
	}
	for _, g := range best {
		s.places = append(s.places, rank.Place{Gateway: g})
	}
}
