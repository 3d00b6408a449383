package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

const annsRoutes = `
DEVICE  PLATFORM  GATEWAY       CONN  LOGIN  CLAIMED    SOCKET
phone   ios       us/gateway-1  3     9      12m5s ago  open
tablet  ios       eu/gateway-2  4     2      5s ago     lost: it may resume
unknown: whether ann is connected in ap, whose routes cannot be counted on now
`

func TestPrintRoutes(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		routes app.UserRoutes
		want   string
	}{
		{app.UserRoutes{Region: "eu", UID: "ann", Held: true, Unknown: []im.Region{"ap"}, Devices: []app.DeviceRoute{
			{Device: "phone", Platform: "ios", Region: "us", Gateway: "gateway-1", Conn: 3, Login: 9, Claimed: now.Add(-725 * time.Second)},
			{Device: "tablet", Platform: "ios", Region: "eu", Gateway: "gateway-2", Conn: 4, Login: 2, Claimed: now.Add(-5 * time.Second), Offline: true},
		}}, annsRoutes},
		{app.UserRoutes{Region: "eu", UID: "bob", Held: true}, "\nbob has no route that counts, as the router of eu has heard; one that does not count is held\n"},
		{app.UserRoutes{Region: "eu", UID: "eve"}, "\neve has no route, as the router of eu has heard\n"},
	} {
		var out bytes.Buffer
		if err := printRoutes(&out, &c.routes, now); err != nil || "\n"+out.String() != c.want {
			t.Errorf("%v, got:\n%s\nwant:%s", err, &out, c.want)
		}
	}
}

func TestRouterRoutes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != app.RoutesPath || r.URL.Query().Get("uid") != "ann" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"region": "eu", "uid": "ann", "devices": [], "unknown": [], "held": false}`))
	}))
	defer server.Close()
	for _, c := range []struct {
		args []string
		says string
		code int
	}{
		{[]string{"ann"}, "ann has no route, as the router of eu has heard", 0},
		{[]string{"ann", "--json"}, `"held": false`, 0},
		{[]string{"bob"}, "what answers is not the admin server of a running router: name its admin address with --admin", exitTold},
		{[]string{strings.Repeat("a", 1000)}, "uid", exitTold},
	} {
		cmd := newRootCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"router", "routes", "--admin", strings.TrimPrefix(server.URL, "http://")}, c.args...))
		err := execute(t.Context(), cmd)
		said, code := out.String(), 0
		if err != nil {
			said, code = said+err.Error(), exitCode(err)
		}
		if !strings.Contains(said, c.says) || code != c.code {
			t.Errorf("%.20q: %q (exit code %d), want %q and exit code %d", c.args, said, code, c.says, c.code)
		}
	}
}
