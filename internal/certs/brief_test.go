package certs

import (
	"crypto/sha256"
	"net"
	"testing"
	"time"
)

// What browsers ask of a certificate that they take by its hash: two weeks at most, ECDSA, and the address.
func TestBrief(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	cert, hash, err := Brief(now, net.IPv4(127, 0, 0, 11))
	if err != nil {
		t.Fatal(err)
	}
	leaf := cert.Leaf
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 14*24*time.Hour || now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		t.Errorf("good from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if hash != sha256.Sum256(leaf.Raw) {
		t.Error("the hash is of something else")
	}
	for _, host := range []string{"localhost", "127.0.0.1", "127.0.0.11", "::1"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
}
