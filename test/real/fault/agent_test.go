//go:build real && linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/testenv"
)

// behindAgent are the members that reach their region's Consul through an agent of their own, as on a machine of their own;
// all others are registered with the region's only server, which is agent and datacenter in one.
var behindAgent = []string{"eu/imserver-2", "eu/gateway-2"}

// agent is a Consul agent that is no server. All methods may be called on nil, which is none.
type agent struct {
	consul *backend.Consul
	dir    string
	member *testenv.Member
	start  func() error // waits for the start
}

// lend gives some members an agent of their own before they start, and starts it: it joins when its server is there.
func (w *world) lend(c *app.Cluster) error {
	r, _ := c.Plan().Region(eu)
	server := r.Of("consul")[0]
	for _, m := range r.Members {
		if !slices.Contains(behindAgent, m.Name) {
			continue
		}
		if err := discoverThrough(m.Config, server.Listen, w.env.Host(4)+":8500"); err != nil {
			return err
		}
	}
	a := &agent{dir: w.env.Dir(fmt.Sprintf("agent-%d", w.runs))}
	a.consul = backend.NewConsul(backend.ConsulConfig{
		Name: "agent", Dir: a.dir, Host: w.env.Host(4), Datacenter: "eu", Client: true, LAN: []string{server.LAN},
	})
	started := make(chan error, 1)
	go func() {
		members, err := w.env.Start(context.Background(), a.consul)
		a.member = members[0]
		started <- err
	}()
	var result error
	waited := false
	a.start = func() error {
		if !waited {
			result, waited = <-started, true
		}
		return result
	}
	w.agent = a
	return nil
}

// discoverThrough puts another agent into a service's configuration.
func discoverThrough(file, was, addr string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), was); n != 1 {
		return fmt.Errorf("%s names the agent %s %d times", file, was, n)
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), was, addr, 1)), 0o644)
}

func (a *agent) started() error {
	if a == nil {
		return nil
	}
	return a.start()
}

// whole has it run.
func (a *agent) whole(ctx context.Context) error {
	if a == nil {
		return nil
	}
	if err := a.started(); err != nil {
		return err
	}
	return errors.Join(a.member.Resume(), a.member.Start(ctx))
}

func (a *agent) end() error {
	if a == nil || a.started() != nil {
		return nil // it ends with the environment
	}
	return errors.Join(a.member.Resume(), a.member.Kill(), os.RemoveAll(a.dir))
}

// TestLoseAgent: the agent of some members dies or hangs, and its datacenter lives on and takes them off the list (ADR 010).
// They go on with what they knew, and the others without them; nobody is told that they are gone who has a socket there.
func TestLoseAgent(t *testing.T) {
	for _, c := range []struct {
		how        string
		loses      func(*testenv.Member) error
		recovering func(context.Context, *testenv.Member) error
	}{
		{"kill -9", (*testenv.Member).Kill, func(ctx context.Context, m *testenv.Member) error { return m.Start(ctx) }},
		{"pause", (*testenv.Member).Pause, func(_ context.Context, m *testenv.Member) error { return m.Resume() }},
	} {
		t.Run(c.how, func(t *testing.T) {
			f := begin(t, c.how+" of the Consul agent of two members")
			a := shared.agent
			t.Cleanup(func() { // whatever became of the test
				if err := a.whole(context.Background()); err != nil {
					t.Error(err)
				}
			})
			f.broke = time.Now()
			if err := c.loses(a.member); err != nil {
				t.Fatal(err)
			}
			f.listed(false)
			f.reads("eu/imserver-2", "consul", a.consul.Addr())
			f.newcomers()
			f.flows(time.Now(), 30*time.Second, nil, nil)
			if seen := f.traffic.Seen(f.broke); seen.Lost > 0 || seen.LongestAck > 10*time.Second {
				t.Errorf("users noticed: %v", seen)
			}
			f.heals(func(ctx context.Context) error { return c.recovering(ctx, a.member) })
			f.listed(true)
			f.ends()
		})
	}
}

// listLimit is how long a datacenter may take to hear of an agent's members. An agent whose first try to tell of them fails, as that
// over a connection from before a pause does now and then (after 5 s, limits.rpc_client_timeout), tries again after 15 to 30 s.
const listLimit = 75 * time.Second

// listed waits until the region's server names the members behind the agent among those that live, or none of them.
func (f *fault) listed(want bool) {
	f.Helper()
	r, _ := f.Plan().Region(eu)
	d, err := consul.New(consul.Config{Address: r.Of("consul")[0].Listen, Region: eu}, consul.Deps{})
	if err != nil {
		f.Fatal(err)
	}
	defer d.Close()
	for _, name := range behindAgent {
		part := strings.TrimPrefix(name, "eu/")
		kind, _, _ := strings.Cut(part, "-")
		f.await(listLimit, func() (bool, string) {
			all, err := d.Instances(f.Context(), kind, eu)
			if err != nil {
				return false, err.Error()
			}
			listed := slices.ContainsFunc(all, func(i im.Instance) bool { return i.ID == part })
			return listed == want, fmt.Sprintf("%s is listed: %v", name, listed)
		})
	}
}
