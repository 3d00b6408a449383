package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/internal/certs"
)

func runCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	root := newRootCommand()
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// What keys makes is what services load and gateways verify with, and a second run keeps it.
func TestKeysOfATrial(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	for range 2 {
		if _, err := runCommand(t, "keys", "--out", dir, "--regions", "eu,us"); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	identity, err := certs.Load(at("router.us.antipode.pem"), at("router.us.antipode-key.pem"), at("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if service, region, err := certs.Identify(identity.Certificate.Leaf); service != "router" || region != "us" || err != nil {
		t.Fatalf("the certificate of us' router names %q in %q: %v", service, region, err)
	}

	token, err := runCommand(t, "token", "--keys", dir, "--as", "ann")
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(at("token-key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.NewVerifier(auth.Config{
		Keys: []auth.Key{{ID: "trial", Algorithm: auth.EdDSA, Public: strings.TrimSpace(string(public))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := verifier.Verify(strings.TrimSpace(token))
	if err != nil || claims.UID != "ann" {
		t.Fatalf("the token says %+v: %v", claims, err)
	}
}

func TestTokenRefusals(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"token", "--keys", empty, "--as", "ann"}, "make it with: antipode keys --out " + empty},
		{[]string{"token", "--keys", empty, "--as", "a:b"}, "--as"},
		{[]string{"token", "--keys", empty, "--as", "ann", "--for", "48h"}, "want up to 24h"},
		{[]string{"keys", "--out", empty, "--regions", "E U"}, "--regions"},
	} {
		if _, err := runCommand(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("antipode %s: %v; want %q", strings.Join(c.args, " "), err, c.want)
		}
	}
}
