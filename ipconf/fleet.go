package ipconf

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// fleet is what is known of all regions' gateways. It has no clock: callers pass the time.
type fleet struct {
	deadAfter time.Duration

	mu      sync.Mutex
	regions map[im.Region]*region
}

// region is what is known of one region's gateways.
type region struct {
	gateways map[string]*gateway // last known good
	asOf     time.Time           // when the catalogue last said anything; zero: never
	held     bool                // its last word would drop more than half, and waits for a second look
}

type gateway struct {
	instance im.Instance
	since    time.Time // when the catalogue first named it
	load     im.Load
	measured time.Time // of load; zero: never heard
	inFlight inFlight
}

func newFleet(regions []im.Region, deadAfter time.Duration) *fleet {
	f := &fleet{deadAfter: deadAfter, regions: map[im.Region]*region{}}
	for _, r := range regions {
		f.regions[r] = &region{gateways: map[string]*gateway{}}
	}
	return f
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
			r.gateways[i.ID] = g
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
	g.load, g.measured = l, at
	g.inFlight.settle(at)
}

// instances lists a region's gateways, by id.
func (f *fleet) instances(name im.Region) []im.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []im.Instance
	for _, g := range f.regions[name].gateways {
		list = append(list, g.instance)
	}
	slices.SortFunc(list, func(a, b im.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// loads lists the loads of a region's gateways that were heard of lately, and how old the oldest is.
func (f *fleet) loads(name im.Region, now time.Time) (loads []im.Load, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.regions[name].gateways {
		if f.alive(g, now) {
			loads = append(loads, g.load)
			age = max(age, now.Sub(g.measured))
		}
	}
	slices.SortFunc(loads, func(a, b im.Load) int { return cmp.Compare(a.Gateway.ID, b.Gateway.ID) })
	return loads, age
}

// candidates lists every gateway as the ranking takes it. A region in which no gateway at all was heard of lately has all
// of them back: then it is we who do not hear.
func (f *fleet) candidates(now time.Time) ([]rank.Gateway, []im.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var gateways []rank.Gateway
	var instances []im.Instance
	for _, name := range slices.Sorted(maps.Keys(f.regions)) {
		r := f.regions[name]
		deaf := true
		for _, g := range r.gateways {
			deaf = deaf && f.unhealthy(g, now)
		}
		for _, id := range slices.Sorted(maps.Keys(r.gateways)) {
			g := r.gateways[id]
			c := rank.Gateway{
				ID: id, Region: name, Conns: g.load.Conns, Capacity: g.load.Capacity, CPU: g.load.CPU, Age: -1,
				InFlight: g.inFlight.count(now), Draining: g.instance.Draining || g.load.Draining,
				Dead: !deaf && f.unhealthy(g, now),
			}
			if !g.measured.IsZero() {
				c.Age = max(0, now.Sub(g.measured))
			}
			gateways = append(gateways, c)
			instances = append(instances, g.instance)
		}
	}
	return gateways, instances
}

// sent notes that a newcomer was sent to a gateway.
func (f *fleet) sent(name im.Region, id string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.regions[name].gateways[id]; g != nil {
		g.inFlight.add(now)
	}
}

// age is how long ago the catalogue of a region last said anything, and whether its last word is held back. known is
// false before the first.
func (f *fleet) age(name im.Region, now time.Time) (age time.Duration, held, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.regions[name]
	return now.Sub(r.asOf), r.held, !r.asOf.IsZero()
}

// inFlight counts newcomers that were sent to a gateway and are not in its load yet, in buckets of a second. One that did
// not show up within their number of seconds went elsewhere.
type inFlight struct {
	buckets [8]struct {
		second int64
		count  float64
	}
	settled int64 // newcomers sent before this second are in the load
}

// arrival is how long a newcomer takes to arrive, generously: those sent this shortly before a load was measured are not
// in it.
const arrival = time.Second

func (f *inFlight) add(now time.Time) {
	s := now.Unix()
	b := &f.buckets[s%int64(len(f.buckets))]
	if b.second != s {
		b.second, b.count = s, 0
	}
	b.count++
}

func (f *inFlight) settle(measured time.Time) {
	f.settled = max(f.settled, measured.Add(-arrival).Unix())
}

func (f *inFlight) count(now time.Time) float64 {
	n := 0.0
	for _, b := range f.buckets {
		if b.second >= f.settled && now.Unix()-b.second < int64(len(f.buckets)) {
			n += b.count
		}
	}
	return n
}
