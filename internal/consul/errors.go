package consul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/consul/api"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/registry"
)

// DatacenterError says that the agent is of another datacenter than the region's.
type DatacenterError struct {
	Agent  string
	Region im.Region
}

// Error names both.
func (e *DatacenterError) Error() string {
	return fmt.Sprintf("the agent is of datacenter %q, and the region is %q", e.Agent, e.Region)
}

// oldestMinor is the minor version, of 1, that docs/operations.md asks for.
const oldestMinor = 10

// VersionError says that the agent is too old.
type VersionError struct{ Has string }

// Error tells both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("it is Consul %s: version 1.%d or later is needed", e.Has, oldestMinor)
}

// tooOld tells of a version that is known to be; of one that is not read nothing is known.
func tooOld(version string) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err := strconv.Atoi(first)
	if err != nil || major > 1 {
		return false
	}
	minor, err := strconv.Atoi(second)
	return major < 1 || err == nil && minor < oldestMinor
}

var (
	errNoLeader = errors.New("the datacenter has no leader")
	errHidden   = errors.New("the token may not read this: the answer is cut to nothing")
	errUnlisted = errors.New("the agent took the registration, and the catalogue does not show it")
)

// fail names the agent. Errors that a later try may not meet are registry.ErrSilent too.
func (c *Consul) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	if what != "" {
		what += ": "
	}
	if _, _, final := Explain(err); final {
		return fmt.Errorf("consul at %s: %s%w", c.cfg.Address, what, err)
	}
	return fmt.Errorf("consul at %s: %s%w: %w", c.cfg.Address, what, registry.ErrSilent, err)
}

// Explain says for people what an error of this package means and what to do about it. final means that waiting does not
// help.
func Explain(err error) (problem, remedy string, final bool) {
	var (
		status api.StatusError
		wrong  *DatacenterError
		old    *VersionError
		timed  net.Error
		name   *net.DNSError
		call   *url.Error
	)
	if problem, remedy, final, ok := explainTLS(err); ok {
		return problem, remedy, final
	}
	switch {
	case errors.As(err, &wrong):
		return wrong.Error(), "set discovery.address to an agent of the region's own datacenter (datacenters are named like regions)", true
	case errors.As(err, &old):
		return old.Error(), "upgrade the Consul agent and its servers", true
	case errors.Is(err, errHidden):
		return "the token may not read services", "give discovery.token service:read and node:read on everything", true
	case errors.As(err, &status) && status.Code == http.StatusForbidden && strings.Contains(status.Body, "ACL not found"):
		return "the token is not known", "correct discovery.token or discovery.token_file", true
	case errors.As(err, &status) && status.Code == http.StatusForbidden:
		return "the token is refused: " + line(status.Body), "give discovery.token service:write on its own service and key:write on the states and members of regions", true
	case errors.As(err, &status) && status.Code == http.StatusBadRequest:
		return "it is not understood: " + line(status.Body), "check that discovery.address is a Consul agent's HTTP API", true
	case errors.As(err, &status):
		return line(status.Body), "check the Consul servers' logs", false
	case errors.Is(err, errUnlisted):
		return errUnlisted.Error(), "give the agent's own token node:write on its node, and discovery.token service:write on its own service; the agent's log tells more", false
	case errors.Is(err, errNoLeader):
		return errNoLeader.Error(), "start most of its Consul servers", false
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "start the Consul agent, or correct discovery.address", false
	case errors.As(err, &name):
		return "no such host: " + name.Name, "correct discovery.address", false
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it hangs up at once", "check that discovery.address is a Consul agent's HTTP API, and discovery.tls what it asks for", false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return "no answer in time", "check that the Consul agent runs and discovery.address is reachable", false
	}
	if errors.As(err, &call) { // the rest of the text is the call
		err = call.Err
	}
	return line(err.Error()), "check the Consul agent and discovery.address", false
}

// explainTLS is Explain for errors of TLS between the process and the agent.
func explainTLS(err error) (problem, remedy string, final, ok bool) {
	var (
		status    api.StatusError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		alert     *net.OpError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &status) && status.Code == http.StatusBadRequest && strings.Contains(status.Body, "HTTP request to an HTTPS server"):
		return "it speaks TLS", "set discovery.tls.enabled to true, or name the agent's HTTP port in discovery.address", true, true
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return "it does not speak TLS", "set discovery.tls.enabled to false, or name the agent's HTTPS port in discovery.address", true, true
	case errors.As(err, &authority):
		return "its certificate is signed by an authority that is not trusted", "set discovery.tls.ca to the agent's authority", true, true
	case errors.As(err, &hostname):
		return fmt.Sprintf("its certificate is of %s, and it was asked for %s", namesOf(hostname.Certificate), hostname.Host),
			"set discovery.tls.server_name to one of those", true, true
	case errors.As(err, &invalid):
		return "its certificate is not good: " + line(invalid.Error()), "renew the agent's certificate, or correct this machine's clock", true, true
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "it does not accept our certificate, or that there is none: " + line(alert.Err.Error()), "set discovery.tls.cert and discovery.tls.key to what the agent trusts", true, true
	}
	return "", "", false, false
}

// namesOf lists whom a certificate is of.
func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "nobody"
	}
	return line(strings.Join(names, " or "))
}

// line makes one line of a text.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// unknown tells whether the agent does not have what was named.
func unknown(err error) bool {
	var status api.StatusError
	if !errors.As(err, &status) {
		return false
	}
	// Agents before 1.11 answer 500 to the renewal of a check they do not know.
	return status.Code == http.StatusNotFound || strings.Contains(strings.ToLower(status.Body), "unknown check") ||
		strings.Contains(strings.ToLower(status.Body), "unknown service")
}

// denied tells whether a good token lacks a right.
func denied(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == http.StatusForbidden && !strings.Contains(status.Body, "ACL not found")
}
