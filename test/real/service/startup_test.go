//go:build real

package service_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

// refused is an address where nobody listens.
func refused() string { return world.env.Host(15) + ":1" }

// with returns a database's URL with something else in it.
func with(t *testing.T, text string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}

// execute runs a statement.
func execute(t *testing.T, url, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// TestStartUpErrors: whatever is wrong with a backend, a start says it in one line that names backend, address and remedy,
// and ends with its exit code.
func TestStartUpErrors(t *testing.T) {
	good, empty, newer := database(t), database(t), database(t)
	migrate(t, settings{"timelines.urls": good})
	migrate(t, settings{"timelines.urls": newer})
	execute(t, newer, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99990101000000, true)")
	ahead := database(t)
	migrate(t, settings{"timelines.urls": ahead})
	execute(t, ahead, `INSERT INTO positions (topic, part, next, local, generation, watermark, log_id)
		VALUES ('msg.eu.direct', 3, 1000000000, 1000000000, 0, 0, '00000000-0000-0000-0000-000000000000')`)
	first, second := database(t), database(t)
	migrate(t, settings{"timelines.urls": first + "," + second})
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{world.kafka.Addr()}}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var wrong []kafka.TopicSpec // topics of ap exist, and may lose what is not read within a second
	for _, topic := range im.Topics("ap") {
		wrong = append(wrong, kafka.TopicSpec{Name: topic, Partitions: partitions, Replication: 1, MinISR: 1, Retention: time.Second})
	}
	if err := log.CreateTopics(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	routes := goredis.NewClient(&goredis.Options{Addr: world.redis.Addr(), Password: redisWord})
	defer routes.Close()
	if err := routes.Do(t.Context(), "ACL", "SETUSER", "reader", "on", ">"+redisWord, "~*", "-@all", "+info", "+ping").Err(); err != nil {
		t.Fatal(err)
	}
	brokers, pg := world.kafka.Addr(), world.postgres.Addr()
	redis, consul := world.redis.Addr(), world.consul["eu"].Addr()
	peers := "replicator.peers" // of a link that is not there: a start does not wait for it

	for i, c := range []struct {
		command, name string
		over          settings
		code          int
		says          []string
	}{
		{"gateway", "a key that is not one", settings{"drian": "3s"}, 2, []string{"drian: unknown key"}},
		{"imserver", "a key that is missing", nil, 2, []string{"timelines.urls: must be set"}},
		{"router", "a certificate that is not there", settings{"tls.ca": "/nowhere/ca.pem"}, 2, []string{"tls.ca", "/nowhere/ca.pem"}},
		{"router", "the certificate of another service", settings{
			"tls.cert": filepath.Join(world.keys, "gateway.eu.antipode.pem"), "tls.key": filepath.Join(world.keys, "gateway.eu.antipode-key.pem"),
		}, 2, []string{"tls.cert", "is of gateway.eu.antipode, want one of router.eu.antipode"}},
		{"migrate", "nothing to do", settings{"log.brokers": ""}, 2, []string{"nothing to migrate"}},

		{
			"imserver", "Kafka is not there",
			settings{"timelines.urls": good, "log.brokers": refused()},
			3,
			[]string{"kafka at " + refused() + ": connection refused: start Kafka, or correct log.brokers"},
		},
		{"router", "Kafka is something else", settings{"log.brokers": redis}, 3, []string{"kafka at " + redis}},
		{
			"imserver", "topics are missing",
			settings{"timelines.urls": good, "origins": "eu,us"},
			3,
			[]string{"kafka at " + brokers + ": topic msg.us.direct is missing (and 3 more like it): run: antipode migrate --config "},
		},
		{"router", "a route topic is missing", settings{"origins": "eu,us"}, 3, []string{"topic route.us is missing: run: antipode migrate --config "}},
		{
			"replicator", "topics are missing",
			settings{"origins": "eu,us", peers: "us=" + refused()},
			3,
			[]string{"topic msg.us.direct is missing (and 4 more like it): run: antipode migrate"},
		},
		{
			"imserver", "a topic forgets too soon",
			settings{"timelines.urls": good, "origins": "eu,ap"},
			3,
			[]string{"kafka at " + brokers + ": topic msg.ap.direct: retention.ms is 1000, want 604800000 or more", "run: kafka-configs --bootstrap-server " + brokers + " --alter --topic msg.ap.direct --add-config retention.ms=604800000"},
		},
		{
			"migrate", "a topic forgets too soon",
			settings{"timelines.urls": good, "origins": "eu,ap"},
			3,
			[]string{"topic msg.ap.direct: retention.ms is 1000", "kafka-configs"},
		},
		{
			"imserver", "another count of partitions",
			settings{"timelines.urls": good, "partitions": "8"},
			3,
			[]string{"kafka at " + brokers + ": topic msg.eu.direct: partitions is 16, want 8"},
		},
		{"router", "Kafka wants a password", settings{
			"log.brokers": world.kafka.SecureAddr(), "log.tls.enabled": "true", "log.tls.ca": world.env.Dir("kafka.pem"),
		}, 3, []string{"kafka at " + world.kafka.SecureAddr(), "log.sasl"}},
		{"router", "Kafka refuses the password", settings{
			"log.brokers": world.kafka.SecureAddr(), "log.sasl.mechanism": "scram-sha-512", "log.sasl.user": "router", "log.sasl.password": "wrong",
			"log.tls.enabled": "true", "log.tls.ca": world.env.Dir("kafka.pem"),
		}, 3, []string{"kafka at " + world.kafka.SecureAddr() + ": the user's name or password is refused: correct log.sasl"}},
		{"router", "Kafka's user may do nothing", settings{
			"log.brokers": world.kafka.SecureAddr(), "log.sasl.mechanism": "scram-sha-512", "log.sasl.user": "nobody", "log.sasl.password": saslWord,
			"log.tls.enabled": "true", "log.tls.ca": world.env.Dir("kafka.pem"),
		}, 3, []string{"kafka at " + world.kafka.SecureAddr(), "give the user of log.sasl the rights that docs/operations.md lists for it"}},
		{"router", "Kafka does not speak TLS", settings{"log.tls.enabled": "true"}, 3, []string{"kafka at " + brokers, "log.tls"}},

		{
			"imserver", "PostgreSQL is not there",
			settings{"timelines.urls": "postgres://antipode@" + refused() + "/antipode"},
			3,
			[]string{"postgres at " + refused() + "/antipode: connection refused: start it, or correct timelines.urls"},
		},
		{"imserver", "PostgreSQL refuses the password", settings{
			"timelines.urls": with(t, good, func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "wrong") }),
		}, 3, []string{"postgres at " + pg, `(password authentication failed for user "antipode"): correct user and password in timelines.urls or timelines.password`}},
		{
			"imserver", "no such database",
			settings{"timelines.urls": with(t, good, func(u *url.URL) { u.Path = "/nothing" })},
			3,
			[]string{"postgres at " + pg + "/nothing: the database does not exist: create it (CREATE DATABASE), or correct timelines.urls"},
		},
		{
			"imserver", "the second of two is not there",
			settings{"timelines.urls": first + ",postgres://antipode@" + refused() + "/antipode"},
			3,
			[]string{"postgres at " + refused() + "/antipode: connection refused"},
		},
		{"imserver", "two databases in another order", settings{"timelines.urls": second + "," + first}, 3, []string{"postgres at " + pg}},
		{"imserver", "the log was truncated", settings{"timelines.urls": ahead}, 3, []string{
			"kafka at " + brokers + ": msg.eu.direct/3 ends at ", "was truncated or made anew: start this region under the next origin epoch",
		}},
		{"imserver", "one database of two", settings{"timelines.urls": first}, 3, []string{"postgres at " + pg}},
		{
			"imserver", "no schema",
			settings{"timelines.urls": empty},
			3,
			[]string{"postgres at " + pg, "it has no schema yet: run \"antipode migrate --config "},
		},
		{"imserver", "a newer schema", settings{"timelines.urls": newer}, 3, []string{"postgres at " + pg, "newer than this build's", "use a newer build"}},
		{"migrate", "a newer schema", settings{"timelines.urls": newer}, 3, []string{"postgres at " + pg, "use a newer build"}},
		{
			"migrate", "PostgreSQL is not there",
			settings{"timelines.urls": "postgres://antipode@" + refused() + "/antipode"},
			3,
			[]string{"postgres at " + refused() + "/antipode: connection refused"},
		},

		{
			"router", "Redis is not there",
			settings{"routes.addrs": refused()},
			3,
			[]string{"redis at " + refused() + ": connection refused: start Redis, or correct routes.addrs"},
		},
		{
			"router", "Redis refuses the password",
			settings{"routes.password": "wrong"},
			3,
			[]string{"redis at " + redis + ": the user's name or password is refused: correct routes.user and routes.password"},
		},
		{
			"router", "Redis's user may run no scripts",
			settings{"routes.user": "reader"},
			3,
			[]string{"redis at " + redis + ": the user may not do this: ", "give routes.user the rights that docs/operations.md lists for it"},
		},
		{"router", "Redis wants a password", settings{"routes.password": ""}, 3, []string{"redis at " + redis, "routes.password"}},

		{
			"gateway", "Consul is not there",
			settings{"discovery.address": refused()},
			3,
			[]string{"consul at " + refused() + ": connection refused: start the Consul agent, or correct discovery.address"},
		},
		{
			"ipconf", "Consul of another region",
			settings{"discovery.address": world.consul["us"].Addr()},
			3,
			[]string{"consul at " + world.consul["us"].Addr() + `: the agent is of datacenter "us", and the region is "eu"`},
		},
		{"ipconf", "Consul is something else", settings{"discovery.address": redis}, 3, []string{"consul at " + redis, "discovery.address"}},

		{"gateway", "an address in use", settings{"listen": consul}, 1, []string{consul, "address already in use"}},
	} {
		t.Run(c.command+": "+c.name, func(t *testing.T) {
			t.Parallel() // most of them wait
			// Most are refused for good, which ends a start at once: there is time for the answer. What may come is waited for.
			wait := "6s"
			if strings.Contains(fmt.Sprint(c.over), refused()) || strings.HasSuffix(c.name, "is something else") || strings.HasSuffix(c.name, "does not speak TLS") {
				wait = "1s"
			}
			over := settings{"instance": fmt.Sprintf("wrong-%d", i), "start_wait": wait}
			maps.Copy(over, c.over)
			args := arguments(t, c.command, over)
			if c.command == "migrate" {
				args = append(args, "--wait", wait)
			}
			began := time.Now()
			code, _, stderr := run(t, args)
			took := world.env.Since(began)
			var said []string
			for line := range strings.Lines(stderr) {
				if !json.Valid([]byte(line)) && !strings.HasPrefix(line, "warning: ") { // logs
					said = append(said, line)
				}
			}
			if code != c.code || len(said) != 1 || !strings.HasPrefix(said[0], "antipode: ") {
				t.Fatalf("it ends with %d, want %d, and says\n%s", code, c.code, stderr)
			}
			for _, part := range c.says {
				if !strings.Contains(said[0], part) {
					t.Errorf("it says\n%swhich lacks\n%s", said[0], part)
				}
			}
			for _, secret := range []string{redisWord, saslWord, "wrong@", ":wrong"} {
				if strings.Contains(stderr, secret) {
					t.Errorf("it tells a secret: %s", stderr)
				}
			}
			if took > 20*time.Second {
				t.Errorf("it took %v to say so", took)
			}
		})
	}
}

// TestStartWaits: a backend that is late is waited for, with the reason in the log.
func TestStartWaits(t *testing.T) {
	over := settings{"start_wait": "60s"}
	migrate(t, over)
	redis := world.members[world.redis]
	if err := redis.Kill(); err != nil {
		t.Fatal(err)
	}
	whole(t, world.redis)
	s := start(t, "router", "router-1", over)
	eventually(t, "it tells what it waits for", func() error {
		text := s.logged()
		for _, part := range []string{`"msg":"waiting for a backend"`, `"backend":"redis"`, `"address":"` + world.redis.Addr() + `"`, `"reason":"connection refused"`} {
			if !strings.Contains(text, part) {
				return fmt.Errorf("the log lacks %s", part)
			}
		}
		return nil
	})
	if err := redis.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	share(t, s)
}
