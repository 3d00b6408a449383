package replicator_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// peers are the replicators of regions as the one sees them who declares another lost.
func (m *mesh) peers(t testing.TB, names ...im.Region) map[im.Region]regions.Peer {
	t.Helper()
	all := map[im.Region]regions.Peer{}
	for _, r := range names {
		n := m.nodes[r]
		n.mu.Lock()
		addr := n.addr
		n.mu.Unlock()
		// the certificate of any region's replicator will do; an operator has that of the own region
		links := rpc.NewLinks(func(peer im.Region) (rpc.LinkTarget, error) {
			return rpc.LinkTarget{Addr: addr, TLS: n.identity.Client("replicator", peer)}, nil
		})
		conn, err := links.Dial(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		all[r] = rpc.NewCopies(conn, r)
	}
	return all
}

func (n *node) record(p im.Partition, i int) {
	n.log.must(p, wire.EncodeRecord(&im.Record{
		ID:   im.ID{Conversation: im.Direct("ann", "bob"), Sender: "ann", ClientID: im.NewUUID(time.Now())},
		Kind: im.KindMessage, Version: 1, Place: im.Place{Stamp: im.Stamp(i + 1), Origin: im.Origin(n.region)},
		Body: fmt.Appendf(nil, "%s %d", p, i),
	}))
}

// TestRegionLost: eu is lost while it writes and its links carry; us and ap hold different parts of what it wrote, and
// every append to their copies may time out and land late. Everything that a peer told eu it holds survives in both.
func TestRegionLost(t *testing.T) {
	m := newMesh(t, nil, "eu", "us", "ap").start()
	eu := m.nodes["eu"]
	var mu sync.Mutex
	held := map[im.Partition]int64{}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = eu.replicator().Held(ctx, func(h im.Held) error {
			mu.Lock()
			defer mu.Unlock()
			for p, next := range h.Offsets {
				held[p] = max(held[p], next)
			}
			return nil
		})
	})
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			for _, p := range eu.own() {
				eu.record(p, i)
			}
			time.Sleep(time.Millisecond) // else the log outruns its links
		}
	})
	eventually(t, "both copies have some of it", func() bool {
		for _, r := range []im.Region{"us", "ap"} {
			if len(m.nodes[r].log.taken(eu.own()[0])) < 20 {
				return false
			}
		}
		return true
	})
	for _, r := range []im.Region{"us", "ap"} {
		m.nodes[r].log.setFault(func(_ im.Partition, entries []im.Entry) appendFault {
			if h := wire.DecodeHead(&entries[0]); !h.Marker() && rand.IntN(3) == 0 {
				return appendFault(rand.IntN(4)) // fine, lost, landed, late
			}
			return fine
		})
	}
	behind := len(m.nodes["ap"].log.taken(eu.own()[0]))
	m.proxy("us", "eu").Cut() // ap goes on alone for a while: it will have to ship us the rest
	eventually(t, "ap is ahead of us", func() bool {
		return len(m.nodes["ap"].log.taken(eu.own()[0])) > behind+100
	})
	m.proxy("us", "eu").Heal() // and is behind again at places, or not: the links are open while eu is declared lost

	peers := m.peers(t, "us", "ap")
	var settled regions.Settled
	lose, stop := context.WithTimeout(t.Context(), 2*patience)
	defer stop()
	for { // appends of unknown outcome make a run fail; the next goes on
		var err error
		if settled, err = regions.Lose(lose, regions.Loss{Origin: "eu", Peers: peers, Progress: func(s string) { t.Log(s) }}); err == nil {
			break
		}
		t.Log(err)
		if lose.Err() != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	for _, r := range []im.Region{"us", "ap"} {
		m.nodes[r].log.wg.Wait() // what lands late has landed
	}
	mu.Lock()
	defer mu.Unlock()
	for _, p := range eu.own() {
		us, ap := m.nodes["us"].log.taken(p), m.nodes["ap"].log.taken(p)
		seal := settled.Seals[p]
		if int64(len(us)) != seal || int64(len(ap)) != seal {
			t.Fatalf("%v is sealed at %d: us has %d records, ap %d", p, seal, len(us), len(ap))
		}
		if held[p] > seal {
			t.Errorf("eu was told that a peer holds %v up to %d, and it is sealed at %d", p, held[p], seal)
		}
		own := eu.log.taken(p)
		for i := range us {
			if sum := wire.Checksum(&own[i]); wire.Checksum(&us[i]) != sum || wire.Checksum(&ap[i]) != sum {
				t.Fatalf("%v: record %d is another in a copy", p, i)
			}
		}
	}
	if settled.Shipped == 0 {
		t.Error("no peer lacked anything: the test shows nothing")
	}
	// A replicator of before, paused until now, writes on; and one that starts anew does not even open a link.
	for _, r := range []im.Region{"us", "ap"} {
		n := m.nodes[r]
		for _, p := range eu.own() {
			n.log.must(p, wire.AsCopy(eu.log.taken(p)[settled.Seals[p]-1], settled.Seals[p], 0))
			n.log.must(p, wire.AsCopy(eu.log.taken(p)[settled.Seals[p]-1], settled.Seals[p], 1))
			if got := int64(len(n.log.taken(p))); got != settled.Seals[p] {
				t.Fatalf("%s takes %d records of %v, it is sealed at %d", r, got, p, settled.Seals[p])
			}
		}
		n.kill(context.Canceled)
		n.start()
	}
	again, err := regions.Lose(lose, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")})
	if err != nil || !again.Already || !maps.Equal(again.Seals, settled.Seals) {
		t.Fatalf("after a restart: %+v, %v", again, err)
	}
	// Long after, when retention removed everything that is not kept for ever.
	for _, r := range []im.Region{"us", "ap"} {
		n := m.nodes[r]
		n.kill(context.Canceled)
		n.log.age()
		n.start()
	}
	again, err = regions.Lose(lose, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")})
	if err != nil || !again.Already || !maps.Equal(again.Seals, settled.Seals) {
		t.Fatalf("after a restart when retention has passed: %+v, %v", again, err)
	}
}

// lags is a mesh of which eu was killed when ap had more of one partition of its log than us, and then lost the beginning of
// that by retention.
func lags(t *testing.T, topic string) (*mesh, im.Partition) {
	t.Helper()
	m := newMesh(t, func(c *replicator.Config) { c.FillPatience = 300 * time.Millisecond }, "eu", "us", "ap").start()
	eu, p := m.nodes["eu"], im.Partition{Topic: topic}
	m.caughtUp(t)
	m.proxy("us", "eu").Cut()
	had := eu.log.end(p)
	for i := range 20 {
		eu.record(p, i)
	}
	eventually(t, "ap has what us lacks", func() bool { return m.copied("eu", "ap") })
	if len(m.nodes["us"].log.taken(p)) != int(had) {
		t.Fatal("us has it too")
	}
	eu.kill(context.Canceled)
	ap := m.nodes["ap"].log
	ap.retain(p, ap.end(p)-3)
	return m, p
}

// TestFillOfWhatNobodyHas: a record that no copy holds any more is not waited for without end, and who declares the loss is told
// what is left to do. Once the region that lacks it is given up, the others can be sealed.
func TestFillOfWhatNobodyHas(t *testing.T) {
	m, p := lags(t, im.MsgTopic("eu", im.LaneDirect))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := regions.Lose(ctx, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")})
	if err == nil || ctx.Err() != nil {
		t.Fatalf("us lacks records that nobody has, and eu is sealed: %v", err)
	}
	for _, want := range []string{p.String(), "nothing came from the copy in ap", "--accept-loss-of us", "run the same command again"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	settled, err := regions.Lose(ctx, regions.Loss{Origin: "eu", Peers: m.peers(t, "ap")})
	if err != nil || settled.Seals[p] != m.nodes["eu"].log.end(p) {
		t.Errorf("without us: %+v, %v", settled, err)
	}
}

// TestRoutesAreLeftOut: what a copy lacks of a lost region's routes is passed by if no other copy has it, and the copy knows its
// seal after a restart.
func TestRoutesAreLeftOut(t *testing.T) {
	m, p := lags(t, im.RouteTopic("eu"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	settled, err := regions.Lose(ctx, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")})
	if err != nil || settled.Seals[p] != m.nodes["eu"].log.end(p) {
		t.Fatalf("%+v, %v", settled, err)
	}
	us := m.nodes["us"]
	us.kill(context.Canceled)
	us.start()
	again, err := regions.Lose(ctx, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")})
	if err != nil || !again.Already || !maps.Equal(again.Seals, settled.Seals) {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
}

// TestLostRegionLearns: a region that was declared lost while it was away stops when its peers tell it, whichever end
// opens the link; the others go on with each other.
func TestLostRegionLearns(t *testing.T) {
	m := newMesh(t, nil, "eu", "us", "ap").start()
	m.caughtUp(t)
	m.nodes["eu"].kill(context.Canceled)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := regions.Lose(ctx, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")}); err != nil {
		t.Fatal(err)
	}
	eu := m.nodes["eu"].build()
	ended := make(chan error, 1)
	go func() { ended <- eu.Run(ctx) }()
	select {
	case err := <-ended:
		lost, ok := errors.AsType[*im.LostError](err)
		if !ok || lost.Origin != "eu" || lost.Stamp == 0 {
			t.Fatalf("it ended by %v", err)
		}
	case <-ctx.Done():
		t.Fatal("eu runs on though its origin was declared lost")
	}
	m.nodes["us"].record(m.nodes["us"].own()[0], 1)
	eventually(t, "ap hears from us", func() bool { return m.copied("us", "ap") })
}
