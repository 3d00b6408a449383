package routes

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
)

// reach is whether another region's log arrives. A region is cut off where nothing younger than the table's silence has
// come; so it is where the end seen at start was older. Its rows then count again only once everything was taken that its
// log held when it was first heard again. That is known by the origin's own clock: a record stamped after that moment, and
// the bound of two clocks' difference, was appended after it, and all before it stands before it in the log. Heartbeats make
// sure that such a record comes.
type reach struct {
	cut   bool
	heard im.Stamp // by our clock, when a record was last taken
	until im.Stamp // while cut: the stamp to be reached; 0 before anything is heard again
}

// hear tells that records were taken at now, which raised the watermark from before to after; before is the first one's
// stamp where there was none. It returns since when nothing was heard if the region turns out to have been cut off, else 0:
// at the first call nobody knows.
func (r *reach) hear(before, after, now im.Stamp, silence time.Duration) (since im.Stamp) {
	quiet := r.heard != 0 && older(r.heard, now, silence)
	if !r.cut && (quiet || older(before, now, silence)) {
		r.cut, r.until = true, 0
		if r.heard != 0 {
			since = min(r.heard, before)
		}
	}
	if r.cut && (quiet || r.until == 0) {
		r.until = later(now, im.MaxSkew)
	}
	if r.cut && after >= r.until {
		r.cut, r.until = false, 0
	}
	r.heard = now
	return since
}

func older(s, now im.Stamp, d time.Duration) bool { return s.Millis()+d.Milliseconds() < now.Millis() }

func later(s im.Stamp, d time.Duration) im.Stamp { return im.StampAt(s.Time().Add(d)) }

// link damps a region that comes and goes: each time it was cut off adds a penalty, which halves every HalfLife. Past
// suppressAt the region does not count, although it is heard, until the penalty has fallen to reuseAt. So a link that flaps
// is one that is down, and not a stream of routes that change their minds.
type link struct {
	until atomic.Uint64 // the stamp until which the region is suppressed

	mu      sync.Mutex
	penalty float64
	at      im.Stamp // when it was that much
	counted im.Stamp // when the last flap was noticed
	flaps   uint64
}

// The measures of damping, as RFC 2439 has them: the third cut within two half-lives suppresses.
const (
	flapPenalty = 1000.0
	suppressAt  = 2000.0
	reuseAt     = 750.0
	mostPenalty = 6000.0 // so a region that came back for good counts after three half-lives at the latest
)

// flap counts one outage that began at since and was noticed at now. Every partition of the link notices it: the later ones
// are told by when it began.
func (l *link) flap(since, now im.Stamp, halfLife time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flaps > 0 && since <= l.counted {
		return
	}
	l.counted = now
	l.flaps++
	l.penalty = min(decayed(l.penalty, now.Time().Sub(l.at.Time()), halfLife)+flapPenalty, mostPenalty)
	l.at = now
	if l.penalty > suppressAt {
		wait := time.Duration(float64(halfLife) * math.Log2(l.penalty/reuseAt))
		l.until.Store(uint64(later(now, wait)))
	}
}

func decayed(penalty float64, over, halfLife time.Duration) float64 {
	return penalty * math.Exp2(-float64(max(over, 0))/float64(halfLife))
}

func (l *link) suppressed(now im.Stamp) bool { return now < im.Stamp(l.until.Load()) }

// halfLife of a flap's penalty: some outages long.
func (t *Table) halfLife() time.Duration { return 4 * t.silence }

// Reach is how a region is heard here.
type Reach struct {
	Region     im.Region
	Cut        int // partitions whose routes do not count, because nothing or not everything was heard
	Suppressed bool
	Flaps      uint64 // times that it was cut off, since the start
}

// Reaches tells how each other region is heard.
func (t *Table) Reaches(now im.Stamp) []Reach {
	var all []Reach
	followed := t.Origins()
	for o, origin := range t.known() {
		if origin.Region() == t.self || !slices.Contains(followed, origin) {
			continue
		}
		r := Reach{Region: origin.Region(), Suppressed: t.links[o].suppressed(now)}
		for i := range t.shards {
			s := &t.shards[i]
			s.mu.RLock()
			if !t.heard(&s.logs[o], now) {
				r.Cut++
			}
			s.mu.RUnlock()
		}
		t.links[o].mu.Lock()
		r.Flaps = t.links[o].flaps
		t.links[o].mu.Unlock()
		all = append(all, r)
	}
	return all
}
