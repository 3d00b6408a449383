//go:build real

package contract_test

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/redis/redistest"
	"github.com/antipode-im/antipode/router/routes"
)

// The contract of routes holds on a redis-server.
func TestRedis(t *testing.T) {
	client := goredis.NewClient(&goredis.Options{Addr: servers.redis.Addr()})
	defer client.Close()
	redistest.Run(t, client, func(t *testing.T) redistest.Model {
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
