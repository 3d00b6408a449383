package ipconf

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
	"github.com/antipode-im/antipode/wire"
)

// fleet is what is known of all regions' gateways. It has no clock: callers pass the time.
type fleet struct {
	deadAfter time.Duration
	silent    time.Duration // after which clients' reports about a gateway are believed

	mu      sync.Mutex
	regions map[im.Region]*region
	changes uint64 // of what clients are told of gateways
}

// region is what is known of one region's gateways.
type region struct {
	gateways map[string]*gateway // last known good
	ordered  []*gateway          // by id
	asOf     time.Time           // when the catalogue last said anything; zero: never
	first    time.Time           // when it first named a gateway; zero: never
	held     bool                // its last word would drop more than half, and waits for a second look
	usable   bool                // some gateway was usable when a view was last made, and heard since there was none
	seen     bool                // some gateway ever was
	backAt   time.Time           // since when it is usable again; zero: it always was
}

type gateway struct {
	instance im.Instance
	endpoint wire.Endpoint
	json     []byte    // of the endpoint, up to the score
	print    uint64    // a hash of that
	since    time.Time // when the catalogue first named it
	served   time.Time // when it was first heard of, if others had served for a while; zero: they began together
	load     im.Load
	window   window
	measured time.Time // of load; zero: never heard
	banned   time.Time // clients say that it cannot be reached, while it is silent: believed until then
	sent     rank.Sent
	failed   rank.Sent // reports of clients that could not use it
}

// window averages what fluctuates over the last measurements.
type window struct {
	cpu, net [windowSize]float64
	n        int
}

const windowSize = 5 // measurements: ten seconds of polls

func (w *window) add(cpu, net float64) {
	w.cpu[w.n%windowSize], w.net[w.n%windowSize] = cpu, net
	w.n++
}

func (w *window) mean() (cpu, net float64) {
	n := min(w.n, windowSize)
	if n == 0 {
		return 0, 0
	}
	for i := range n {
		cpu += w.cpu[i]
		net += w.net[i]
	}
	return cpu / float64(n), net / float64(n)
}

func newFleet(regions []im.Region, deadAfter, silent time.Duration) *fleet {
	f := &fleet{deadAfter: deadAfter, silent: silent, regions: map[im.Region]*region{}}
	f.add(regions)
	return f
}

// add makes regions known.
func (f *fleet) add(regions []im.Region) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range regions {
		f.regions[r] = &region{gateways: map[string]*gateway{}}
	}
}

// catalogue takes a reading of discovery. What is new or changed counts at once. What is gone leaves at once too, if it is
// at most half of the region's gateways; otherwise it is held back, and held is true until a second look (second set) says
// the same. Even then a gateway stays while it answers: it is the catalogue that is wrong.
func (f *fleet) catalogue(name im.Region, instances []im.Instance, second bool, now time.Time) (held bool, gone int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.regions[name]
	if r == nil {
		return false, 0
	}
	r.asOf = now
	if r.first.IsZero() && len(instances) > 0 {
		r.first = now
	}
	// A region's gateways start in any order, and so do ipconf and they: what comes so soon is no newer than the rest.
	begun := now.Sub(r.first) >= rank.SlowStart
	before := len(r.gateways)
	named := make(map[string]bool, len(instances))
	for _, i := range instances {
		if i.URL == "" {
			continue // nothing that a client could be told
		}
		named[i.ID] = true
		g := r.gateways[i.ID]
		if g == nil || g.instance.Epoch != i.Epoch {
			g = &gateway{since: now}
			if begun {
				g.served = now
			}
			r.gateways[i.ID] = g
		}
		if e := wire.EndpointOf(i); e != g.endpoint {
			g.endpoint, g.json = e, endpointJSON(e)
			g.print = fingerprint(g.json)
			f.changes++
		}
		g.instance = i
	}
	var missing []string
	for id := range r.gateways {
		if !named[id] {
			missing = append(missing, id)
		}
	}
	suspect := 2*len(missing) > before
	for _, id := range missing {
		if suspect && (!second || f.alive(r.gateways[id], now)) {
			continue
		}
		delete(r.gateways, id)
		gone++
	}
	if gone > 0 {
		f.changes++
	}
	r.ordered = slices.SortedFunc(maps.Values(r.gateways), func(a, b *gateway) int { return cmp.Compare(a.instance.ID, b.instance.ID) })
	r.held = gone < len(missing)
	return r.held, gone
}

// alive tells whether a gateway was heard of lately, by its load.
func (f *fleet) alive(g *gateway, now time.Time) bool {
	return !g.measured.IsZero() && now.Sub(g.measured) <= f.deadAfter
}

// unhealthy tells whether a gateway that should have been heard of was not.
func (f *fleet) unhealthy(g *gateway, now time.Time) bool {
	since := g.since
	if g.measured.After(since) {
		since = g.measured
	}
	return now.Sub(since) > f.deadAfter
}

// measure takes a gateway's load, as it was at the time at.
func (f *fleet) measure(name im.Region, l im.Load, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.regions[name]
	if r == nil {
		return
	}
	g := r.gateways[l.Gateway.ID]
	if g == nil || at.Before(g.measured) {
		return
	}
	net := 0.0
	if l.BytesCapacity > 0 {
		net = float64(l.BytesPerSecond) / float64(l.BytesCapacity)
	}
	g.window.add(l.CPU, net)
	g.load, g.measured, g.banned = l, at, time.Time{}
	g.sent.Settle(at)
}

// report notes that a client could not use a gateway. While a gateway is silent, enough of them are believed.
func (f *fleet) report(g *gateway, now time.Time) {
	g.failed.Add(now)
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(g.measured) <= f.silent || now.Sub(g.since) <= f.silent {
		return
	}
	failed, _ := g.failed.Count(now)
	sent, _ := g.sent.Count(now)
	if rank.Believed(failed, sent) {
		g.banned = now.Add(rank.Ban)
	}
}

// instances lists a region's gateways, by id.
func (f *fleet) instances(name im.Region) []im.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []im.Instance
	for _, g := range f.regions[name].ordered {
		list = append(list, g.instance)
	}
	return list
}

// loads lists the loads of a region's gateways that were heard of lately, and how old the oldest is.
func (f *fleet) loads(name im.Region, now time.Time) (loads []im.Load, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.regions[name].ordered {
		if f.alive(g, now) {
			loads = append(loads, g.load)
			age = max(age, now.Sub(g.measured))
		}
	}
	return loads, age
}

// candidates lists every gateway of the regions, in their order, as the ranking takes it. A region in which no gateway at all
// was heard of lately has all of them back, but those that clients could not reach: then it may be we who do not hear. Not if
// that is so of more than half of them: then they are dead, those as well that got too few clients to be complained of.
func (f *fleet) candidates(names []im.Region, weigh func(version string) (weight float64, canary bool), now time.Time) ([]rank.Gateway, []*gateway) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []rank.Gateway
	var gateways []*gateway
	for i, name := range names {
		r := f.regions[name]
		deaf, usable, heard := true, false, false
		banned := 0
		for _, g := range r.ordered {
			deaf = deaf && f.unhealthy(g, now)
			if now.Before(g.banned) {
				banned++
			}
		}
		deaf = deaf && 2*banned <= len(r.ordered)
		for _, g := range r.ordered {
			c := rank.Gateway{
				ID: g.instance.ID, Region: i, Conns: g.load.Conns, Capacity: g.load.Capacity, Age: -1, Served: -1,
				Draining: g.instance.Draining || g.load.Draining,
				Dead:     !deaf && f.unhealthy(g, now) || now.Before(g.banned),
			}
			c.CPU, c.Net = g.window.mean()
			c.Recent, c.InFlight = g.sent.Count(now)
			if failed, _ := g.failed.Count(now); failed > 0 {
				c.Errors = rank.Errors(failed, c.Recent)
			}
			c.Version, c.Canary = weigh(g.load.Version)
			if !g.measured.IsZero() {
				c.Age = max(0, now.Sub(g.measured))
			}
			if !g.served.IsZero() {
				c.Served = now.Sub(g.served)
			}
			usable = usable || !c.Dead && !c.Draining
			heard = heard || !c.Dead && !c.Draining && !f.unhealthy(g, now)
			list = append(list, c)
			gateways = append(gateways, g)
		}
		// Once it had none, a region is back when one is heard. Those that are only tried again since their ban is over get the
		// floor of the ramp: the region may be as dead as before.
		if usable && r.seen && !r.usable {
			r.backAt = now
		}
		r.usable = usable && (r.usable || heard || !r.seen)
		r.seen = r.seen || usable
	}
	return list, gateways
}

// back is since when a region has usable gateways again; zero if it never was without, since they were first seen.
func (f *fleet) back(name im.Region) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.regions[name].backAt
}

// version is the version that a gateway told last.
func (f *fleet) version(g *gateway) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return g.load.Version
}

// all lists every gateway that clients may be told of, for the catalogue, and a number that grows when that changes.
func (f *fleet) all(names []im.Region) (list []wire.Endpoint, changes uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		for _, g := range f.regions[name].ordered {
			list = append(list, g.endpoint)
		}
	}
	return list, f.changes
}

// age is how long ago the catalogue of a region last said anything, and whether its last word is held back. known is
// false before the first.
func (f *fleet) age(name im.Region, now time.Time) (age time.Duration, held, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.regions[name]
	return now.Sub(r.asOf), r.held, !r.asOf.IsZero()
}
