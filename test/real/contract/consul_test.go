//go:build real

package contract_test

import (
	"context"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/registry/registrytest"
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

// The contract of a registry holds over two Consul datacenters.
func TestConsul(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Subject {
		prefix := unique()
		open := func(r im.Region) *consul.Consul {
			c, err := consul.New(consul.Config{
				Address: servers.consul[r].Addr(), Region: r, Regions: []im.Region{"eu", "us"}, Prefix: prefix, TTL: time.Second,
			}, consul.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			if err := c.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			return c
		}
		f := federated{open("eu"), open("us")}
		return registrytest.Subject{Registry: f, States: f, Members: f, TTL: time.Second}
	})
}
