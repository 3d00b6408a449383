package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t *testing.T, a *Authority, service string, r im.Region) *Identity {
	t.Helper()
	i, err := a.Identity(service, r)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// shake connects a client to a server over a pipe and exchanges a byte, so that both ends have verified.
func shake(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	errs := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		_, err := s.Write([]byte{1})
		if err != nil {
			a.Close()
		}
		errs <- err
	}()
	c := tls.Client(b, client)
	_, err := c.Read(make([]byte, 1))
	b.Close()
	if serverErr := <-errs; serverErr != nil {
		return serverErr
	}
	return err
}

func TestPeersAreAuthorisedByRegion(t *testing.T) {
	a := open(t, t.TempDir())
	eu, us, ap := identity(t, a, "replicator", "eu"), identity(t, a, "replicator", "us"), identity(t, a, "replicator", "ap")
	stranger := identity(t, open(t, t.TempDir()), "replicator", "us")
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		want           string
	}{
		{"a peer", eu.Server("us"), us.Client("replicator", "eu"), ""},
		{"any region", eu.Server(), ap.Client("replicator", "eu"), ""},
		{"a region that may not call", eu.Server("us"), ap.Client("replicator", "eu"), "region ap"},
		{"another region answers", ap.Server(), us.Client("replicator", "eu"), "bad certificate"},
		{"another service answers", eu.Server(), us.Client("router", "eu"), "bad certificate"},
		{"of another authority", eu.Server("us"), stranger.Client("replicator", "eu"), "certificate"},
		{"without a certificate", eu.Server("us"), &tls.Config{RootCAs: us.Roots, ServerName: "replicator.eu.antipode"}, "didn't provide a certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := shake(c.server, c.client)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestFolderIsKept(t *testing.T) {
	dir := t.TempDir()
	first := identity(t, open(t, dir), "gateway", "eu")
	again := identity(t, open(t, dir), "gateway", "eu")
	if !first.Certificate.Leaf.Equal(again.Certificate.Leaf) {
		t.Error("a second start made another certificate")
	}
	if first.Certificate.Leaf.VerifyHostname("127.0.0.1") != nil || first.Certificate.Leaf.VerifyHostname("gateway.eu.antipode") != nil {
		t.Errorf("names: %v %v", first.Certificate.Leaf.DNSNames, first.Certificate.Leaf.IPAddresses)
	}
	info, err := os.Stat(filepath.Join(dir, "ca-key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key has mode %v, %v", info.Mode(), err)
	}
	late := open(t, dir)
	late.now = func() time.Time { return time.Now().Add(leafLife - leafRenew + time.Hour) }
	if renewed := identity(t, late, "gateway", "eu"); renewed.Certificate.Leaf.Equal(first.Certificate.Leaf) {
		t.Error("a certificate near its end is not renewed")
	}
	if err := os.WriteFile(filepath.Join(dir, "gateway.eu.antipode-key.pem"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	identity(t, open(t, dir), "gateway", "eu")
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a torn authority must be an error that names the folder, got %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	identity(t, a, "router", "eu")
	path := func(name string) string { return filepath.Join(dir, name) }
	i, err := Load(path("router.eu.antipode.pem"), path("router.eu.antipode-key.pem"), path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := shake(i.Server("us"), identity(t, a, "replicator", "us").Client("router", "eu")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path("ca.pem"), path("ca-key.pem"), path("ca.pem")); err == nil {
		t.Error("a certificate without a service's name was loaded")
	}
	if _, err := Load(path("router.eu.antipode.pem"), path("router.eu.antipode-key.pem"), path("ca-key.pem")); err == nil {
		t.Error("roots without a certificate were loaded")
	}
}

func TestIdentify(t *testing.T) {
	for _, c := range []struct {
		names   []string
		service string
		region  im.Region
	}{
		{[]string{"replicator.eu.antipode"}, "replicator", "eu"},
		{[]string{"localhost", "gateway.us-east-1.antipode"}, "gateway", "us-east-1"},
		{[]string{"replicator.eu.antipode.example.org"}, "", ""},
		{[]string{".eu.antipode"}, "", ""},
		{[]string{"replicator.EU.antipode"}, "", ""},
		{[]string{"a.b.eu.antipode"}, "", ""},
		{nil, "", ""},
	} {
		service, region, err := Identify(&x509.Certificate{DNSNames: c.names})
		if service != c.service || region != c.region || (err == nil) != (c.service != "") {
			t.Errorf("%q: got %q %q %v", c.names, service, region, err)
		}
	}
}

func TestKeysArePEM(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	for _, name := range []string{"ca.pem", "ca-key.pem"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if block, rest := pem.Decode(b); block == nil || len(rest) > 0 {
			t.Errorf("%s is not one PEM block", name)
		}
	}
}
