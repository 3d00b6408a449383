package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// post makes a request; an empty header value leaves the header out.
func (r *rig) post(path, body string, header map[string]string) (*http.Response, []byte) {
	r.t.Helper()
	request, err := http.NewRequest(http.MethodPost, r.g.URL()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		if v != "" {
			request.Header.Set(k, v)
		}
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response, b
}

func (r *rig) authorized(media string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + r.token("ann"), "Content-Type": media}
}

func TestFallback(t *testing.T) {
	r := newRig(t)
	submitted := submit(1, "d:ann:bob", "hi").Body
	response, b := r.post("/v1/submit", `{"conversation":"d:ann:bob","text":{"text":"hi"}}`, r.authorized("application/json; charset=utf-8"))
	if want := `{"conversation":"d:ann:bob","stamp":"1","origin":"eu"}`; response.StatusCode != 200 || string(b) != want {
		t.Errorf("submit in JSON: %d %s", response.StatusCode, b)
	}
	response, b = r.post("/v1/submit", string(submitted), r.authorized("application/x-protobuf"))
	var m wire.SubmitResponse
	if err := proto.Unmarshal(b, &m); err != nil || response.StatusCode != 200 || m.Stamp != 2 {
		t.Errorf("submit in protobuf: %d %v %v", response.StatusCode, &m, err)
	}
	for i, c := range r.backend.seen() {
		if c.UID != "ann" || c.Key != "d:ann:bob" || c.Device != "" || !bytes.Equal(c.Body, submitted) {
			t.Errorf("call %d is %+v", i, c)
		}
	}
	if response, b = r.post("/v1/pull", `{"conversation":"d:ann:bob"}`, r.authorized("application/json")); string(b) != `{"cursor":"eu=1"}` {
		t.Errorf("pull: %d %s", response.StatusCode, b)
	}
	r.post("/v1/call/im/mark", `{"conversation":"d:ann:bob"}`, r.authorized("application/json"))
	r.post("/v1/call/weather/now?key=paris", `"AAE="`, r.authorized("application/json"))
	calls := r.backend.seen()
	if c := calls[3]; c.Method != "mark" || c.Key != "d:ann:bob" {
		t.Errorf("mark is %+v", c)
	}
	if c := calls[4]; c.Service != "weather" || c.Method != "now" || c.Key != "paris" || !bytes.Equal(c.Body, []byte{0, 1}) {
		t.Errorf("a call of another service is %+v", c)
	}
}

func TestFallbackErrors(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxFrame, c.MaxText = 1024, 512; c.Rate, c.Burst = 1, 50 })
	expired, err := r.issuer.Token("ann", time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path, body, media, authorization string
		code                                   im.Code
	}{
		{"no token", "/v1/pull", "{}", "application/json", "none", im.CodeBadToken},
		{"another scheme", "/v1/pull", "{}", "application/json", "Basic YTpi", im.CodeBadToken},
		{"an expired token", "/v1/pull", "{}", "application/json", "Bearer " + expired, im.CodeTokenExpired},
		{"no media type", "/v1/pull", "{}", "", "", im.CodeBadRequest},
		{"another media type", "/v1/pull", "{}", "text/plain", "", im.CodeBadRequest},
		{"bad JSON", "/v1/pull", "{", "application/json", "", im.CodeBadRequest},
		{"no UTF-8", "/v1/pull", "{\"conversation\":\"\xff\"}", "application/json", "", im.CodeBadRequest},
		{"a field of another type", "/v1/pull", `{"limit":"many"}`, "application/json", "", im.CodeBadRequest},
		{"too large", "/v1/pull", strings.Repeat(" ", 1025), "application/json", "", im.CodeFrameTooLarge},
		{"unknown method", "/v1/call/im/dance", "{}", "application/json", "", im.CodeUnknownMethod},
		{"unknown service", "/v1/call/weather/now", `""`, "application/json", "", im.CodeUnknownService},
		{"unknown service in protobuf", "/v1/call/weather/now", "", "application/x-protobuf", "", im.CodeUnknownService},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := r.authorized(test.media)
			if test.authorization != "" {
				header["Authorization"] = test.authorization
			}
			response, b := r.post(test.path, test.body, header)
			var e wire.Error
			unmarshal := protojson.Unmarshal
			if test.media == "application/x-protobuf" {
				unmarshal = proto.Unmarshal
			}
			if err := unmarshal(b, &e); err != nil {
				t.Fatalf("%d %q: %v", response.StatusCode, b, err)
			}
			spec := test.code.Spec()
			if response.StatusCode != spec.HTTP || e.Code != string(test.code) || e.Action != string(spec.Action) {
				t.Errorf("got %d %v, want %d %s", response.StatusCode, &e, spec.HTTP, test.code)
			}
		})
	}
}

// Every code of a service comes with the status of its row in the table.
// A request that the network cut short may be made again: a client stops at what it is told is a bad one.
func TestBodyCutShort(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/v1/submit", "/v1/poll"} {
		c, err := net.DialTimeout("tcp", r.g.Addr(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n", path, r.token("ann"))
		if _, err := io.WriteString(c, head+"Content-Length: 100\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).CloseWrite()
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(response.Body)
		if want := im.CodeUnavailable; err != nil || response.StatusCode != want.Spec().HTTP || !strings.Contains(string(b), `"`+string(want)+`"`) {
			t.Errorf("%s: %d %s %v, want %s", path, response.StatusCode, b, err, want)
		}
		c.Close()
	}
}

func TestFallbackStatus(t *testing.T) {
	r := newRig(t)
	for _, code := range im.Codes() {
		e := im.Errorf(code, "because")
		e.RetryAfter = 1200 * time.Millisecond
		r.backend.set(failing(e))
		response, _ := r.post("/v1/pull", "{}", r.authorized("application/json"))
		if response.StatusCode != code.Spec().HTTP || response.Header.Get("Retry-After") != "2" {
			t.Errorf("%s: %d, Retry-After %q", code, response.StatusCode, response.Header.Get("Retry-After"))
		}
	}
}

func TestFallbackRate(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate, c.Burst = 0.01, 2 })
	var last *http.Response
	for range 3 {
		last, _ = r.post("/v1/pull", "{}", r.authorized("application/json"))
	}
	if last.StatusCode != 429 || last.Header.Get("Retry-After") == "" {
		t.Errorf("got %d", last.StatusCode)
	}
	header := r.authorized("application/json")
	header["Authorization"] = "Bearer " + r.token("bob")
	if other, _ := r.post("/v1/pull", "{}", header); other.StatusCode != 200 {
		t.Errorf("another user got %d", other.StatusCode)
	}
}

func TestCORS(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Origins = []string{"https://chat.example"} })
	preflight := func(origin string) *http.Response {
		t.Helper()
		request, err := http.NewRequest(http.MethodOptions, r.g.URL()+"/v1/submit", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", origin)
		request.Header.Set("Access-Control-Request-Method", "POST")
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response
	}
	allowed := preflight("https://chat.example")
	if allowed.StatusCode != 204 || allowed.Header.Get("Access-Control-Allow-Origin") != "https://chat.example" ||
		!strings.Contains(allowed.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("an allowed page: %d %v", allowed.StatusCode, allowed.Header)
	}
	if refused := preflight("https://evil.example"); refused.StatusCode != 403 || refused.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a foreign page: %d %v", refused.StatusCode, refused.Header)
	}
	header := r.authorized("application/json")
	header["Origin"] = "https://evil.example"
	if response, _ := r.post("/v1/pull", "{}", header); response.StatusCode != 403 {
		t.Errorf("a foreign page's call: %d", response.StatusCode)
	}
	header["Origin"] = "https://chat.example"
	if response, _ := r.post("/v1/pull", "{}", header); response.StatusCode != 200 || response.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("an allowed page's call: %d %v", response.StatusCode, response.Header)
	}
	if len(r.backend.seen()) != 1 {
		t.Error("the foreign page's call went through")
	}
}

// The client's address is the first that trusted proxies did not write.
func TestClientIP(t *testing.T) {
	r := newRig(t, func(c *Config) { c.TrustedProxies = prefixes(t, "127.0.0.0/8", "10.0.0.0/8") })
	for _, test := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "198.51.100.7", "192.0.2.1"},
		{"127.0.0.1:5", "", "127.0.0.1"},
		{"127.0.0.1:5", "198.51.100.7", "198.51.100.7"},
		{"127.0.0.1:5", "203.0.113.9, 198.51.100.7, 10.1.1.1", "198.51.100.7"},
		{"127.0.0.1:5", "nonsense", "127.0.0.1"},
		{"[2001:db8::1]:5", "", "2001:db8::"}, // its /64
	} {
		request := &http.Request{RemoteAddr: test.remote, Header: http.Header{}}
		if test.forwarded != "" {
			request.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := r.g.clientIP(request).String(); got != test.want {
			t.Errorf("%s, %q: %s, want %s", test.remote, test.forwarded, got, test.want)
		}
	}
}

func TestHealthz(t *testing.T) {
	r := newRig(t)
	get := func() int {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
		response, err := client.Get(r.g.URL() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if got := get(); got != 200 {
		t.Errorf("status %d", got)
	}
	r.g.Drain()
	if got := get(); got != 503 {
		t.Errorf("draining: status %d", got)
	}
}
