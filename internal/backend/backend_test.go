package backend

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/process"
)

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// program puts a program into a folder.
func program(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	path, deps := t.TempDir(), t.TempDir()
	t.Setenv("PATH", path)
	t.Setenv("JAVA_HOME", "")
	t.Setenv("ANTIPODE_DEPS", deps)

	_, err := FindConsul()
	wantError(t, err, "consul: not found", "make deps")
	_, err = FindRedis()
	wantError(t, err, "redis: not found", "install Redis", "redis-server")
	_, _, err = FindKafka()
	wantError(t, err, "kafka: not found", "install Java", "jre")
	for _, err := range []error{err} {
		if !errors.Is(err, ErrMissing) {
			t.Errorf("%v is not ErrMissing", err)
		}
	}

	program(t, filepath.Join(path, "java"))
	_, _, err = FindKafka()
	wantError(t, err, "no jars of Kafka "+kafkaVersion, deps, "make deps")
	program(t, filepath.Join(deps, "kafka-"+kafkaVersion, "kafka.jar"))
	java, jars, err := FindKafka()
	if err != nil || java != filepath.Join(path, "java") || jars != filepath.Join(deps, "kafka-"+kafkaVersion) {
		t.Errorf("found %s and %s: %v", java, jars, err)
	}
	t.Setenv("JAVA_HOME", "/nowhere")
	_, _, err = FindKafka()
	wantError(t, err, "JAVA_HOME is /nowhere")

	program(t, filepath.Join(deps, "consul"))
	if got, err := FindConsul(); err != nil || got != filepath.Join(deps, "consul") {
		t.Errorf("found %s: %v", got, err)
	}
	program(t, filepath.Join(path, "consul")) // one on PATH is preferred
	if got, err := FindConsul(); err != nil || got != filepath.Join(path, "consul") {
		t.Errorf("found %s: %v", got, err)
	}
}

// The folder that is looked into is the one that make deps fills.
func TestKafkaVersion(t *testing.T) {
	pom, err := os.ReadFile("../../tools/kafka/pom.xml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(pom), "<kafka.version>"+kafkaVersion+"</kafka.version>") {
		t.Errorf("tools/kafka/pom.xml fetches another version than %s", kafkaVersion)
	}
}

func TestCheckFree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	wantError(t, checkFree("eu/kafka", "127.0.0.1", 0, port), "eu/kafka: port", "on 127.0.0.1 is taken", "stop what uses it")
	wantError(t, checkFree("eu/kafka", "192.0.2.1", port), "eu/kafka: cannot listen on 192.0.2.1:")
}

func TestNoFolder(t *testing.T) {
	for _, s := range []Server{NewKafka(KafkaConfig{}), NewPostgres(PostgresConfig{}), NewRedis(RedisConfig{}), NewConsul(ConsulConfig{Datacenter: "eu"})} {
		wantError(t, s.Prepare(t.Context()), s.Name()+": it was given no folder")
	}
	file := filepath.Join(t.TempDir(), "file")
	program(t, file)
	wantError(t, NewRedis(RedisConfig{Name: "eu/redis", Dir: file}).Prepare(t.Context()), "eu/redis: folder: ")
}

// fake is a server that is ready after some probes.
type fake struct {
	Server
	until int
}

func (f *fake) Name() string { return "eu/fake" }

func (f *fake) Ready(context.Context) error {
	if f.until--; f.until < 0 {
		return nil
	}
	return errors.New("eu/fake: it sleeps")
}

func TestAwaitReady(t *testing.T) {
	start := func(script string) *process.Process {
		p, err := process.Start(process.Spec{Name: "eu/fake", Path: "/bin/sh", Args: []string{"-c", script}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		return p
	}
	lasting := start("sleep 1000")
	if err := AwaitReady(t.Context(), &fake{until: 3}, lasting); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, AwaitReady(ctx, &fake{until: 1 << 30}, lasting), "eu/fake: not ready after", "it sleeps")
	wantError(t, AwaitReady(t.Context(), &fake{until: 1 << 30}, start("exit 3")), "eu/fake: it ended before it was ready (exit status 3)")
}

// answering listens and answers each connection's first read, or never where answer is empty.
func answering(t *testing.T, answer string) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if answer != "" {
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = conn.Write([]byte(answer))
				_ = conn.(*net.TCPConn).CloseWrite()
			}
		}
	}()
	return "127.0.0.1", l.Addr().(*net.TCPAddr).Port
}

// TestReady asks servers that are there but not well.
func TestReady(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		probe  func(host string, port int) Server
		says   string // "" is ready
	}{
		"redis":                  {"+PONG\r\n", redisAt(""), ""},
		"redis with a password":  {"+OK\r\n+PONG\r\n", redisAt("secret"), ""},
		"redis that loads":       {"-LOADING dataset in memory\r\n", redisAt(""), "answers -LOADING"},
		"redis that hangs":       {"", redisAt(""), "does not answer"},
		"another password":       {"-WRONGPASS invalid\r\n-NOAUTH x\r\n", redisAt("secret"), "answers -WRONGPASS"},
		"kafka":                  {brokers(2), kafkaAt, ""},
		"kafka that is fenced":   {brokers(1), kafkaAt, "is not part of its cluster yet"},
		"kafka that hangs":       {"", kafkaAt, "does not answer"},
		"no kafka":               {"HTTP/1.1 400 Bad Request\r\n", kafkaAt, "no Kafka broker"},
		"consul":                 {"HTTP/1.0 200 OK\r\n\r\n" + `[{"CheckID":"serfHealth","Status":"passing"}]`, consulAt, ""},
		"consul that is alone":   {"HTTP/1.0 500 Internal Server Error\r\n\r\nNo cluster leader\n", consulAt, "No cluster leader"},
		"consul that is unheard": {"HTTP/1.0 200 OK\r\n\r\n[]", consulAt, "is not part of its datacenter yet"},
		"consul that hangs":      {"", consulAt, "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err := c.probe(answering(t, c.answer)).Ready(ctx)
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, "eu/x: ", "127.0.0.1:", c.says)
		})
	}
}

func redisAt(password string) func(string, int) Server {
	return func(host string, port int) Server {
		return NewRedis(RedisConfig{Name: "eu/x", Host: host, Port: port, Password: password})
	}
}

func kafkaAt(host string, port int) Server {
	return NewKafka(KafkaConfig{Name: "eu/x", Host: host, Port: port, Node: 2})
}

func consulAt(host string, port int) Server {
	return NewConsul(ConsulConfig{Name: "eu/x", Host: host, Datacenter: "eu", Ports: ConsulPorts{HTTP: port}})
}
