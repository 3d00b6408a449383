package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/antipode-im/antipode/im"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	leafRenew     = leafLife / 3 // a leaf with less than this left is made anew
)

// Authority is a certificate authority in a folder: ca.pem, ca-key.pem, and a pair for each leaf. The folder is for one
// machine's eyes only: who reads it can be any service.
type Authority struct {
	dir  string
	now  func() time.Time
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open reads the authority in dir, or makes one there.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	a := &Authority{dir: dir, now: time.Now}
	cert, key, err := readPair(a.path("ca"))
	switch {
	case err == nil && cert.IsCA && a.now().Before(cert.NotAfter):
		a.cert, a.key = cert, key
		return a, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("certs: the authority in %s: %w; delete the folder to have a new one made", dir, err)
	}
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "antipode dev authority"},
		NotBefore: a.now().Add(-time.Hour), NotAfter: a.now().Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	if err := writePair(a.path("ca"), der, a.key); err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	return a, nil
}

// Identity returns the identity of a region's service: the one in the folder, or a new one. Its names are
// <service>.<region>.antipode, localhost and the loopback addresses.
func (a *Authority) Identity(service string, r im.Region) (*Identity, error) {
	name := Name(service, r)
	cert, key, err := readPair(a.path(name)) // a pair that cannot be read is made anew, like one that is missing
	if err != nil || cert.CheckSignatureFrom(a.cert) != nil || cert.NotAfter.Sub(a.now()) < leafRenew {
		if cert, key, err = a.issue(name); err != nil {
			return nil, fmt.Errorf("certs: %w", err)
		}
	}
	return &Identity{
		Certificate: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert},
		Roots:       a.roots(),
	}, nil
}

func (a *Authority) issue(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: a.now().Add(-time.Hour), NotAfter: a.now().Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{name, "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, writePair(a.path(name), der, key)
}

func (a *Authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

// Load reads an identity from PEM files: certificate (with its chain), key, and the authorities to trust.
func Load(certFile, keyFile, rootsFile string) (*Identity, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("certs: %s and %s: %w", certFile, keyFile, err)
	}
	if _, _, err := Identify(cert.Leaf); err != nil {
		return nil, fmt.Errorf("certs: %s: %w", certFile, err)
	}
	b, err := os.ReadFile(rootsFile)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("certs: %s holds no certificate", rootsFile)
	}
	return &Identity{Certificate: cert, Roots: pool}, nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // serial numbers are positive
	return new(big.Int).SetBytes(b[:])
}

func readPair(path string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	pair, err := tls.LoadX509KeyPair(path+".pem", path+"-key.pem")
	if err != nil {
		return nil, nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("%s-key.pem: want an ECDSA key", path)
	}
	return pair.Leaf, key, nil
}

// writePair writes the key first, and both by renaming, so that a reader finds a whole pair or none.
func writePair(path string, der []byte, key *ecdsa.PrivateKey) error {
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(path+"-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), 0o600); err != nil {
		return err
	}
	return writeFile(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func writeFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
