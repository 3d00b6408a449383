package app

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/antipode-im/antipode/internal/certs"
)

// certificate opens what a gateway shows to clients, and follows its files while the process runs; nil: it speaks no TLS.
func (p *process) certificate() (*certs.Pair, error) {
	if p.site.ClientCert == "" {
		return nil, nil
	}
	pair, err := certs.OpenPair(p.site.ClientCert, p.site.ClientKey, p.tel.Log)
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("gateway.tls: %w", err)}
	}
	left, err := p.tel.Meter.Float64ObservableGauge("antipode_gateway_certificate_left", metric.WithUnit("s"),
		metric.WithDescription("How long the certificate that clients are shown is still good; told by gateways that speak TLS."))
	if err != nil {
		return nil, err
	}
	hook, err := p.tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(left, time.Until(pair.Expires()).Seconds())
		return nil
	}, left)
	if err != nil {
		return nil, err
	}
	p.onClose(func() { _ = hook.Unregister() })
	p.push("certificate", pair.Run)
	return pair, nil
}
