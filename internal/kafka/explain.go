package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	kafkago "github.com/segmentio/kafka-go"
)

// Explain says for people what an error of this package means and what to do about it, a line each. lasting means that
// waiting does not help.
func Explain(err error) (problem, cure string, lasting bool) {
	var (
		setting   *SettingError
		code      kafkago.Error
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		timed     net.Error
		name      *net.DNSError
	)
	switch {
	case errors.As(err, &setting):
		return settings(err, setting)
	case errors.As(err, &code) && code == kafkago.SASLAuthenticationFailed, strings.Contains(err.Error(), "SASL Authentication"):
		return "the user's name or password is refused", "correct log.sasl", true
	case errors.As(err, &code) && (code == kafkago.UnsupportedSASLMechanism || code == kafkago.IllegalSASLState):
		return "it does not offer this way to authenticate", "correct log.sasl.mechanism", true
	case errors.As(err, &code):
		return strings.ToLower(code.Title()), remedy(err), final(err)
	case errors.As(err, &authority):
		return "its certificate is signed by an authority that is not trusted", "set log.tls.ca to the brokers' authority", true
	case errors.As(err, &hostname):
		return line(hostname.Error()), "name the brokers in log.brokers as their certificates do", true
	case errors.As(err, &invalid):
		return "its certificate is not good: " + line(invalid.Error()), "renew the brokers' certificates, or correct this machine's clock", true
	case alerted(err):
		return "it does not accept our certificate, or that there is none: " + alert(err), "set log.tls.cert and log.tls.key to what the brokers trust", true
	case wantsTLS(err):
		return "it speaks TLS", "set log.tls.enabled to true, or name the brokers' plain port in log.brokers", true
	case errors.As(err, &record):
		return "it does not speak TLS", "set log.tls.enabled to false, or name the brokers' TLS port in log.brokers", true
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "start Kafka, or correct log.brokers", false
	case errors.As(err, &name):
		return "no such host: " + name.Name, "correct log.brokers", false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "it hangs up at once", "check that log.brokers names a Kafka listener, and that log.tls and log.sasl are what it asks for", false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timed) && timed.Timeout():
		return "no answer in time", "check that Kafka runs and log.brokers is reachable", false
	}
	return line(err.Error()), "check that Kafka runs, log.brokers, log.tls and log.sasl", false
}

// settings tells of wrong topics: the first, and how many there are.
func settings(err error, first *SettingError) (problem, cure string, lasting bool) {
	more := ""
	if n := count(err) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more like it)", n)
	}
	if first.Found == "missing" {
		return "topic " + first.Topic + " is missing" + more, first.Remedy, true
	}
	return fmt.Sprintf("topic %s: %s is %s, want %s%s", first.Topic, first.Setting, first.Found, first.Wanted, more), first.Remedy, true
}

// count counts the settings that an error tells of.
func count(err error) int {
	switch e := err.(type) { //nolint:errorlint // the tree is walked, not searched
	case *SettingError:
		return 1
	case interface{ Unwrap() []error }:
		n := 0
		for _, inner := range e.Unwrap() {
			n += count(inner)
		}
		return n
	case interface{ Unwrap() error }:
		return count(e.Unwrap())
	}
	return 0
}

// alert is what a broker said when it ended a handshake.
func alert(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return line(op.Err.Error())
	}
	return line(err.Error())
}

// line makes one line of a text.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }
