package replicator_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

func TestShipsWhatIsThereAndWhatComes(t *testing.T) {
	m := newMesh(t, nil, "eu", "us")
	eu := m.nodes["eu"]
	for i := range 3000 {
		eu.log.must(eu.own()[i%4], message("eu", fmt.Sprint("before ", i)))
	}
	m.start().caughtUp(t)
	for i := range 300 {
		eu.log.must(eu.own()[i%4], message("eu", fmt.Sprint("after ", i)))
	}
	m.caughtUp(t)
	for _, p := range eu.own() {
		if got, want := m.nodes["us"].log.end(p), eu.log.end(p); got != want {
			t.Errorf("%v: the copy has %d entries for %d records: nothing went wrong, so nothing should be repeated", p, got, want)
		}
	}
}

func TestResumesExactly(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	for round := range 4 {
		for i := range 500 {
			eu.log.must(eu.own()[i%3], message("eu", fmt.Sprint(round, i)))
		}
		m.caughtUp(t)
		if round%2 == 0 {
			us.kill(im.ErrKilled)
			us.start()
		} else {
			eu.kill(context.Canceled)
			eu.start()
		}
	}
	m.caughtUp(t)
	for _, p := range eu.own() {
		if got, want := us.log.end(p), eu.log.end(p); got != want {
			t.Errorf("%v: the copy has %d entries for %d records: resuming repeated some", p, got, want)
		}
	}
}

// TestChaos cuts, stalls, resets and kills at random moments while appends fail in every way that Kafka can, and a second
// replicator writes to the same copies.
func TestChaos(t *testing.T) {
	// Long enough for a busy machine to open a link: one that takes longer than it may be silent is given up again and again.
	m := newMesh(t, func(c *replicator.Config) { c.LinkTimeout = 3 * time.Second }, "eu", "us", "ap").start()
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for _, n := range m.nodes {
		faults := rand.New(rand.NewPCG(2, rng.Uint64()))
		n.log.setFault(func(p im.Partition, _ []im.Entry) appendFault {
			if f := faults.IntN(60); f < int(vanished) {
				return appendFault(f)
			}
			return fine
		})
	}
	twin := m.nodes["us"].build() // another replicator of us receives the same logs
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	twinDone := make(chan struct{})
	go func() { defer close(twinDone); twin.Run(ctx) }()

	end := time.Now().Add(2 * time.Second)
	for n := 0; time.Now().Before(end); n++ {
		for range rng.IntN(20) {
			at := m.nodes[m.regions[rng.IntN(3)]]
			p := at.own()[rng.IntN(len(at.own()))]
			at.log.must(p, message(im.Origin(at.region), strings.Repeat("x", rng.IntN(2000))), message(im.Origin(at.region), fmt.Sprint(n)))
		}
		a, b := m.regions[rng.IntN(3)], m.regions[rng.IntN(3)]
		if a != b {
			p := m.proxy(a, b)
			switch rng.IntN(40) {
			case 0:
				p.Cut()
			case 1:
				p.Stall()
			case 2:
				p.Reset()
			case 3:
				p.Stall(0)
			case 4, 5, 6, 7:
				p.Heal()
			case 8:
				if rng.IntN(3) == 0 {
					m.nodes[a].kill(im.ErrKilled)
					m.nodes[a].start()
				}
			}
		}
		time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond) // faults meet the links in any state
	}
	for _, p := range m.proxies {
		p.Heal()
	}
	for _, n := range m.nodes {
		n.log.setFault(nil)
	}
	m.caughtUp(t)
	cancel()
	<-twinDone
}

// TestCopyThatLostRecordsIsFilled covers what acks=all rules out, and yet must not go unseen: an acknowledged append
// that is not there.
func TestCopyThatLostRecordsIsFilled(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	m.caughtUp(t)
	p := eu.own()[0]
	n := 0
	us.log.setFault(func(at im.Partition, entries []im.Entry) appendFault {
		if at == p && wire.DecodeHead(&entries[0]).Kind == im.KindMessage {
			if n++; n == 3 {
				return vanished
			}
		}
		return fine
	})
	for i := range 50 {
		eu.log.must(p, message("eu", fmt.Sprint(i)))
		time.Sleep(time.Millisecond) // so that they are shipped and appended in several pieces
	}
	m.caughtUp(t)
	if n < 3 {
		t.Fatalf("only %d appends: the fault never struck", n)
	}
}

func TestOwnKafkaAway(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	m.caughtUp(t)
	eventually(t, "the copy was read back", func() bool {
		in := us.replicator().Status().In[0]
		return in.Open && !slices.ContainsFunc(in.Lag, func(l replicator.Lag) bool { return l.Records > 0 })
	})
	us.log.setDown(true)
	for i := range 200 {
		eu.log.must(eu.own()[i%4], message("eu", fmt.Sprint(i)))
	}
	eventually(t, "the peer felt the outage", func() bool { return us.log.count(&us.log.refused) >= 3 })
	eventually(t, "it says what it lacks of each lane", func() bool { // a lane has 100 of the records; with all that they carry they are small
		lags := map[string]replicator.Lag{}
		for _, l := range us.replicator().Status().In[0].Lag {
			lags[l.Lane] = l
		}
		lacks := func(l replicator.Lag) bool {
			return l.Records == 100 && l.Bytes > 100*50 && l.Bytes < 100*1000 && l.Seconds > 0
		}
		return lacks(lags["direct"]) && lacks(lags["group"]) && lags["super"].Records == 0 && lags["super"].Bytes == 0
	})
	us.log.setDown(false)
	m.caughtUp(t)
	eu.log.setDown(true)
	eventually(t, "the origin felt the outage", func() bool { return eu.log.count(&eu.log.refused) >= 3 })
	eu.log.setDown(false)
	eu.log.must(eu.own()[0], message("eu", "after"))
	m.caughtUp(t)
}

// TestHalfTheCopiesFail: a partition whose appends fail does not take the window from the others.
func TestHalfTheCopiesFail(t *testing.T) {
	m := newMesh(t, func(c *replicator.Config) { c.WindowBytes = 1 << 20 }, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	m.caughtUp(t)
	bad, good := eu.own()[0], eu.own()[1]
	us.log.setFault(func(p im.Partition, _ []im.Entry) appendFault {
		if p == bad {
			return lost
		}
		return fine
	})
	big := strings.Repeat("x", 50_000)
	for range 60 { // 3 MB, the window is 1 MiB
		eu.log.must(bad, message("eu", big))
	}
	for i := range 100 {
		eu.log.must(good, message("eu", fmt.Sprint(i)))
	}
	eventually(t, "the good partition goes on", func() bool { return us.log.end(good) == eu.log.end(good) })
	us.log.setFault(nil)
	m.caughtUp(t)
}

func refusals(m *mesh, at, from im.Region) []string {
	var all []string
	for _, in := range m.nodes[at].replicator().Status().In {
		if in.Peer == from {
			for _, r := range in.Refused {
				all = append(all, r.Partition.String()+" "+r.Reason)
			}
		}
	}
	return all
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(m *mesh, p im.Partition)
	}{
		{"a log with another name", "it was recreated or mistaken", func(m *mesh, p im.Partition) {
			eu := m.nodes["eu"]
			eu.log.truncate(p, 0)
			eu.log.must(p, wire.EncodeLogName(im.KindLog, im.LogName{Origin: "eu", ID: im.NewUUID(time.Now())}, 1))
			for range 20 {
				eu.log.must(p, message("eu", "other"))
			}
		}},
		{"a log that was truncated", "it was truncated", func(m *mesh, p im.Partition) { m.nodes["eu"].log.truncate(p, 3) }},
		{"a log that was truncated and went on", "the logs have parted", func(m *mesh, p im.Partition) {
			m.nodes["eu"].log.truncate(p, 3)
			for range 20 {
				m.nodes["eu"].log.must(p, message("eu", "other"))
			}
		}},
		{"a log whose retention passed", "retention has removed", func(m *mesh, p im.Partition) {
			eu := m.nodes["eu"]
			for i := range 20 {
				eu.log.must(p, message("eu", fmt.Sprint("more ", i)))
			}
			eu.log.must(p, wire.EncodeLogName(im.KindHeartbeat, eu.name, 1))
			eu.log.retain(p, 25)
			eu.log.must(p, wire.EncodeLogName(im.KindHeartbeat, eu.name, 1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, nil, "eu", "us").start()
			eu, us := m.nodes["eu"], m.nodes["us"]
			bad, good := eu.own()[0], eu.own()[1]
			for i := range 10 {
				eu.log.must(bad, message("eu", fmt.Sprint(i)))
				eu.log.must(good, message("eu", fmt.Sprint(i)))
			}
			m.caughtUp(t)
			eu.kill(im.ErrKilled)
			us.kill(im.ErrKilled)
			before := us.log.end(bad)
			c.change(m, bad)
			eu.start()
			us.start()
			eventually(t, "refused", func() bool { return len(refusals(m, "us", "eu")) > 0 })
			got := refusals(m, "us", "eu")
			if len(got) != 1 || !strings.HasPrefix(got[0], bad.String()) || !strings.Contains(got[0], c.want) {
				t.Fatalf("refused: %q; want %v because %q", got, bad, c.want)
			}
			eu.log.must(good, message("eu", "others go on"))
			eventually(t, "others go on", func() bool { return us.log.end(good) == eu.log.end(good) })
			if us.log.end(bad) != before {
				t.Fatal("something of the refused log was appended")
			}
			out := eu.replicator().Status().Out[0]
			if len(out.Refused) != 1 || out.Refused[0].Partition != bad {
				t.Fatalf("the sender's status shows %v", out.Refused)
			}
		})
	}
}

// TestRecreatedUnderAnOpenLink: the heartbeats of another log stop the partition.
func TestRecreatedUnderAnOpenLink(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu := m.nodes["eu"]
	m.caughtUp(t)
	p := eu.own()[2]
	eu.log.must(p, wire.EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu", ID: im.NewUUID(time.Now())}, 1))
	eventually(t, "refused", func() bool { return len(refusals(m, "us", "eu")) == 1 })
	if got := refusals(m, "us", "eu")[0]; !strings.Contains(got, "recreated under an open link") {
		t.Fatal(got)
	}
}

func linkError(m *mesh, at, from im.Region) string {
	for _, in := range m.nodes[at].replicator().Status().In {
		if in.Peer == from && !in.Open {
			return in.Error
		}
	}
	return ""
}

func TestWrongCertificates(t *testing.T) {
	for _, c := range []struct{ name, service, region, want string }{
		{"of a region that is no peer", "replicator", "xx", "tls"},
		{"of another peer", "replicator", "ap", "certificate of region ap"},
		{"of the own region", "replicator", "eu", "may not open a link"},
		{"of another service", "gateway", "us", "only replicators of other regions may"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh(t, nil, "eu", "us", "ap")
			bad, err := m.ca.Identity(c.service, im.Region(c.region))
			if err != nil {
				t.Fatal(err)
			}
			m.nodes["eu"].start()
			m.nodes["us"].identity = bad
			m.nodes["us"].start()
			eventually(t, "the link fails for "+c.want, func() bool {
				return strings.Contains(linkError(m, "us", "eu"), c.want)
			})
			if n := m.nodes["us"].log.end(m.nodes["eu"].own()[0]); n != 0 {
				t.Fatalf("%d records came through", n)
			}
		})
	}
}

func TestNotify(t *testing.T) {
	m := newMesh(t, nil, "eu", "us").start()
	eu, us := m.nodes["eu"], m.nodes["us"]
	d := im.Delivery{Service: "im", Method: "event", Key: "d:ann:bob", Recipients: []im.UID{"bob"}, Body: []byte("x")}
	eventually(t, "a notify is taken", func() bool { return eu.replicator().Notify(t.Context(), "us", []im.Delivery{d}) == nil })
	eventually(t, "it arrives", func() bool {
		us.mu.Lock()
		defer us.mu.Unlock()
		return len(us.notices) == 1 && us.notices[0].Key == d.Key && us.notices[0].Recipients[0] == "bob"
	})
	us.kill(im.ErrKilled)
	eventually(t, "without a link it is dropped", func() bool {
		return im.CodeOf(eu.replicator().Notify(t.Context(), "us", []im.Delivery{d})) == im.CodeUnavailable
	})
	if n := eu.replicator().Status().Out[0].Dropped; n == 0 {
		t.Fatal("a dropped notify is not counted")
	}
	if err := eu.replicator().Notify(t.Context(), "xx", nil); im.CodeOf(err) != im.CodeBadRequest {
		t.Fatal(err)
	}
}

// TestMixedBuilds: an end that cannot pack ships with one that can, both ways.
func TestMixedBuilds(t *testing.T) {
	m := newMesh(t, nil, "eu", "us")
	m.nodes["us"].plain = true
	m.start()
	for _, n := range m.nodes {
		for i := range 300 {
			n.log.must(n.own()[i%4], message(im.Origin(n.region), fmt.Sprint(i)))
		}
	}
	m.caughtUp(t)
	for _, n := range m.nodes { // and after the other end was exchanged, in the middle
		n.kill(context.Canceled)
		n.plain = !n.plain
		n.start()
		n.log.must(n.own()[0], message(im.Origin(n.region), "after"))
		m.caughtUp(t)
	}
}
