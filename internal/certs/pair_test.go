package certs

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// keep copies the pair of a service to where a gateway reads its own.
func keep(t *testing.T, a *Authority, r im.Region, to string, suffixes ...string) {
	t.Helper()
	identity(t, a, "gateway", r)
	for _, s := range suffixes {
		b, err := os.ReadFile(filepath.Join(a.dir, Name("gateway", r)+s))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+s, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func shown(t *testing.T, p *Pair) string {
	t.Helper()
	c, err := p.Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf.DNSNames[0]
}

func TestPairFollowsItsFiles(t *testing.T) {
	a := open(t, t.TempDir())
	at := filepath.Join(t.TempDir(), "public")
	if _, err := OpenPair(at+".pem", at+"-key.pem", nil); err == nil {
		t.Fatal("files that are not there were opened")
	}
	keep(t, a, "eu", at, ".pem", "-key.pem")
	var log bytes.Buffer
	p, err := OpenPair(at+".pem", at+"-key.pem", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, p); got != "gateway.eu.antipode" {
		t.Fatal(got)
	}
	p.Refresh()
	if log.Len() > 0 {
		t.Fatal("nothing changed: ", log.String())
	}
	keep(t, a, "us", at, ".pem") // the key is not there yet
	p.Refresh()
	p.Refresh()
	if got := shown(t, p); got != "gateway.eu.antipode" {
		t.Fatal("half a pair was taken: ", got)
	}
	if n := strings.Count(log.String(), "the last good certificate stays"); n != 1 {
		t.Fatalf("told %d times: %s", n, log.String())
	}
	keep(t, a, "us", at, "-key.pem")
	p.Refresh()
	if got := shown(t, p); got != "gateway.us.antipode" || p.Expires().Before(time.Now()) {
		t.Fatal(got, p.Expires())
	}
}

func TestPairThatIsOver(t *testing.T) {
	a := open(t, t.TempDir())
	at := filepath.Join(t.TempDir(), "public")
	now := a.now
	a.now = func() time.Time { return now().Add(-2 * leafLife) }
	cert, key, err := a.issue("old")
	if err != nil {
		t.Fatal(err)
	}
	if err := writePair(at, cert.Raw, key); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPair(at+".pem", at+"-key.pem", nil); err == nil || !strings.Contains(err.Error(), "renew it") {
		t.Fatal(err)
	}
}
