package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/antipode-im/antipode/internal/console"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/rpc"
)

// ClusterView looks at a cluster on this machine from outside of its processes: through its data folder, its logs and its
// services' RPC. It works in the launcher and in any other process that may read the data folder.
type ClusterView struct {
	keys TrialKeys

	mu      sync.Mutex
	plan    *cluster.Plan
	truths  truth // made when first asked for
	dialers []*rpc.Dialer
}

// observer is the service that the launcher's own certificates name.
const observer = "launcher"

// Times of one question to one instance: who asks goes on to the next instance afterwards.
const (
	positionsTimeout = 3 * time.Second
	stateTimeout     = 5 * time.Second
	digestTimeout    = 30 * time.Second // it reads everything
)

// NewClusterView looks at the cluster that a plan describes.
func NewClusterView(plan *cluster.Plan) *ClusterView {
	return &ClusterView{plan: plan, keys: TrialKeys{plan.KeysDir()}}
}

// Close closes the connections.
func (v *ClusterView) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.close()
}

func (v *ClusterView) close() {
	for _, d := range v.dialers {
		d.Close()
	}
	v.dialers, v.truths = nil, nil
}

// StandIns are the regions that stand in between others that lose each other, by what the cluster's services were told at its start.
func (v *ClusterView) StandIns() ([]im.Region, error) {
	v.mu.Lock()
	replicator := v.plan.Regions[0].Of(ServiceReplicator)[0] // all are told the same
	v.mu.Unlock()
	c, err := config.Load(replicator.Config, nil, nil)
	if err != nil {
		return nil, err
	}
	return c.Replicator.StandIns, nil
}

// follow looks at another plan of the same cluster from now on.
func (v *ClusterView) follow(plan *cluster.Plan) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.close()
	v.plan = plan
}

func (v *ClusterView) now() *cluster.Plan {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.plan
}

// Regions lists the regions.
func (v *ClusterView) Regions() []im.Region { return v.now().Names() }

// IPConf is the base URL of a region's first ipconf.
func (v *ClusterView) IPConf(region im.Region) string {
	if r, ok := v.now().Region(region); ok {
		return r.IPConf()
	}
	return ""
}

// State asks the running cluster's console how everything is.
func (v *ClusterView) State(ctx context.Context) (console.State, error) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var state console.State
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.now().URL()+"/dev/state.json", nil)
	if err != nil {
		return state, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return state, fmt.Errorf("the cluster's console does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return state, fmt.Errorf("the cluster's console answers %s", resp.Status)
	}
	return state, json.NewDecoder(resp.Body).Decode(&state)
}

// Token issues a token for a user.
func (v *ClusterView) Token(uid im.UID) (token string, expires time.Time, err error) {
	expires = time.Now().Add(TrialTokenLife)
	token, err = v.keys.Token(uid, TrialTokenLife)
	return token, expires, err
}

// Logged reads every origin's own message log from its start.
func (v *ClusterView) Logged(ctx context.Context) ([]checker.Logged, error) {
	t, err := v.truth()
	if err != nil {
		return nil, err
	}
	return t.Logged(ctx)
}

// Behind lists the partitions of which a region's timelines lack what is in the origin's log now. It asks any imserver of
// each region: all read the same PostgreSQL.
func (v *ClusterView) Behind(ctx context.Context) ([]checker.Behind, error) {
	t, err := v.truth()
	if err != nil {
		return nil, err
	}
	return t.Behind(ctx)
}

// Digests returns the digests of the views of all regions: of timelines from any imserver, of routes from any router, each
// of which holds all of them.
func (v *ClusterView) Digests(ctx context.Context) (map[im.Region]map[string]string, error) {
	t, err := v.truth()
	if err != nil {
		return nil, err
	}
	return t.Digests(ctx)
}

func (v *ClusterView) truth() (truth, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.truths != nil {
		return v.truths, nil
	}
	authority, err := certs.Open(v.keys.Dir)
	if err != nil {
		return nil, err
	}
	var all truth
	for i := range v.plan.Regions {
		r := &v.plan.Regions[i]
		c, err := config.Load(r.Config, nil, nil)
		if err != nil {
			return nil, err
		}
		site, err := SiteOf(c)
		if err != nil {
			return nil, err
		}
		identity, err := authority.Identity(observer, r.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, v.regionTruth(r, site, identity))
	}
	v.truths = all
	return all, nil
}

func (v *ClusterView) regionTruth(r *cluster.RegionPlan, site Site, identity *certs.Identity) truthRegion {
	dial := func(service string) *rpc.Dialer {
		d := rpc.NewDialer(rpc.DialConfig{TLS: identity.Client(service, r.Name)})
		v.dialers = append(v.dialers, d)
		return d
	}
	imservers, routers := dial(ServiceIMServer), dial(ServiceRouter)
	pool := rpc.NewRouterPool(routers, func() []im.Instance { return nil }) // asked by address only
	view := func(addr string) (*rpc.View, error) {
		cc, err := imservers.Conn(addr)
		if err != nil {
			return nil, err
		}
		return rpc.NewView(cc), nil
	}
	return truthRegion{
		site: site,
		positions: func(ctx context.Context) ([]im.Position, error) {
			return ask(ctx, r.Of(ServiceIMServer), positionsTimeout, func(ctx context.Context, addr string) ([]im.Position, error) {
				iv, err := view(addr)
				if err != nil {
					return nil, err
				}
				return iv.Positions(ctx, "")
			})
		},
		timelines: func(ctx context.Context) (map[string]string, error) {
			return ask(ctx, r.Of(ServiceIMServer), digestTimeout, func(ctx context.Context, addr string) (map[string]string, error) {
				iv, err := view(addr)
				if err != nil {
					return nil, err
				}
				return iv.Digest(ctx)
			})
		},
		routes: func(ctx context.Context) (map[string]string, error) {
			return ask(ctx, r.Of(ServiceRouter), positionsTimeout, pool.Digest)
		},
	}
}

// ask asks one instance after the other until one answers.
func ask[T any](ctx context.Context, instances []cluster.MemberPlan, timeout time.Duration, question func(context.Context, string) (T, error)) (T, error) {
	var errs []error
	for _, m := range instances {
		bounded, cancel := context.WithTimeout(ctx, timeout)
		answer, err := question(bounded, m.RPC)
		cancel()
		if err == nil {
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		if ctx.Err() != nil {
			break
		}
	}
	var none T
	return none, errors.Join(errs...)
}
