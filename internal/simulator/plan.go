package simulator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// What people do.
type opKind uint8

const (
	opSend   opKind = iota // a text
	opGroup                // creates a group
	opMember               // adds or removes somebody
	opTitle                // names a group
	opMark                 // tells how far it has read
	opMove                 // goes to another region
	opDrop                 // loses its socket
)

type op struct {
	at     int64
	kind   opKind
	device int
	conv   int
	arg    int
	global bool
}

// What goes wrong.
type faultKind uint8

const (
	crashes     faultKind = iota // a process, at some step after a time
	pauses                       // a process does nothing for a while, and goes on where it was
	cuts                         // what one region sends another does not arrive
	isolates                     // nothing arrives from or in a region
	garbles                      // link messages are lost, doubled or out of order
	slows                        // what one region sends another takes long
	appendFails                  // appends are lost, land late, or land without an answer
	storeFails                   // commits are refused, or land without an answer
	answersLost                  // what a region answers clients is lost
	pushesLost                   // so are pushes
	skews                        // a clock jumps
	twoOwners                    // two imservers own the partitions
	twoLinks                     // two replicators own the links
	rebuilds                     // the view is lost, and derived again from the logs
	loses                        // the region is lost for good, and comes back under the next epoch
)

var faultNames = [...]string{
	"crash", "pause", "cut", "isolate", "garble", "slow", "append fails", "store fails", "answers lost", "pushes lost", "skew",
	"two owners", "two links", "rebuild", "lose",
}

// How a lost region comes back.
const (
	lostDisks   = iota // with nothing
	lostContact        // with its log, and what it alone accepted
	lostMistake        // first by mistake with an empty log under its old name
)

type fault struct {
	kind  faultKind
	at    int64
	lasts int64
	who   int // a process, or a region
	other int // a region
	p     float64
	n     int
}

func (f fault) String() string {
	return fmt.Sprintf("%s %s at %s for %d ms (%d, %d, %d, %.2f)", clock(f.at), faultNames[f.kind], clock(f.at), f.lasts/ms, f.who, f.other, f.n, f.p)
}

// Of one run.
const (
	runTime   = 60 * minute
	faultsEnd = 50 * minute
	opsEnd    = 52 * minute
)

// plan is what is to happen, and how the world is.
type plan struct {
	topology
	users, devices int
	directs        [][2]int // of users
	groups         []group
	latency        [3][3]int64
	skew           [3]int64
	ops            []op
	faults         []fault
	page           int // records of a pull
	window         int // entries at the end of a copy that its receiver looks at
	chunk          int // entries of one link message
}

// group is a conversation that somebody creates; origin is the region in its id.
type group struct {
	lane    byte // g or s
	creator int  // device
	members []int
}

const (
	regionCount = 3
	procsOf     = 7 // processes of a region: see region.procs
)

func makePlan(o *Options) *plan {
	d := split(o.Seed, "plan")
	p := &plan{
		users: 3 + d.n(3), page: []int{3, 10, 50, 200}[d.n(4)], window: []int{4, 16, 64, 256, 1 << 20}[d.n(5)], chunk: []int{1, 8, 64, 512}[d.n(4)],
	}
	p.topology = makeTopology(o)
	p.devices = p.users + d.n(2)
	for a := range regionCount {
		p.skew[a] = d.between(-1200, 1200) * ms
		for b := range a {
			l := d.between(5, 150) * ms
			p.latency[a][b], p.latency[b][a] = l, l
		}
	}
	for range 2 + d.n(4) {
		a, b := d.n(p.users), d.n(p.users)
		if pair := [2]int{min(a, b), max(a, b)}; !slices.Contains(p.directs, pair) {
			p.directs = append(p.directs, pair)
		}
	}
	for range 1 + d.n(3) {
		g := group{lane: "ggs"[d.n(3)], creator: d.n(p.devices)}
		for u := range p.users {
			if d.chance(0.5) {
				g.members = append(g.members, u)
			}
		}
		p.groups = append(p.groups, g)
	}
	p.makeOps(o, &d)
	p.makeFaults(&d)
	return p
}

// user is whose device it is.
func (p *plan) user(device int) int { return device % p.users }

func (p *plan) makeOps(o *Options, d *dice) {
	for i := range p.groups {
		p.ops = append(p.ops, op{at: second + d.between(0, 20*second), kind: opGroup, device: p.groups[i].creator, conv: len(p.directs) + i, global: d.chance(0.3)})
	}
	convs := len(p.directs) + len(p.groups)
	anyOf := func(conv int) int { // a device that is in the conversation to begin with
		for {
			device := d.n(p.devices)
			u := p.user(device)
			if conv < len(p.directs) {
				if p.directs[conv][0] == u || p.directs[conv][1] == u {
					return device
				}
				continue
			}
			g := &p.groups[conv-len(p.directs)]
			if p.user(g.creator) == u || slices.Contains(g.members, u) {
				return device
			}
		}
	}
	for n := 0; n < o.Records; {
		at := d.between(40*second, opsEnd)
		busy := d.n(convs)
		for range min(1+d.n(80), o.Records-n) {
			n++
			conv := busy
			if d.chance(0.2) {
				conv = d.n(convs)
			}
			next := op{at: at + d.between(0, 60*ms), kind: opSend, device: anyOf(conv), conv: conv, arg: n, global: d.chance(0.08)}
			if conv >= len(p.directs) {
				switch {
				case d.chance(0.0015):
					next.kind, next.arg = opMember, 2*d.n(p.users)
					g := &p.groups[conv-len(p.directs)]
					if u := next.arg / 2; d.chance(0.3) && u != p.user(g.creator) { // and comes back, else few would be left
						next.arg++
						p.ops = append(p.ops, op{at: at + d.between(second, minute), kind: opMember, device: g.creator, conv: conv, arg: 2 * u})
					}
				case d.chance(0.0015):
					next.kind = opTitle
				}
			}
			p.ops = append(p.ops, next)
		}
		if d.chance(0.5) {
			conv := d.n(convs)
			p.ops = append(p.ops, op{at: at + d.between(0, 5*second), kind: opMark, device: anyOf(conv), conv: conv})
		}
	}
	for range 6 + d.n(14) {
		p.ops = append(p.ops, op{at: d.between(minute, opsEnd), kind: []opKind{opMove, opMove, opDrop}[d.n(3)], device: d.n(p.devices), arg: d.n(regionCount)})
	}
	slices.SortStableFunc(p.ops, func(a, b op) int { return cmp.Compare(a.at, b.at) })
}

func (p *plan) makeFaults(d *dice) {
	var kinds []faultKind // each run has some kinds only, so that one does not hide another
	for k := crashes; k < loses; k++ {
		if d.chance(0.6) {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) > 0 {
		// Faults come where there is traffic: at bursts.
		for range 10 + d.n(50) {
			at := p.ops[d.n(len(p.ops))].at + d.between(-20, 200)*ms
			f := fault{
				kind: kinds[d.n(len(kinds))], at: min(max(at, minute), faultsEnd-minute), lasts: d.between(20, 20_000) * ms,
				who: d.n(regionCount * procsOf), other: d.n(regionCount), p: []float64{0.1, 0.3, 0.8}[d.n(3)], n: 1 + d.n(12),
			}
			if d.chance(0.2) {
				f.lasts *= 10
			}
			p.faults = append(p.faults, f)
		}
	}
	if d.chance(0.3) {
		at := p.ops[d.n(len(p.ops))].at // in the middle of a burst
		p.faults = append(p.faults, fault{
			kind: loses, at: min(max(at, 2*minute), 36*minute), lasts: d.between(10, 120) * second, who: d.n(regionCount), n: d.n(3),
		})
	}
	slices.SortStableFunc(p.faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	for i := range p.faults {
		p.faults[i].lasts = min(p.faults[i].lasts, faultsEnd-p.faults[i].at)
	}
}

// describe shows what is kept of a plan, in order.
func (p *plan) describe(w *world) string {
	var b strings.Builder
	if p.hub >= 0 {
		fmt.Fprintf(&b, "the others reach each other through %s alone, always: %v\n", w.regions[p.hub].name, p.via)
	}
	if p.standIns {
		fmt.Fprintf(&b, "a third region stands in for a link that has not worked for %d ms\n", p.patience/ms)
	}
	for i, f := range p.faults {
		if w.Faults.has(i) {
			fmt.Fprintf(&b, "fault %d: %v\n", i, f)
		}
	}
	return b.String()
}
