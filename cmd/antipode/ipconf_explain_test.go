package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const explanation = `{
  "region": "eu",
  "location": ["address 192.0.2.1, country DE, AS64500, at 50.10,8.70", "the user is at home in eu"],
  "regions": [
    {"region": "eu", "rtt_ms": 12, "proximity": 2.42, "share": 1, "ramp": 0.55, "free": 0.4, "open": 0.55, "usable_gateways": 2},
    {"region": "us", "rtt_ms": 112, "proximity": 0.31, "share": 0, "ramp": 1, "free": 0, "open": 0, "usable_gateways": 0, "closed": "draining"}
  ],
  "ranked": [
    {"gateway": "e1", "region": "eu", "score": 0.412, "why": "used last", "weight": 20600, "factors": {"room": 0.52, "cpu": 1, "net": 1, "sound": 0.79, "start": 1, "version": 1, "trust": 0.9},
      "conns": 24000, "capacity": 50000, "in_flight": 12, "recent": 40, "cpu": 0.3, "net": 0.1, "errors": 0.11, "version": "v1.2", "age_ms": 1500}
  ],
  "left_out": [
    {"gateway": "u1", "region": "us", "score": 0, "why": "region us is draining", "weight": 50000, "factors": {"room": 1, "cpu": 1, "net": 1, "sound": 1, "start": 1, "version": 1, "trust": 0},
      "conns": 0, "capacity": 50000, "in_flight": 0, "recent": 0, "cpu": 0, "net": 0, "errors": 0, "age_ms": -1}
  ],
  "policy": {},
  "room": {"free": 0.04, "told_later": 0.2, "per_second": 2000},
  "catalogues": [{"region": "eu", "age_ms": 1234, "held_back": true, "known": true}, {"region": "us", "age_ms": 0, "held_back": false, "known": false}]
}`

const explained = `
ipconf of eu
  address 192.0.2.1, country DE, AS64500, at 50.10,8.70
  the user is at home in eu
room: 4 % free, 20 % of newcomers are told to wait, 2000 a second are let in here

REGION  RTT     PROXIMITY  SHARE  RAMP  FREE  TAKES  GATEWAYS  CATALOGUE
eu      12 ms   2.42       1.00   0.55  40 %  55 %   2         1.2s old, held back
us      112 ms  0.31       0.00   1.00  0 %   0 %    0         never read           draining

GATEWAY  SCORE  WHY                    WEIGHT  ROOM  CPU   NET   SOUND  START  VERSION    CONNS        COMING  AGE
eu/e1    0.412  used last              20600   0.52  1.00  1.00  0.79   1.00   1.00 v1.2  24000/50000  12      1500 ms
us/u1    0.000  region us is draining  50000   1.00  1.00  1.00  1.00   1.00   1.00       0/50000      0       never heard
`

// A region that the ipconf does not know is passed over by it, and named here.
func TestIPConfExplainNamesUnknownRegions(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(explanation)) }))
	defer server.Close()
	for _, c := range []struct{ flag, value, says string }{
		{"--rtt", "eu:5,us:90", ""},
		{"--rtt", "eu:5,mars:90", `--rtt: the ipconf in eu knows no region "mars": it knows [eu us]`},
		{"--region", "mars", `--region: the ipconf in eu knows no region "mars"`},
		{"--home", "mars", `--home: the ipconf in eu knows no region "mars"`},
	} {
		cmd := newRootCommand()
		cmd.SetArgs([]string{"ipconf", "explain", "--admin", strings.TrimPrefix(server.URL, "http://"), c.flag, c.value})
		cmd.SetOut(new(bytes.Buffer))
		if err := execute(t.Context(), cmd); err == nil && c.says != "" || err != nil && (c.says == "" || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s %s: %v, want %q", c.flag, c.value, err, c.says)
		}
	}
}

func TestIPConfExplain(t *testing.T) {
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked = r.URL.RawQuery; {
		case strings.Contains(asked, "uid=stranger"):
			w.WriteHeader(http.StatusBadRequest)
			w.Write([]byte(`{"code":"bad_request","detail":"uid: nobody","action":"stop"}`))
			return
		case strings.Contains(asked, "uid=elsewhere"):
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(explanation))
	}))
	defer server.Close()
	explain := func(args ...string) (string, error) {
		cmd := newIPConfExplainCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"--admin", strings.TrimPrefix(server.URL, "http://")}, args...))
		err := cmd.ExecuteContext(t.Context())
		var lines []string
		for line := range strings.Lines(out.String()) {
			lines = append(lines, strings.TrimRight(line, " \n"))
		}
		return "\n" + strings.Join(lines, "\n") + "\n", err
	}
	got, err := explain("--uid", "ann", "--ip", "192.0.2.1", "--home", "eu", "--last", "eu/e1", "--rtt", "eu:12")
	if err != nil || got != explained {
		t.Errorf("%v, got:%s\nwant:%s", err, got, explained)
	}
	if want := "home=eu&ip=192.0.2.1&last=eu%2Fe1&rtt=eu%3A12&uid=ann"; asked != want {
		t.Errorf("it asked %s, want %s", asked, want)
	}
	if got, err := explain("--json"); err != nil || strings.TrimSpace(got) != explanation {
		t.Errorf("--json: %v %s", err, got)
	}
	for flags, says := range map[string]string{
		"--uid stranger":     "the ipconf refuses: uid: nobody",
		"--uid elsewhere":    "name its admin address with --admin",
		"--ip 1.2.3":         `--ip "1.2.3": want an address, such as 192.0.2.1`,
		"--rtt eu":           `--rtt "eu": "eu" is not a region and its milliseconds: want them as in eu:23,us:110`,
		"--rtt eu:23,us:x":   `"us:x" is not`,
		"--rtt eu:23,":       `"" is not`,
		"--rtt EU:23":        `"EU:23" is not`,
		"--rtt eu:23,us:1e9": `"us:1e9" is not`,
	} {
		asked = ""
		_, err := explain(strings.Fields(flags)...)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") || exitCode(err) != exitTold {
			t.Errorf("%s: %v, want %q and exit code %d", flags, err, says, exitTold)
		}
		if asked != "" && !strings.HasPrefix(flags, "--uid") {
			t.Errorf("%s was asked", flags)
		}
	}
}
