//go:build real

package contract_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/kafka"
)

// memory is what a server is told and asked again.
type memory struct {
	server backend.Server
	keeps  bool // over a kill
	put    func(t *testing.T, value string)
	get    func(t *testing.T) (string, error)
}

// TestServers takes each server through its lives: killed, started again with its data, hanging, going on, stopped.
func TestServers(t *testing.T) {
	for _, m := range []memory{onKafka(t), onPostgres(t), onRedis(), onConsul()} {
		t.Run(m.server.Name(), func(t *testing.T) { lives(t, m) })
	}
}

func lives(t *testing.T, m memory) {
	member := servers.members[m.server]
	start := func(after string) {
		t.Helper()
		began := time.Now()
		if err := member.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("started after %s in %v", after, time.Since(began).Round(time.Millisecond))
	}
	t.Cleanup(func() {
		if err := errors.Join(member.Resume(), member.Start(context.Background())); err != nil {
			t.Error(err)
		}
	})
	remembered := func(want string) {
		t.Helper()
		eventually(t, "it remembers", func() error {
			got, err := m.get(t)
			if err == nil && got != want {
				err = fmt.Errorf("it remembers %q, want %q", got, want)
			}
			return err
		})
	}

	m.put(t, "one")
	remembered("one")
	if err := member.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.server.Ready(t.Context()); err == nil || !strings.HasPrefix(err.Error(), m.server.Name()+": ") {
		t.Errorf("dead, it is ready: %v", err)
	}
	start("kill -9")
	if m.keeps {
		remembered("one")
	} else {
		remembered("")
	}

	m.put(t, "two")
	if err := member.Pause(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := m.server.Ready(t.Context()); err == nil || servers.env.Since(began) > 5*time.Second {
		t.Errorf("hanging, it answers within %v: %v", servers.env.Since(began), err)
	}
	if err := member.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it answers again", func() error { return m.server.Ready(t.Context()) })
	remembered("two")

	// It is told to stop once it takes writes again, not only questions: a broker that had hung a moment ago was seen not to end
	// within the 40 seconds that it has, on a busy machine.
	m.put(t, "three")
	if err := member.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	start("stop")
	if m.keeps {
		remembered("three")
	}
}

func onKafka(t *testing.T) memory {
	topic := im.Partition{Topic: unique()}
	var at int64
	open := func(t *testing.T) *kafka.Cluster {
		c, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{servers.kafka.Addr()}}, kafka.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open(t)
	defer c.Close()
	spec := kafka.TopicSpec{Name: topic.Topic, Partitions: 1, Replication: 1, MinISR: 1, Retention: time.Hour}
	if err := c.CreateTopics(t.Context(), []kafka.TopicSpec{spec}); err != nil {
		t.Fatal(err)
	}
	return memory{
		server: servers.kafka, keeps: true,
		put: func(t *testing.T, value string) {
			c := open(t)
			defer c.Close()
			eventually(t, "append", func() (err error) {
				at, err = c.Append(t.Context(), topic, []im.Entry{{Value: []byte(value)}})
				return err
			})
		},
		get: func(t *testing.T) (string, error) {
			c := open(t)
			defer c.Close()
			entries, err := c.Read(t.Context(), topic, at, 1<<20)
			if err != nil || len(entries) == 0 {
				return "", err
			}
			return string(entries[0].Value), nil
		},
	}
}

func onPostgres(t *testing.T) memory {
	url := database(t)
	do := func(t *testing.T, work func(conn *pgx.Conn) error) error {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		return work(conn)
	}
	return memory{
		server: servers.postgres, keeps: true,
		put: func(t *testing.T, value string) {
			err := do(t, func(conn *pgx.Conn) error {
				// Commits do not wait for the disk unless they ask to: rows that a crash loses come back from the logs.
				_, err := conn.Exec(t.Context(), `SET synchronous_commit = on; CREATE TABLE IF NOT EXISTS kept (v text); TRUNCATE kept; INSERT INTO kept VALUES ('`+value+`')`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		get: func(t *testing.T) (value string, err error) {
			err = do(t, func(conn *pgx.Conn) error {
				return conn.QueryRow(t.Context(), `SELECT v FROM kept`).Scan(&value)
			})
			return value, err
		},
	}
}

func onRedis() memory {
	key := unique()
	client := func() *goredis.Client {
		return goredis.NewClient(&goredis.Options{Addr: servers.redis.Addr()})
	}
	return memory{
		server: servers.redis, keeps: false, // as the design has it: see backend.Redis
		put: func(t *testing.T, value string) {
			c := client()
			defer c.Close()
			if err := c.Set(t.Context(), key, value, 0).Err(); err != nil {
				t.Fatal(err)
			}
		},
		get: func(t *testing.T) (string, error) {
			c := client()
			defer c.Close()
			value, err := c.Get(t.Context(), key).Result()
			if errors.Is(err, goredis.Nil) {
				err = nil
			}
			return value, err
		},
	}
}

func onConsul() memory {
	server := servers.consul["us"]
	// Through the other region: the datacenter that was gone is found again.
	url := "http://" + servers.consul["eu"].Addr() + "/v1/kv/" + unique() + "?dc=us&raw"
	call := func(t *testing.T, method, body string) (string, error) {
		request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			return "", err
		}
		request.Header.Set("X-Consul-Token", management)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, text)
		}
		return string(text), err
	}
	return memory{
		server: server, keeps: true,
		put: func(t *testing.T, value string) {
			eventually(t, "put", func() error {
				_, err := call(t, http.MethodPut, value)
				return err
			})
		},
		get: func(t *testing.T) (string, error) { return call(t, http.MethodGet, "") },
	}
}
