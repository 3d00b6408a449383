package imserver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
)

// TestOriginsAreFollowedWhileItRuns: the log of a region that is new is applied by a server that runs, which goes on with the
// others.
func TestOriginsAreFollowedWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store := newFakeLog(), newFakeStore(1)
		log.create("eu", 1)
		log.create("us", 1)
		cfg, deps := minimal(log, store, newFakeOwnership(0))
		s, end := running(t, cfg, deps)
		next := func(topic string) int64 {
			t.Helper()
			pass(6 * time.Second) // a heartbeat comes, and is applied
			positions, err := s.Positions(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range positions {
				if p.Partition.Topic == topic {
					return p.Next
				}
			}
			return 0
		}
		if at := next("msg.us.direct"); at != 0 {
			t.Errorf("us is not followed, and applied up to %d", at)
		}
		before := next("msg.eu.direct")
		if err := s.Follow([]im.Origin{"eu", "us"}, []im.Origin{"eu"}); err != nil {
			t.Fatal(err)
		}
		if at := next("msg.us.direct"); at != 1 {
			t.Errorf("us is followed, and applied up to %d", at)
		}
		if at := next("msg.eu.direct"); at <= before {
			t.Errorf("eu was applied up to %d, and goes on at %d", before, at)
		}
		if expected := s.follow.expected(); len(expected) != 1 || expected[0] != "eu" {
			t.Errorf("%v are expected to be heard of: us is sealed", expected)
		}
		if err := s.Follow([]im.Origin{"US"}, nil); err == nil {
			t.Error("what is no origin is followed")
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}
