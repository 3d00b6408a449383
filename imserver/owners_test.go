package imserver

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Owners change within seconds, also while routers hang: what waits for them is given up.
func TestOwnersChangeWhileRoutersHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store, owns := newFakeLog(), newFakeStore(2), newFakeOwnership(0)
		log.create("eu", 2)
		cfg, deps := minimal(log, store, owns)
		cfg.Partitions, cfg.Heartbeat = 2, time.Hour
		deps.Deliver = &fakeRouter{step: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		s, end := running(t, cfg, deps)
		pass(time.Second)
		c := im.Conversation("d:ann:bob")
		for i := 0; s.number(c) != 0; i++ {
			c = im.Direct("ann", im.UID("bob"+string(rune('a'+i))))
		}
		log.put(im.Partition{Topic: "msg.eu.direct"}, wire.EncodeRecord(&im.Record{ID: im.ID{Conversation: c, Sender: "ann"}, Kind: im.KindMessage, Version: 1}))
		pass(100 * time.Millisecond)
		owns.set(1)
		pass(handOverGrace + 100*time.Millisecond)
		if got := s.shards.numbers(); !slices.Equal(got, []int{1}) {
			t.Errorf("it owns %v still", got)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// What an instance owns first is left to who had it for a grace, whatever else changes meanwhile; what it owns later is not.
func TestJoinGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, store, owns := newFakeLog(), newFakeStore(1), newFakeOwnership()
		log.create("eu", 3)
		cfg, deps := minimal(log, store, owns)
		cfg.Partitions, cfg.JoinGrace = 3, 200*time.Millisecond
		s, end := running(t, cfg, deps)
		expect := func(want ...int) {
			t.Helper()
			if got := slices.Sorted(slices.Values(s.shards.numbers())); !slices.Equal(got, want) {
				t.Errorf("it applies %v, want %v", got, want)
			}
		}
		pass(time.Minute) // listed, and not told of it
		owns.set(0, 1)
		pass(100 * time.Millisecond)
		expect()
		owns.set(0, 2)
		pass(99 * time.Millisecond)
		expect()
		pass(10 * time.Millisecond)
		expect(0, 2)
		owns.set(0, 1, 2)
		pass(10 * time.Millisecond)
		expect(0, 1, 2)
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}
