package client

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// fakeIPConf answers by script.
type fakeIPConf struct {
	list    wire.Endpoints
	signed  wire.SignedCatalogue
	deny    *im.Error
	asked   atomic.Int32
	queries []string
}

func (f *fakeIPConf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var answer any = f.list
	switch {
	case r.URL.Path == "/v1/catalogue":
		answer = f.signed
	case f.deny != nil:
		b, err := wire.ErrorJSON(wire.ErrorFrame(f.deny))
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.deny.Code.Spec().HTTP)
		w.Write(b)
		f.asked.Add(1)
		return
	default:
		f.asked.Add(1)
		f.queries = append(f.queries, r.URL.RawQuery)
		w.Header().Set("ETag", `W/"1"`)
		if r.Header.Get("If-None-Match") == `W/"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	json.NewEncoder(w).Encode(answer)
}

func endpointOf(region, id string) wire.Endpoint {
	return wire.EndpointOf(im.Instance{ID: id, Region: im.Region(region), URL: "https://" + id + ".example"})
}

func startIPConf(t *testing.T, f *fakeIPConf) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

func newList(t *testing.T, cfg Config) *endpoints {
	t.Helper()
	cfg.Token = StaticToken("x")
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cfg.HTTP.CloseIdleConnections)
	return newEndpoints(&cfg)
}

func ids(list []wire.Endpoint) string {
	var all []string
	for _, g := range list {
		all = append(all, g.ID)
	}
	return strings.Join(all, " ")
}

// An ipconf that says when to come back is obeyed: no other is asked, and the last list is not used.
func TestToldToWait(t *testing.T) {
	for _, code := range []im.Code{im.CodeOverloaded, im.CodeTooManyRequests} {
		toldToWaitBy(t, code)
	}
}

func toldToWaitBy(t *testing.T, code im.Code) {
	t.Helper()
	full := &fakeIPConf{deny: &im.Error{Code: code, RetryAfter: 7 * time.Second}}
	other := &fakeIPConf{list: wire.Endpoints{Gateways: []wire.Endpoint{endpointOf("eu", "e1")}}}
	e := newList(t, Config{IPConf: []string{startIPConf(t, full), startIPConf(t, other)}, Endpoints: []wire.Endpoint{endpointOf("eu", "old")}})
	list, err := e.get(t.Context(), "ann", "d", true)
	if said, ok := asError(err); !ok || said.RetryAfter != 7*time.Second || list != nil {
		t.Fatalf("%v, %v", list, err)
	}
	if d := delay(e.currentPolicy(), 1, err); d < 7*time.Second {
		t.Errorf("it comes back after %v", d)
	}
	if other.asked.Load() > 0 {
		t.Error("another ipconf was asked")
	}
	asked := full.asked.Load()
	if _, err := e.get(t.Context(), "ann", "d", true); im.CodeOf(err) != im.CodeOverloaded || full.asked.Load() != asked {
		t.Errorf("asked before it was time: %v", err)
	}
	e.after = time.Now()
	full.deny = &im.Error{Code: im.CodeUnready}
	if list, err := e.get(t.Context(), "ann", "d", true); err != nil || ids(list) != "e1" {
		t.Errorf("one ipconf is unready, another answers: %v, %v", list, err)
	}
}

// What failed is told once, an unchanged list is not sent again, and of an old list only the first few are tried.
func TestAsksAgain(t *testing.T) {
	f := &fakeIPConf{list: wire.Endpoints{TTLMs: 60_000}}
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		f.list.Gateways = append(f.list.Gateways, endpointOf("eu", id))
	}
	e := newList(t, Config{IPConf: []string{startIPConf(t, f)}})
	get := func(force bool) string {
		t.Helper()
		list, err := e.get(t.Context(), "ann", "d", force)
		if err != nil {
			t.Fatal(err)
		}
		return ids(list)
	}
	if got := get(true); got != "a b c d e f" {
		t.Fatal(got)
	}
	if got := get(false); got != "a b c" || f.asked.Load() != 1 {
		t.Fatalf("%q after %d asks", got, f.asked.Load())
	}
	if got := get(true); got != "a b c d e f" || f.asked.Load() != 2 {
		t.Fatalf("an unchanged list: %q after %d asks", got, f.asked.Load())
	}
	e.failed("eu/b")
	if got := get(true); got != "a c d e f b" || !strings.Contains(f.queries[2], "failed=eu%2Fb") {
		t.Fatalf("%q, %v", got, f.queries)
	}
	get(true)
	if strings.Contains(f.queries[3], "failed") {
		t.Errorf("a failure is told twice: %v", f.queries)
	}
}

// A client with keys takes only what the signed catalogue names, and keeps it for a start without any ipconf.
func TestOnlyWhatIsSigned(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, impostor, _ := ed25519.GenerateKey(nil)
	good, moved := endpointOf("eu", "good"), endpointOf("eu", "moved")
	sign := func(key ed25519.PrivateKey, version string, until time.Time) wire.SignedCatalogue {
		s, err := wire.SignCatalogue(wire.Catalogue{
			Version: version, IssuedMs: time.Now().UnixMilli(), UntilMs: until.UnixMilli(), Gateways: []wire.Endpoint{good, moved},
		}, "k", key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	evil := moved
	evil.URL = "wss://evil.example/v1/ws"
	f := &fakeIPConf{
		list:   wire.Endpoints{Catalogue: "v1", Gateways: []wire.Endpoint{evil, good, endpointOf("eu", "stranger")}},
		signed: sign(private, "v1", time.Now().Add(time.Hour)),
	}
	cfg := Config{
		IPConf: []string{startIPConf(t, f)}, CatalogueKeys: map[string]ed25519.PublicKey{"k": public},
		Store: FileStore{Path: filepath.Join(t.TempDir(), "device")},
	}
	get := func(cfg Config) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		list, err := newList(t, cfg).get(ctx, "ann", "d", true)
		return ids(list), err
	}
	if got, err := get(cfg); err != nil || got != "good" {
		t.Fatalf("%q, %v", got, err)
	}
	offline := cfg
	offline.IPConf = []string{"http://127.0.0.1:1"}
	if got, err := get(offline); err != nil || got != "good" {
		t.Errorf("no ipconf answers: %q, %v", got, err)
	}
	// None of a list that is left in the catalogue: its gateways are as good, those of the wanted region first.
	var saved savedList
	b, err := cfg.Store.(ListStore).LoadList(t.Context())
	if err := errors.Join(err, json.Unmarshal(b, &saved)); err != nil {
		t.Fatal(err)
	}
	saved.List.Gateways = []wire.Endpoint{evil}
	b, _ = json.Marshal(saved)
	if err := cfg.Store.(ListStore).SaveList(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got, err := get(offline); err != nil || got != "good moved" && got != "moved good" {
		t.Errorf("no stored gateway is in the catalogue: %q, %v", got, err)
	}
	offline.CatalogueKeys = map[string]ed25519.PublicKey{"k": impostor.Public().(ed25519.PublicKey)}
	if got, err := get(offline); err == nil {
		t.Errorf("a stored list was trusted under another key: %q", got)
	}
	cfg.Store = nil
	for why, s := range map[string]wire.SignedCatalogue{
		"another key": sign(impostor, "v1", time.Now().Add(time.Hour)), "too old": sign(private, "v1", time.Now()),
	} {
		f.signed = s
		if got, err := get(cfg); err == nil || !strings.Contains(err.Error(), "cannot be trusted") {
			t.Errorf("%s: %q, %v", why, got, err)
		}
	}
}
