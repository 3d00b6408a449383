package wire

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

func TestCatalogue(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	now := time.UnixMilli(1_000_000)
	c := Catalogue{
		Version: "v", IssuedMs: now.UnixMilli(), UntilMs: now.Add(time.Hour).UnixMilli(), IPConfs: []string{"https://ipconf.example"},
		Gateways: []Endpoint{EndpointOf(im.Instance{ID: "g1", Region: "eu", URL: "https://g1.example"})},
	}
	signed, err := SignCatalogue(c, "k1", private)
	if err != nil {
		t.Fatal(err)
	}
	open := func(change func(*SignedCatalogue), keys map[string]ed25519.PublicKey, at time.Time) (Catalogue, error) {
		s := signed
		change(&s)
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return OpenCatalogue(b, keys, at)
	}
	same := func(*SignedCatalogue) {}
	good := map[string]ed25519.PublicKey{"k0": other, "k1": public}
	got, err := open(same, good, now)
	if err != nil || len(got.Gateways) != 1 || got.Gateways[0].URL != "wss://g1.example/v1/ws" || got.IPConfs[0] != c.IPConfs[0] {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, bad := range map[string]func() error{
		"was good until": func() error { _, err := open(same, good, now.Add(time.Hour)); return err },
		"not among those trusted": func() error {
			_, err := open(same, map[string]ed25519.PublicKey{"k0": other}, now)
			return err
		},
		"not good": func() error { _, err := open(func(s *SignedCatalogue) { s.Key = "k0" }, good, now); return err },
		"signature is not good": func() error {
			_, err := open(func(s *SignedCatalogue) { s.Catalogue = "e30=" }, good, now)
			return err
		},
	} {
		if err := bad(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
