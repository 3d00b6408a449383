package consul

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/registry"
)

// signed makes a certificate by a template, of an authority; nil signs itself.
func signed(t *testing.T, by *tls.Certificate, template x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = template.NotAfter.Add(-2 * time.Hour)
	parent, signer := &template, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func authority(t *testing.T) tls.Certificate {
	return signed(t, nil, x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true})
}

func pool(authority tls.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(authority.Leaf)
	return p
}

// TestTLS: an agent that asks for a certificate is reached by HTTPS, and each way to be wrong is told in one line that says
// which setting to change.
func TestTLS(t *testing.T) {
	ca, stranger := authority(t), authority(t)
	server := func(template x509.Certificate) tls.Certificate {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		return signed(t, &ca, template)
	}
	client := signed(t, &ca, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	good := server(x509.Certificate{IPAddresses: local})
	named := server(x509.Certificate{DNSNames: []string{"server.eu.consul"}})
	over := server(x509.Certificate{IPAddresses: local, NotAfter: time.Now().Add(-time.Minute)})

	for _, c := range []struct {
		name    string
		shows   *tls.Certificate // what the agent shows; nil: it speaks HTTP
		uses    *tls.Config      // nil: HTTP
		problem string           // "": it is let in
		remedy  string
	}{
		{"all is well", &good, &tls.Config{RootCAs: pool(ca), Certificates: []tls.Certificate{client}}, "", ""},
		{"by another name", &named, &tls.Config{RootCAs: pool(ca), Certificates: []tls.Certificate{client}, ServerName: "server.eu.consul"}, "", ""},
		{"of another name", &named, &tls.Config{RootCAs: pool(ca), Certificates: []tls.Certificate{client}}, "its certificate is of server.eu.consul, and it was asked for 127.0.0.1", "discovery.tls.server_name"},
		{"another authority", &good, &tls.Config{RootCAs: pool(stranger), Certificates: []tls.Certificate{client}}, "authority that is not trusted", "discovery.tls.ca"},
		{"the agent's is over", &over, &tls.Config{RootCAs: pool(ca), Certificates: []tls.Certificate{client}}, "expired", "renew the agent's certificate"},
		{"no certificate", &good, &tls.Config{RootCAs: pool(ca)}, "does not accept our certificate", "discovery.tls.cert"},
		{"a stranger's certificate", &good, &tls.Config{RootCAs: pool(ca), Certificates: []tls.Certificate{signed(t, &stranger, x509.Certificate{
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})}}, "does not accept our certificate", "discovery.tls.cert"},
		{"HTTP to its HTTPS port", &good, nil, "it speaks TLS", "discovery.tls.enabled to true"},
		{"HTTPS to its HTTP port", nil, &tls.Config{RootCAs: pool(ca)}, "it does not speak TLS", "discovery.tls.enabled to false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &agent{t: t}
			a.server = httptest.NewUnstartedServer(a)
			a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
			if c.shows == nil {
				a.server.Start()
			} else {
				a.server.TLS = &tls.Config{Certificates: []tls.Certificate{*c.shows}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool(ca)}
				a.server.StartTLS()
			}
			t.Cleanup(a.server.Close)
			consul, err := New(Config{Address: a.server.Listener.Addr().String(), TLS: c.uses, Token: "the-token", Region: "eu"}, Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer consul.Close()
			err = consul.Check(t.Context())
			if c.problem == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			// A server that refuses a certificate hangs up, and may be noticed by that first.
			for deadline := time.Now().Add(patience); errors.Is(err, registry.ErrSilent) && time.Now().Before(deadline); err = consul.Check(t.Context()) {
			}
			if err == nil {
				t.Fatal("it was let in")
			}
			problem, remedy, lasting := Explain(err)
			if !strings.Contains(problem, c.problem) || !strings.Contains(remedy, c.remedy) || !lasting {
				t.Errorf("%v\nis told as %q, %q, lasting %t", err, problem, remedy, lasting)
			}
			if text := problem + remedy; strings.Contains(text, "\n") || strings.Contains(text+err.Error(), "the-token") {
				t.Errorf("not one line, or it tells a secret: %v", err)
			}
		})
	}
}
