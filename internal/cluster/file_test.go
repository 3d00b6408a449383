package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "kafkas: {brokers: 1}", "1: kafkas: unknown key; did you mean kafka?"},
		{"unknown key in a region", "regions:\n  - {name: eu, host: 127.0.0.11, hosts: x}", "2: regions[0].hosts: unknown key; did you mean host?"},
		{"two brokers", "kafka: {brokers: 2}", "1: kafka.brokers: 2: want 1, or 3 for a quorum"},
		{"not loopback", "regions: [{name: eu, host: 10.0.0.1}]", `regions[0].host: "10.0.0.1" is not a loopback address`},
		{"public control", "listen: 0.0.0.0:7400", "listen: \"0.0.0.0:7400\": the host must be a loopback address"},
		{"bad name", "regions: [{name: EU, host: 127.0.0.11}]", "regions[0].name"},
		{"same name", "regions: [{name: eu, host: 127.0.0.11}, {name: eu, host: 127.0.0.12}]", "regions[1].name: eu is listed twice"},
		{"same place", "regions: [{name: eu, host: 127.0.0.11}, {name: us, host: 127.0.0.11}]", "regions[1].host: is the address of region eu too"},
		{"idle server", "postgres: {servers: 3, databases: 2}", "postgres.databases: 2 is fewer than postgres.servers, 3"},
		{"too many", "services: {imserver: 10}", "services.imserver: 10 is not between 1 and 9"},
		{"none", "services: {gateway: 0}", "services.gateway: 0 is not between 1 and 9"},
		{"unknown setting", "set: {imserver.rat: 3}", "imserver.rat: unknown key; did you mean imserver.rate?"},
		{"no duration", "link_delay: 40", `link_delay: "40" is not a duration`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cluster.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := ReadFile(path, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to contain %q", err, c.want)
			}
		})
	}
}

func TestFileDefaultsAndSet(t *testing.T) {
	f, err := ReadFile("", map[string]string{"kafka.brokers": "3", "postgres.databases": "2", "set": "imserver.rate=7"})
	if err != nil {
		t.Fatal(err)
	}
	if f.Kafka.Brokers != 3 || f.Postgres.Databases != 2 || f.Set["imserver.rate"] != "7" || len(f.Regions) != 3 {
		t.Fatalf("got %+v", f)
	}
}

// A key of the services is one of the file's set, over what the file says there.
func TestFileSetsServices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	for text, others := range map[string]int{"set: {imserver.rate: 7, drain: 5s}": 1, "set: {}": 0, "": 0} {
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := ReadFile(path, map[string]string{"imserver.rate": "50", "log.gather": "2ms", "data": "/elsewhere"})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if f.Set["imserver.rate"] != "50" || f.Set["log.gather"] != "2ms" || len(f.Set) != 2+others || f.Data != "/elsewhere" {
			t.Errorf("%q: got %+v", text, f)
		}
	}
	for key, says := range map[string]string{
		"imserver.rate": "imserver.rate: \"x\" is not a", "imserver.nosuch": "imserver.nosuch: unknown key",
		"imserver.rat": "imserver.rat: unknown key; did you mean imserver.rate?", "kafka.broker": "kafka.broker: unknown key; did you mean kafka.brokers?",
	} {
		if _, err := ReadFile("", map[string]string{key: "x"}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want it to contain %q", key, err, says)
		}
	}
}

// The example in the repository shows every key with its default.
func TestExampleShowsDefaults(t *testing.T) {
	f, err := ReadFile("../../cluster.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	want, got := DefaultFile(), f
	if len(got.Set) != 0 {
		t.Errorf("set: %v", got.Set)
	}
	for i := range want.Regions {
		if got.Regions[i] != want.Regions[i] {
			t.Errorf("region %d: got %+v, want %+v", i, got.Regions[i], want.Regions[i])
		}
	}
	got.Set, want.Set, got.Regions, want.Regions = nil, nil, nil, nil
	if a, b := sprint(got), sprint(want); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	text, err := os.ReadFile("../../cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"data:", "listen:", "traces:", "link_delay:", "start_in:", "stop_in:", "brokers:", "heap:", "partitions:", "servers:", "databases:",
		"ipconf:", "gateway:", "router:", "imserver:", "replicator:", "set:", "port_offset:",
	} {
		if !strings.Contains(string(text), key) {
			t.Errorf("it does not show %s", key)
		}
	}
}
