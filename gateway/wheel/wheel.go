// Package wheel is a hierarchical timing wheel: timers in numbers at which a heap or a runtime timer each costs too much.
//
// Set, reset and stop move a timer between two lists: O(1), whatever the number of timers, without allocation, for a timer
// lives inside whatever it times. Time is divided into ticks; seven levels of 64 slots cover 64^7 ticks, at 10 ms
// 1,394 years; what is set for later fires then. A timer lies in the
// level whose slot is as wide as its distance, and moves down a level, six times at most, as its time comes nearer: O(1)
// per expiry. A bitmap of each level tells the next slot that holds anything, so an idle wheel costs nothing.
//
// A timer never fires early, and at most two ticks late as far as the wheel is concerned.
package wheel

import (
	"math/bits"
	"sync"
	"time"
)

const (
	levels   = 7
	slotBits = 6
	slots    = 1 << slotBits
)

// Timer is one timer, meant to be a field of what it times. The zero value is not set. It must not be copied while it is
// set.
type Timer struct {
	fire       func(*Timer)
	prev, next *Timer
	due        int64 // tick
	slot       uint16
	set        bool
}

// Wheel holds timers. It is safe for concurrent use.
type Wheel struct {
	tick  time.Duration
	start time.Time
	wake  chan struct{} // capacity 1: a timer nearer than the one waited for

	mu       sync.Mutex
	now      int64 // ticks that have passed and been dealt with
	waits    int64 // the tick that Run waits for
	count    int
	lists    [levels * slots]Timer // heads of circular lists
	occupied [levels]uint64
	due      []*Timer // scratch of advance
}

// New returns a wheel of a given tick, whose time begins now.
func New(tick time.Duration) *Wheel { return newAt(tick, time.Now()) }

func newAt(tick time.Duration, start time.Time) *Wheel {
	w := &Wheel{tick: tick, start: start, wake: make(chan struct{}, 1), waits: never}
	for i := range w.lists {
		l := &w.lists[i]
		l.prev, l.next = l, l
	}
	return w
}

const (
	never   = int64(1)<<62 - 1
	horizon = int64(1)<<(levels*slotBits) - 1
)

// Set makes a timer call fire at a time, once, instead of when it was set to before. fire is called by Run without any
// lock and must not block; a Stop or Set that comes while it is being called does not take the call back.
func (w *Wheel) Set(t *Timer, at time.Time, fire func(*Timer)) {
	since := at.Sub(w.start)
	due := int64((since + w.tick - 1) / w.tick)
	w.mu.Lock()
	if t.set {
		w.unlink(t)
	} else {
		w.count++
	}
	t.fire, t.due, t.set = fire, min(max(due, w.now+1), horizon), true
	w.link(t)
	earlier := t.due < w.waits
	w.mu.Unlock()
	if earlier {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Stop takes a timer out.
func (w *Wheel) Stop(t *Timer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.set {
		w.unlink(t)
		t.set = false
		w.count--
	}
}

// Len is how many timers are set.
func (w *Wheel) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// link puts a timer into the slot of its distance. The lock is held.
func (w *Wheel) link(t *Timer) {
	// The level is that of the highest digit, in base 64, in which due and now differ: the timer is reached exactly when
	// that digit of now becomes the same.
	level := 0
	if differ := uint64(t.due ^ w.now); differ != 0 {
		level = (bits.Len64(differ) - 1) / slotBits
	}
	digit := int(t.due>>(slotBits*level)) & (slots - 1)
	t.slot = uint16(level*slots + digit)
	head := &w.lists[t.slot]
	t.prev, t.next = head.prev, head
	t.prev.next, head.prev = t, t
	w.occupied[level] |= 1 << digit
}

// unlink takes a timer out of its slot. The lock is held.
func (w *Wheel) unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.prev, t.next = nil, nil
	if head := &w.lists[t.slot]; head.next == head {
		w.occupied[t.slot/slots] &^= 1 << (t.slot % slots)
	}
}

// nextTick is the next tick at which a slot has to be looked at. The lock is held.
func (w *Wheel) nextTick() int64 {
	for level := range levels {
		shift := slotBits * level
		digit := int(w.now>>shift) & (slots - 1)
		// Slots of digits up to the present one are empty: they were dealt with when it was reached.
		if later := w.occupied[level] >> digit >> 1; later != 0 {
			ahead := bits.TrailingZeros64(later) + 1
			return (w.now>>shift + int64(ahead)) << shift
		}
	}
	return never
}

// advance takes out what is due up to a tick.
func (w *Wheel) advance(to int64) []*Timer {
	w.due = w.due[:0]
	for {
		next := w.nextTick()
		if next > to {
			w.now = max(w.now, to)
			return w.due
		}
		w.now = next
		for level := levels - 1; level >= 0; level-- {
			if next&(1<<(slotBits*level)-1) != 0 {
				continue // this level's digit did not change
			}
			digit := int(next>>(slotBits*level)) & (slots - 1)
			head := &w.lists[level*slots+digit]
			for t := head.next; t != head; t = head.next {
				w.unlink(t)
				if t.due <= w.now {
					t.set = false
					w.count--
					w.due = append(w.due, t)
				} else {
					w.link(t) // a level down
				}
			}
		}
	}
}

// Run fires timers until done is closed.
func (w *Wheel) Run(done <-chan struct{}) {
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		w.mu.Lock()
		now := int64(time.Since(w.start) / w.tick)
		due := w.advance(now)
		w.waits = w.nextTick()
		wait := time.Hour
		if w.waits < never {
			wait = min(wait, time.Until(w.start.Add(time.Duration(w.waits)*w.tick)))
		}
		fires := make([]func(*Timer), len(due))
		for i, t := range due {
			fires[i] = t.fire
		}
		w.mu.Unlock()
		for i, t := range due { // only Run uses the slice
			fires[i](t)
			due[i] = nil
		}
		if len(due) > 0 {
			wait = 0 // they took time
		}
		clock.Reset(wait)
		select {
		case <-done:
			return
		case <-clock.C:
		case <-w.wake:
		}
	}
}
