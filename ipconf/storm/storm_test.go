package storm

import (
	"testing"
	"time"
)

// A dead region's clients spread so that no gateway gets more than 120 % of its fair share, in all and in any one second,
// and everybody is connected again.
func TestNoGatewayBeyondItsShare(t *testing.T) {
	for seed := range uint64(3) {
		r, err := Run(Config{Clients: 100_000, Gateways: 30, Capacity: 20_000, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		if r.Connected < 100_000*999/1000 || r.Settled == 0 || r.Settled > 45*time.Second {
			t.Errorf("seed %d: %d of 100000 are connected, settled after %v", seed, r.Connected, r.Settled)
		}
		if r.Refused > 0 {
			t.Errorf("seed %d: %d logins came faster than gateways could take them", seed, r.Refused)
		}
		if r.Imbalance > 1.2 || r.PerSecond > 1.2 {
			t.Errorf("seed %d: a gateway got %.2f of its fair share, %.2f in one second; want 1.2 at most", seed, r.Imbalance, r.PerSecond)
		}
	}
}
