package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/web"
)

// dev notes the orders it is given. It knows the regions eu and us and the gateway gw-1 of eu.
type dev struct {
	orders []string
	broken error
}

func (d *dev) State(context.Context) (State, error) {
	return State{NowMS: 1, Regions: []Region{{Name: "eu", State: PowerUp}}}, d.broken
}

func (d *dev) note(known bool, format string, args ...any) error {
	if !known {
		return fmt.Errorf("no such thing: %w", ErrUnknown)
	}
	d.orders = append(d.orders, fmt.Sprintf(format, args...))
	return nil
}

func (d *dev) Cut(_ context.Context, from, to im.Region) error {
	return d.note(from == "eu" && to == "us", "cut %s %s", from, to)
}

func (d *dev) Heal(_ context.Context, from, to im.Region) error {
	return d.note(from == "eu" && to == "us", "heal %s %s", from, to)
}

func (d *dev) Delay(_ context.Context, from, to im.Region, delay time.Duration) error {
	return d.note(from == "eu" && to == "us", "delay %s %s %v", from, to, delay)
}

func (d *dev) Kill(_ context.Context, t Target) error {
	return d.note(t.Region == "eu" && (t.Gateway == "" || t.Gateway == "gw-1"), "kill %s/%s", t.Region, t.Gateway)
}

func (d *dev) Restart(_ context.Context, t Target) error {
	return d.note(t.Region == "eu", "restart %s/%s", t.Region, t.Gateway)
}

func (d *dev) Recent(_ context.Context, limit int) ([]Trace, error) {
	return []Trace{{ID: "0af7651916cd43dd8448eb211c80319c", Spans: limit}}, nil
}

func (d *dev) Spans(_ context.Context, id string) ([]Span, error) {
	if id != "0af7651916cd43dd8448eb211c80319c" {
		return nil, nil
	}
	return []Span{{ID: "b7ad6b7169203331", Name: "submit", Region: "eu"}}, nil
}

func newConsole(t *testing.T, d *dev) http.Handler {
	t.Helper()
	tokens := func(uid im.UID) (string, time.Time, error) {
		return "token-of-" + string(uid), time.UnixMilli(42), nil
	}
	h, err := New(Config{Endpoints: []Endpoint{{Region: "eu", IPConf: "http://127.0.0.1:1"}}},
		Deps{Watcher: d, Links: d, Switch: d, Tokens: tokens, Traces: d})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(h http.Handler, method, path string, header map[string]string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:7400"+path, nil)
	for name, value := range header {
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	h := newConsole(t, &dev{})
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/", 200, "Antipode chat"},
		{"/console", 200, "Antipode console"},
		{"/sdk/antipode.js", 200, "export class Client"},
		{"/sdk", 404, "no such page"},
		{"/sdk/", 404, "no such page"},
		{"/embed.go", 404, "no such page"},
		{"/dev/state.json", 200, `"regions":[{"name":"eu"`},
		{"/dev/state.json", 200, `"links":[],"gateways":[]`},
		{"/dev/endpoints.json", 200, `{"regions":[{"region":"eu","ipconf":"http://127.0.0.1:1"}]}`},
		{"/dev/token?uid=ann", 200, `{"token":"token-of-ann","expires_ms":42}`},
		{"/dev/token?uid=a:b", 400, "uid"},
		{"/dev/token", 400, "uid"},
		{"/dev/traces", 200, `"spans":50`},
		{"/dev/traces?limit=7", 200, `"spans":7`},
		{"/dev/traces?limit=0", 400, "limit"},
		{"/dev/traces/0af7651916cd43dd8448eb211c80319c", 200, `"name":"submit"`},
		{"/dev/traces/none", 404, "not sampled"},
		{"/../../etc/passwd", 307, ""}, // ServeMux cleans paths
	} {
		w := ask(h, "GET", c.path, nil)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("GET %s: %d %.200s; want %d with %q", c.path, w.Code, w.Body, c.status, c.want)
		}
	}
}

func TestOrders(t *testing.T) {
	d := &dev{}
	h := newConsole(t, d)
	for _, c := range []struct {
		path   string
		status int
		order  string
	}{
		{"/dev/links/eu/us/cut", 204, "cut eu us"},
		{"/dev/links/eu/us/heal", 204, "heal eu us"},
		{"/dev/links/eu/us/delay?ms=80", 204, "delay eu us 80ms"},
		{"/dev/links/eu/us/delay", 400, ""},
		{"/dev/links/eu/us/delay?ms=-1", 400, ""},
		{"/dev/links/eu/us/delay?ms=10001", 400, ""},
		{"/dev/links/eu/us/melt", 404, ""},
		{"/dev/links/eu/mars/cut", 404, ""},
		{"/dev/gateways/eu/gw-1/kill", 204, "kill eu/gw-1"},
		{"/dev/gateways/eu/gw-1/restart", 204, "restart eu/gw-1"},
		{"/dev/gateways/eu/gw-9/kill", 404, ""},
		{"/dev/regions/eu/kill", 204, "kill eu/"},
		{"/dev/regions/eu/restart", 204, "restart eu/"},
		{"/dev/regions/eu/drown", 404, ""},
		{"/dev/state.json", 405, ""},
	} {
		d.orders = nil
		w := ask(h, "POST", c.path, map[string]string{Header: "1"})
		if got := strings.Join(d.orders, ";"); w.Code != c.status || got != c.order {
			t.Errorf("POST %s: %d, order %q; want %d, %q", c.path, w.Code, got, c.status, c.order)
		}
		if got := ask(h, "GET", c.path, nil).Code; c.status == 204 && got < 400 {
			t.Errorf("GET %s: %d; an order must not go by GET", c.path, got)
		}
	}
}

func TestRefusesOthersSites(t *testing.T) {
	d := &dev{}
	h := newConsole(t, d)
	const order = "/dev/regions/eu/kill"
	for name, c := range map[string]struct {
		method, path string
		header       map[string]string
	}{
		"no header":            {"POST", order, nil},
		"another site's fetch": {"POST", order, map[string]string{Header: "1", "Sec-Fetch-Site": "cross-site"}},
		"another port's page":  {"POST", order, map[string]string{Header: "1", "Sec-Fetch-Site": "same-site"}},
		"another origin":       {"POST", order, map[string]string{Header: "1", "Origin": "http://evil.example"}},
		"a name rebound":       {"POST", order, map[string]string{Header: "1", "Host": "evil.example:7400"}},
		"a token by rebinding": {"GET", "/dev/token?uid=ann", map[string]string{"Host": "evil.example:7400"}},
		"a page by rebinding":  {"GET", "/", map[string]string{"Host": "127.0.0.1.evil.example"}},
	} {
		if w := ask(h, c.method, c.path, c.header); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s; want 403", name, w.Code, w.Body)
		}
	}
	if d.orders != nil {
		t.Errorf("orders were taken: %v", d.orders)
	}
	for name, host := range map[string]string{"name": "localhost:7400", "IPv4": "127.0.0.9:1", "IPv6": "[::1]:7400", "no port": "localhost"} {
		w := ask(h, "POST", order, map[string]string{Header: "1", "Host": host, "Sec-Fetch-Site": "same-origin"})
		if w.Code != http.StatusNoContent {
			t.Errorf("loopback %s %s: %d %s; want 204", name, host, w.Code, w.Body)
		}
	}
}

func TestErrorsAreJSON(t *testing.T) {
	d := &dev{broken: errors.New("out of order")}
	w := ask(newConsole(t, d), "GET", "/dev/state.json", nil)
	var answer struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 500 || answer.Error != "out of order" {
		t.Errorf("%d %s (%v); want 500 with the error", w.Code, w.Body, err)
	}
}

func TestNeedsAllDeps(t *testing.T) {
	if _, err := New(Config{}, Deps{}); err == nil {
		t.Error("a console without anything behind it was made")
	}
}

// The policy forbids inline scripts and styles, and files of other sites; so the pages must have none, or they break.
func TestPagesHoldToTheirPolicy(t *testing.T) {
	h := newConsole(t, &dev{})
	csp := ask(h, "GET", "/", nil).Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("policy %q lacks %q", csp, want)
		}
	}
	inline := regexp.MustCompile(`(?i)<script(?:[^>]*>)\s*[^<\s]|<style|\sstyle=|\son[a-z]+=|(?:src|href)="(?:https?:)?//`)
	for _, page := range []string{"chat.html", "console.html"} {
		b, err := fs.ReadFile(web.Files(), page)
		if err != nil {
			t.Fatal(err)
		}
		if found := inline.FindString(string(b)); found != "" {
			t.Errorf("%s has %q", page, found)
		}
	}
}
