package client

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// nat is a network that forgets a connection after so long a silence, in simulated time.
type nat struct {
	forgets time.Duration
	now     time.Time
	pings   int
	losses  int
}

// live runs a pulse on it for a time, in the background.
func (n *nat) live(p *pulse, d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		quiet := p.next(true, n.now, rand.Float64())
		n.now = n.now.Add(quiet)
		n.pings++
		if quiet < n.forgets {
			p.alive(quiet)
		} else {
			n.losses++
			p.lost(quiet)
		}
	}
}

func newPulse() *pulse {
	p := new(pulse)
	p.bounds(25*time.Second, 5*time.Second, 4*time.Minute)
	return p
}

func TestForegroundIsFixed(t *testing.T) {
	p := newPulse()
	seen := map[time.Duration]bool{}
	for range 100 {
		d := p.next(false, time.Unix(0, 0), rand.Float64())
		if d > 25*time.Second || d < 22*time.Second {
			t.Fatalf("a ping after %v, want 25 s or a tenth less", d)
		}
		seen[d] = true
		p.alive(d)
	}
	if len(seen) < 50 {
		t.Errorf("%d different silences in 100: tides will form", len(seen))
	}
}

// In the background the client finds what the network bears, up and down again, within its bounds.
func TestProbes(t *testing.T) {
	for _, forgets := range []time.Duration{12 * time.Second, 30 * time.Second, 65 * time.Second, 130 * time.Second, time.Hour} {
		n := &nat{forgets: forgets, now: time.Unix(0, 0)}
		p := newPulse()
		n.live(p, 40*time.Minute)
		got := p.next(true, n.now, 0)
		want := min(forgets, 4*time.Minute)
		if got >= forgets || got < want/2-pulseClose {
			t.Errorf("a network that forgets after %v: pings after %v", forgets, got)
		}
		if n.losses > 16 {
			t.Errorf("a network that forgets after %v: %d sockets lost to find it out", forgets, n.losses)
		}
		// It becomes stricter: down again.
		n.forgets, n.losses = min(forgets, 4*time.Minute)/2, 0
		n.live(p, 2*time.Hour)
		if got := p.held(); got >= n.forgets && n.forgets > 10*time.Second {
			t.Errorf("a network that now forgets after %v: holds %v", n.forgets, got)
		}
		// And generous: up again, though only after a while.
		n.forgets = time.Hour
		n.live(p, 24*time.Hour)
		if got := p.next(true, n.now, 0); got != 4*time.Minute {
			t.Errorf("a network that forgets nothing any more: pings after %v", got)
		}
	}
}

func TestOneLossIsChance(t *testing.T) {
	p := newPulse()
	p.alive(50 * time.Second)
	p.lost(100 * time.Second)
	if p.bad != 0 {
		t.Fatal("one loss was believed")
	}
	p.alive(100 * time.Second)
	p.lost(100 * time.Second)
	if p.bad != 0 {
		t.Fatal("two losses with a success between were believed")
	}
	p.lost(100 * time.Second)
	if p.bad != 100*time.Second || p.good >= p.bad {
		t.Fatalf("good %v, bad %v after two losses in a row", p.good, p.bad)
	}
	p.moved()
	if p.bad != 0 || p.good != 25*time.Second {
		t.Fatal("another network is taken for the same")
	}
}

// Whatever happens, no silence is outside the bounds.
func TestPulseBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := new(pulse)
		now := time.Unix(0, 0)
		seconds := func(name string, low, high int) time.Duration {
			return time.Duration(rapid.IntRange(low, high).Draw(t, name)) * time.Second
		}
		low := seconds("min", 1, 60)
		high := low + seconds("span", 0, 600)
		p.bounds(seconds("fixed", 1, 600), low, high)
		for range 40 {
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				p.alive(seconds("quiet", 0, 1000))
			case 1, 2:
				p.lost(seconds("quiet", 0, 1000))
			case 3:
				low = seconds("min", 1, 60)
				high = low + seconds("span", 0, 600)
				p.bounds(seconds("fixed", 1, 600), low, high)
			case 4:
				p.moved()
			case 5:
				now = now.Add(seconds("later", 0, 5000))
			}
			d := p.next(rapid.Bool().Draw(t, "background"), now, rapid.Float64Range(0, 1).Draw(t, "r"))
			if d > high || float64(d) < float64(low)*(1-pulseJitter)-1 {
				t.Fatalf("a ping after %v, bounds %v and %v: %+v", d, low, high, *p)
			}
		}
	})
}
