// Package deploy checks that what deploy/ starts is what Antipode takes. The files' own syntax is checked by tools/deploylint.
package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/config"
)

const folder = "../../deploy"

type container struct {
	Hostname    string
	Command     []string
	Environment map[string]string
	Volumes     []string
	Ports       []string
}

func containers(t *testing.T) map[string]container {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]container
	}
	if err := yaml.UnmarshalWithOptions(text, &file, yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatal(err)
	}
	return file.Services
}

// Each service's container, with its region's file and its own environment, is a configuration that the service accepts;
// what a region names is a container's host name; no port is published twice.
func TestEveryContainerIsConfigured(t *testing.T) {
	keys := app.TrialKeys{Dir: t.TempDir()}
	regions := []im.Region{"eu", "us", "ap"}
	if err := keys.Make(regions); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "postgres")
	if err := os.WriteFile(secret, []byte("trial"), 0o600); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("/keys", keys.Dir, "/run/secrets/postgres", secret)

	all := containers(t)
	hosts, published := map[string]bool{}, map[string]string{}
	for name, c := range all {
		if c.Hostname != "" {
			hosts[c.Hostname] = true
		}
		for _, p := range c.Ports {
			port := p[:strings.LastIndex(p, ":")]
			if other := published[port]; other != "" {
				t.Errorf("%s and %s both publish %s", name, other, port)
			}
			published[port] = name
		}
	}
	services := map[string]int{}
	for name, c := range all {
		if len(c.Command) != 3 || c.Command[1] != "--config" {
			continue
		}
		var file string
		for _, v := range c.Volumes {
			if host, at, _ := strings.Cut(v, ":"); strings.HasPrefix(at, c.Command[2]) {
				file = filepath.Join(folder, host)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		local := filepath.Join(t.TempDir(), "antipode.yaml")
		if err := os.WriteFile(local, []byte(here.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		var env []string
		for k, v := range c.Environment {
			env = append(env, k+"="+here.Replace(v))
		}
		cfg, err := config.Load(local, env, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		service := c.Command[0]
		services[service]++
		if service == "migrate" {
			continue
		}
		if err := config.CheckFor(cfg, service); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if host, _, _ := strings.Cut(cfg.Advertise, ":"); host != c.Hostname {
			t.Errorf("%s is called %s and tells others %s", name, c.Hostname, cfg.Advertise)
		}
		named := append([]string{cfg.Discovery.Address}, append(cfg.Log.Brokers, cfg.Routes.Addrs...)...)
		for _, peer := range cfg.Replicator.Peers {
			named = append(named, peer)
		}
		for _, addr := range named {
			if host, _, _ := strings.Cut(addr, ":"); !hosts[host] {
				t.Errorf("%s is told of %s, which is no container", name, addr)
			}
		}
	}
	want := map[string]int{"migrate": 3, "ipconf": 3, "gateway": 6, "router": 3, "imserver": 3, "replicator": 3}
	for service, n := range want {
		if services[service] != n {
			t.Errorf("%d containers of %s, want %d", services[service], service, n)
		}
	}
}

// The image is built with the Go that go.mod asks for.
func TestImageHasTheModulesGo(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile(filepath.Join(folder, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	if version == nil || !strings.Contains(string(dockerfile), "FROM golang:"+string(version[1])+"-") {
		t.Errorf("deploy/Dockerfile is not built from golang:%s", version)
	}
}

// What a log acknowledged outlives its container: each Kafka writes where its volume is.
func TestKafkaWritesToItsVolume(t *testing.T) {
	n := 0
	for name, c := range containers(t) {
		if c.Environment["KAFKA_NODE_ID"] == "" {
			continue
		}
		n++
		dir := c.Environment["KAFKA_LOG_DIRS"]
		if dir == "" || !slices.ContainsFunc(c.Volumes, func(v string) bool {
			volume, at, _ := strings.Cut(v, ":")
			return at == dir && !strings.HasPrefix(volume, ".") && !strings.HasPrefix(volume, "/")
		}) {
			t.Errorf("%s writes its logs to %q, and its volumes are %v", name, dir, c.Volumes)
		}
	}
	if n != 3 {
		t.Errorf("%d Kafkas, want 3", n)
	}
}
