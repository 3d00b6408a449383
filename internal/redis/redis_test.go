package redis_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/redis"
	"github.com/antipode-im/antipode/internal/redis/redistest"
	"github.com/antipode-im/antipode/router/routes"
)

func open(t *testing.T) (*miniredis.Miniredis, goredis.UniversalClient) {
	server := miniredis.RunT(t)
	client := goredis.NewClient(&goredis.Options{Addr: server.Addr(), MaxRetries: -1})
	t.Cleanup(func() { client.Close() })
	return server, client
}

func TestMiniredis(t *testing.T) {
	_, client := open(t)
	redistest.Run(t, client, client, newModel)
}

func TestGone(t *testing.T) {
	server, client := open(t)
	server.Close()
	redistest.Down(t, redis.NewRoutes(client, ""))
}

// model is the router's own table, with one partition.
type model struct{ table *routes.Table }

func newModel(t *testing.T) redistest.Model {
	table, err := routes.New("eu", []im.Origin{"eu", "us"}, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	return model{table}
}

func (m model) Apply(p im.Partition, records []im.RouteRecord) {
	entries := make([]routes.Entry, len(records))
	for i, r := range records {
		entries[i] = routes.Entry{RouteRecord: r, Local: r.Route.Offset}
	}
	m.table.Apply(p, entries, 0)
}

func (m model) Jump(p im.Partition) { m.table.Jump(p, 0) }

// Rows at time 0 has those that are dead of age too, as Redis has.
func (m model) Rows(uid im.UID) []im.Route { return m.table.Rows(uid, 0) }
