package replicator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
)

// behind is ap, which takes eu's log from us; sa may stand in.
func behind(t *testing.T) *receiving {
	t.Helper()
	r, err := New(
		Config{
			Region: "ap", Origin: "ap", Partitions: 1, Peers: []Peer{{"eu", "eu"}, {"us", "us"}, {"sa", "sa"}},
			Via: map[im.Region]im.Region{"eu": "us"}, StandIns: []im.Region{"sa"}, StandInAfter: 30 * time.Second,
		},
		Deps{Log: still{}, NewReader: func(map[im.Partition]int64) Reader { return nil }, Dialer: still{}})
	if err != nil {
		t.Fatal(err)
	}
	return r.peer("eu").in
}

// hears notes that us said it heard of eu a moment ago.
func (c *receiving) hears(ago time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = statusReading{at: c.r.now().Add(-ago), via: "us"}
}

// TestDeafHubIsLeftInTime: a hub that does not hear of the origin any more is left when that has lasted as long as a stand-in waits, and
// not when it is looked at next.
func TestDeafHubIsLeftInTime(t *testing.T) {
	for _, until := range []time.Duration{0, time.Second, 29 * time.Second, 31 * time.Second, 59 * time.Second, 95 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := behind(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			began := time.Now()
			c.hears(0)
			c.ways.Open(began)
			left := make(chan error, 1)
			go c.watchWay(ctx, func(why error) { left <- why })
			for time.Since(began) < until {
				time.Sleep(time.Second) // of the bubble's clock: a status of the hub comes
				c.hears(0)
			}
			if why := <-left; why == nil || c.ways.Way() != "us" {
				t.Errorf("%v, over %s", why, c.ways.Way())
			}
			if took := time.Since(began) - until; took != 30*time.Second {
				t.Errorf("eu was heard of for %v, and the hub left %v after", until, took)
			}
		})
	}
}

// TestHubThatSeeksAnotherWayIsLeft: a hub that lost the origin closes the link once it takes the log from a copy itself. A stand-in does not
// wait from then on, but from when the hub heard of the origin.
func TestHubThatSeeksAnotherWayIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := behind(t)
		c.ways.Open(time.Now())
		time.Sleep(time.Hour) // of the bubble's clock, as those below: it works
		c.hears(0)
		time.Sleep(29 * time.Second)
		c.open, c.heard = true, time.Now() // the hub itself was heard
		c.closed("region us takes the log of eu from sa itself now")
		if way := c.ways.Way(); way != "us" {
			t.Errorf("after 29s it goes over %s", way)
		}
		time.Sleep(time.Second)
		c.closed("region us takes the log of eu from sa itself")
		if way := c.ways.Way(); way != "sa" {
			t.Errorf("after 30s it goes over %s", way)
		}
	})
}

// TestStoppedProcessDoesNotCount: a replicator that was stopped itself while its hub heard the origin does not take that time for silence.
func TestStoppedProcessDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := behind(t)
		c.ways.Open(time.Now())
		time.Sleep(time.Hour) // of the bubble's clock: it works
		c.hears(time.Second)
		c.open, c.heard = true, time.Now()
		time.Sleep(2 * time.Minute) // it is stopped
		c.closed("the link to us is silent for 5s")
		if way := c.ways.Way(); way != "us" {
			t.Errorf("it goes over %s", way)
		}
		if left, ok := c.ways.Left(time.Now()); !ok || left != 24*time.Second { // 5 s of silence and a second before it
			t.Errorf("a stand-in has its turn in %v, %v", left, ok)
		}
	})
}
