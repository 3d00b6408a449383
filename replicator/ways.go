package replicator

import (
	"time"

	"github.com/antipode-im/antipode/im"
)

// Ways decides over which region a copy's records come: its first way, which is the origin's own region or the one that is
// configured instead, or a third region's copy that stands in while the first way does not work. It has no clock and opens
// nothing: it is told what became of links, and asked what to do next.
//
// A stand-in is taken once the first way has not worked for after, since something came over it last, and left when that works
// again. A first way that was returned to and was refused, closed or silent within after, or deaf did not work: the next look at it
// comes later, up to waysPatience times after. Between two stand-ins the first way is tried. While no stand-in hears of the origin
// either, they are changed ever more seldom, up to waysPatience times after: each has given what it has by then.
type Ways struct {
	first  im.Region
	others []im.Region // that may stand in, in turn; none: never
	after  time.Duration
	deaf   time.Duration // a region in between that has not heard of the origin for so long does not work

	down     time.Time // since when the first way does not work
	opened   time.Time // when the way that is taken opened; zero while it is not open
	standing bool      // a stand-in is taken
	back     bool      // and is to be left: the first way works
	turn     int       // among others
	returned bool      // the first way is taken because it was seen to work
	returns  int       // to the first way that did not last, in a row
	looked   time.Time // when it was looked last whether the first way works, or a stand-in was taken
	heard    time.Time // when the origin was heard of last, over any way
	barren   int       // stand-ins that were left since, in a row, because they had not heard of it either
}

// waysPatience is how many times after a look at a first way may come late that did not last.
const waysPatience = 16

// NewWays returns those whose first one goes over a region, which does not work yet. A link that is silent for no longer than silence works.
func NewWays(first im.Region, others []im.Region, after, silence time.Duration, now time.Time) *Ways {
	return &Ways{first: first, others: others, after: after, deaf: max(after, silence), down: now}
}

// Way is the region to take records from now.
func (w *Ways) Way() im.Region {
	if w.standing {
		return w.others[w.turn%len(w.others)]
	}
	return w.first
}

// Open notes that the link over the way opened.
func (w *Ways) Open(now time.Time) { w.opened = now }

// Left tells how long a link over the way may take to open: until it is a stand-in's turn. False: no turn is waited for.
func (w *Ways) Left(now time.Time) (left time.Duration, ok bool) {
	left = w.down.Add(w.after).Sub(now)
	return left, len(w.others) > 0 && !w.standing && !w.returned && left > 0
}

// Closed notes that the link over the way closed, or could not be opened. heard is when the origin was heard of last over it.
func (w *Ways) Closed(heard, now time.Time) {
	lasted := !w.opened.IsZero() && heard.Sub(w.opened) >= w.after
	tried := w.returned || !w.opened.IsZero()
	w.opened, w.returned = time.Time{}, false
	switch {
	case w.back:
		w.standing, w.back, w.returned = false, false, true
		return
	case w.standing:
		w.standing = false
		w.turn++
		return
	case lasted:
		w.down, w.returns = heard, 0
	case tried:
		w.returns++
	}
	if len(w.others) > 0 && now.Sub(w.down) >= w.after {
		w.standing, w.looked = true, now
	}
}

// Look tells how long to wait until it is to be looked whether the first way works again; only while a stand-in is taken.
func (w *Ways) Look(now time.Time) (wait time.Duration, ok bool) {
	if !w.standing {
		return 0, false
	}
	every := w.after * time.Duration(min(1<<min(w.returns, 8), waysPatience))
	return max(0, w.looked.Add(every).Sub(now)), true
}

// LookedAt notes what was seen, and tells whether to close the link: the next one goes over the first way.
func (w *Ways) LookedAt(works bool, now time.Time) (back bool) {
	if !w.standing {
		return false
	}
	w.looked, w.back = now, works
	return works
}

// Deaf tells how long to wait until the way that is taken is to be left, unless the origin is heard of over it until then; heard is when
// that was last. False: it stays, whatever comes.
func (w *Ways) Deaf(heard, now time.Time) (wait time.Duration, ok bool) {
	if len(w.others) == 0 || w.opened.IsZero() {
		return 0, false
	}
	if heard.After(w.heard) {
		w.heard, w.barren = heard, 0
	}
	stay := w.down.Add(w.after) // it is a stand-in's turn then
	switch {
	case w.standing:
		stay = w.opened.Add(w.after * time.Duration(min(1<<min(w.barren/len(w.others), 8), waysPatience)))
	case w.returned:
		stay = w.opened.Add(w.after)
	}
	return max(0, stay.Sub(now), heard.Add(w.deaf).Sub(now)), true
}

// GiveUp tells whether to leave the way that is taken, though it is open: the region in between has not heard of the origin for too long,
// and there is another way. While no stand-in heard of it, the one that is taken is kept longer.
func (w *Ways) GiveUp(heard, now time.Time) bool {
	if wait, ok := w.Deaf(heard, now); !ok || wait > 0 {
		return false
	}
	if w.standing {
		w.barren++
		return true
	}
	// The first way is a region in between, too.
	if heard.Sub(w.opened) >= w.after {
		w.returns = 0
	} else {
		w.returns++
	}
	w.down, w.opened, w.returned = heard, time.Time{}, false
	return true
}
