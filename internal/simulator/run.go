package simulator

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Result is what became of a run.
type Result struct {
	Options    Options
	Violations []Violation
	Stats      Stats
	Print      uint64   // a fingerprint of everything that happened
	Plan       string   // what was to go wrong
	Trace      []string // if it was asked for
	Ops        int      // of the whole plan
	Faults     int
}

// Run runs one world to its end, or until it is broken.
func Run(o Options, trace bool) *Result {
	w := newWorld(o, trace)
	w.guard(w.play)
	w.stats.Events = int(w.made)
	for _, end := range w.seals {
		w.stats.Records += int(end)
	}
	for _, r := range w.regions {
		for _, l := range r.order {
			if l.own {
				w.stats.Records += len(l.entries)
			}
		}
	}
	return &Result{
		Options: o, Violations: w.violations, Stats: w.stats, Print: w.print, Plan: w.plan.describe(w), Trace: w.trace,
		Ops: len(w.plan.ops), Faults: len(w.plan.faults),
	}
}

// play lets the world run to its end.
func (w *world) play() {
	w.agenda = make([]event, 0, len(w.plan.ops))
	for i, op := range w.plan.ops {
		if w.Ops.has(i) {
			w.made++
			w.agenda = append(w.agenda, event{at: op.at, n: w.made, run: func() { w.do(i+1, op) }})
		}
	}
	for i, f := range w.plan.faults {
		if w.Faults.has(i) {
			w.schedule(f.at, func() { w.fail(i, f) })
		}
	}
	w.schedule(faultsEnd, w.heal)
	w.schedule(runTime-2*minute, func() {
		for _, d := range w.devices {
			for _, c := range d.chats {
				c.pull()
			}
		}
	})
	w.loop(runTime)
	if len(w.violations) == 0 {
		w.checkEnd()
	}
}

// Panics is what a violation names where code panicked: no invariant allows that.
const Panics = "panic"

// guard makes a panic of the code under test a violation, with where it was, so that it is traced and made small as any other.
func (w *world) guard(run func()) {
	defer func() {
		if why := recover(); why != nil {
			w.violate(Panics, "%v, at %s", why, panicked())
		}
	}()
	run()
}

// panicked lists the innermost calls that a recovered panic came through.
func panicked() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs[:])])
	var at []string
	for inside := false; len(at) < 6; {
		f, more := frames.Next()
		if inside && !strings.HasPrefix(f.Function, "runtime.") {
			at = append(at, fmt.Sprintf("%s (%s:%d)", f.Function[strings.LastIndexByte(f.Function, '/')+1:], filepath.Base(f.File), f.Line))
		}
		inside = inside || f.Function == "runtime.gopanic"
		if !more {
			break
		}
	}
	return strings.Join(at, " < ")
}

// schedule is push at a time.
func (w *world) schedule(at int64, run func()) { w.push(at-w.now, nil, run) }

func newWorld(o Options, trace bool) *world {
	w := &world{
		Options: o, plan: makePlan(&o), tracing: trace, truth: newTruth(), dice: split(o.Seed^o.Salt<<32, "world"), seals: map[string]int64{},
		decoded: map[string]*wire.Record{},
	}
	for _, pair := range w.plan.directs {
		w.convs = append(w.convs, im.Direct(userName(pair[0]), userName(pair[1])))
	}
	names := [regionCount]im.Region{"ap", "eu", "us"}
	for i, g := range w.plan.groups {
		c := im.Group(im.Origin(names[g.creator%regionCount]), w.uuid(2, i))
		w.convs = append(w.convs, im.Conversation(string(g.lane)+string(c[1:])))
	}
	for i, name := range names {
		r := &region{w: w, i: i, name: name, origin: im.Origin(name), logs: map[string]*log{}, held: map[string]int64{}, copies: map[string]*copied{}}
		w.regions = append(w.regions, r)
	}
	for _, r := range w.regions {
		r.build()
	}
	for _, r := range w.regions {
		for _, other := range w.regions {
			r.follow(other.origin)
		}
	}
	for _, r := range w.regions {
		for _, p := range r.procs {
			p.revive()
		}
	}
	for n := range w.plan.devices {
		w.devices = append(w.devices, newDevice(w, n))
	}
	return w
}

// build makes the processes of a region.
func (r *region) build() {
	r.store = newStore(r)
	names := [procsOf]string{"imserver-0", "imserver-1", "ship-0", "ship-1", "router", "gateway-0", "gateway-1"}
	for i, name := range names {
		p := &proc{w: r.w, id: r.i*procsOf + i, name: string(r.name) + "/" + name, skew: r.w.plan.skew[r.i]}
		p.dice = split(r.w.Seed^r.w.Salt<<32, p.name)
		r.procs = append(r.procs, p)
	}
	for n := range 2 {
		r.servers[n] = newServer(r, n, r.procs[n])
		r.replicators[n] = newShipper(r, n, r.procs[2+n])
		r.gateways[n] = newGateway(r, n, r.procs[5+n])
	}
	r.router = newRouter(r, r.procs[4])
}

// fail lets something go wrong, for a while.
func (w *world) fail(n int, f fault) {
	if w.tracing {
		w.note("FAULT", "%d: %v", n, f)
	}
	p := w.regions[f.who%regionCount].procs[f.who/regionCount]
	r, other := w.regions[f.who%regionCount], w.regions[f.other]
	during := func(begin, end func()) {
		begin()
		w.push(f.lasts, nil, func() {
			if !w.quiet { // else it was ended
				end()
			}
		})
	}
	switch f.kind {
	case crashes:
		if p.up {
			p.doom, p.down = f.n, min(f.lasts, 40*second)
			if p == r.router.proc { // what it does before it has read everything matters: it is back in the same burst
				p.doom, p.down = 1, 10*ms
			}
		}
	case pauses:
		p.pause = w.now + f.lasts
	case cuts:
		during(func() { w.cut[r.i][other.i]++ }, func() { w.cut[r.i][other.i]-- })
	case isolates:
		during(func() { r.alone++ }, func() { r.alone = max(0, r.alone-1) })
	case garbles:
		during(func() { w.garble[r.i][other.i] = f.p }, func() { w.garble[r.i][other.i] = 0 })
	case slows:
		during(func() { w.slow[r.i][other.i] = int64(f.n) * 300 * ms }, func() { w.slow[r.i][other.i] = 0 })
	case appendFails:
		during(func() { r.appendBad = f.p }, func() { r.appendBad = 0 })
	case storeFails:
		during(func() { r.storeBad = f.p }, func() { r.storeBad = 0 })
	case answersLost:
		during(func() { r.mute = f.p }, func() { r.mute = 0 })
	case pushesLost:
		during(func() { r.deaf = f.p }, func() { r.deaf = 0 })
	case skews: // within what keeps an imserver ready
		p.skew = int64(f.n-6) * 350 * ms
	case twoOwners:
		w.bothOwn(r)
	case twoLinks:
		s := r.replicators[1]
		if f.n%2 == 0 {
			s = r.replicators[0]
		}
		during(func() {
			for _, s := range r.replicators {
				s.active = true
				if s.up {
					s.openAll()
				}
			}
		}, func() {
			if !r.replicators[1-s.n].active {
				return
			}
			s.active = false
			for _, k := range s.links {
				k.fail("another owns it")
			}
		})
	case rebuilds:
		if r.lost {
			return
		}
		w.note2(r, "loses its view")
		r.store = newStore(r)
		for _, s := range r.servers {
			if s.up {
				s.die(s.dice.between(100*ms, 2*second))
			}
		}
	case loses:
		w.returned = f.n == lostContact
		w.loseRegion(f)
	}
}

// bothOwn makes the other imserver the owner, while the one that was hears of it late.
func (w *world) bothOwn(r *region) {
	r.owner = 1 - r.owner
	for _, s := range r.servers {
		if s.up {
			d := s.dice.between(0, 10*ms)
			if s.n != r.owner {
				d = s.dice.between(0, 5*second)
			}
			s.after(d, s.learnOwner)
		}
	}
}

// heal ends everything that is wrong.
func (w *world) heal() {
	w.quiet = true
	w.cut, w.slow, w.garble = [regionCount][regionCount]int{}, [regionCount][regionCount]int64{}, [regionCount][regionCount]float64{}
	for _, r := range w.regions {
		if r.alone < 1<<19 {
			r.alone = 0
		}
		r.appendBad, r.storeBad, r.mute, r.deaf = 0, 0, 0, 0
		for _, p := range r.procs {
			p.doom, p.pause = 0, 0
			p.skew = w.plan.skew[r.i]
		}
		r.replicators[0].active = true
		if r.replicators[0].up {
			r.replicators[0].openAll()
		}
	}
	if w.tracing {
		w.note("HEAL", "nothing goes wrong any more")
	}
}

// String shows a result in a line.
func (r *Result) String() string {
	s := &r.Stats
	return fmt.Sprintf("%d submits, %d acked, %d refused, %d records, %d applied, %d skipped, %d gaps, %d fenced, %d refusals, %d kicks, %d events",
		s.Submits, s.Acked, s.Refused, s.Records, s.Applied, s.Skipped, s.Gaps, s.Fenced, s.Refusals, s.Kicks, s.Events)
}
