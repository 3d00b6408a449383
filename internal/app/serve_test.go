package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/config"
	"github.com/antipode-im/antipode/internal/embedded"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// fakeConsul plays an agent that is well, or answers everything with a code and a text.
func fakeConsul(t *testing.T, datacenter, leader string, status int, text string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case status != 0:
			http.Error(w, text, status)
		case r.URL.Path == "/v1/agent/self":
			fmt.Fprintf(w, `{"Config":{"Datacenter":%q}}`, datacenter)
		case r.URL.Path == "/v1/status/leader":
			fmt.Fprintf(w, "%q", leader)
		default:
			http.Error(w, "not played", http.StatusTeapot)
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// refusing is an address where nobody listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestServeErrors: what can be told without real servers; test/real/service has the rest.
func TestServeErrors(t *testing.T) {
	keys := t.TempDir()
	authority, err := certs.Open(keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{ServiceGateway, ServiceRouter, ServiceIMServer} {
		if _, err := authority.Identity(s, "eu"); err != nil {
			t.Fatal(err)
		}
	}
	kafka, err := embedded.StartKafka(t.Context(), embedded.KafkaConfig{Addr: refusing(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kafka.Close() })
	consul, gone, brokers := fakeConsul(t, "eu", "127.0.0.1:8300", 0, ""), refusing(t), kafka.Addr()

	for _, c := range []struct {
		service, name string
		change        func(c *config.Config)
		backend       string // of the error; "" for one of the configuration
		says          string
	}{
		{ServiceGateway, "no keys", func(c *config.Config) { c.Auth.Keys = nil }, "", "auth.keys: must be set"},
		{ServiceGateway, "no certificate", func(c *config.Config) { c.TLS = config.TLS{} }, "", "tls.cert: must be set"},
		{ServiceRouter, "another's certificate", func(c *config.Config) {
			name := filepath.Join(keys, certs.Name(ServiceGateway, "eu"))
			c.TLS.Cert, c.TLS.Key = name+".pem", name+"-key.pem"
		}, "", "is of gateway.eu.antipode, want one of router.eu.antipode"},
		{"nonsense", "no service", func(*config.Config) {}, "", `"nonsense" is no service`},
		{
			ServiceGateway, "Consul is not there", func(c *config.Config) { c.Discovery.Address = gone }, "consul",
			"consul at " + gone + ": connection refused: start the Consul agent, or correct discovery.address",
		},
		{
			ServiceGateway, "Consul of another region", func(c *config.Config) { c.Discovery.Address = fakeConsul(t, "us", "l", 0, "") }, "consul",
			`the agent is of datacenter "us", and the region is "eu": set discovery.address`,
		},
		{
			ServiceGateway, "Consul has no leader", func(c *config.Config) { c.Discovery.Address = fakeConsul(t, "eu", "", 0, "") }, "consul",
			"the datacenter has no leader: start most of its Consul servers",
		},
		{
			ServiceGateway, "Consul does not know the token", func(c *config.Config) { c.Discovery.Address = fakeConsul(t, "", "", 403, "ACL not found") }, "consul",
			"the token is not known: correct discovery.token or discovery.token_file",
		},
		{
			ServiceRouter, "Kafka is not there", func(c *config.Config) { c.Log.Brokers = []string{gone} }, "kafka",
			"kafka at " + gone + ": connection refused: start Kafka, or correct log.brokers",
		},
		{
			ServiceRouter, "the topic is missing", func(*config.Config) {}, "kafka",
			"kafka at " + brokers + ": topic route.eu is missing",
		},
		{ServiceIMServer, "topics are missing", func(*config.Config) {}, "kafka", `antipode migrate --config /etc/antipode.yaml`},
		{
			"migrate", "PostgreSQL is not there", func(c *config.Config) { c.Log.Brokers = nil }, "postgres",
			"postgres at " + gone + "/antipode: connection refused",
		},
		{"migrate", "nothing to do", func(c *config.Config) { c.Log.Brokers, c.Timelines.URLs = nil, nil }, "", "nothing to migrate"},
	} {
		t.Run(c.service+": "+c.name, func(t *testing.T) {
			cfg := config.Defaults()
			name := filepath.Join(keys, certs.Name(c.service, "eu"))
			cfg.Region, cfg.Origins, cfg.Instance = "eu", []im.Origin{"eu"}, "one"
			cfg.Listen, cfg.RPC, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0", ""
			cfg.Discovery.Address, cfg.Log.Brokers, cfg.Routes.Addrs = consul, []string{brokers}, []string{gone}
			cfg.TLS = config.TLS{CA: filepath.Join(keys, "ca.pem"), Cert: name + ".pem", Key: name + "-key.pem"}
			cfg.Auth.Keys = []config.AuthKey{{ID: "k", Alg: "HS256", Key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}
			cfg.StartWait = 50 * time.Millisecond
			var u config.URL
			if err := u.UnmarshalText([]byte("postgres://antipode@" + gone + "/antipode?sslmode=disable")); err != nil {
				t.Fatal(err)
			}
			cfg.Timelines.URLs = []config.URL{u}
			if c.service == "migrate" {
				cfg.TLS = config.TLS{}
			}
			c.change(cfg)
			var log bytes.Buffer
			launch := Launch{Service: c.service, Config: cfg, File: "/etc/antipode.yaml", Log: &log}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var err error
			if c.service == "migrate" {
				err = MigrateConfigured(ctx, launch, cfg.StartWait, func(string) {})
			} else {
				err = Serve(ctx, launch)
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("it says %v, want one line with %s\n%s", err, c.says, log.String())
			}
			if e, ok := errors.AsType[*BackendError](err); ok != (c.backend != "") || ok && e.Backend != c.backend {
				t.Errorf("the error is %#v", err)
			}
			if _, ok := errors.AsType[*ConfigError](err); ok != (c.backend == "") {
				t.Errorf("the error is %#v", err)
			}
		})
	}
}

// TestReach: what waiting may mend is tried until patience ends, and told; what it cannot mend ends it at once.
func TestReach(t *testing.T) {
	errPassing, errLasting := errors.New("not yet"), errors.New("never")
	b := backend{name: "oracle", address: "delphi:1", explain: func(err error) (string, string, bool) {
		return err.Error(), "ask again", errors.Is(err, errLasting)
	}}
	var out bytes.Buffer
	tel, err := telemetry.New(telemetry.Config{LogWriter: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close(context.Background())
	tries := 0
	begun := time.Now()
	if err := b.reach(t.Context(), &Site{}, begun.Add(time.Minute), tel.Log, func(context.Context) error {
		if tries++; tries < 3 {
			return errPassing
		}
		return nil
	}); err != nil || tries != 3 {
		t.Errorf("%v after %d tries", err, tries)
	}
	var line struct{ Msg, Backend, Address, Reason string }
	if err := json.Unmarshal(bytes.SplitN(out.Bytes(), []byte("\n"), 2)[0], &line); err != nil || line.Backend != "oracle" || line.Reason != "not yet" {
		t.Errorf("%v: the log tells %+v", err, line)
	}
	tries = 0
	err = b.reach(t.Context(), &Site{}, time.Now().Add(time.Hour), tel.Log, func(context.Context) error { tries++; return errLasting })
	if err == nil || err.Error() != "oracle at delphi:1: never: ask again" || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
	err = b.reach(t.Context(), &Site{}, time.Now().Add(30*time.Millisecond), tel.Log, func(context.Context) error { return errPassing })
	if err == nil || !errors.Is(err, errPassing) {
		t.Errorf("%v after patience ended", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.reach(ctx, &Site{}, time.Now().Add(time.Hour), tel.Log, func(context.Context) error { return errPassing }); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

// TestBackendCheckInTime: a check of a backend whose client heeds no context still names the address.
func TestBackendCheckInTime(t *testing.T) {
	b := backend{name: "oracle", address: "delphi:1", explain: func(err error) (string, string, bool) { return err.Error(), "", false }}
	hung := make(chan struct{})
	defer close(hung)
	err := b.check(func(context.Context) error { <-hung; return nil })(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "delphi:1: ") {
		t.Errorf("got %v", err)
	}
}

func TestDrained(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{LogWriter: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close(context.Background())
	stop := errors.New("told to stop")
	stopped, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	failed := errors.New("failed")
	for _, c := range []struct {
		name string
		ctx  context.Context
		run  serviceFunc
		want string
	}{
		{"drains", stopped, func(ctx context.Context) error { <-ctx.Done(); return nil }, ""},
		{"ends by itself", t.Context(), func(context.Context) error { return failed }, "failed"},
		{"fails to drain", stopped, func(ctx context.Context) error { <-ctx.Done(); return failed }, "failed"},
		{"hangs", stopped, func(ctx context.Context) error { <-t.Context().Done(); return nil }, "did not end within 50ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := drained(c.ctx, c.run, 50*time.Millisecond, tel.Log)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// An address that another process has: the error says what to do, and is still that error.
func TestTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = net.Listen("tcp", l.Addr().String())
	if got := taken(err); !errors.Is(got, err) || !strings.HasSuffix(got.Error(), ": stop what uses it, or set another (listen, rpc, admin)") {
		t.Errorf("%v", got)
	}
	if other := errors.New("other"); taken(other) != other || taken(nil) != nil {
		t.Error("an error of something else was changed")
	}
}

// TestProcessors: a replicator's process uses what its configuration says, unless its environment says it; others use all.
func TestProcessors(t *testing.T) {
	all := runtime.NumCPU()
	for _, c := range []struct {
		service, said    string
		configured, want int
	}{
		{ServiceReplicator, "", 1, 1},
		{ServiceReplicator, "", all + 7, all},
		{ServiceReplicator, "", 0, 0},
		{ServiceReplicator, "4", 1, 0},
		{ServiceGateway, "", 1, 0},
	} {
		cfg := config.Defaults()
		cfg.Replicator.Processors = c.configured
		if got := processors(cfg, c.service, c.said); got != c.want {
			t.Errorf("%s, GOMAXPROCS=%q, replicator.processors %d: %d, want %d", c.service, c.said, c.configured, got, c.want)
		}
	}
}
