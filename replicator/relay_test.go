package replicator_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// apart cuts two regions off from each other.
func (m *mesh) apart(a, b im.Region) {
	m.proxy(a, b).Cut()
	m.proxy(b, a).Cut()
}

// spokes has all regions but the hub reach the hub only.
func spokes(hub im.Region) func(*replicator.Config) {
	return func(c *replicator.Config) {
		c.Via = map[im.Region]im.Region{}
		for _, p := range c.Peers {
			if c.Region != hub && p.Region != hub {
				c.Via[p.Region] = hub
			}
		}
	}
}

func patient(*replicator.Config) {}

// standIn has every region take from any other's copy what does not come by itself for a moment.
func standIn(c *replicator.Config) {
	hasty(c)
	for _, p := range c.Peers {
		c.StandIns = append(c.StandIns, p.Region)
	}
	c.StandInAfter = 100 * time.Millisecond
}

func newHub(t *testing.T, tune func(*replicator.Config), hub im.Region, others ...im.Region) *mesh {
	m := newMesh(t, func(c *replicator.Config) { spokes(hub)(c); tune(c) }, append(others, hub)...)
	for i, a := range others {
		for _, b := range others[i+1:] {
			m.apart(a, b)
		}
	}
	return m.start()
}

func (m *mesh) writeAll(round, count int) {
	for _, n := range m.nodes {
		for i := range count {
			n.log.must(n.own()[i%len(n.own())], message(im.Origin(n.region), fmt.Sprint(n.region, " ", round, " ", i)))
		}
	}
}

// linkIn is how a region receives another's log.
func (m *mesh) linkIn(t testing.TB, to, from im.Region) replicator.LinkIn {
	t.Helper()
	in := m.nodes[to].replicator().Status().In
	i := slices.IndexFunc(in, func(l replicator.LinkIn) bool { return l.Peer == from })
	if i < 0 {
		t.Fatalf("%s has no link from %s", to, from)
	}
	return in[i]
}

// linked waits until a region receives another's log over a way.
func (m *mesh) linked(t testing.TB, to, from, via im.Region) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s receives %s's log via %q", to, from, via), func() bool {
		in := m.linkIn(t, to, from)
		return in.Open && in.Via == via
	})
}

func (m *mesh) linkOut(t testing.TB, from, to im.Region) replicator.LinkOut {
	t.Helper()
	out := m.nodes[from].replicator().Status().Out
	i := slices.IndexFunc(out, func(l replicator.LinkOut) bool { return l.Peer == to })
	if i < 0 {
		t.Fatalf("%s has no link to %s", from, to)
	}
	return out[i]
}

// TestHub: spokes that reach the hub alone hold each other's logs, record by record, while all write and replicators die. Each
// hears how much the others hold.
func TestHub(t *testing.T) {
	for _, others := range [][]im.Region{{"eu", "ap"}, {"eu", "ap", "sa", "af"}} {
		t.Run(fmt.Sprint(len(others)), func(t *testing.T) {
			m := newHub(t, patient, "us", others...)
			m.writeAll(0, 60)
			m.caughtUp(t)
			m.nodes["us"].kill(im.ErrKilled)
			m.writeAll(1, 60)
			m.nodes["eu"].kill(im.ErrKilled)
			m.nodes["us"].start()
			m.writeAll(2, 60)
			m.nodes["eu"].start()
			m.caughtUp(t)
			for _, from := range m.regions {
				node := m.nodes[from]
				eventually(t, "all of "+string(from)+"'s log is told to be held", node.allHeld)
				for _, to := range m.regions {
					via := im.Region("")
					if from != to && from != "us" && to != "us" {
						via = "us"
					}
					if from == to {
						continue
					}
					eventually(t, fmt.Sprintf("%s knows that %s has it all", from, to), func() bool {
						out := m.linkOut(t, from, to)
						return out.Open && out.Behind == 0 && out.Unknown == 0 && out.Via == via
					})
					m.linked(t, to, from, via)
				}
			}
		})
	}
}

// TestSilentHub: what a spoke lacks counts from the end of the origin's log, and what the hub heard long ago is old, however
// alive the hub is.
func TestSilentHub(t *testing.T) {
	m := newHub(t, hasty, "us", "eu", "ap")
	m.caughtUp(t)
	m.apart("eu", "us")
	m.writeAll(0, 30)
	age := func() (seconds float64) {
		for _, l := range m.linkIn(t, "ap", "eu").Lag {
			seconds = max(seconds, l.Seconds)
		}
		return seconds
	}
	eventually(t, "ap knows, from the hub, that it hears nothing of eu", func() bool { return m.linkIn(t, "ap", "eu").Open && age() > 1 })
	m.proxy("us", "eu").Heal()
	m.proxy("eu", "us").Heal()
	m.caughtUp(t)
	eventually(t, "ap hears of eu again", func() bool { return age() < 1 })
}

// loses has appends to some copies fail.
func (n *node) loses(which func(im.Partition) bool) {
	n.log.setFault(func(p im.Partition, _ []im.Entry) appendFault {
		if which(p) {
			return lost
		}
		return fine
	})
}

// TestHubTellsOnlyWhatIsHeld: a spoke that does not append holds nothing, whatever the hub holds.
func TestHubTellsOnlyWhatIsHeld(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap")
	m.caughtUp(t)
	eu, ap := m.nodes["eu"], m.nodes["ap"]
	behind := func() int64 { return m.linkOut(t, "eu", "ap").Behind }
	eventually(t, "eu knows that ap has it all", func() bool { return behind() == 0 })
	p, other := eu.own()[0], eu.own()[1]
	ap.loses(func(of im.Partition) bool { return of == p })
	write(eu, p, 10)
	eventually(t, "the hub has it, which is told", eu.allHeld)
	write(eu, other, 7)
	eventually(t, "eu knows that ap has the one and not the other", func() bool { return behind() == 10 })
	ap.log.setFault(nil)
	m.caughtUp(t)
	eventually(t, "eu knows that ap has it all", func() bool { return behind() == 0 })
}

// TestLagBehindHub: what a spoke lacks counts from the end of the origin's log, not of the hub's copy.
func TestLagBehindHub(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap")
	m.caughtUp(t)
	eu, us := m.nodes["eu"], m.nodes["us"]
	us.loses(func(p im.Partition) bool { return p.Origin() == "eu" })
	write(eu, eu.own()[0], 10)
	lag := func() (records int64) {
		for _, l := range m.linkIn(t, "ap", "eu").Lag {
			records += l.Records
		}
		return records
	}
	eventually(t, "ap knows what it lacks", func() bool { return lag() == 10 })
	us.log.setFault(nil)
	m.caughtUp(t)
	eventually(t, "ap lacks nothing", func() bool { return lag() == 0 })
}

// TestHubPassesNotifies: they take the way of the log.
func TestHubPassesNotifies(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap")
	m.caughtUp(t)
	sent := 0
	eventually(t, "a notify of eu is in ap", func() bool {
		sent++
		_ = m.nodes["eu"].replicator().Notify(t.Context(), "ap", []im.Delivery{{Service: "im", Method: "message", Recipients: []im.UID{"bob"}}})
		ap := m.nodes["ap"]
		ap.mu.Lock()
		defer ap.mu.Unlock()
		return len(ap.notices) > 0
	})
	us := m.nodes["us"]
	us.mu.Lock()
	defer us.mu.Unlock()
	if len(us.notices) > 0 {
		t.Errorf("%d notifies for ap were given to the router of us", len(us.notices))
	}
}

// TestPairHealsThroughThird: two regions that lose each other take each other's logs from a third region's copy after a moment,
// and go back to their own link when it works. Where nothing stands in, they wait.
func TestPairHealsThroughThird(t *testing.T) {
	m := newMesh(t, standIn, "eu", "us", "ap").start()
	m.writeAll(0, 30)
	m.caughtUp(t)
	m.apart("eu", "ap")
	m.writeAll(1, 60)
	m.caughtUp(t)
	for _, l := range [][2]im.Region{{"eu", "ap"}, {"ap", "eu"}} {
		m.linked(t, l[0], l[1], "us")
	}
	m.writeAll(2, 60)
	m.caughtUp(t)
	m.proxy("eu", "ap").Heal()
	m.proxy("ap", "eu").Heal()
	for _, l := range [][2]im.Region{{"eu", "ap"}, {"ap", "eu"}} {
		m.linked(t, l[0], l[1], "")
	}
	m.writeAll(3, 60)
	m.caughtUp(t)
}

// withStandIn runs three regions, of which ap takes eu's log from us while its own way does not work, and returns what ap says and how many
// lines of that there are once all have their own ways.
func withStandIn(t *testing.T, silence, after time.Duration) (m *mesh, says *lines, before int) {
	t.Helper()
	m = newMesh(t, func(c *replicator.Config) {
		if c.Region == "ap" {
			c.LinkTimeout, c.StandInAfter, c.StandIns = silence, after, []im.Region{"us"}
		}
	}, "eu", "us", "ap")
	says = &lines{}
	m.nodes["ap"].says = says
	m.start().caughtUp(t)
	m.linked(t, "ap", "eu", "")
	return m, says, len(says.after(0))
}

// TestSilentWayIsLeft: where the network loses packets and tells nobody, a stand-in has its turn as soon as the silence has lasted as
// long as it waits: the way that fell silent is not tried once more before.
func TestSilentWayIsLeft(t *testing.T) {
	m, says, before := withStandIn(t, time.Second, 900*time.Millisecond)
	m.proxy("ap", "eu").Cut()
	m.writeAll(1, 30)
	m.linked(t, "ap", "eu", "us")
	direct := 0 // links that closed in a row, none over us between them: on a machine that stops, others fall silent too
	for _, line := range says.after(before) {
		switch {
		case strings.Contains(line, `direction=in peer=eu via=us`):
			direct = 0
		case strings.Contains(line, `"link closed" direction=in peer=eu via=""`):
			direct++
		}
		if direct > 1 {
			t.Fatalf("the way to eu that fell silent was tried once more before us stood in:\n%s", strings.Join(says.after(before), ""))
		}
	}
	m.caughtUp(t)
}

// TestSilentDialIsLeft: a link that is opened over a network that loses packets is given up when it is a stand-in's turn, however long
// a link may be silent.
func TestSilentDialIsLeft(t *testing.T) {
	m, says, before := withStandIn(t, 2*patience, time.Second)
	m.proxy("ap", "eu").Cut()
	m.proxy("ap", "eu").Reset()
	m.writeAll(1, 30)
	m.linked(t, "ap", "eu", "us")
	if !slices.ContainsFunc(says.after(before), func(line string) bool { // gRPC gives a connection up by itself, after 20 s
		return strings.Contains(line, `"link closed" direction=in peer=eu via=""`) && strings.Contains(line, "the link to eu is silent for")
	}) {
		t.Errorf("the link was not given up by ap itself:\n%s", strings.Join(says.after(before), ""))
	}
	m.caughtUp(t)
}

// TestStandInHeardLess: a region that stands in and has not heard of records does not make the other forget that it lacks them.
func TestStandInHeardLess(t *testing.T) {
	m := newMesh(t, func(c *replicator.Config) {
		if c.Region == "ap" {
			standIn(c)
		}
	}, "eu", "us", "ap").start()
	m.caughtUp(t)
	eu, ap := m.nodes["eu"], m.nodes["ap"]
	m.apart("eu", "us")
	ap.log.setFault(func(p im.Partition, _ []im.Entry) appendFault {
		if p.Origin() == "eu" {
			return lost
		}
		return fine
	})
	const records = 15 // more than there are names of logs, which may not be read back yet
	write(eu, eu.own()[0], records)
	lag := func() (all int64) {
		for _, l := range m.linkIn(t, "ap", "eu").Lag {
			all += l.Records
		}
		return all
	}
	eventually(t, "ap heard what it lacks", func() bool { return lag() == records })
	m.apart("eu", "ap")
	m.linked(t, "ap", "eu", "us")
	if n := lag(); n != records {
		t.Errorf("ap thinks that it lacks %d records; it lacks %d, of which us has not heard", n, records)
	}
}

// TestNobodyWaitsInACircle: regions that all lost an origin do not take its log from each other, and take it from the first that
// reaches it.
func TestNobodyWaitsInACircle(t *testing.T) {
	m := newMesh(t, standIn, "eu", "us", "ap", "sa").start()
	m.caughtUp(t)
	others := []im.Region{"us", "ap", "sa"}
	for _, r := range others {
		m.proxy(r, "eu").Cut()
	}
	m.writeAll(0, 60)
	for _, r := range others {
		eventually(t, string(r)+" looks for another way", func() bool { return m.linkIn(t, r, "eu").Via != "" })
	}
	for _, r := range others {
		if m.copied("eu", r) {
			t.Errorf("%s has eu's log, which nobody reaches", r)
		}
	}
	m.proxy("sa", "eu").Heal()
	m.caughtUp(t)
}

// TestOneHop: a region that takes a log from a copy gives it to nobody.
func TestOneHop(t *testing.T) {
	other := map[im.Region]im.Region{"us": "ap", "ap": "us"}
	m := newMesh(t, func(c *replicator.Config) {
		if via := other[c.Region]; via != "" {
			c.Via = map[im.Region]im.Region{"eu": via}
		}
	}, "eu", "us", "ap").start()
	for r, via := range other {
		eventually(t, string(r)+" is refused", func() bool {
			in := m.linkIn(t, r, "eu")
			return !in.Open && strings.Contains(in.Error, fmt.Sprintf("region %s takes the log of eu from %s itself", via, r))
		})
	}
}

// TestLoseBehindHub: a region is declared lost while it writes and others take its log from the hub's copy. What it was told to be
// held is kept (I1), all hold the same, and nothing is taken past a seal.
func TestLoseBehindHub(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap", "sa")
	m.caughtUp(t)
	eu := m.nodes["eu"]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	acked := map[im.Partition]int64{}
	var work sync.WaitGroup
	writing, stop := context.WithCancel(ctx)
	work.Go(func() {
		for i := 0; i < 4000 && writing.Err() == nil; i++ {
			eu.log.must(eu.own()[i%len(eu.own())], message("eu", fmt.Sprint(i)))
			time.Sleep(100 * time.Microsecond) // so that eu is lost amid its records
		}
	})
	work.Go(func() {
		_ = eu.replicator().Held(writing, func(h im.Held) error { maps.Copy(acked, h.Offsets); return nil })
	})
	eventually(t, "something is under way", func() bool { return eu.log.end(eu.own()[0]) > 50 })
	lost, err := regions.Lose(ctx, regions.Loss{Origin: "eu", Peers: m.peers(t, "us", "ap", "sa")})
	stop()
	work.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range eu.own() {
		if lost.Seals[p] < acked[p] || acked[p] == 0 {
			t.Errorf("%v is sealed at %d; %d records of it were told to be held", p, lost.Seals[p], acked[p])
		}
		for _, r := range []im.Region{"us", "ap", "sa"} {
			if taken := m.nodes[r].log.taken(p); int64(len(taken)) != lost.Seals[p] {
				t.Errorf("%s counts %d records of %v, which is sealed at %d", r, len(taken), p, lost.Seals[p])
			}
		}
	}
	ap := m.nodes["ap"] // and the others go on
	ap.log.must(ap.own()[0], message("ap", "after"))
	eventually(t, "sa hears from ap", func() bool { return m.copied("ap", "sa") })
}

// TestCopiesAreCompared: a region in between ships from its copy only what continues the copy of the other, also where it comes to
// have that later.
func TestCopiesAreCompared(t *testing.T) {
	for _, c := range []struct {
		name          string
		behind, other bool // us lacks what ap has at first; ap's last record is another
	}{
		{name: "same"}, {name: "same, and longer", behind: true}, {name: "parted", other: true}, {name: "parted, and longer", behind: true, other: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, standIn, "eu", "us", "ap").start()
			m.caughtUp(t)
			eu, us, ap := m.nodes["eu"], m.nodes["us"], m.nodes["ap"]
			p := eu.own()[0]
			stalls := func(stalls bool) {
				us.log.setFault(func(of im.Partition, _ []im.Entry) appendFault {
					if of == p && stalls {
						return lost
					}
					return fine
				})
			}
			stalls(c.behind)
			eu.log.must(p, message("eu", "a"), message("eu", "b"))
			eventually(t, "ap has it", func() bool { return m.copied("eu", "ap") })
			m.apart("eu", "ap")
			ap.kill(im.ErrKilled)
			if c.other {
				ap.log.mu.Lock()
				entries := ap.log.parts[p].entries
				last := &entries[len(entries)-1]
				last.Value = append(slices.Clone(last.Value), 'x')
				ap.log.mu.Unlock()
			}
			before := len(ap.log.taken(p))
			eu.log.must(p, message("eu", "c"))
			ap.start()
			m.linked(t, "ap", "eu", "us")
			stalls(false)
			eventually(t, "us has it", func() bool { return m.copied("eu", "us") })
			if !c.other {
				m.caughtUp(t)
				return
			}
			eventually(t, "ap refuses to go on", func() bool {
				r := m.linkIn(t, "ap", "eu").Refused
				return len(r) == 1 && r[0].Partition == p && strings.Contains(r[0].Reason, "have parted")
			})
			if len(ap.log.taken(p)) != before {
				t.Error("something was appended to a copy that is another")
			}
			eventually(t, "eu knows that ap lacks it", func() bool { return m.linkOut(t, "eu", "ap").Behind > 0 })
		})
	}
}

// TestRoutesJumpBehindHub: where the hub's copy of a route log jumped, so do the spokes'.
func TestRoutesJumpBehindHub(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap")
	m.caughtUp(t)
	eu, us, ap := m.nodes["eu"], m.nodes["us"], m.nodes["ap"]
	p := im.Partition{Topic: im.RouteTopic("eu")}
	us.kill(im.ErrKilled)
	write(eu, p, 300)
	eu.log.must(p, heartbeat(eu))
	eu.log.retain(p, 200)
	us.start()
	jumped := func(n *node) bool {
		end := eu.log.end(p)
		n.log.mu.Lock()
		defer n.log.mu.Unlock()
		entries := n.log.parts[p].entries
		return wire.DecodeHead(&entries[len(entries)-1]).OriginOffset == end-1
	}
	eventually(t, "the hub's copy goes on where the log begins", func() bool { return jumped(us) })
	eventually(t, "and the spoke's", func() bool { return jumped(ap) })
	write(eu, p, 5)
	eventually(t, "they go on", func() bool { return jumped(us) && jumped(ap) })
}

// TestHubTellsWhatItIsRefused: what does not come to the hub does not come to a spoke either, which says where and why, until it is
// mended. The rest comes.
func TestHubTellsWhatItIsRefused(t *testing.T) {
	m := newHub(t, patient, "us", "eu", "ap")
	m.caughtUp(t)
	eu, us := m.nodes["eu"], m.nodes["us"]
	p, other := eu.own()[0], eu.own()[1]
	us.kill(im.ErrKilled)
	write(eu, p, 30)
	eu.log.must(p, heartbeat(eu))
	mend := eu.log.retain(p, 20)
	us.start()
	told := func(to im.Region) []replicator.Refusal { return m.linkIn(t, to, "eu").Refused }
	eventually(t, "ap says that us is refused, why, and what to do", func() bool {
		r := told("ap")
		return len(r) == 1 && r[0].Partition == p && r[0].At == "us" && strings.Contains(r[0].Reason, "refused in us, which passes it on") &&
			strings.Contains(r[0].Reason, "retention has removed") && strings.Contains(r[0].Reason, "antipode link repair --from eu --to us --dry-run")
	})
	if r := told("us"); len(r) != 1 || r[0].Partition != p || r[0].At != "us" {
		t.Errorf("us says %+v", r)
	}
	write(eu, other, 5)
	ap := m.nodes["ap"]
	eventually(t, "ap has the rest", func() bool { return int64(len(ap.log.taken(other))) == eu.log.end(other) })
	mend()
	eu.kill(im.ErrKilled) // so that us asks anew now; its link to ap stays
	eu.start()
	m.caughtUp(t)
	eventually(t, "ap knows that us is refused nothing", func() bool { return len(told("ap")) == 0 })
}
