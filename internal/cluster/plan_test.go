package cluster

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/config"
)

func sprint(v any) string { return fmt.Sprintf("%+v", v) }

func plan(t testing.TB, set map[string]string) *Plan {
	t.Helper()
	f, err := ReadFile("", set)
	if err != nil {
		t.Fatal(err)
	}
	f.Data = t.TempDir()
	p, err := NewPlan(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Whatever is asked for, no two listen on the same address.
func TestAddressesDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := DefaultFile()
		n := rapid.IntRange(1, maxInstances)
		f.Kafka.Brokers = rapid.SampledFrom([]int{1, 3}).Draw(t, "brokers")
		f.Postgres.Servers = n.Draw(t, "servers")
		f.Postgres.Databases = f.Postgres.Servers
		f.Services = Services{n.Draw(t, "ipconf"), n.Draw(t, "gateway"), n.Draw(t, "router"), n.Draw(t, "imserver"), n.Draw(t, "replicator")}
		f.Regions = nil
		for i := range rapid.IntRange(1, maxRegions).Draw(t, "regions") {
			f.Regions = append(f.Regions, Region{Name: im.Region(fmt.Sprintf("r%d", i)), Host: fmt.Sprintf("127.0.0.%d", 11+i)})
		}
		if problems := f.check(); problems != nil {
			t.Fatal(problems)
		}
		p, err := NewPlan(f)
		if err != nil {
			t.Fatal(err)
		}
		want := 2 + len(p.Links)
		for _, m := range p.Members() {
			for _, a := range []string{m.Listen, m.RPC, m.Admin, m.LAN, m.WAN} {
				if a != "" {
					want++
				}
			}
		}
		if all := p.Addresses(); len(all) != want {
			t.Fatalf("%d addresses, want %d", len(all), want)
		}
	})
}

// Regions may share a host, each with an offset of its own.
func TestPortOffset(t *testing.T) {
	f := DefaultFile()
	f.Regions = []Region{{Name: "eu", Host: "127.0.0.1"}, {Name: "us", Host: "127.0.0.1", PortOffset: 10_000}}
	p, err := NewPlan(f)
	if err != nil {
		t.Fatal(err)
	}
	us, _ := p.Region("us")
	if got := us.Of(serviceGateway)[0].Listen; got != "127.0.0.1:17500" {
		t.Errorf("the gateway listens on %s", got)
	}
	if got := p.Links[0].Addr; got != "127.0.0.1:17900" { // eu's log comes to us through it
		t.Errorf("the link is at %s", got)
	}
}

func TestMatch(t *testing.T) {
	p := plan(t, map[string]string{"kafka.brokers": "3", "services.imserver": "2"})
	for _, c := range []struct {
		target string
		want   string
	}{
		{"eu/redis", "eu/redis"},
		{"eu/kafka", "eu/kafka-1 eu/kafka-2 eu/kafka-3"},
		{"eu/kafka-2", "eu/kafka-2"},
		{"us/imserver", "us/imserver-1 us/imserver-2"},
		{"eu/kafka-4", ""},
		{"eu/", ""},
		{"", ""},
		{"kafka", ""},
	} {
		if got := strings.Join(p.Match(c.target), " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.target, got, c.want)
		}
	}
	if got, want := len(p.Match("all")), len(p.Members()); got != want {
		t.Errorf("all: %d of %d", got, want)
	}
	if got := p.Match("eu"); len(got) != len(p.Members())/3 || !slices.Contains(got, "eu/consul") {
		t.Errorf("eu: %v", got)
	}
}

// Every generated file is what its service accepts, and says what the plan does.
func TestConfigs(t *testing.T) {
	p := plan(t, map[string]string{
		"kafka.brokers": "3", "postgres.servers": "1", "postgres.databases": "2", "services.router": "2", "set": "imserver.rate=7",
	})
	files, err := p.Configs()
	if err != nil {
		t.Fatal(err)
	}
	fillData(t, p)
	for _, m := range p.Members() {
		if !m.Service() {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(m.Config), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.Config, files[m.Config], 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(m.Config, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		if err := config.CheckFor(c, m.Kind); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		if c.RPC != m.RPC || c.Admin != m.Admin || c.Listen != m.Listen || c.Instance != m.Part || c.Region != m.Region {
			t.Errorf("%s: got %+v", m.Name, c)
		}
		if len(c.Log.Brokers) != 3 || c.Log.Replication != 3 || c.Log.MinInSync != 2 {
			t.Errorf("%s: log %+v", m.Name, c.Log)
		}
		if len(c.Timelines.URLs) != 2 || !strings.Contains(c.Timelines.URLs[1].Reveal(), "/antipode_1") {
			t.Errorf("%s: timelines %v", m.Name, c.Timelines.URLs)
		}
		if c.IMServer.Rate != 7 {
			t.Errorf("%s: set was not applied: rate %v", m.Name, c.IMServer.Rate)
		}
	}
	eu, _ := p.Region("eu")
	c, err := config.Load(eu.Of(serviceReplicator)[0].Config, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := sprint(c.Replicator.Peers); got != "map[ap:127.0.0.11:7902 us:127.0.0.11:7901]" {
		t.Errorf("peers of eu: %s", got)
	}
}

// A region that returned writes under its next epoch; all regions follow the former one too.
func TestEpoch(t *testing.T) {
	f := DefaultFile()
	f.Data, f.Regions[0].Epoch = t.TempDir(), 2
	if problems := f.check(); problems != nil {
		t.Fatal(problems)
	}
	p, err := NewPlan(f)
	if err != nil {
		t.Fatal(err)
	}
	fillData(t, p)
	files, err := p.Configs()
	if err != nil {
		t.Fatal(err)
	}
	for region, want := range map[im.Region]im.Origin{"eu": "eu.2", "us": "us"} {
		r, _ := p.Region(region)
		file := filepath.Join(t.TempDir(), "replicator.yaml")
		if err := os.WriteFile(file, files[r.Of(serviceReplicator)[0].Config], 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := sprint(c.Origins); c.Origin() != want || got != "[eu eu.2 us ap]" {
			t.Errorf("%s writes as %s and follows %s", region, c.Origin(), got)
		}
	}
}

// A region may have a quorum where the others have none.
func TestBrokersOfARegion(t *testing.T) {
	f := DefaultFile()
	f.Data, f.Regions[1].Brokers = t.TempDir(), 3
	p, err := NewPlan(f)
	if err != nil {
		t.Fatal(err)
	}
	for region, want := range map[im.Region]string{"eu": "1 broker, replication 1, 1 in sync", "us": "3 broker, replication 3, 2 in sync"} {
		r, _ := p.Region(region)
		c := p.shared(r, serviceIMServer)
		if got := fmt.Sprintf("%d broker, replication %d, %d in sync", len(c.Log.Brokers), c.Log.Replication, c.Log.MinInSync); got != want {
			t.Errorf("%s has %s, want %s", region, got, want)
		}
	}
	if !strings.Contains(p.layout(), "region us with kafka brokers 3\n") {
		t.Errorf("the folder is made for %s", p.layout())
	}
	f.Regions[1].Brokers = 2
	if f.check() == nil {
		t.Error("a quorum of two is taken")
	}
}

// fillData makes what configuration files name.
func fillData(t *testing.T, p *Plan) {
	t.Helper()
	authority, err := certs.Open(p.KeysDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Regions {
		for _, s := range []string{serviceIPConf, serviceGateway, serviceRouter, serviceIMServer, serviceReplicator} {
			if _, err := authority.Identity(s, r.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := p.postgresPassword(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.KeysDir(), "token-key.pub"), []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
