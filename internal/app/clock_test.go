package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

func TestClockReady(t *testing.T) {
	for _, c := range []struct {
		name   string
		others []time.Duration // how far they are ahead
		want   string          // of the reason; "" for ready
	}{
		{"alone", nil, ""},
		{"one peer cannot tell who is wrong", []time.Duration{time.Hour}, ""},
		{"all agree", []time.Duration{100 * time.Millisecond, -100 * time.Millisecond}, ""},
		{"one of two peers is off", []time.Duration{time.Hour, 50 * time.Millisecond}, ""},
		{"this one is ahead", []time.Duration{-3 * time.Second, -4 * time.Second}, "is 3s ahead of the median of 2 regions' clocks, and may be 2.5s: set it"},
		{"this one is behind", []time.Duration{2600 * time.Millisecond, 3 * time.Second, time.Hour}, "is 3s behind the median of 3"},
		{"at the bound", []time.Duration{-2500 * time.Millisecond, -2500 * time.Millisecond}, ""},
		{"one of three peers is off", []time.Duration{-time.Hour, 0, time.Second}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			others := map[im.Region]time.Duration{}
			for i, d := range c.others {
				others[im.Region(rune('a'+i))] = d
			}
			k := newClock(func(context.Context) (map[im.Region]time.Duration, error) { return others, nil }, im.MaxSkew/2, time.Now)
			if err := k.ready(t.Context()); err != nil {
				t.Errorf("before anything is known: %v", err)
			}
			k.measure(t.Context())
			k.ask = func(context.Context) (map[im.Region]time.Duration, error) { return nil, errors.New("silent") }
			k.measure(t.Context()) // changes nothing
			err := k.ready(t.Context())
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestMinorityCannotAccuse: as long as most clocks, the own among them, are within the bound of each other, none of these is
// judged to be off, whatever the rest tell.
func TestMinorityCannotAccuse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		good := rapid.SliceOfN(rapid.Int64Range(-1000, 1000), 1, 6).Draw(t, "good") // of peers
		bad := rapid.SliceOfN(rapid.Int64(), 0, len(good)).Draw(t, "bad")           // with the own clock, fewer than the good
		others := map[im.Region]time.Duration{}
		for i, d := range slices.Concat(good, bad) {
			others[im.Region(rune('a'+i))] = time.Duration(d)
		}
		if ahead, known := aheadOf(others); known && ahead.Abs() > 1000 {
			t.Fatalf("with %v it is %v ahead", others, ahead)
		}
	})
}

// TestClockSteps: a clock that is set is not believed from that moment on, until others were asked; if they say that it is
// wrong, until it is set right.
func TestClockSteps(t *testing.T) {
	others, silent := map[im.Region]time.Duration{"us": 0, "ap": 0}, false
	var mono, off time.Duration
	begun := time.UnixMilli(1_000_000)
	k := newClock(func(context.Context) (map[im.Region]time.Duration, error) {
		if silent {
			return nil, errors.New("silent")
		}
		ahead := map[im.Region]time.Duration{}
		for r, d := range others {
			ahead[r] = d - off
		}
		return ahead, nil
	}, im.MaxSkew/2, func() time.Time { return begun.Add(mono + off) })
	k.since = func() time.Duration { return mono }
	k.zero = k.origin(k.wall())
	expect := func(when, want string) {
		t.Helper()
		err := k.ready(t.Context())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", when, err, want)
		}
	}
	k.measure(t.Context())
	expect("at first", "")
	mono += time.Hour
	expect("as time passes", "")
	off = 2 * time.Second
	expect("within the bound", "")
	off = 10 * time.Second
	expect("set ahead", "was set by 10s")
	silent = true
	k.measure(t.Context())
	expect("nobody answers", "was set by 10s")
	silent = false
	k.measure(t.Context())
	expect("measured", "is 10s ahead of the median")
	off = 0
	expect("set right", "was set by -10s")
	k.measure(t.Context())
	expect("measured again", "")
	off = 10 * time.Second
	clear(others)
	k.measure(t.Context())
	expect("nobody is there who could tell", "")
}
