package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Pair is a certificate and its key in PEM files that whoever renews them writes anew: what it gives is what the files last
// held together. Certificate may be called from many goroutines.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
	failed            string // why the files were refused last
}

// pairEvery is how often the files are looked at. They are small, and read whole: times of files do not tell of a file
// that was renamed into place with an older one's, and a pair is two files of which one changes first.
const pairEvery = 10 * time.Second

// OpenPair reads the files. Files that are no pair, or whose certificate is over, are an error now; later, the last good
// pair stays.
func OpenPair(certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pair{certFile: certFile, keyFile: keyFile, log: log}
	c, err := p.read()
	if err != nil {
		return nil, err
	}
	p.current.Store(c)
	return p, nil
}

func (p *Pair) read() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return nil, fmt.Errorf("certs: %s and %s: %w", p.certFile, p.keyFile, err)
	}
	if time.Now().After(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("certs: %s: the certificate was good until %s: renew it", p.certFile, c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &c, nil
}

// Certificate is for tls.Config.GetCertificate.
func (p *Pair) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.current.Load(), nil
}

// Expires is when the present certificate ends.
func (p *Pair) Expires() time.Time { return p.current.Load().Leaf.NotAfter }

// Run looks for changes of the files until ctx ends.
func (p *Pair) Run(ctx context.Context) error {
	t := time.NewTicker(pairEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.Refresh()
		case <-ctx.Done():
			return nil
		}
	}
}

// Refresh takes what the files hold now. What is no good is told to the logger, once, and the last good pair stays.
func (p *Pair) Refresh() {
	c, err := p.read()
	if err != nil {
		if why := err.Error(); why != p.failed {
			p.failed = why
			p.log.Warn("the last good certificate stays", "error", err, "good_until", p.Expires())
		}
		return
	}
	p.failed = ""
	if !c.Leaf.Equal(p.current.Load().Leaf) {
		p.current.Store(c)
		p.log.Info("a new certificate is shown to clients", "file", p.certFile, "names", c.Leaf.DNSNames, "good_until", c.Leaf.NotAfter)
	}
}
