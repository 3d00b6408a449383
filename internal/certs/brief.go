package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"time"
)

// BriefLife is for how long a brief certificate is good: browsers take none by its hash that is good for more than two weeks.
const BriefLife = 13 * 24 * time.Hour

// Brief makes a certificate that signs itself, for loopback and one more address (nil: none), and returns its SHA-256 hash, by which browsers can be told
// to trust it (serverCertificateHashes of WebTransport).
func Brief(now time.Time, addr net.IP) (cert *tls.Certificate, hash [sha256.Size]byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, hash, fmt.Errorf("certs: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "antipode dev"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(BriefLife - time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if addr != nil {
		template.IPAddresses = append(template.IPAddresses, addr)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, hash, fmt.Errorf("certs: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, hash, fmt.Errorf("certs: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, sha256.Sum256(der), nil
}
