package postgres_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/embedded"
	"github.com/antipode-im/antipode/internal/postgres/postgrestest"
)

// The contract of timelines holds on the PostgreSQL of this machine.
func TestContract(t *testing.T) {
	server, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop(context.Background()) })
	postgrestest.Run(t, func(t *testing.T, count int) (urls []string) {
		for range count {
			name := "t" + strings.ReplaceAll(im.NewUUID(time.Now()).String(), "-", "")
			if err := server.CreateDatabase(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			urls = append(urls, server.URL(name))
		}
		return urls
	}, 1, 2)
}
