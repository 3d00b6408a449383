package client

import "time"

const (
	// cutsToPoll is how many WebSockets in a row must be cut before they lasted for the network to be one that bears none.
	cutsToPoll = 3
	// maxTrialWait bounds the wait between two WebSockets tried from a long poll, trialJitter the part of it that is random.
	maxTrialWait = 10 * time.Minute
	trialJitter  = 0.2
)

// carrier decides what carries frames: a WebSocket, or a long poll where networks end every WebSocket. It has no clock: callers
// pass the time, and fallback, which is the policy's poll_fallback_ms.
//
//	            cut 3 times in a row before lasting, or none for so long
//	WebSocket ────────────────────────────────────────────────────────▶ long poll
//	    ▲  │                                                              │  ▲
//	    │  └── cut before it lasted: at once, and the next wait is twice ─┼──┘
//	    └───────────────── tried after 2 × fallback, then twice as long ──┘
type carrier struct {
	polling bool      // a long poll is what to use
	up      bool      // there is a connection
	lost    time.Time // when there was one last
	cuts    int       // WebSockets in a row that were cut before they lasted
	trial   bool      // the WebSocket in use was tried from a long poll
	trials  int       // WebSockets tried from the long poll since one lasted
	due     time.Time // of the next of them
	other   bool      // the last try to open one failed: the other way next
}

// poll tells whether to open a long poll next; r is uniform in [0, 1).
func (t *carrier) poll(now time.Time, fallback time.Duration, r float64) bool {
	if !t.polling && !t.up && now.Sub(t.lost) >= fallback {
		t.degrade(now, fallback, r)
	}
	return t.polling && !t.other
}

// opened notes that a connection was welcomed.
func (t *carrier) opened(poll bool) {
	t.up, t.other = true, false
	if !poll && t.polling {
		t.polling, t.trial = false, true
	}
}

// failed notes that none could be opened. A long poll may be what the network does not bear.
func (t *carrier) failed() {
	if t.polling {
		t.other = !t.other
	}
}

// ended notes that a connection is gone: after how long, and whether the network cut it.
func (t *carrier) ended(poll bool, lasted time.Duration, cut bool, now time.Time, fallback time.Duration, r float64) {
	t.up, t.lost = false, now
	switch {
	case poll:
	case lasted >= fallback:
		t.cuts, t.trials, t.trial = 0, 0, false
	case cut:
		if t.cuts++; t.trial || t.cuts >= cutsToPoll {
			t.degrade(now, fallback, r)
		}
	}
}

// degrade turns to the long poll.
func (t *carrier) degrade(now time.Time, fallback time.Duration, r float64) {
	t.polling, t.trial, t.other, t.cuts = true, false, false, 0
	t.wait(now, fallback, r)
}

// tried notes that a WebSocket was tried from the long poll, in vain.
func (t *carrier) tried(now time.Time, fallback time.Duration, r float64) { t.wait(now, fallback, r) }

func (t *carrier) wait(now time.Time, fallback time.Duration, r float64) {
	wait := maxTrialWait
	if t.trials < 16 {
		wait = min(wait, 2*fallback<<t.trials)
	}
	t.trials++
	t.due = now.Add(time.Duration(float64(wait) * (1 - trialJitter*r)))
}
