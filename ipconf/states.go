package ipconf

import (
	"math"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/ipconf/rank"
)

// States tells what operators made of a region: its state, "" for one that nothing was said of (active), and when it was
// said. It is asked ten times a second and must not block.
type States interface {
	State(r im.Region) im.RegionState
}

const drainSteps = 10 // in which a draining region's share goes down

// share is the part of its clients that a region lets in: all while it is active, a part that steps down over drainOver
// while it drains, none in any other state. A region that became active, or has gateways again, takes returnOver to take
// all: the ramp.
func share(s im.RegionState, back time.Time, drainOver, returnOver time.Duration, now time.Time) (share, ramp float64, why string) {
	since := max(0, now.Sub(s.Stamp.Time()))
	if s.Stamp == 0 {
		since = time.Duration(math.MaxInt64)
	}
	switch s.State {
	case im.StateActive, "":
		if !back.IsZero() {
			since = min(since, max(0, now.Sub(back)))
		}
		if since >= returnOver {
			return 1, 1, ""
		}
		return 1, rank.Ramp(since, returnOver), "coming back"
	case im.StateDraining:
		step := 1 + math.Floor(drainSteps*float64(since)/float64(drainOver))
		return max(0, 1-step/drainSteps), 1, "draining"
	default:
		return 0, 1, string(s.State)
	}
}
