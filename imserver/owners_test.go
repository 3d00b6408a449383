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
		s, err := New(cfg, deps)
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
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
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
