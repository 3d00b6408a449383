//go:build real

package contract_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/registry/registrytest"
	"github.com/antipode-im/antipode/test/real/manual"
)

// federated registers every instance with the agent of its region, and reads from eu's.
type federated struct {
	*consul.Consul
	us *consul.Consul
}

func (f federated) Register(ctx context.Context, i im.Instance) (registry.Lease, error) {
	if i.Region == "us" {
		return f.us.Register(ctx, i)
	}
	return f.Consul.Register(ctx, i)
}

// token makes a token that may do what docs/operations.md says that services need, and no more.
func token(t *testing.T) string {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: servers.consul["eu"].Addr(), Token: management})
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.NewReplacer(`"antipode-"`, `"t"`, `"antipode/"`, `"t"`).Replace(manual.Block(t, "### Rights in Consul", "hcl")) // see unique
	policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: unique(), Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made.SecretID
}

// byHTTPS is how a gateway of eu reaches a region's agent.
func byHTTPS(t *testing.T, r im.Region) *tls.Config {
	t.Helper()
	gateway, err := servers.keys.Identity("gateway", "eu")
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: gateway.Roots, Certificates: []tls.Certificate{gateway.Certificate}, ServerName: certs.Name("consul", r),
	}
}

// The contract of a registry holds over two Consul datacenters, by HTTPS, with the rights that services are given.
func TestConsul(t *testing.T) {
	secret := token(t)
	registrytest.Run(t, func(t *testing.T) registrytest.Subject {
		prefix := unique()
		open := func(r im.Region) *consul.Consul {
			c, err := consul.New(consul.Config{
				Address: servers.consul[r].SecureAddr(), TLS: byHTTPS(t, r), Token: secret,
				Region: r, Regions: []im.Region{"eu", "us"}, Prefix: prefix, TTL: time.Second,
			}, consul.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			eventually(t, "the token is known in "+string(r), func() error { return c.Check(t.Context()) })
			return c
		}
		f := federated{open("eu"), open("us")}
		return registrytest.Subject{Registry: f, States: f, Members: f, TTL: time.Second}
	})
}

// Whoever is not let in by an agent is told in one line what to change, without the token.
func TestConsulSecurity(t *testing.T) {
	https, http := servers.consul["eu"].SecureAddr(), servers.consul["eu"].Addr()
	stranger, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	other, err := stranger.Identity("gateway", "eu")
	if err != nil {
		t.Fatal(err)
	}
	secret := token(t)
	for name, c := range map[string]struct {
		change  func(cfg *consul.Config)
		problem string
		remedy  string
	}{
		"another authority":      {func(c *consul.Config) { c.TLS.RootCAs = other.Roots }, "authority that is not trusted", "discovery.tls.ca"},
		"another name":           {func(c *consul.Config) { c.TLS.ServerName = "server.eu.consul" }, "its certificate is of consul.eu.antipode", "discovery.tls.server_name"},
		"no certificate":         {func(c *consul.Config) { c.TLS.Certificates = nil }, "does not accept our certificate", "discovery.tls.cert"},
		"a stranger's":           {func(c *consul.Config) { c.TLS.Certificates = []tls.Certificate{other.Certificate} }, "does not accept our certificate", "discovery.tls.cert"},
		"HTTP to its HTTPS port": {func(c *consul.Config) { c.TLS = nil }, "it speaks TLS", "discovery.tls.enabled"},
		"HTTPS to its HTTP port": {func(c *consul.Config) { c.Address = http }, "it does not speak TLS", "discovery.tls.enabled"},
		"an unknown token":       {func(c *consul.Config) { c.Token = "c0ffee00-0000-4000-8000-00000000dead" }, "the token is not known", "discovery.token"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := consul.Config{Address: https, TLS: byHTTPS(t, "eu"), Token: secret, Region: "eu", Prefix: unique()}
			c.change(&cfg)
			client, err := consul.New(cfg, consul.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			eventually(t, "it is told", func() error { // an agent that hangs up may be noticed by that first
				if err = client.Check(t.Context()); err == nil {
					t.Fatal("it is let in")
				}
				if _, _, final := consul.Explain(err); !final {
					return err
				}
				return nil
			})
			problem, remedy, _ := consul.Explain(err)
			if !strings.Contains(problem, c.problem) || !strings.Contains(remedy, c.remedy) || strings.Contains(problem+remedy, "\n") {
				t.Errorf("%v\nis told as %q, %q", err, problem, remedy)
			}
			if text := err.Error() + problem + remedy; !strings.Contains(text, cfg.Address) || strings.Contains(text, cfg.Token) {
				t.Errorf("it does not name the agent, or tells the token: %s", text)
			}
		})
	}
}
