package dev

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/ipconf"
)

// TestNewRegionsTakeNoClientsAtFirst: regions that are new and do not hear each other are joining, and no ipconf hands
// them out; once they hear each other they are active by themselves.
func TestNewRegionsTakeNoClientsAtFirst(t *testing.T) {
	d, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu", "us"}, Listen: "127.0.0.1:0", Data: t.TempDir(), Progress: func(s string) { t.Log(s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	for _, link := range [][2]im.Region{{"eu", "us"}, {"us", "eu"}} {
		if err := d.Cut(t.Context(), link[0], link[1]); err != nil {
			t.Fatal(err)
		}
	}
	started := make(chan error, 1)
	go func() { started <- d.Start(t.Context()) }()
	await(t, "ipconf of eu knows the gateways of both, which are joining, and names none", func() bool {
		e, ok := explained(t, d, "eu")
		return ok && len(e.Ranked) == 0 && len(e.Regions) == 2 && closed(e.Regions[0]) && closed(e.Regions[1])
	})
	for _, link := range [][2]im.Region{{"eu", "us"}, {"us", "eu"}} {
		if err := d.Heal(t.Context(), link[0], link[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-started; err != nil { // it waits until all gateways are handed out
		t.Fatal(err)
	}
	if eu, us := stateOf(t, d, "eu"), stateOf(t, d, "us"); eu != im.StateActive || us != im.StateActive {
		t.Errorf("eu is %q and us %q", eu, us)
	}
}

func closed(r ipconf.RegionReason) bool {
	return r.Usable == 2 && r.Share == 0 && strings.Contains(r.Closed, string(im.StateJoining))
}

// explained is why a region's ipconf ranks gateways as it does; false while it does not tell.
func explained(t *testing.T, d *app.Dev, r im.Region) (e app.IPConfExplanation, ok bool) {
	t.Helper()
	admin := d.AdminAddrs()[string(r)+"/ipconf"]
	if admin == "" {
		return e, false
	}
	resp, err := http.Get("http://" + admin + app.ExplainPath)
	if err != nil {
		return e, false
	}
	defer resp.Body.Close()
	return e, json.NewDecoder(resp.Body).Decode(&e) == nil
}
