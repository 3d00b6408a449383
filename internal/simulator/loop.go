package simulator

import (
	"fmt"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Durations, in the microseconds that simulated time has.
const (
	ms     int64 = 1000
	second int64 = 1000 * ms
	minute int64 = 60 * second
)

// began is when simulated time begins, in Unix microseconds: 2026-01-01.
const began int64 = 1_767_225_600 * second

// dice is a source of choices: splitmix64.
//
// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// n returns one of 0 to below-1.
func (d *dice) n(below int) int { return int(d.next() >> 1 % uint64(max(1, below))) }

// between returns one of low to high.
func (d *dice) between(low, high int64) int64 {
	if high <= low {
		return low
	}
	return low + int64(d.next()>>1%uint64(high-low+1))
}

// chance is true with probability p.
func (d *dice) chance(p float64) bool { return float64(d.next()>>11)/(1<<53) < p }

// split returns dice of their own, for a part of the world that is to depend on the rest as little as possible.
func split(seed uint64, part string) dice {
	d := dice(seed)
	for _, c := range []byte(part) {
		d = dice(d.next() ^ uint64(c))
	}
	return d
}

// event is something that happens at a time: to a process, if it is then still in the life for which it was meant.
type event struct {
	at   int64
	n    uint64 // events of one time happen in the order in which they were made
	proc *proc
	life uint32
	run  func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.n < o.n }

// queue is the events to come: a heap.
type queue []event

// heapWays is how many children each place of the heap has: with four, less is moved than with two.
const heapWays = 4

func (q *queue) push(e event) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / heapWays
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
	*q = h
}

func (q *queue) pop() event {
	h := *q
	top := h[0]
	last := len(h) - 1
	e := h[last]
	h[last] = event{}
	h = h[:last]
	i := 0
	for {
		first := heapWays*i + 1
		if first >= last {
			break
		}
		down := first
		for other := first + 1; other < min(first+heapWays, last); other++ {
			if h[other].before(&h[down]) {
				down = other
			}
		}
		if !h[down].before(&e) {
			break
		}
		h[i] = h[down]
		i = down
	}
	if last > 0 {
		h[i] = e
	}
	*q = h
	return top
}

// proc is a process: it forgets everything when it crashes.
type proc struct {
	w     *world
	id    int
	name  string
	up    bool
	life  uint32
	pause int64 // it does nothing before
	doom  int   // it crashes in place of the step that this counts to
	down  int64 // for how long it then is
	skew  int64 // of its clock
	dice  dice
	crash func() // forgets
	start func()
}

func (p *proc) now() time.Time  { return time.UnixMicro(began + p.w.now + p.skew) }
func (p *proc) stamp() im.Stamp { return im.StampAt(p.now()) }

// after lets the process do something later, unless it crashes before.
func (p *proc) after(d int64, run func()) { p.w.push(d, p, run) }

// say notes what the process does.
func (p *proc) say(format string, args ...any) {
	if p.w.tracing {
		p.w.note(p.name, format, args...)
	}
}

// die crashes the process, and starts it again after a time.
func (p *proc) die(down int64) {
	if !p.up {
		return
	}
	p.say("crashes")
	p.w.stats.Crashes++
	p.up, p.doom = false, 0
	p.life++
	p.crash()
	p.w.push(down, nil, func() {
		if !p.up && !p.w.gone(p) {
			p.revive()
		}
	})
}

func (p *proc) revive() {
	p.up, p.pause = true, 0
	p.say("starts")
	p.start()
}

func (w *world) push(d int64, p *proc, run func()) {
	w.made++
	e := event{at: w.now + d, n: w.made, proc: p, run: run}
	if p != nil {
		e.life = p.life
	}
	w.events.push(e)
}

// next takes the next event, false if none is to come up to a time.
func (w *world) next(until int64) (event, bool) {
	if len(w.agenda) > 0 && (len(w.events) == 0 || w.agenda[0].before(&w.events[0])) {
		e := w.agenda[0]
		if e.at > until {
			return event{}, false
		}
		w.agenda = w.agenda[1:]
		return e, true
	}
	if len(w.events) == 0 || w.events[0].at > until {
		return event{}, false
	}
	return w.events.pop(), true
}

// loop lets everything happen up to a time.
func (w *world) loop(until int64) {
	for len(w.violations) < maxViolations {
		e, ok := w.next(until)
		if !ok {
			break
		}
		w.now = e.at
		p := e.proc
		if p == nil {
			w.hash(uint64(e.at), e.n)
			e.run()
			continue
		}
		if !p.up || p.life != e.life {
			continue
		}
		if p.pause > w.now {
			w.made++
			e.at, e.n = p.pause, w.made
			w.events.push(e)
			continue
		}
		w.hash(uint64(e.at), e.n<<8|uint64(p.id))
		if p.doom > 0 {
			if p.doom--; p.doom == 0 {
				p.die(p.down)
				continue
			}
		}
		e.run()
	}
	if len(w.violations) == 0 {
		w.now = until
	}
}

// hash adds to the fingerprint of everything that happened.
func (w *world) hash(a, b uint64) {
	h := w.print ^ a
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	h ^= b
	w.print = (h ^ h>>32) * 0xd6e8feb86659fd93
}

// note adds a line to the trace.
func (w *world) note(who, format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%s %-12s %s", clock(w.now), who, fmt.Sprintf(format, args...)))
}

// clock shows a simulated time as minutes, seconds and microseconds.
func clock(t int64) string {
	return fmt.Sprintf("%02d:%02d.%06d", t/minute, t/second%60, t%second)
}
