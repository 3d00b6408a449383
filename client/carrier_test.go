package client

import (
	"testing"
	"time"
)

const lasting = 15 * time.Second

type carried struct {
	*testing.T
	carrier
	now time.Time
}

func newCarried(t *testing.T) *carried {
	c := &carried{T: t, now: time.Unix(1_000_000, 0)}
	c.lost = c.now
	return c
}

func (c *carried) wants(poll bool) {
	c.Helper()
	if got := c.poll(c.now, lasting, 0); got != poll {
		c.Fatalf("poll %v, want %v: %+v", got, poll, c.carrier)
	}
}

// lives has a connection that is welcomed now, lasts, and ends.
func (c *carried) lives(poll bool, lasts time.Duration, cut bool) {
	c.opened(poll)
	c.now = c.now.Add(lasts)
	c.ended(poll, lasts, cut, c.now, lasting, 0)
}

func TestCarrierAfterCuts(t *testing.T) {
	c := newCarried(t)
	c.lives(false, 2*time.Second, true)
	c.lives(false, 2*time.Second, true)
	c.wants(false)
	c.lives(false, time.Minute, true) // it lasted: the row begins anew
	c.lives(false, 2*time.Second, true)
	c.lives(false, 2*time.Second, false) // closed by the gateway, not cut
	c.lives(false, 2*time.Second, true)
	c.wants(false)
	c.lives(false, 2*time.Second, true)
	c.wants(true)
	if want := c.now.Add(2 * lasting); !c.due.Equal(want) {
		t.Errorf("the first WebSocket is tried %v from now", c.due.Sub(c.now))
	}
	// The poll stays what to use when it is lost.
	c.lives(true, 2*time.Second, true)
	c.wants(true)
}

func TestCarrierAfterALongTimeWithout(t *testing.T) {
	c := newCarried(t)
	c.now = c.now.Add(lasting - 1)
	c.wants(false)
	c.failed()
	c.now = c.now.Add(1)
	c.wants(true)
	// Neither can be had: by turns.
	c.failed()
	c.wants(false)
	c.failed()
	c.wants(true)
	// A WebSocket that is there for long is none that is missing: a goaway asks for another.
	c.failed()
	c.opened(false)
	c.now = c.now.Add(time.Hour)
	c.wants(false)
}

func TestCarrierTriesWebSockets(t *testing.T) {
	c := newCarried(t)
	for range cutsToPoll {
		c.lives(false, 2*time.Second, true)
	}
	c.wants(true)
	c.opened(true)
	for _, seconds := range []int{60, 120, 240, 480, 600, 600} {
		want := time.Duration(seconds) * time.Second
		c.now = c.due
		c.tried(c.now, lasting, 0)
		if got := c.due.Sub(c.now); got != want {
			t.Fatalf("the next is tried after %v, want %v", got, want)
		}
	}
	c.tried(c.now, lasting, 0.999)
	if got := c.due.Sub(c.now); got > 481*time.Second || got < 480*time.Second {
		t.Errorf("at most a fifth is random: %v", got)
	}
	// One is cut before it lasted: back at once, and the wait goes on growing.
	c.lives(false, 2*time.Second, true)
	c.wants(true)
	if got := c.due.Sub(c.now); got != maxTrialWait {
		t.Errorf("after a short one: %v", got)
	}
	// One lasts: all is as in the beginning.
	c.opened(true)
	c.lives(false, lasting, true)
	c.wants(false)
	c.lives(false, 2*time.Second, true)
	c.wants(false)
	if c.trials != 0 || c.cuts != 1 {
		t.Errorf("%+v", c.carrier)
	}
}
