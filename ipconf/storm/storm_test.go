package storm

import (
	"testing"
	"time"
)

// A dead region's clients are connected again within ten seconds, and no gateway gets more than 120 % of its fair share, in
// all and in any one second. When the region returns, its clients come back as the ramp allows, evenly, and nobody notices.
func TestRegionDiesAndReturns(t *testing.T) {
	for seed := range uint64(2) {
		r, err := Run(Config{Clients: 60_000, Gateways: 18, Capacity: 20_000, IPConfs: 2, Churn: time.Minute, Length: 150 * time.Second, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		if r.Settled95 == 0 || r.Settled95 > 10*time.Second {
			t.Errorf("seed %d: 95 %% are connected after %v, want 10s at most", seed, r.Settled95)
		}
		if r.Refused > 600 {
			t.Errorf("seed %d: %d logins came faster than gateways could take them", seed, r.Refused)
		}
		if r.Imbalance > 1.2 || r.PerSecond > 1.2 {
			t.Errorf("seed %d: a gateway got %.2f of its fair share, %.2f in one second; want 1.2 at most", seed, r.Imbalance, r.PerSecond)
		}
		// After the return: 10 % of those whose network changes at once, all after a minute.
		if r.Return.First == 0 || r.Return.First > 0.3 {
			t.Errorf("seed %d: in the first ten seconds %.2f of all who came went to the region that is back, want 0.3 at most", seed, r.Return.First)
		}
		if r.Return.Imbalance > 1.2 {
			t.Errorf("seed %d: one gateway of the region that is back got %.2f of its share", seed, r.Return.Imbalance)
		}
		if fair := float64(r.Config.Clients) / float64(r.dead) / r.Config.Churn.Seconds(); float64(r.Return.Peak) > 2*fair {
			t.Errorf("seed %d: %d came to one gateway of the region that is back in a second; %.0f would if all came", seed, r.Return.Peak, fair)
		}
		if r.Return.Back < 0.5 {
			t.Errorf("seed %d: %.2f of its clients are back in the end", seed, r.Return.Back)
		}
		for i, s := range r.Seconds {
			if at := time.Duration(i) * time.Second; at >= r.Config.Return && s.Connected < 0.97 {
				t.Errorf("seed %d: %v after its death, while the region returns, %.3f are connected", seed, at, s.Connected)
			}
		}
	}
}

// Clients of hosts that went silent notice by a heartbeat. The others do not wait for them.
func TestSilentHosts(t *testing.T) {
	r, err := Run(Config{Clients: 100_000, Gateways: 30, Capacity: 20_000, IPConfs: 2, Silent: 0.2, Return: -1, Length: 50 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Seconds[15].Connected; c < 0.75 {
		t.Errorf("after 15 s %.2f are connected: four of five were told by a reset", c)
	}
	if r.Settled95 == 0 || r.Settled95 > heartbeat+pongWait {
		t.Errorf("95 %% are connected after %v, want %v at most", r.Settled95, heartbeat+pongWait)
	}
	if r.Imbalance > 1.2 {
		t.Errorf("a gateway got %.2f of its fair share", r.Imbalance)
	}
}

// Where a gateway takes fewer logins than ipconf sends, the excess is refused and comes again: the model counts it.
func TestSlowGateways(t *testing.T) {
	r, err := Run(Config{Clients: 50_000, Gateways: 15, Capacity: 20_000, IPConfs: 2, Logins: 100, Return: -1, Length: 40 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if most := int(1.3 * 100 * 15 * 40); r.Connected > most {
		t.Errorf("gateways that take 1,500 logins a second took %d in 40 s", r.Connected)
	}
	if r.Settled95 != 0 && r.Settled95 < 30*time.Second {
		t.Errorf("50,000 logins at 1,500 a second took %v", r.Settled95)
	}
}
