package replicator

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a receiver does with its ways to an origin's log: it takes the one that Ways names, tells it what becomes
// of links, and looks whether the first way works again.

// errFirstWay ends a link over a region that stands in.
var errFirstWay = errors.New("the way that it stands in for works again")

// ways are those to the log of a peer.
func (c Config) ways(peer im.Region, now time.Time) *Ways {
	first := peer
	if via := c.Via[peer]; via != "" {
		first = via
	}
	others := slices.DeleteFunc(slices.Clone(c.StandIns), func(r im.Region) bool { return r == peer || r == first })
	return NewWays(first, others, c.StandInAfter, c.LinkTimeout, now)
}

// sources are where records of a region's copy can be read that may not be reached: there, or in the region in between on the way to
// it, which brings itself the same at the same time, or in those that stand in.
func (c Config) sources(copyOf, origin im.Region) []im.Region {
	first := copyOf
	if via := c.Via[copyOf]; via != "" {
		first = via
	}
	all := []im.Region{first}
	for _, r := range c.StandIns {
		if r != first && r != origin {
			all = append(all, r)
		}
	}
	return all
}

// via is the region in between on the way that is taken; empty if there is none.
func (c *receiving) via() im.Region {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.between()
}

// between is via, for callers that hold mu.
func (c *receiving) between() im.Region {
	if way := c.ways.Way(); way != c.peer.Region {
		return way
	}
	return ""
}

// hear takes what a sender tells of its clock and, where it has a copy, of the origin. The caller holds mu.
func (c *receiving) hear(sender im.Region, clockMs int64, news *wire.LinkNews) {
	now := c.r.now()
	told := statusReading{at: now, clock: time.UnixMilli(clockMs)}
	if sender != c.peer.Region {
		told = statusReading{at: c.told.at, clock: c.told.clock, via: sender}
		if heard, ok := newsOf(news, now); ok && heard.After(c.told.at) { // else it was heard of later over another way
			told.at, told.clock = heard, time.UnixMilli(news.ClockMs)
		}
		ahead, _ := c.r.clocks.offset(sender)
		c.beyond.Store(int64(ahead) + news.GetAheadUs()*int64(time.Microsecond))
	}
	c.told = told
}

// ahead is how far the clock of the origin's region is ahead of the own.
func (c *receiving) ahead() time.Duration {
	if d, ok := c.r.clocks.offset(c.peer.Region); ok {
		return d
	}
	return time.Duration(c.beyond.Load())
}

// within is how long a link over the way that is taken may take to open.
func (c *receiving) within() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left, ok := c.ways.Left(c.r.now()); ok {
		return min(left, c.r.cfg.LinkTimeout)
	}
	return c.r.cfg.LinkTimeout
}

// hangUp closes a line and keeps when something came over it last.
func (c *receiving) hangUp(l *line) {
	l.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = l.heard
}

// watchWay ends a session over a region in between when it is to be left, until ctx ends.
func (c *receiving) watchWay(ctx context.Context, end context.CancelCauseFunc) {
	if len(c.ways.others) == 0 {
		return
	}
	for {
		c.mu.Lock()
		wait, standing := c.ways.Look(c.r.now())
		// A look is a socket and a handshake to the other region: not all links of a region look at once.
		wait += time.Duration(rand.Int64N(int64(c.ways.after)/4 + 1))
		if !standing {
			wait = c.ways.after
		}
		if deaf, ok := c.ways.Deaf(c.told.at, c.r.now()); ok && c.told.via != "" {
			wait = min(wait, deaf)
		}
		c.mu.Unlock()
		if !pause(ctx, min(wait, c.ways.after)) {
			return
		}
		c.mu.Lock()
		heard := c.told.at
		left, _ := c.ways.Look(c.r.now())
		giveUp := c.told.via != "" && c.ways.GiveUp(heard, c.r.now())
		c.mu.Unlock()
		if giveUp {
			end(im.Errorf(im.CodeUnavailable, "it has not heard of region %s since %s", c.peer.Region, heard.UTC().Format(time.RFC3339)))
			return
		}
		if !standing || left > 0 {
			continue
		}
		works := c.reaches(ctx, c.ways.first)
		c.mu.Lock()
		back := c.ways.LookedAt(works, c.r.now())
		c.mu.Unlock()
		if back {
			end(errFirstWay)
			return
		}
	}
}

// reaches tells whether a link to a region can be made. It opens none.
func (c *receiving) reaches(ctx context.Context, region im.Region) bool {
	ctx, cancel := context.WithTimeout(ctx, c.r.cfg.LinkTimeout)
	defer cancel()
	stream, err := c.r.deps.Dialer.Link(ctx, region)
	if err != nil {
		return false
	}
	stream.Close()
	return true
}
