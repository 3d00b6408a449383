// Package weak has clients talk to whole regions through bad networks, and checks the invariants by number: nothing acked is
// lost, nothing is shown twice, the order is equal for all. `make soak` plays it for long, with slow changes.
package weak

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/demo"
	"github.com/antipode-im/antipode/internal/faultnet"
)

var (
	length = flag.Duration("weak.for", 4*time.Second, "how long everybody writes, at least")
	period = flag.Duration("weak.period", 1500*time.Millisecond, "how long a network takes from one bad time to the next")
)

// patience is how long a busy machine may take to do what an idle one does at once.
const patience = time.Minute

// weak is a profile under test.
type weak struct {
	profile faultnet.Profile
	network string        // what clients call it; ipconf adapts its policy
	every   time.Duration // from one answer to a user's next message
	call    time.Duration // how long a client waits for an answer
	// hurt tells whether the network has done to a device what it is for.
	hurt func(n *faultnet.Network) bool
	// polls: nobody gets on without a long poll.
	polls bool
}

func profiles() []weak {
	rounds := func(n *faultnet.Network) bool { return n.Rounds() >= 2 }
	// Somebody used a connection that was dead.
	deceived := func(n *faultnet.Network) bool {
		s := n.Stats()
		return s.Stranded > 0 && s.Lost[faultnet.Up]+s.Lost[faultnet.Down] > 0
	}
	forgets := max(*period/2, 1500*time.Millisecond) // a busy machine may take a second to answer, and that is no silence
	return []weak{
		{faultnet.TwoG(), "2g", time.Second, 0, func(n *faultnet.Network) bool { return n.Stats().Bytes[faultnet.Up] > 1000 }, false},
		{faultnet.LossBursts(*period, *period/2), "cell", 100 * time.Millisecond, 3 * time.Second, rounds, false},
		{faultnet.Flapping(*period), "cell", 100 * time.Millisecond, 3 * time.Second, func(n *faultnet.Network) bool {
			s := n.Stats()
			return n.Rounds() >= 2 && s.Lost[faultnet.Up]+s.Lost[faultnet.Down] > 0
		}, false},
		{faultnet.ForgetfulNAT(forgets), "cell", forgets * 2, 3 * time.Second, deceived, false},
		{faultnet.Handover(*period, *period/8), "cell", 100 * time.Millisecond, 3 * time.Second, deceived, false},
		{faultnet.OneSided(*period), "wifi", 100 * time.Millisecond, 3 * time.Second, rounds, false},
		{faultnet.NoWebSockets(2 * time.Second), "wifi", 100 * time.Millisecond, 3 * time.Second, func(n *faultnet.Network) bool {
			return n.Stats().Ended >= 3
		}, true},
	}
}

// party is the users of one profile, each behind a network of their own.
type party struct {
	weak
	traffic *demo.Traffic

	mu       sync.Mutex
	networks []*faultnet.Network
}

func (p *party) name() string { return strings.ReplaceAll(p.profile.Name, " ", "-") }

// join puts a client behind a network of its own.
func (p *party) join(cfg *client.Config) {
	n := faultnet.NewNetwork(p.profile)
	p.mu.Lock()
	p.networks = append(p.networks, n)
	p.mu.Unlock()
	cfg.Dial, cfg.Network, cfg.CallTimeout = n.Dial, p.network, p.call
}

func (p *party) all(do func(*faultnet.Network)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.networks {
		do(n)
	}
}

func (p *party) close() {
	if p.traffic != nil {
		p.traffic.Close()
	}
	p.all(func(n *faultnet.Network) { n.Close() })
}

// done tells whether everybody was hurt, and had messages through all the same in every direction.
func (p *party) done(began time.Time) (ok bool, missing string) {
	if seen := p.traffic.Seen(time.Time{}); p.polls && seen.Polled < len(p.networks) {
		return false, fmt.Sprintf("%d of %d users poll", seen.Polled, len(p.networks))
	}
	ok, missing = p.traffic.Flows(began, nil, nil)
	p.all(func(n *faultnet.Network) {
		if !p.hurt(n) {
			ok, missing = false, fmt.Sprintf("the network did little yet: %d rounds, %+v", n.Rounds(), n.Stats())
		}
	})
	return ok, missing
}

// impatient makes regions and clients notice sooner that a socket is dead: a test has seconds where people have minutes.
func impatient(c *config.Config) {
	p := &c.IPConf.Policy
	p.HeartbeatMin, p.HeartbeatMax = 200*time.Millisecond, 2*time.Second
	p.ConnectTimeout, p.BackoffCap = 2*time.Second, time.Second
	p.PollFallback, p.FallbackPull = 3*time.Second, 5*time.Second
}

// TestWeakNetworks: through each bad network users write to each other within and between two regions.
func TestWeakNetworks(t *testing.T) {
	d, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu", "us"}, Delay: 20 * time.Millisecond, Listen: "127.0.0.1:0", Data: t.TempDir(),
		Progress: func(s string) { t.Log(s) }, Configure: impatient,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var parties []*party
	for _, w := range profiles() {
		parties = append(parties, &party{weak: w})
	}
	together := func(do func(t *testing.T, p *party)) {
		t.Helper()
		t.Run("", func(t *testing.T) { // waits for all
			for _, p := range parties {
				t.Run(p.name(), func(t *testing.T) {
					t.Parallel()
					do(t, p)
				})
			}
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Cleanup(func() {
		for _, p := range parties {
			p.close()
		}
	})
	together(func(t *testing.T, p *party) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // of this party alone: how many run at once is the machine's to say
		defer cancel()
		traffic, err := demo.StartTraffic(ctx, demo.TrafficConfig{
			Name: p.name(), Pairs: 1, Every: p.every, Client: p.join, Log: func(s string) { t.Log(s) },
		}, d)
		if err != nil {
			t.Fatal(err)
		}
		p.traffic = traffic
		began := time.Now()
		for {
			ok, missing := p.done(began)
			if ok && time.Since(began) >= *length {
				break
			}
			if time.Since(began) > *length+patience {
				t.Fatalf("%s; %v", missing, p.traffic.Seen(began))
			}
			time.Sleep(20 * time.Millisecond)
		}
		p.traffic.Stop()
		p.all((*faultnet.Network).Calm)
	})
	// Nobody begins another message now, so that the views can become equal.
	together(func(t *testing.T, p *party) {
		h, err := p.traffic.Settle(t.Context(), patience, d)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range checker.Check(h) {
			t.Error(v)
		}
		s := checker.Summarize(h)
		if s.Sent == 0 || s.Acked != s.Sent || s.ReceivedOnce != s.Sent || s.Regions != 2 || s.Digests != 2 {
			t.Errorf("want everything that was sent acked and received once in 2 regions, got %+v", s)
		}
		sent := map[im.Conversation]int{}
		for _, submit := range h.Submits {
			sent[submit.ID.Conversation]++
		}
		for _, r := range h.Receivers { // a message that was sent again as another one has ids that are seen once
			if n := sent[r.Conversation]; len(r.Shown) != n || len(r.Emitted) != n {
				t.Errorf("%s was given %d and shows %d messages of %s, in which %d were sent", r.Name, len(r.Emitted), len(r.Shown), r.Conversation, n)
			}
		}
		var net faultnet.Stats
		p.all(func(n *faultnet.Network) {
			s := n.Stats()
			net.Accepted += s.Accepted
			net.Stranded += s.Stranded
		})
		t.Logf("%d messages; %d connections, %d of them stranded; %v", s.Sent, net.Accepted, net.Stranded, p.traffic.Seen(time.Time{}))
	})
}
