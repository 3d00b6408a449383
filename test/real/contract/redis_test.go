//go:build real

package contract_test

import (
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/redis/redistest"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/test/real/manual"
)

// routesUser is who docs/operations.md says that routers are in Redis, on each of some nodes.
func routesUser(t *testing.T, nodes ...string) (user, password string) {
	t.Helper()
	block := strings.NewReplacer("'", "", "eu{route.", "test-*{route.").Replace(manual.Block(t, "### Rights in Redis", "sh"))
	command := manual.Commands(t, block, "redis-cli")[0][1:]
	for _, addr := range nodes {
		admin := goredis.NewClient(&goredis.Options{Addr: addr})
		defer admin.Close()
		args := make([]any, len(command))
		for i, word := range command {
			args[i] = word
		}
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%q: %v", command, err)
		}
	}
	return "antipode", "choose-one"
}

// The contract of routes holds on a redis-server, with the rights that routers are given.
func TestRedis(t *testing.T) {
	admin := goredis.NewClient(&goredis.Options{Addr: servers.redis.Addr()})
	defer admin.Close()
	user, password := routesUser(t, servers.redis.Addr())
	client := goredis.NewClient(&goredis.Options{Addr: servers.redis.Addr(), Username: user, Password: password})
	defer client.Close()
	if err := redis.Check(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), "test-", "x", 0).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Fatalf("a user with few rights may write what it likes: %v", err)
	}
	redistest.Run(t, client, admin, func(t *testing.T) redistest.Model {
		table, err := routes.New("eu", []im.Origin{"eu", "us"}, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		return routeTable{table}
	})
}

// routeTable is the router's own table, with one partition.
type routeTable struct{ table *routes.Table }

func (r routeTable) Apply(p im.Partition, records []im.RouteRecord) {
	entries := make([]routes.Entry, len(records))
	for i, record := range records {
		entries[i] = routes.Entry{RouteRecord: record, Local: record.Route.Offset}
	}
	r.table.Apply(p, entries, 0)
}

func (r routeTable) Jump(p im.Partition) { r.table.Jump(p, 0) }

// Rows at time 0 has those that are dead of age too, as Redis has.
func (r routeTable) Rows(uid im.UID) []im.Route { return r.table.Rows(uid, 0) }
