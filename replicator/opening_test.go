package replicator_test

import (
	"context"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
)

// What stands at the ends of logs and copies is read together, not partition by partition.
func TestOpensWithFewReads(t *testing.T) {
	m := newMesh(t, nil, "eu", "us")
	eu, us := m.nodes["eu"], m.nodes["us"]
	for i := range 40 {
		eu.log.must(eu.own()[i%4], message("eu", "before"))
	}
	m.start().caughtUp(t)
	for _, n := range m.nodes {
		n.kill(context.Canceled)
		n.log.roomy(true)
	}
	m.start()
	for _, p := range eu.own() {
		eu.log.must(p, message("eu", "after"))
	}
	m.caughtUp(t)
	for _, n := range []*node{eu, us} {
		if reads := n.log.single(); reads > 0 {
			t.Errorf("%s read %d times from one partition", n.region, reads)
		}
	}
}

// busy is a log that tells its bounds only when its gate is open.
type busy struct {
	replicator.Log
	gate chan struct{}
}

func (l busy) Bounds(ctx context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error) {
	select {
	case <-l.gate:
		return l.Log.Bounds(ctx, ps)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// The handshake goes on while the copies are read.
func TestDialsWhileCopiesAreRead(t *testing.T) {
	gate := make(chan struct{})
	_, _, dialer := alone(t, nil, func(d *replicator.Deps) { d.Log = busy{d.Log, gate} })
	p := within(t, dialer, "link")
	select {
	case m := <-p.up:
		t.Fatalf("before the copies were read: %v", m)
	default:
	}
	close(gate)
	opened(t, p)
}

// A link that was dialled long before the copies were read is not used: its sender is about to give it up.
func TestDialsAnewAfterALongRead(t *testing.T) {
	gate := make(chan struct{})
	_, _, dialer := alone(t, func(c *replicator.Config) { c.LinkTimeout = 20 * time.Millisecond }, func(d *replicator.Deps) { d.Log = busy{d.Log, gate} })
	within(t, within(t, dialer, "link").done, "end of a link that nothing came over")
	close(gate)
	for { // on a busy machine the next may end as well
		p := within(t, dialer, "another link")
		select {
		case m := <-p.up:
			if m.GetOpen() == nil {
				t.Fatalf("the first message is %v", m)
			}
			return
		case <-p.done:
		}
	}
}
