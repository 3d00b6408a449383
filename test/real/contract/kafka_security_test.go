//go:build real

package contract_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/testenv"
)

// authority signs certificates of brokers and clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	pair := a.sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true})
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// sign makes a certificate by a template; the first signs itself.
func (a *authority) sign(t testing.TB, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: "antipode"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// file writes PEM and returns its path.
func file(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whoever has certificate and password is let in by each mechanism; each way to be wrong is told in one line that names
// broker and remedy, in no more than the time that was allowed, without the password.
func TestKafkaSecurity(t *testing.T) {
	env := testenv.ForTest(t)
	ca := newAuthority(t)
	server := ca.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.ParseIP(env.Host(0))}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	client := ca.sign(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	broker := backend.NewKafka(backend.KafkaConfig{
		Name: "kafka-secure", Dir: env.Dir("kafka-secure"), Host: env.Host(0), Quick: true,
		Secure: &backend.KafkaSecurity{
			Cert: file(t, "cert.pem", "CERTIFICATE", server.Certificate[0]), Key: file(t, "key.pem", "PRIVATE KEY", key),
			ClientCA: file(t, "ca.pem", "CERTIFICATE", ca.cert.Raw), Users: map[string]string{"antipode": "pencil"},
		},
	})
	if _, err := env.Start(t.Context(), broker); err != nil {
		t.Fatal(err)
	}
	good := func() kafka.Config {
		return kafka.Config{
			Brokers: []string{broker.SecureAddr()}, SASL: kafka.SASL{Mechanism: "plain", User: "antipode", Password: "pencil"},
			TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool(), Certificates: []tls.Certificate{client}},
		}
	}
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			cfg := good()
			cfg.SASL.Mechanism = mechanism
			c := openKafka(t, cfg)
			ps := kafkaTopic(t, c, 2, 1, 1)
			r := c.NewReader(map[im.Partition]int64{ps[0]: 0, ps[1]: 0})
			for _, p := range ps {
				if _, err := c.Append(t.Context(), p, []im.Entry{{Value: []byte("a")}}); err != nil {
					t.Fatal(err)
				}
				if batches, err := r.Poll(t.Context()); err != nil || len(batches) != 1 {
					t.Fatalf("%d batches, %v", len(batches), err)
				}
			}
		})
	}
	for name, wrong := range map[string]struct {
		change  func(cfg *kafka.Config)
		problem string
		remedy  string
		lasting bool
	}{
		"password":              {func(c *kafka.Config) { c.SASL.Password = "pen" }, "refused", "log.sasl", true},
		"password by scram":     {func(c *kafka.Config) { c.SASL.Mechanism, c.SASL.Password = "scram-sha-512", "pen" }, "refused", "log.sasl", true},
		"no user":               {func(c *kafka.Config) { c.SASL = kafka.SASL{} }, "hangs up", "log.sasl", false},
		"no certificate":        {func(c *kafka.Config) { c.TLS.Certificates = nil }, "certificate", "log.tls.cert", true},
		"another authority":     {func(c *kafka.Config) { c.TLS.RootCAs = newAuthority(t).pool() }, "authority", "log.tls.ca", true},
		"no TLS":                {func(c *kafka.Config) { c.TLS = nil }, "speaks TLS", "log.tls.enabled", true},
		"TLS to the plain port": {func(c *kafka.Config) { c.Brokers = []string{broker.Addr()} }, "", "log.tls", false},
		"nothing there":         {func(c *kafka.Config) { c.Brokers = []string{env.Host(5) + ":9092"} }, "refused", "log.brokers", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			cfg.RequestTimeout = 4 * time.Second
			wrong.change(&cfg)
			began := time.Now()
			c, err := kafka.Open(t.Context(), cfg, kafka.Deps{})
			took := servers.env.Since(began)
			if err == nil {
				c.Close()
				t.Fatal("it was let in")
			}
			text := err.Error()
			problem, remedy, lasting := kafka.Explain(err)
			t.Logf("%v: %s\n→ %s: %s (lasting %v)", took.Round(time.Millisecond), text, problem, remedy, lasting)
			if took > 6*time.Second || lasting && took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			if strings.ContainsRune(text+problem+remedy, '\n') || !strings.Contains(text, cfg.Brokers[0]) || strings.Contains(text, "pencil") {
				t.Errorf("not one line that names the broker, or one that tells the password")
			}
			if !strings.Contains(problem, wrong.problem) || !strings.Contains(remedy, wrong.remedy) || lasting != wrong.lasting {
				t.Errorf("want a problem with %q, a remedy with %q, lasting %v", wrong.problem, wrong.remedy, wrong.lasting)
			}
		})
	}
}
