package demo

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// What comes of a machine that stood still is seen and excused, and what users waited meanwhile does not count. All else does.
func TestSeenOfAMachineThatStoodStill(t *testing.T) {
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	stood := func(from, to time.Time) time.Duration { // from second 20 to 23
		first, last := at(20), at(23)
		if first.Before(from) {
			first = from
		}
		if last.After(to) {
			last = to
		}
		return to.Sub(from) - max(0, last.Sub(first))
	}
	u := &user{region: "eu", troubles: []trouble{
		{at(5), im.CodeUnavailable}, // before what is asked for
		{at(15), im.CodeUnavailable},
		{at(23), im.CodeUnavailable},
		{at: at(25)}, // a socket
		{at: at(40)},
	}}
	c := &chat{members: []*user{u}}
	one := submit{by: u, in: c, sent: at(19), acked: at(24)}
	u.shown = map[im.ID]time.Time{one.ID: at(25)}
	one.Acked = true
	for name, want := range map[string]struct {
		took      func(from, to time.Time) time.Duration
		troubles  int
		ack, show time.Duration
	}{
		"it stood still": {stood, 2, 2 * time.Second, 3 * time.Second},
		"it ran":         {func(from, to time.Time) time.Duration { return to.Sub(from) }, 4, 5 * time.Second, 6 * time.Second},
	} {
		traffic := &Traffic{crowd: &crowd{users: []*user{u}, chats: []*chat{c}, submits: []submit{one}}, cfg: TrafficConfig{Took: want.took}}
		seen := traffic.Seen(at(10))
		if seen.Lost != 2 || seen.Retried[im.CodeUnavailable] != 2 || seen.Troubles() != want.troubles || seen.LongestAck != want.ack || seen.LongestShow != want.show {
			t.Errorf("%s: %+v, %d troubles", name, seen, seen.Troubles())
		}
	}
}
