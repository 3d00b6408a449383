package cluster

import (
	"bytes"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/config"
)

// discoveryTTL is how soon a service that died is gone from discovery, and its partitions with others.
const discoveryTTL = 2 * time.Second

// tokenKeyID is the id of the key that verifies tokens.
const tokenKeyID = "trial"

// KeysDir is the folder with certificates and the keys of tokens, as antipode keys makes it.
func (p *Plan) KeysDir() string { return filepath.Join(p.Data, "keys") }

// Configs are the configuration files of all services, by path. They hold no secrets, only the names of files that do.
func (p *Plan) Configs() (map[string][]byte, error) {
	files := map[string][]byte{}
	for i := range p.Regions {
		r := &p.Regions[i]
		if err := p.write(files, r.Config, p.shared(r, serviceIMServer)); err != nil {
			return nil, err
		}
		for _, m := range r.Members {
			if !m.Service() {
				continue
			}
			c := p.shared(r, m.Kind)
			c.Instance, c.Listen, c.RPC, c.Admin, c.Advertise = m.Part, m.Listen, m.RPC, m.Admin, m.RPC
			if m.Kind == serviceIMServer {
				c.IMServer.ClockFile = m.clockFile()
			}
			if err := p.write(files, m.Config, c); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// clockFile puts an imserver's clock off.
func (m *MemberPlan) clockFile() string { return strings.TrimSuffix(m.Config, ".yaml") + ".clock" }

func (p *Plan) write(files map[string][]byte, path string, c *config.Config) error {
	if err := config.Set(c, p.File.Set); err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Written by antipode cluster up at every start: change cluster.yaml instead (set: …).")
	if err := config.Print(&b, c); err != nil {
		return err
	}
	files[path] = b.Bytes()
	return nil
}

// shared is what a region's services of one kind are told alike.
func (p *Plan) shared(r *RegionPlan, service string) *config.Config {
	c := config.Defaults()
	c.Region, c.Origins, c.Partitions = r.Name, p.Origins(), p.File.Kafka.Partitions
	c.OriginEpoch = r.Origin.Epoch()
	c.Listen, c.RPC, c.Admin = "", "", ""
	c.Drain, c.StartWait = 5*time.Second, 30*time.Second
	brokers := r.Of(backendKafka)
	c.Log.Replication, c.Log.MinInSync = len(brokers), (len(brokers)+1)/2
	for _, k := range brokers {
		c.Log.Brokers = append(c.Log.Brokers, k.Listen)
	}
	for _, d := range r.Database {
		var u config.URL
		// Parsing cannot fail: names and addresses were checked.
		_ = u.UnmarshalText([]byte((&url.URL{
			Scheme: "postgres", User: url.User(backend.PostgresUser), Host: d.Addr, Path: "/" + d.Name, RawQuery: "sslmode=disable",
		}).String()))
		c.Timelines.URLs = append(c.Timelines.URLs, u)
	}
	c.Timelines.PasswordFile = p.passwordFile()
	for _, s := range r.Of(backendRedis) {
		c.Routes.Addrs = append(c.Routes.Addrs, s.Listen)
	}
	c.Discovery = config.Discovery{Kind: "consul", Address: r.Of(backendConsul)[0].Listen, TTL: discoveryTTL}
	name := filepath.Join(p.KeysDir(), certs.Name(service, r.Name))
	c.TLS = config.TLS{CA: filepath.Join(p.KeysDir(), "ca.pem"), Cert: name + ".pem", Key: name + "-key.pem"}
	c.Auth.Keys = []config.AuthKey{{ID: tokenKeyID, Alg: "EdDSA", KeyFile: filepath.Join(p.KeysDir(), "token-key.pub")}}
	c.Gateway.WebOrigins = []string{p.URL(), "http://localhost:" + portOf(p.File.Listen)}
	c.Gateway.Rate, c.Gateway.Burst = 2000, 4000 // a few users play many
	c.IMServer.Rate, c.IMServer.Burst = 1000, 1000
	c.Replicator.Peers = map[im.Region]string{}
	for _, l := range p.Links {
		if l.To == r.Name {
			c.Replicator.Peers[l.From] = l.Addr
		}
	}
	spare(c)
	c.Telemetry.OTLP, c.Telemetry.SampleRatio = p.File.Traces, 0 // clients decide about their own submits
	return c
}

// spare has a region's services do more with one request than they would with a machine of their own: whatever a message waits for
// here it would otherwise wait for a processor. What another region waits for is spared most: it is far away anyway.
func spare(c *config.Config) {
	c.IMServer.FetchPace, c.IMServer.CommitPace = 40*time.Millisecond, 80*time.Millisecond
	c.Replicator.FetchPace, c.Replicator.HeldLinger = 40*time.Millisecond, 80*time.Millisecond
}

func (p *Plan) passwordFile() string { return filepath.Join(p.KeysDir(), "postgres-password") }
