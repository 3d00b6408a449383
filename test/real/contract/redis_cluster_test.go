//go:build real

package contract_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/redis/redistest"
	"github.com/antipode-im/antipode/router/routes"
)

// clusterNode is a redis-server that is one node of a Redis Cluster.
type clusterNode struct {
	*backend.Redis
	dir, host string
}

func (n clusterNode) Prepare(ctx context.Context) error {
	if err := n.Redis.Prepare(ctx); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(n.dir, "redis.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 2000\ncluster-announce-ip " + n.host + "\n")
	return err
}

// startRedisCluster starts two nodes that share the slots: a script whose keys were not of one slot would fail, and so
// would one sent to the wrong node by a client that does not know the map.
func startRedisCluster(t *testing.T) (addrs []string) {
	t.Helper()
	const slots = 16384
	env := servers.env
	var nodes []backend.Server
	for i := range 2 {
		name := fmt.Sprintf("redis-node-%d", i+1)
		node := clusterNode{backend.NewRedis(backend.RedisConfig{Name: name, Dir: env.Dir(name), Host: env.Host(1 + i), Port: 6380}), env.Dir(name), env.Host(1 + i)}
		nodes, addrs = append(nodes, node), append(addrs, node.Addr())
	}
	members, err := env.Start(t.Context(), nodes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, m := range members {
			if err := m.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	for i, addr := range addrs {
		client := goredis.NewClient(&goredis.Options{Addr: addr})
		defer client.Close()
		if err := client.ClusterAddSlotsRange(t.Context(), i*slots/2, (i+1)*slots/2-1).Err(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := client.ClusterMeet(t.Context(), env.Host(2), "6380").Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, addr := range addrs {
		client := goredis.NewClient(&goredis.Options{Addr: addr})
		defer client.Close()
		eventually(t, addr+" serves its half of the slots", func() error {
			info, err := client.ClusterInfo(t.Context()).Result()
			if err == nil && (!strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:2")) {
				err = fmt.Errorf("%q", info)
			}
			return err
		})
	}
	return addrs
}

// The contract of routes holds on a Redis Cluster, reached as the configuration reaches it: through several addresses, or
// through one that is said to be a cluster's.
func TestRedisCluster(t *testing.T) {
	addrs := startRedisCluster(t)
	admin := goredis.NewUniversalClient(&goredis.UniversalOptions{Addrs: addrs})
	defer admin.Close()
	user, password := routesUser(t, addrs...)
	client := goredis.NewUniversalClient(&goredis.UniversalOptions{Addrs: addrs, Username: user, Password: password})
	defer client.Close()
	two := []string{"{route.0}:a", "{route.1}:a"}
	if err := admin.Eval(t.Context(), `return redis.call('SET', KEYS[1], 'x')`, two).Err(); err == nil || !strings.Contains(err.Error(), "CROSSSLOT") && !strings.Contains(err.Error(), "same slot") {
		t.Fatalf("a script with keys of two slots: %v; these nodes would not notice ours", err)
	}

	// The cluster's half of the contract: keys are listed node by node.
	redistest.Run(t, client, everyNode{admin.(*goredis.ClusterClient)}, func(t *testing.T) redistest.Model {
		table, err := routes.New("eu", []im.Origin{"eu", "us"}, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		return routeTable{table}
	})

	t.Run("partitions spread over the nodes", func(t *testing.T) {
		one := goredis.NewUniversalClient(&goredis.UniversalOptions{Addrs: addrs[:1], IsClusterMode: true})
		defer one.Close()
		prefix := unique()
		s := redis.NewRoutes(one, prefix)
		for n := range 16 {
			p := im.Partition{Topic: "route.eu", Number: n}
			record := im.RouteRecord{Kind: im.KindClaim, Route: im.Route{
				UID: "ann", Device: "phone", Region: "eu", Gateway: im.Gateway{ID: "g", Epoch: 1}, Login: 1, Claimed: im.StampAt(time.Now()),
			}}
			if ok, err := s.Apply(t.Context(), im.RouteBatch{Partition: p, To: im.RoutePosition{Next: 1}, Records: []im.RouteRecord{record}}); err != nil || !ok {
				t.Fatalf("%v: %v, %v", p, ok, err)
			}
			if rows, err := s.Lookup(t.Context(), n, "ann"); err != nil || len(rows) != 1 {
				t.Fatalf("%v: %v, %v", p, rows, err)
			}
		}
		for _, addr := range addrs {
			node := goredis.NewClient(&goredis.Options{Addr: addr})
			keys, err := node.Keys(t.Context(), prefix+"*").Result()
			node.Close()
			if err != nil || len(keys) == 0 {
				t.Errorf("%s holds none of 16 partitions: %v", addr, err)
			}
		}
	})
}

// everyNode lists the keys of all nodes; everything else goes where its key is.
type everyNode struct{ *goredis.ClusterClient }

func (c everyNode) Keys(ctx context.Context, pattern string) *goredis.StringSliceCmd {
	all := goredis.NewStringSliceCmd(ctx)
	var keys []string
	ask := make(chan []string, 8)
	err := c.ForEachMaster(ctx, func(ctx context.Context, node *goredis.Client) error {
		found, err := node.Keys(ctx, pattern).Result()
		ask <- found
		return err
	})
	close(ask)
	for found := range ask {
		keys = append(keys, found...)
	}
	all.SetVal(keys)
	all.SetErr(err)
	return all
}
