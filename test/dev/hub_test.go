package dev

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/demo"
)

// TestHub: eu and ap reach each other through us alone, whose copies they take each other's logs from. Users of all three write
// to each other with global acks, and every invariant holds.
func TestHub(t *testing.T) {
	spoke := map[im.Region]im.Region{"eu": "ap", "ap": "eu"}
	d, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu", "us", "ap"}, Delay: 20 * time.Millisecond, Listen: "127.0.0.1:0", Data: t.TempDir(),
		Progress: func(s string) { t.Log(s) },
		Configure: func(c *config.Config) {
			if other := spoke[c.Region]; other != "" {
				c.Replicator.Via = map[im.Region]im.Region{other: "us"}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	for from, to := range spoke {
		if err := d.Cut(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(t.Context()); err != nil { // it waits until everybody has every log
		t.Fatal(err)
	}
	traffic := writeEverywhere(t, d, im.AckGlobal)
	holds(t, d, traffic)
}

// TestLostPairHealsThroughThird: when eu and ap lose each other, what their users write takes the way over us, where that is
// allowed: every invariant holds before they find each other again.
func TestLostPairHealsThroughThird(t *testing.T) {
	d := startWith(t, app.DevConfig{
		Regions: []string{"eu", "us", "ap"},
		Configure: func(c *config.Config) {
			c.Replicator.StandIns, c.Replicator.StandInAfter = []im.Region{"us"}, time.Second // in us itself, too
		},
	})
	traffic := writeEverywhere(t, d, im.AckRegion)
	for _, l := range [][2]im.Region{{"eu", "ap"}, {"ap", "eu"}} {
		if err := d.Cut(t.Context(), l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	since := time.Now()
	await(t, "everybody writes to everybody without that link", func() bool { ok, _ := traffic.Flows(since, nil, nil); return ok })
	holds(t, d, traffic)
}

// writeEverywhere has users of all regions write to each other, and waits until they do.
func writeEverywhere(t *testing.T, d *app.Dev, ack im.AckLevel) *demo.Traffic {
	t.Helper()
	traffic, err := demo.StartTraffic(t.Context(), demo.TrafficConfig{
		Name: "way", Pairs: 1, Group: true, Every: 50 * time.Millisecond, Ack: ack, Log: func(s string) { t.Log(s) },
	}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(traffic.Close)
	begun := time.Now()
	await(t, "everybody writes to everybody", func() bool { ok, _ := traffic.Flows(begun, nil, nil); return ok })
	return traffic
}

// holds waits until everything arrived, and checks the invariants.
func holds(t *testing.T, d *app.Dev, traffic *demo.Traffic) {
	t.Helper()
	h, err := traffic.Settle(t.Context(), patience, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages", len(h.Submits))
	for _, v := range checker.Check(h) {
		t.Error(v)
	}
}
