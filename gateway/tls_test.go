package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/antipode-im/antipode/wire"
)

// pairOf makes a certificate of this machine's loopback addresses that signs itself.
func pairOf(name string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

var testPair = sync.OnceValue(func() *tls.Certificate { return pairOf("first") })

// trusting is a client's configuration that trusts a gateway of withTLS.
func trusting() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(testPair().Leaf)
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10}
}

func withTLS(c *Config) {
	c.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return testPair(), nil }
}

// Over TLS, a gateway does the same.
func TestTLS(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"LoginSubmitPush", TestLoginSubmitPush},
		{"Resume", TestResume},
		{"Kick", TestKick},
		{"SlowConsumer", TestSlowConsumer},
		{"ConsumerThatDoesNotRead", TestConsumerThatDoesNotRead},
		{"Idle", TestIdle},
		{"BadHello", TestBadHello},
		{"BadFrames", TestBadFrames},
		{"Drain", TestDrain},
		{"Kill", TestKill},
	} {
		t.Run(test.name, test.run)
	}
}

func TestTLSVersions(t *testing.T) {
	r := newRig(t, withTLS)
	if u := r.g.WebSocketURL(); !strings.HasPrefix(u, "wss://127.0.0.1:") {
		t.Error("clients are sent to ", u)
	}
	for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		cfg := trusting()
		cfg.MaxVersion, cfg.NextProtos = version, []string{"h2", "http/1.1"}
		c, err := tls.Dial("tcp", r.g.Addr(), cfg)
		if (err == nil) != good {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" { // WebSockets begin with HTTP/1.1 only
				t.Errorf("speaks %q", p)
			}
			c.Close()
		}
	}
}

// Connections that say nothing keep nobody out while there is room, are closed in time, and do not grow in number.
func TestTLSHandshakesAreBounded(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, withTLS, func(c *Config) { c.MaxHandshakes, c.HelloTimeout = 3, 8*time.Second })
	silent := func() net.Conn {
		c, err := net.Dial("tcp", r.g.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	closed := func(c net.Conn) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Fatal("a silent connection is still open")
			}
		}
	}
	mute := []net.Conn{silent(), silent()}
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1) // the third place, which it gives back
	p.expectAlive()
	half := silent() // one that made its handshake, and sends no request
	secured := tls.Client(half, func() *tls.Config { c := trusting(); c.ServerName = "127.0.0.1"; return c }())
	if err := secured.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed(silent()) // at once, as the fourth
	closed(mute[0])
	closed(mute[1])
	closed(half)
	p.expectAlive()
	r.login(wire.SubprotocolProtobuf, "bob", 1)
}

// A new certificate is shown to new connections; those there are stay.
func TestTLSCertificateChanges(t *testing.T) {
	var now atomic.Pointer[tls.Certificate]
	now.Store(testPair())
	r := newRig(t, func(c *Config) {
		c.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return now.Load(), nil }
	})
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	now.Store(pairOf("second"))
	cfg := trusting()
	if c, err := tls.Dial("tcp", r.g.Addr(), cfg); err == nil {
		c.Close()
		t.Error("the first certificate is still shown")
	}
	cfg.RootCAs.AddCert(now.Load().Leaf)
	c, err := tls.Dial("tcp", r.g.Addr(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	p.expectAlive()
}
