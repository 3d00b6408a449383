package observability

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/consul"
	"github.com/antipode-im/antipode/internal/telemetry"
)

// TestQueriesNameWhatRegionsExpose runs three regions (with two, none has a clock to compare to the median of others), has two people talk, and holds every query of the rules and the
// dashboard, and what the console reads, to the metrics that are there then.
func TestQueriesNameWhatRegionsExpose(t *testing.T) {
	dev, err := app.NewDev(app.DevConfig{
		Regions: []string{"eu", "us", "ap"}, Listen: "127.0.0.1:0", Data: filepath.Join(t.TempDir(), "data"), Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := dev.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ann, bob := dial(t, dev, "ann", "eu"), dial(t, dev, "bob", "us")
	chat := im.Direct("ann", "bob")
	for i := range 5 {
		for _, c := range []*client.Client{ann, bob} {
			if _, err := c.Submit(ctx, chat, fmt.Sprint("message ", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	group, err := ann.CreateGroup(ctx, "Both", []im.UID{"ann", "bob"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ann.Submit(ctx, group, "hello"); err != nil {
		t.Fatal(err)
	}

	// Some appear with the first heartbeat or link status only.
	var left []string
	for deadline := time.Now().Add(30 * time.Second); ; {
		have := builtin()
		ofConsul(t, ctx, have)
		scrape(t, ctx, dev, have)
		if left = unknown(t, have); len(left) == 0 || time.Now().After(deadline) {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	for _, c := range left {
		t.Error(c)
	}
	log, err := os.ReadFile(dev.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "gathering metrics") { // what cannot be gathered is left out of the page
			t.Error(line)
		}
	}
}

func dial(t *testing.T, dev *app.Dev, uid im.UID, region im.Region) *client.Client {
	t.Helper()
	token, _, err := dev.Token(uid)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), client.Config{
		IPConf: []string{dev.IPConf(region)}, Region: region, UID: uid, Token: client.StaticToken(token), Agent: "test",
	})
	if err != nil {
		t.Fatalf("%s in %s: %v", uid, region, err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for range c.Events() {
		}
	}()
	return c
}

// ofConsul adds what an ipconf exposes of discovery: dev keeps it in memory.
func ofConsul(t *testing.T, ctx context.Context, into exposed) {
	t.Helper()
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "[]") }))
	defer agent.Close()
	tel, err := telemetry.New(telemetry.Config{Service: "ipconf", Region: "eu", Instance: "ipconf", LogWriter: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close(context.WithoutCancel(ctx))
	c, err := consul.New(consul.Config{Address: strings.TrimPrefix(agent.URL, "http://"), Region: "eu"}, consul.Deps{Meter: tel.Meter})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Instances(ctx, "gateway", "eu"); err != nil {
		t.Fatal(err)
	}
	families, err := tel.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			into.add(f.GetName(), labels)
		}
	}
}

// scrape reads /metrics of every instance. Each must tell of its own service.
func scrape(t *testing.T, ctx context.Context, dev *app.Dev, into exposed) {
	t.Helper()
	addrs := dev.AdminAddrs()
	if want := 6 * len(dev.Regions()); len(addrs) != want {
		t.Fatalf("%d admin servers, want %d: %v", len(addrs), want, addrs)
	}
	for name, addr := range addrs {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		one := exposed{}
		err = one.parse(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("/metrics of %s: %s, %v", name, resp.Status, err)
		}
		_, instance, _ := strings.Cut(name, "/")
		service, _, _ := strings.Cut(instance, "-")
		own := false
		for metric, labels := range one {
			own = own || strings.HasPrefix(metric, "antipode_"+service+"_")
			for label, values := range labels {
				for value := range values {
					into.add(metric, map[string]string{label: value})
				}
			}
		}
		if !own {
			t.Errorf("/metrics of %s shows no antipode_%s_…", name, service)
		}
	}
}

// unknown tells which rules, queries and constants name what is not there.
func unknown(t *testing.T, have exposed) (all []string) {
	t.Helper()
	complain := func(where, expr string, shown ...string) {
		for _, c := range have.complaints(expr, shown) {
			all = append(all, fmt.Sprintf("%s: %s\n\t%s", where, c, expr))
		}
	}
	for _, r := range rules(t) {
		if r.Record != "" {
			have.record(r.Record)
		}
	}
	for _, r := range rules(t) {
		if r.Record != "" {
			level, _, _ := strings.Cut(r.Record, ":")
			complain("record "+r.Record, r.Expr, strings.Split(level, "_")...)
		} else {
			complain("alert "+r.Alert, r.Expr)
		}
	}
	for _, q := range dashboard(t) {
		complain("dashboard, "+q.panel, q.expr, fields(q.legend)...)
	}
	// The console reads metrics by name too.
	files, err := filepath.Glob("../../internal/app/*watch*.go")
	if err != nil || len(files) < 2 {
		t.Fatalf("the files that read them: %v, %v", files, err)
	}
	name := regexp.MustCompile(`"(antipode_[a-z_]*[a-z])"`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			complain("console, "+filepath.Base(f), m[1])
		}
	}
	return all
}
