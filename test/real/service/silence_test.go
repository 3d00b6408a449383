//go:build real

package service_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/consul"
)

// whole sees to it that a server runs after the test, whatever the test did to it and however it ended.
func whole(t *testing.T, servers ...backend.Server) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, s := range servers {
			if m := world.members[s]; m.Process() != nil {
				if err := errors.Join(m.Resume(), m.Start(ctx)); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestReadiness takes away each backend, by its death and by its hanging: readiness names it with its address, only what
// cannot work without it is unready, and all is well when it is back.
func TestReadiness(t *testing.T) {
	over := settings{"timelines.urls": database(t)}
	migrate(t, over)
	router, imserver := start(t, "router", "router-1", over), start(t, "imserver", "imserver-1", over)
	replicator, gateway := start(t, "replicator", "replicator-1", over), start(t, "gateway", "gateway-1", over)
	all := []*service{router, imserver, replicator, gateway}
	well := func() error {
		for _, s := range all {
			r, err := s.ready()
			if err != nil {
				return err
			}
			if !r.OK || len(r.Degraded) > 0 {
				return fmt.Errorf("%s: %+v", s.kind, r)
			}
		}
		return nil
	}
	eventually(t, "all are ready", well)

	for _, c := range []struct {
		name     string
		server   backend.Server
		address  string
		unready  []*service // without it
		degraded []*service // work on without it
	}{
		{"kafka", world.kafka, world.kafka.Addr(), []*service{router, imserver, replicator}, nil},
		{"postgres", world.postgres, world.postgres.Addr(), []*service{imserver}, nil},
		{"redis", world.redis, world.redis.Addr(), nil, []*service{router}},
		{"consul", world.consul["eu"], world.consul["eu"].Addr(), nil, all},
	} {
		member := world.members[c.server]
		whole(t, c.server)
		told := func() error {
			for _, s := range all {
				code, _, err := s.get("/readyz")
				if err != nil {
					return err
				}
				r, err := s.ready()
				if err != nil {
					return err
				}
				unready, degraded := slices.Contains(c.unready, s), slices.Contains(c.degraded, s)
				if (unready || degraded) != strings.Contains(r.Checks[c.name], c.address) || r.OK == unready ||
					degraded != slices.Contains(r.Degraded, c.name) || (code == 200) == unready {
					return fmt.Errorf("%s: code %d, %+v", s.kind, code, r)
				}
			}
			return nil
		}
		t.Run(c.name+" dies", func(t *testing.T) {
			if err := member.Kill(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "readiness names it", told)
			if err := member.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all are ready again", well)
		})
		t.Run(c.name+" hangs", func(t *testing.T) {
			if err := member.Pause(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "readiness names it", told)
			if err := member.Resume(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all are ready again", well)
		})
	}
	for _, s := range all {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		} else if err := s.Err(); err != nil {
			t.Errorf("%s ended with %v", s.kind, err)
		}
	}
}

// TestConsulSilent: whatever becomes of Consul, what is known stands: no partition moves, and that what is known grows old
// is measured. Deaths are noticed again afterwards.
func TestConsulSilent(t *testing.T) {
	over := settings{"timelines.urls": database(t)}
	migrate(t, over)
	all := fleet(t, "imserver", 3, over)
	shares := calm(t, all...)
	agent := world.members[world.consul["eu"]]
	whole(t, world.consul["eu"])
	// Leases that nobody renewed, as the machine stood still, have ended for those who look; within this time all own again what they did.
	const moment = 10 * time.Second
	// still watches until ok, for a while at least, and sees that nothing moves.
	still := func(t *testing.T, atLeast time.Duration, ok func() error) {
		t.Helper()
		began := time.Now()
		eventually(t, "it goes on", func() error {
			for i, s := range all {
				n := s.owned()
				if n < 0 {
					return fmt.Errorf("imserver-%d does not tell how many partitions it owns", i+1)
				}
				if n != shares[i] && world.env.Since(time.Now().Add(-moment)) <= moment-time.Second {
					return fmt.Errorf("imserver-%d owns %d partitions, before it was %d: the machine stood still", i+1, n, shares[i])
				}
				if n != shares[i] {
					t.Fatalf("imserver-%d owns %d partitions after %v, before it was %d", i+1, n, time.Since(began), shares[i])
				}
			}
			if time.Since(began) < atLeast {
				return fmt.Errorf("only %v so far", time.Since(began))
			}
			return ok()
		})
	}
	old := func() error {
		if age, _ := all[0].metric("antipode_discovery_age_seconds"); age < 11 { // more than a watch waits for changes
			return fmt.Errorf("what is known is said to be %v s old", age)
		}
		return nil
	}
	recovered := func() error {
		r, err := all[0].ready()
		if err == nil && r.Checks["consul"] != "ok" {
			err = fmt.Errorf("%+v", r)
		}
		return err
	}
	const settled = 5 * time.Second // by then a wrong answer would have been believed
	for _, c := range []struct {
		name string
		gone func() error
		back func() error
	}{
		{"hangs", agent.Pause, agent.Resume},
		{"dies, and loses its memory", func() error {
			if err := agent.Kill(); err != nil {
				return err
			}
			return os.RemoveAll(filepath.Join(world.env.Dir("consul-eu"), "data"))
		}, func() error { return agent.Start(t.Context()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.gone(); err != nil {
				t.Fatal(err)
			}
			still(t, 0, old)
			if err := c.back(); err != nil {
				t.Fatal(err)
			}
			still(t, settled, recovered)
		})
	}
	began := time.Now()
	if err := all[2].Kill(); err != nil {
		t.Fatal(err)
	}
	share(t, all[:2]...)
	t.Logf("afterwards a death is noticed in %v", time.Since(began).Round(time.Millisecond))
}

// TestStatesOfRegions: what is said of a region while a datacenter is gone reaches it when it is back, also without the one
// who said it.
func TestStatesOfRegions(t *testing.T) {
	prefix := "states-" + im.NewUUID(time.Now()).String()
	open := func(r im.Region) *consul.Consul {
		c, err := consul.New(consul.Config{Address: world.consul[r].Addr(), Region: r, Regions: []im.Region{"eu", "us"}, Prefix: prefix}, consul.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	eu, us := open("eu"), open("us")
	far := world.members[world.consul["us"]]
	whole(t, world.consul["us"])
	said := im.RegionState{Region: "us", State: im.StateDead, Stamp: 7}

	if err := far.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other datacenter is told", func() error { return eu.SetRegionState(t.Context(), said) })
	got, err := eu.RegionStates(t.Context())
	if err != nil || !slices.Equal(got, []im.RegionState{said}) {
		t.Errorf("with one datacenter gone, the states are %v, %v", got, err)
	}
	if err := far.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	told := make(chan []im.RegionState, 64)
	go func() { _ = us.WatchRegionStates(t.Context(), func(s []im.RegionState) { told <- s }) }()
	eventually(t, "us hears of it", func() error {
		for {
			select {
			case s := <-told:
				if slices.Equal(s, []im.RegionState{said}) {
					return nil
				}
			default:
				return fmt.Errorf("not yet")
			}
		}
	})
	eventually(t, "us has been told, too", func() error { // an earlier word does not undo it: its own KV has it
		alone, err := consul.New(consul.Config{Address: world.consul["us"].Addr(), Region: "us", Prefix: prefix}, consul.Deps{})
		if err != nil {
			return err
		}
		defer alone.Close()
		got, err := alone.RegionStates(t.Context())
		if err == nil && !slices.Equal(got, []im.RegionState{said}) {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
}
