package replicator_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// bereaved is a mesh in which eu was declared lost by us and ap before sa came, and by whom sa hears of it. eu runs on, has more than
// counts, and links to it from sa would bring that.
func bereaved(t *testing.T, tune func(*replicator.Config)) (*mesh, regions.Settled) {
	t.Helper()
	m := newMesh(t, func(c *replicator.Config) {
		if c.Region == "sa" {
			c.Sealed = []im.Origin{"eu"}
		}
		if tune != nil {
			tune(c)
		}
	}, "eu", "us", "ap", "sa")
	eu := m.nodes["eu"]
	for _, p := range eu.own() {
		for i := range 300 {
			eu.record(p, i)
		}
	}
	for _, r := range []im.Region{"eu", "us", "ap"} {
		m.nodes[r].start()
	}
	eventually(t, "us and ap have eu's log", func() bool { return m.copied("eu", "us") && m.copied("eu", "ap") })
	m.proxy("us", "eu").Cut()
	m.proxy("ap", "eu").Cut()
	m.proxy("eu", "us").Cut()
	m.proxy("eu", "ap").Cut()
	for _, p := range eu.own() {
		eu.record(p, 300)
	}
	settled, err := regions.Lose(t.Context(), regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap")})
	if err != nil {
		t.Fatal(err)
	}
	return m, settled
}

// inherited checks that sa has eu's log up to its seals, as us has it, and waits for that.
func (m *mesh) inherited(t *testing.T, settled regions.Settled) {
	t.Helper()
	sa := m.nodes["sa"]
	eventually(t, "sa has the sealed log", func() bool { _, missing := sa.replicator().Sealed(); return len(missing) == 0 })
	seals, _ := sa.replicator().Sealed()
	for p, seal := range settled.Seals {
		if p.Topic == im.RouteTopic("eu") {
			continue
		}
		us, has := m.nodes["us"].log.taken(p), sa.log.taken(p)
		if int64(len(has)) != seal || len(us) != len(has) || seals[p] != seal {
			t.Fatalf("%v is sealed at %d: sa has %d records, and says %d", p, seal, len(has), seals[p])
		}
		for i := range has {
			if wire.Checksum(&has[i]) != wire.Checksum(&us[i]) {
				t.Fatalf("%v: record %d is another in sa", p, i)
			}
		}
	}
	again, err := regions.Lose(t.Context(), regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap", "sa")})
	if err != nil || !again.Already || !maps.Equal(again.Seals, settled.Seals) {
		t.Errorf("the three do not agree where eu ends: %+v, %v", again, err)
	}
}

// TestNewcomerInheritsASealedLog: a region that comes after another was lost takes the sealed log from a copy, whatever becomes of
// its appends and though it is killed on the way and two of its replicators do it at once. It takes nothing past the seals, also
// where the lost region is reached, and counts it among those that are missing until all is there.
func TestNewcomerInheritsASealedLog(t *testing.T) {
	m, settled := bereaved(t, nil)
	sa := m.nodes["sa"]
	sa.log.setFault(func(_ im.Partition, entries []im.Entry) appendFault {
		if rand.IntN(3) == 0 {
			return appendFault(rand.IntN(4)) // fine, lost, landed, late
		}
		return fine
	})
	m.proxy("sa", "us").Cut()
	m.proxy("sa", "ap").Cut()
	sa.start()
	if seals, missing := sa.replicator().Sealed(); len(seals) != 0 || len(missing) != 1 || missing[0] != "eu" {
		t.Errorf("nothing is here yet, and sa says that it lacks %v", missing)
	}
	if _, waits := sa.replicator().Ends()["eu"]; waits {
		t.Error("the lost region is waited for")
	}
	m.proxy("sa", "us").Heal()
	p := im.Partition{Topic: im.MsgTopic("eu", im.LaneDirect)}
	eventually(t, "sa has begun", func() bool { return len(sa.log.taken(p)) > 0 })
	sa.kill(context.Canceled)
	sa.start()
	twin := sa.build()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = twin.Run(ctx) })
	m.inherited(t, settled)
	eventually(t, "so does the other replicator of sa", func() bool { _, missing := twin.Sealed(); return len(missing) == 0 })
	stop()
	wg.Wait()
	sa.log.wg.Wait()
	m.inherited(t, settled)
	sa.kill(context.Canceled)
	sa.start()
	m.inherited(t, settled)
}

// TestFormerEpochIsInherited: no link leads to a region that was removed, or to a former epoch; its log comes all the same. The
// region hears while it runs that it is sealed.
func TestFormerEpochIsInherited(t *testing.T) {
	m, settled := bereaved(t, func(c *replicator.Config) {
		if c.Region == "sa" {
			c.Peers, c.Sealed = []replicator.Peer{{Region: "us", Origin: "us"}, {Region: "ap", Origin: "ap"}}, nil
		}
	})
	sa := m.nodes["sa"]
	sa.start()
	if err := sa.replicator().Follow([]replicator.Peer{{Region: "us", Origin: "us"}, {Region: "ap", Origin: "ap"}}, []im.Origin{"eu"}); err != nil {
		t.Fatal(err)
	}
	m.inherited(t, settled)
}

// TestSeededRegionInheritsMarkers: a region whose views were seeded with all of a sealed log needs none of its records, which no
// region has any more.
func TestSeededRegionInheritsMarkers(t *testing.T) {
	m, settled := bereaved(t, nil)
	sa, applied := m.nodes["sa"], map[im.Partition]int64{}
	for p, seal := range settled.Seals {
		for _, r := range []im.Region{"us", "ap"} {
			m.nodes[r].log.retain(p, m.nodes[r].log.end(p)-2) // the markers stay
		}
		if p.Topic != im.RouteTopic("eu") {
			applied[p] = seal
		}
	}
	sa.applied = applied
	sa.mute.Store(true) // the replicator begins before an imserver
	sa.start()
	time.AfterFunc(50*time.Millisecond, func() { sa.mute.Store(false) })
	eventually(t, "sa has the seals", func() bool { _, missing := sa.replicator().Sealed(); return len(missing) == 0 })
	seals, _ := sa.replicator().Sealed()
	for p, seal := range seals {
		if settled.Seals[p] != seal || len(sa.log.taken(p)) != 0 {
			t.Errorf("%v is sealed at %d, sa says %d, and has %d records", p, settled.Seals[p], seal, len(sa.log.taken(p)))
		}
	}
}

// TestMoreThanCounts: a region that took more of a log than counts, before it heard that it is sealed, does not end its copies where
// the others do: their readers have passed that place. It must be rebuilt, and lacks the log until then.
func TestMoreThanCounts(t *testing.T) {
	m, settled := bereaved(t, func(c *replicator.Config) { c.Sealed = nil })
	sa := m.nodes["sa"]
	sa.start()
	eventually(t, "sa has all that eu has", func() bool { return m.copied("eu", "sa") })
	ends := map[im.Partition]int64{}
	for p := range settled.Seals {
		ends[p] = sa.log.end(p)
	}
	peers := []replicator.Peer{{Region: "eu", Origin: "eu"}, {Region: "us", Origin: "us"}, {Region: "ap", Origin: "ap"}}
	if err := sa.replicator().Follow(peers, []im.Origin{"eu"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "sa has ended what nobody needs", func() bool {
		for p := range settled.Seals {
			if p.Topic == im.RouteTopic("eu") && sa.log.end(p) < ends[p]+2 { // held, and sealed
				return false
			}
		}
		return true
	})
	sa.kill(context.Canceled)
	sa.log.wg.Wait()
	for p, seal := range settled.Seals {
		if p.Topic != im.RouteTopic("eu") && sa.log.end(p) != ends[p] {
			t.Errorf("%v is sealed at %d; sa, which had %d records, has %d now", p, seal, ends[p], sa.log.end(p))
		}
	}
	if _, missing := sa.replicator().Sealed(); len(missing) != 1 {
		t.Errorf("sa says that it lacks %v", missing)
	}
}
