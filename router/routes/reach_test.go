package routes

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func second(n float64) im.Stamp { return im.StampAt(day.Add(time.Duration(n * float64(time.Second)))) }

// TestDamping: single cuts cost nothing, a link that flaps is down until it has been quiet for some half-lives, and however
// often it flapped, for no longer than three.
func TestDamping(t *testing.T) {
	const half = 2 * time.Minute
	var l link
	at := 100.0
	cut := func() { l.flap(second(at-40), second(at), half) }
	cut()
	if l.flap(second(at-40), second(at+1), half); l.flaps != 1 { // another partition notices the same
		t.Fatalf("%d flaps of one outage", l.flaps)
	}
	at += 3600
	cut()
	if l.suppressed(second(at)) {
		t.Fatal("two cuts an hour apart suppress")
	}
	at += 41
	cut()
	if l.suppressed(second(at)) {
		t.Fatal("two cuts in a row suppress")
	}
	at += 41
	cut()
	if !l.suppressed(second(at + 180)) {
		t.Fatal("three cuts in a row do not suppress")
	}
	if l.suppressed(second(at + 240)) {
		t.Fatal("suppressed for two half-lives after three cuts")
	}
	for range 100 {
		at++
		l.flap(second(at-0.5), second(at), half)
	}
	if !l.suppressed(second(at+350)) || l.suppressed(second(at+361)) {
		t.Fatal("after a hundred cuts: want suppressed for just three half-lives")
	}
	for range 100 { // cuts so far apart that each is forgotten
		at += 600
		cut()
	}
	if l.suppressed(second(at)) {
		t.Fatal("a cut every ten minutes suppresses")
	}
}

// TestReach plays what is heard of a region: each line is our clock and the stamp of what arrives.
func TestReach(t *testing.T) {
	const silence = 30 * time.Second
	for _, c := range []struct {
		name string
		// now, stamp, in seconds
		heard [][2]float64
		cut   bool
		flaps int
	}{
		{"heard all the time", [][2]float64{{0, 0}, {20, 20}, {40, 40}, {60, 60}}, false, 0},
		{"history at start, and only some of the backlog", [][2]float64{{100, 3}, {101, 75}, {102, 101}}, true, 0},
		{"history at start, and all has come", [][2]float64{{100, 3}, {101, 100}, {106, 106}}, false, 0},
		{"cut, and only the backlog has come", [][2]float64{{0, 0}, {50, 20}, {51, 49}, {52, 51}}, true, 1},
		{"cut, and all has come", [][2]float64{{0, 0}, {50, 20}, {51, 49}, {55, 55}}, false, 1},
		{"cut again amid the backlog: the end is another", [][2]float64{{0, 0}, {50, 20}, {100, 56}, {101, 99}}, true, 1},
		{"and is reached", [][2]float64{{0, 0}, {50, 20}, {100, 56}, {101, 99}, {106, 105}}, false, 1},
		{"a clock that is 4 s ahead does not hide the backlog", [][2]float64{{0, 4}, {50, 30}, {50.1, 53.9}}, true, 1},
		{"cut twice", [][2]float64{{0, 0}, {40, 40}, {45, 45}, {90, 90}, {95, 95}, {96, 96}}, false, 2},
	} {
		var r reach
		watermark, flaps := im.Stamp(0), 0
		for _, h := range c.heard {
			before := watermark
			if before == 0 {
				before = second(h[1])
			}
			watermark = max(watermark, second(h[1]))
			if r.hear(before, watermark, second(h[0]), silence) > 0 {
				flaps++
			}
		}
		if r.cut != c.cut || flaps != c.flaps {
			t.Errorf("%s: cut %v with %d flaps, want %v with %d", c.name, r.cut, flaps, c.cut, c.flaps)
		}
	}
}

// TestStartBehind: a router that starts while a copy is a minute behind does not take the region's routes for the last ones
// because the backlog has come to within the silence of now. They count once what the log held then was applied.
func TestStartBehind(t *testing.T) {
	p := im.Partition{Topic: "route.us"}
	for _, c := range []struct {
		name    string
		end     int64       // of the copy at start
		batches [][]float64 // stamps; each batch a second after the last, from 100 on
	}{
		{"nothing was there", 0, [][]float64{{40, 41, 75}, {76}, {101.5}}},
		{"some was there", 2, [][]float64{{39, 40}, {75}, {80}, {102}}},
		{"some was there, and more comes with it", 2, [][]float64{{39, 40, 75}, {80}, {101}}},
	} {
		table, err := New("eu", []im.Origin{"eu", "us"}, 1, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		table.Expect(im.Partition{Topic: "route.eu"}, 0)
		table.Expect(p, c.end)
		var offset int64
		take := func(now float64, stamps ...float64) {
			var entries []Entry
			for _, s := range stamps {
				r := im.Route{Region: "us", Offset: offset, Claimed: second(s)}
				entries = append(entries, Entry{RouteRecord: im.RouteRecord{Kind: im.KindHeartbeat, Route: r}, Local: offset})
				offset++
			}
			table.Apply(p, entries, second(now))
		}
		now := 100.0
		for _, stamps := range c.batches {
			take(now, stamps...)
			if u := table.Unknown(0, second(now)); len(u) != 1 {
				t.Errorf("%s: at %v, with %v, the routes count", c.name, now, stamps)
			}
			now++
		}
		take(107, 106.5)
		if u := table.Unknown(0, second(107)); len(u) != 0 {
			t.Errorf("%s: all has come, and the routes of %v do not count", c.name, u)
		}
		if r := table.Reaches(second(107)); r[0].Flaps != 0 {
			t.Errorf("%s: a start is counted as a cut", c.name)
		}
	}
}

// TestClockAhead: a stamp from ahead of its time, as of a clock that was wrong once, does not let a region count that is not
// heard any more.
func TestClockAhead(t *testing.T) {
	table, err := New("eu", []im.Origin{"us", "eu"}, 1, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	table.Expect(im.Partition{Topic: "route.eu"}, 0)
	p := im.Partition{Topic: "route.us"}
	table.Expect(p, 0)
	for i, stamp := range []float64{0, 3600, 2} {
		r := im.Route{Region: "us", Offset: int64(i), Claimed: second(stamp)}
		table.Apply(p, []Entry{{RouteRecord: im.RouteRecord{Kind: im.KindHeartbeat, Route: r}, Local: int64(i)}}, second(float64(i)))
	}
	if u := table.Unknown(0, second(20)); len(u) != 0 {
		t.Errorf("heard 18 s ago, and the routes of %v do not count", u)
	}
	if u := table.Unknown(0, second(40)); len(u) != 1 {
		t.Error("not heard for 38 s, and the routes count")
	}
}
