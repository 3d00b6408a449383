//go:build real

// Package service_test runs the services as the processes they are, over real Kafka, PostgreSQL, Redis and Consul: how a
// start tells what is wrong, what readiness tells when a backend goes, how partitions move when an owner dies or hangs.
// Topics and backends are shared, and each test has a database of its own. No test runs beside another.
package service_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/process"
	"github.com/antipode-im/antipode/internal/testenv"
)

const (
	partitions = 16
	redisWord  = "redis-secret"
	saslWord   = "kafka-secret"
	// patience bounds every wait for a state.
	patience = time.Minute
)

// world is what all tests share.
var world struct {
	env      *testenv.Env
	kafka    *backend.Kafka
	postgres *backend.Postgres
	redis    *backend.Redis
	consul   map[im.Region]*backend.Consul
	members  map[backend.Server]*testenv.Member
	binary   string
	keys     string // folder
	ports    atomic.Int32
}

func TestMain(m *testing.M) {
	testenv.Main(m, func(ctx context.Context, e *testenv.Env) error {
		w := &world
		w.env = e
		if err := selfSign(e.Host(1), e.Dir("kafka.pem"), e.Dir("kafka-key.pem")); err != nil {
			return err
		}
		users := map[string]string{}
		for _, name := range kafkaUsers {
			users[name] = saslWord
		}
		w.kafka = backend.NewKafka(backend.KafkaConfig{
			Dir: e.Dir("kafka"), Host: e.Host(1), Quick: true, Secure: &backend.KafkaSecurity{
				Cert: e.Dir("kafka.pem"), Key: e.Dir("kafka-key.pem"), Users: users, ACLs: true,
			},
		})
		w.postgres = backend.NewPostgres(backend.PostgresConfig{Dir: e.Dir("postgres"), Host: e.Host(1)})
		w.redis = backend.NewRedis(backend.RedisConfig{Dir: e.Dir("redis"), Host: e.Host(1), Password: redisWord})
		all := []backend.Server{w.kafka, w.postgres, w.redis}
		w.consul = map[im.Region]*backend.Consul{}
		for i, r := range []im.Region{"eu", "us"} {
			w.consul[r] = backend.NewConsul(backend.ConsulConfig{
				Name: "consul of " + string(r), Dir: e.Dir("consul-" + string(r)), Host: e.Host(1 + i), Datacenter: string(r),
				WAN: []string{e.Host(1) + ":8302", e.Host(2) + ":8302"},
			})
			all = append(all, w.consul[r])
		}
		built := make(chan error, 1)
		go func() { built <- build(ctx, e) }()
		members, err := e.Start(ctx, all...)
		w.members = map[backend.Server]*testenv.Member{}
		for i, m := range members {
			w.members[all[i]] = m
		}
		return errors.Join(err, <-built)
	})
}

// build compiles the command and makes certificates.
func build(ctx context.Context, e *testenv.Env) error {
	world.binary, world.keys = e.Dir("antipode"), e.Dir("keys")
	root, err := filepath.Abs("../../..")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", world.binary, "./cmd/antipode")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	authority, err := certs.Open(world.keys)
	if err != nil {
		return err
	}
	for _, s := range []string{"ipconf", "gateway", "router", "imserver", "replicator"} {
		if _, err := authority.Identity(s, "eu"); err != nil {
			return err
		}
	}
	return nil
}

// selfSign makes a certificate of an address that is its own authority.
func selfSign(host, cert, key string) error {
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "kafka"}, IPAddresses: []net.IP{net.ParseIP(host)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pair.Public(), pair)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}

// settings are keys of the configuration and their values, which go over those of the shared file.
type settings map[string]string

// inFile is the key under which settings hold text of the file itself.
const inFile = "\n"

// database makes a database that is dropped with the test.
func database(t testing.TB) (url string) {
	t.Helper()
	name := "t" + strings.ReplaceAll(im.NewUUID(time.Now()).String(), "-", "")
	if err := world.postgres.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := world.postgres.DropDatabase(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return world.postgres.URL(name)
}

// arguments are those of a command with a configuration of its own.
func arguments(t testing.TB, command string, over settings) []string {
	t.Helper()
	w := &world
	service := command
	if command == "migrate" {
		service = "imserver"
	}
	port := func() string { return fmt.Sprintf("%s:%d", w.env.Host(3), 10_000+w.ports.Add(1)) }
	name := filepath.Join(w.keys, certs.Name(service, "eu"))
	set := settings{
		"region": "eu", "origins": "eu", "partitions": strconv.Itoa(partitions), "instance": command,
		"rpc": port(), "admin": port(), "listen": port(), "drain": "10s", "start_wait": "1s",
		"log.brokers": w.kafka.Addr(), "log.replication": "1", "log.min_in_sync": "1",
		"routes.addrs": w.redis.Addr(), "routes.password": redisWord,
		"discovery.address": w.consul["eu"].Addr(),
		"tls.ca":            filepath.Join(w.keys, "ca.pem"), "tls.cert": name + ".pem", "tls.key": name + "-key.pem",
		"telemetry.log_level": "info",
	}
	for k, v := range over {
		set[k] = v
	}
	file := filepath.Join(t.TempDir(), command+".yaml")
	text := "auth: {keys: [{id: trial, alg: HS256, key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}\n" + set[inFile]
	delete(set, inFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{command, "--config", file}
	for k, v := range set {
		args = append(args, "--set", k+"="+v)
	}
	return args
}

// run runs a command to its end.
func run(t testing.TB, args []string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, world.binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("antipode %s does not end\n%s", args[0], errs.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// migrate makes topics and schemas.
func migrate(t testing.TB, over settings) {
	t.Helper()
	if code, _, stderr := run(t, arguments(t, "migrate", over)); code != 0 {
		t.Fatalf("migrate ends with %d\n%s", code, stderr)
	}
}

// service is one of them as a process, which can be started again under the same name and addresses.
type service struct {
	t     testing.TB
	kind  string
	args  []string
	admin string
	log   string
	*process.Process
}

func start(t testing.TB, kind, instance string, over settings) *service {
	t.Helper()
	admin := fmt.Sprintf("%s:%d", world.env.Host(3), 10_000+world.ports.Add(1))
	set := settings{"instance": instance, "admin": admin}
	for k, v := range over {
		set[k] = v
	}
	s := &service{t: t, kind: kind, args: arguments(t, kind, set), admin: admin, log: filepath.Join(t.TempDir(), instance+".log")}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(s.log)
			t.Logf("--- log of %s\n%s", instance, text[max(0, len(text)-6<<10):])
		}
	})
	s.start()
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *service) start() {
	s.t.Helper()
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	if s.Process, err = process.Start(process.Spec{Name: s.kind, Path: world.binary, Args: s.args, Output: out}); err != nil {
		s.t.Fatal(err)
	}
}

// get reads a page of the admin server.
func (s *service) get(path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// readiness is what /readyz tells.
type readiness struct {
	OK       bool
	Checks   map[string]string
	Degraded []string
}

func (s *service) ready() (r readiness, err error) {
	_, text, err := s.get("/readyz")
	if err == nil {
		err = json.Unmarshal([]byte(text), &r)
	}
	return r, err
}

// metric is the sum of a metric's values; false if there is none.
func (s *service) metric(name string) (float64, bool) { return s.labelled(name, "") }

// labelled is the same of the series that have a label.
func (s *service) labelled(name, label string) (float64, bool) {
	_, text, err := s.get("/metrics")
	if err != nil {
		return 0, false
	}
	sum, found := 0.0, false
	for _, m := range regexp.MustCompile(`(?m)^`+name+`\{.*`+label+`.*\} (\S+)$`).FindAllStringSubmatch(text, -1) {
		if v, err := strconv.ParseFloat(m[1], 64); err == nil {
			sum, found = sum+v, true
		}
	}
	return sum, found
}

// owned is how many partitions a service owns, -1 if it does not tell.
func (s *service) owned() int {
	n, ok := s.metric("antipode_" + s.kind + "_partitions_owned")
	if !ok {
		return -1
	}
	return int(n)
}

// eventually polls until ok says nil.
func eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	err := errors.New("never asked")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %s: %v", patience, what, err)
}

// share waits until services own all partitions among them, each at least one, and tells how many each.
func share(t testing.TB, services ...*service) []int {
	t.Helper()
	var shares []int
	eventually(t, "all partitions are owned", func() error {
		sum := 0
		shares = shares[:0]
		for _, s := range services {
			n := s.owned()
			shares, sum = append(shares, n), sum+n
			if n <= 0 {
				return fmt.Errorf("%v are owned", shares)
			}
		}
		if sum != partitions {
			return fmt.Errorf("%v are owned, of %d", shares, partitions)
		}
		return nil
	})
	return shares
}

// calm is share once nothing has moved for a second: one that is fenced just after its start begins anew.
func calm(t testing.TB, services ...*service) []int {
	t.Helper()
	shares, since := share(t, services...), time.Now()
	eventually(t, "nothing moves", func() error {
		if now := share(t, services...); !slices.Equal(now, shares) {
			shares, since = now, time.Now()
		}
		if quiet := time.Since(since); quiet < time.Second {
			return fmt.Errorf("%v are owned for %v", shares, quiet)
		}
		return nil
	})
	return shares
}

// logged is what a service has logged.
func (s *service) logged() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}
