// Package certs makes and reads the certificates of east-west calls and links. The name of a service is
// <service>.<region>.antipode, a DNS name in its certificate; peers are authorised by the region in it.
//
// An Authority keeps a certificate authority in a folder, for `antipode dev` and tests. Production brings its own
// certificates with the same names (Load).
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/antipode-im/antipode/im"
)

// Domain ends the name of every service.
const Domain = "antipode"

// Name is the name of a region's service in certificates.
func Name(service string, r im.Region) string { return service + "." + string(r) + "." + Domain }

// Identify reads service and region from a certificate.
func Identify(c *x509.Certificate) (service string, r im.Region, err error) {
	for _, name := range c.DNSNames {
		service, rest, ok := strings.Cut(name, ".")
		if !ok || service == "" {
			continue
		}
		region, ok := strings.CutSuffix(rest, "."+Domain)
		if !ok {
			continue
		}
		if r, err := im.ParseRegion(region); err == nil {
			return service, r, nil
		}
	}
	return "", "", fmt.Errorf("the certificate names %q; want one <service>.<region>.%s", c.DNSNames, Domain)
}

// Identity is a service's certificate and the authority it trusts.
type Identity struct {
	Certificate tls.Certificate
	Roots       *x509.CertPool
}

// Server returns the configuration of a server that only services of the given regions may call; none given: of any
// region that the authority signed for.
func (i *Identity) Server(regions ...im.Region) *tls.Config {
	return i.ServerOf(func() []im.Region { return regions })
}

// ServerOf is Server for regions that may change: they are asked for at every connection.
func (i *Identity) ServerOf(regions func() []im.Region) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{i.Certificate},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        i.Roots,
		VerifyConnection: allow(regions),
	}
}

// Client returns the configuration of a client that calls one region's service, and no other.
func (i *Identity) Client(service string, r im.Region) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.Certificate},
		RootCAs:      i.Roots,
		ServerName:   Name(service, r),
	}
}

func allow(from func() []im.Region) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		regions := from()
		_, r, err := Identify(s.PeerCertificates[0])
		if err != nil {
			return err
		}
		if len(regions) > 0 && !slices.Contains(regions, r) {
			return fmt.Errorf("the certificate is of region %s, which may not call here; allowed: %v", r, regions)
		}
		return nil
	}
}
