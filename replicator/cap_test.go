package replicator_test

import (
	"context"
	"errors"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// TestCopiesAreReadUnderTheCap: what a region reads of copies here counts like what links ship to it. What one lacks is sent a batch at
// a time, each when those before it are paid for; a region without a cap waits for nothing.
func TestCopiesAreReadUnderTheCap(t *testing.T) {
	r, log, _ := alone(t, func(c *replicator.Config) {
		c.BatchBytes = 1 << 10
		c.Caps = []replicator.Cap{{Peer: "eu", BytesPerSecond: 1}}
	})
	running(t, r)
	p := log.partitions("us")[0]
	for range 8 {
		log.must(p, noise("us", 1<<10))
	}
	read := func(ctx context.Context, reader im.Region, batches chan<- *wire.LinkBatch) error {
		return r.CopyRead(ctx, reader, p, 0, log.end(p), func(b *wire.LinkBatch) error { batches <- b; return nil })
	}
	ctx, cancel := context.WithCancel(t.Context())
	slow, ended := make(chan *wire.LinkBatch, 100), make(chan error, 1)
	go func() { ended <- read(ctx, "eu", slow) }()
	within(t, slow, "first batch")
	all := make(chan *wire.LinkBatch, 100)
	if err := read(ctx, "ap", all); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := within(t, ended, "end"); !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	if len(slow) > 0 || len(all) < 8 {
		t.Errorf("%d more batches came under a cap, %d without", len(slow), len(all))
	}
}
