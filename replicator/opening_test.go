package replicator_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
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

// So is what stands in the copies from which others take a log.
func TestRelaysOpenWithFewReads(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap")
	m.writeAll(0, 40)
	m.caughtUp(t)
	for _, n := range m.nodes {
		n.kill(context.Canceled)
		n.log.roomy(true)
	}
	m.start()
	m.linked(t, "ap", "eu", "us")
	m.writeAll(1, 10)
	m.caughtUp(t)
	for _, n := range m.nodes {
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

// crowded is a log whose reads of many partitions together wait until they are let through.
type crowded struct {
	replicator.Log
	through chan struct{}

	mu    sync.Mutex
	reads map[im.Origin]int // that wait, by whose logs they are of
}

func (l *crowded) ReadEach(ctx context.Context, from map[im.Partition]int64, maxBytes int) map[im.Partition][]im.Entry {
	of := map[im.Origin]bool{}
	for p := range from {
		of[p.Origin()] = true
	}
	l.count(of, +1)
	defer l.count(of, -1)
	select {
	case <-l.through:
	case <-ctx.Done():
	}
	return l.Log.ReadEach(ctx, from, maxBytes)
}

func (l *crowded) count(of map[im.Origin]bool, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for o := range of {
		if l.reads[o] += by; l.reads[o] == 0 {
			delete(l.reads, o)
		}
	}
}

// Links to several peers take turns in reading the tails of their copies, so that what is read for all of them together is no more than
// for one. Nobody is passed over.
func TestTailsAreReadInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := []im.Origin{"eu", "ap", "sa"}
		log := newFakeLog(append(peers, "us"), 2)
		log.roomy(true)
		cfg := replicator.Config{Region: "us", Origin: "us", Partitions: 2, LinkTimeout: time.Hour, ReadTimeout: time.Hour}
		for _, o := range peers {
			cfg.Peers = append(cfg.Peers, replicator.Peer{Region: o.Region(), Origin: o})
			name := wire.EncodeLogName(im.KindLog, im.LogName{Origin: o, ID: im.UUID{1}}, im.StampAt(time.Now()))
			for _, p := range log.partitions(o) {
				log.must(p, wire.AsCopy(name, 0, 0), wire.AsCopy(message(o, "hello"), 1, 0))
			}
		}
		l := &crowded{Log: log, through: make(chan struct{}), reads: map[im.Origin]int{}}
		r, err := replicator.New(cfg, replicator.Deps{Log: l, NewReader: log.NewReader, Dialer: make(pipeDialer)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		turns := map[im.Origin]int{}
		for range peers {
			synctest.Wait()
			if len(l.reads) != 1 {
				t.Errorf("copies of %v are read at a time, want those of one", l.reads)
			}
			for o, n := range l.reads {
				if turns[o]++; turns[o] > 1 || n > 1 {
					t.Errorf("%s has its turn again: %v; %d reads", o, turns, n)
				}
			}
			l.through <- struct{}{}
		}
		synctest.Wait()
		if len(l.reads) != 0 || len(turns) != len(peers) {
			t.Errorf("%v had a turn, and %v are still read", turns, l.reads)
		}
		for _, in := range r.Status().In { // each knows what it has
			if _, err := r.CopyHold(t.Context(), in.Origin, 0); err != nil {
				t.Error(err)
			}
		}
		cancel()
		<-done
	})
}
