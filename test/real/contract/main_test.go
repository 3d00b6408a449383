//go:build real

// Package contract_test holds the adapters, and the servers themselves as internal/backend runs them, to their contracts
// on real parts. One set of servers serves all tests, which keep to topics, databases and prefixes of their own. A test
// that ends or pauses a server of the set leaves it as it found it; no test runs beside another.
package contract_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/testenv"
	"github.com/antipode-im/antipode/test/real/manual"
)

// servers are the shared ones; every field is running.
var servers struct {
	env      *testenv.Env
	kafka    *backend.Kafka
	postgres *backend.Postgres
	redis    *backend.Redis
	consul   map[im.Region]*backend.Consul // a datacenter each, federated; both ask for certificates and tokens
	keys     *certs.Authority              // of those certificates
	members  map[backend.Server]*testenv.Member
}

func TestMain(m *testing.M) {
	testenv.Main(m, func(ctx context.Context, e *testenv.Env) error {
		began := time.Now()
		s := &servers
		s.env = e
		s.kafka = backend.NewKafka(backend.KafkaConfig{Name: "kafka", Dir: e.Dir("kafka"), Host: e.Host(1), Quick: true})
		s.postgres = backend.NewPostgres(backend.PostgresConfig{Name: "postgres", Dir: e.Dir("postgres"), Host: e.Host(1)})
		s.redis = backend.NewRedis(backend.RedisConfig{Name: "redis", Dir: e.Dir("redis"), Host: e.Host(1)})
		keys, err := certs.Open(e.Dir("keys"))
		if err != nil {
			return err
		}
		s.keys, s.consul = keys, map[im.Region]*backend.Consul{}
		all := []backend.Server{s.kafka, s.postgres, s.redis}
		for i, region := range []im.Region{"eu", "us"} {
			if _, err := keys.Identity("consul", region); err != nil {
				return err
			}
			pair := filepath.Join(e.Dir("keys"), certs.Name("consul", region))
			c := backend.NewConsul(backend.ConsulConfig{
				Secure: &backend.ConsulSecurity{
					Cert: pair + ".pem", Key: pair + "-key.pem", ClientCA: filepath.Join(e.Dir("keys"), "ca.pem"), Token: management, Primary: "eu",
				},
				Name: string(region) + "/consul", Dir: e.Dir(string(region) + "-consul"), Host: e.Host(1 + i), Datacenter: string(region),
				WAN: []string{e.Host(1) + ":8302", e.Host(2) + ":8302"},
			})
			s.consul[region], all = c, append(all, c)
		}
		members, err := e.Start(ctx, all...)
		s.members = map[backend.Server]*testenv.Member{}
		for i, m := range members {
			s.members[all[i]] = m
		}
		fmt.Printf("servers: started in %v\n", time.Since(began).Round(10*time.Millisecond))
		return err
	})
}

// management is the token with which everything may be done in Consul.
const management = "c0ffee00-0000-4000-8000-000000000001"

// unique is a name that no other test uses, of small letters and digits.
func unique() string {
	return "t" + strings.ReplaceAll(im.NewUUID(time.Now()).String(), "-", "")
}

// patience bounds every wait for a server.
const patience = time.Minute

// eventually polls until ok says nil.
func eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	err := errors.New("never asked")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %s: %v", patience, what, err)
}

// database makes a database as docs/operations.md says, with the rights that stand there, which is dropped with the test, and
// returns its URL.
func database(t testing.TB) string {
	t.Helper()
	name := unique()
	administer := func(statements string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		conn, err := pgx.Connect(ctx, servers.postgres.URL("postgres"))
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		for statement := range strings.Lines(statements) {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", strings.TrimSpace(statement), err)
			}
		}
		return nil
	}
	if err := administer(strings.ReplaceAll(manual.Block(t, "### Rights in PostgreSQL", "sql"), "antipode", name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := administer("DROP DATABASE " + name + " WITH (FORCE)\nDROP ROLE " + name); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(servers.postgres.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, "choose-one")
	return u.String()
}
