package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func open(t *testing.T, cfg Config) *Telemetry {
	t.Helper()
	tel, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tel.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := tel.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func get(t *testing.T, tel *Telemetry, path string) (status int, body string) {
	t.Helper()
	r, err := http.Get("http://" + tel.AdminAddr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	eu := open(t, Config{Service: "gateway", Region: "eu", Instance: "gw-1", Admin: "127.0.0.1:0"})
	us := open(t, Config{Service: "gateway", Region: "us", Instance: "gw-1", Admin: "127.0.0.1:0"})
	conns, err := eu.Meter.Int64UpDownCounter("antipode_gateway_conns", metric.WithDescription("Open conns."))
	if err != nil {
		t.Fatal(err)
	}
	conns.Add(t.Context(), 3)
	frames, _ := eu.Meter.Int64Counter("antipode_gateway_frames", metric.WithUnit("{frame}"))
	frames.Add(t.Context(), 5, metric.WithAttributes(attribute.String("kind", "submit")))
	wait, _ := eu.Meter.Float64Histogram("antipode_gateway_call", metric.WithUnit("s"))
	wait.Record(t.Context(), 0.003)

	_, body := get(t, eu, "/metrics")
	for _, want := range []string{
		`antipode_gateway_conns{instance="gw-1",region="eu",service="gateway"} 3`,
		`antipode_gateway_frames_total{instance="gw-1",kind="submit",region="eu",service="gateway"} 5`,
		`antipode_gateway_call_seconds_bucket{instance="gw-1",region="eu",service="gateway",le="0.005"} 1`,
		`antipode_gateway_call_seconds_bucket{instance="gw-1",region="eu",service="gateway",le="0.002"} 0`,
		`go_goroutines{instance="gw-1",region="eu",service="gateway"}`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no line %s", want)
		}
	}
	for _, noise := range []string{"target_info", "otel_scope"} {
		if strings.Contains(body, noise) {
			t.Errorf("/metrics speaks of %s", noise)
		}
	}
	if _, body := get(t, us, "/metrics"); strings.Contains(body, "antipode_gateway_conns") {
		t.Error("one instance shows another's metrics")
	}
	if t.Failed() {
		t.Log(body)
	}
}

func TestProbes(t *testing.T) {
	tel := open(t, Config{Service: "gateway", Admin: "127.0.0.1:0"})
	if status, body := get(t, tel, "/readyz"); status != 200 || !strings.Contains(body, `"ok":true`) {
		t.Errorf("without checks: %d %s", status, body)
	}
	behind := errors.New("msg.us.direct/3 is 512 records behind")
	tel.Ready("log", func(context.Context) error { return nil })
	tel.Ready("catching up", func(context.Context) error { return behind })
	status, body := get(t, tel, "/readyz")
	var answer struct {
		OK     bool
		Checks map[string]string
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	if status != 503 || answer.OK || answer.Checks["catching up"] != behind.Error() || answer.Checks["log"] != "ok" {
		t.Errorf("with a failing check: %d %s", status, body)
	}
	if status, _ := get(t, tel, "/healthz"); status != 200 {
		t.Errorf("unready made it unhealthy: %d", status)
	}
	tel.Ready("catching up", func(context.Context) error { return nil })
	if status, _ := get(t, tel, "/readyz"); status != 200 {
		t.Errorf("after it caught up: %d", status)
	}
	tel.Degraded("redis", func(context.Context) error { return errors.New("connection refused") })
	if status, body := get(t, tel, "/readyz"); status != 200 || !strings.Contains(body, `"redis":"connection refused"`) || !strings.Contains(body, `"degraded":["redis"]`) {
		t.Errorf("without what it works without: %d %s", status, body)
	}
	tel.Ready("redis", func(context.Context) error { return errors.New("needed now") })
	if status, _ := get(t, tel, "/readyz"); status != 503 {
		t.Errorf("without what it does not work without: %d", status)
	}
	if err := tel.Unready(t.Context()); err == nil || err.Error() != "redis: needed now" {
		t.Errorf("it says it is unready for %v", err)
	}
	release := make(chan struct{})
	defer close(release)
	tel.Ready("stuck", func(context.Context) error { <-release; return nil }) // heeds no context
	if status, body := get(t, tel, "/readyz"); status != 503 || !strings.Contains(body, "no answer in") {
		t.Errorf("a check that hangs: %d %s", status, body)
	}
	if status, _ := get(t, tel, "/healthz"); status != 200 {
		t.Errorf("a check that hangs made it unhealthy: %d", status)
	}
	if status, body := get(t, tel, "/debug/pprof/cmdline"); status != 200 || body == "" {
		t.Errorf("pprof: %d", status)
	}
	if status, _ := get(t, tel, "/secret"); status != 404 {
		t.Errorf("an unknown path: %d", status)
	}
}

func TestLogHidesSecrets(t *testing.T) {
	var out bytes.Buffer
	tel, err := New(Config{Service: "imserver", Region: "eu", Instance: "im-1", LogWriter: &out, LogLevel: slog.LevelWarn})
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Close(t.Context())
	tel.Log.Info("too quiet")
	tel.Log.Warn("connected", "url", "postgres://antipode:hunter2@db:5432/eu", "token", "hunter2", slog.Group("auth", "Password", "hunter2"),
		"error", fmt.Errorf("dial: %w", errors.New("redis://:hunter2@cache:6379 refused")), "next", "https://chat.example/a:b@c", "took", 4081853815*time.Nanosecond)
	text := out.String()
	if strings.Contains(text, "hunter2") {
		t.Errorf("a secret was logged: %s", text)
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		"service": "imserver", "region": "eu", "instance": "im-1", "level": "WARN", "msg": "connected",
		"url": "postgres://antipode:***@db:5432/eu", "error": "dial: redis://:***@cache:6379 refused", "next": "https://chat.example/a:b@c", "took": "4.081854s",
	} {
		if line[k] != want {
			t.Errorf("%s is %v, want %v", k, line[k], want)
		}
	}
}

// TestSpanStore follows a trace through two regions into one store.
func TestSpanStore(t *testing.T) {
	store := NewSpanStore(3, 4)
	eu := open(t, Config{Service: "imserver", Region: "eu", Instance: "im-1", SampleRatio: 1, Spans: store})
	us := open(t, Config{Service: "gateway", Region: "us", Instance: "gw-1", SampleRatio: 0, Spans: store})

	ctx, submit := eu.Tracer.Start(t.Context(), "submit", trace.WithAttributes(attribute.String("conversation", "d:ann:bob")))
	ctx, deliver := us.Tracer.Start(ctx, "deliver") // the caller's decision counts, not the own ratio
	deliver.SetStatus(codes.Error, "the conn is gone")
	deliver.End()
	submit.End()
	id := submit.SpanContext().TraceID().String()

	spans := store.Trace(id)
	if len(spans) != 2 || spans[0].Name != "submit" || spans[1].Name != "deliver" {
		t.Fatalf("spans: %+v", spans)
	}
	if s := spans[0]; s.Service != "imserver" || s.Region != "eu" || s.Instance != "im-1" || s.Parent != "" || s.Attributes["conversation"] != "d:ann:bob" || s.End.Before(s.Start) {
		t.Errorf("submit: %+v", s)
	}
	if s := spans[1]; s.Region != "us" || s.Parent != spans[0].ID || s.Error != "the conn is gone" {
		t.Errorf("deliver: %+v", s)
	}
	recent := store.Recent(10)
	if len(recent) != 1 || recent[0].ID != id || recent[0].Root.Name != "submit" || recent[0].Spans != 2 || !recent[0].Error ||
		fmt.Sprint(recent[0].Regions) != "[eu us]" || fmt.Sprint(recent[0].Services) != "[imserver gateway]" {
		t.Errorf("recent: %+v", recent)
	}

	_, unsampled := us.Tracer.Start(t.Context(), "pull")
	unsampled.End()
	if n := len(store.Recent(10)); n != 1 {
		t.Errorf("%d traces after one that was not sampled", n)
	}
	for range 5 {
		_, s := eu.Tracer.Start(ctx, "apply")
		s.End()
	}
	if n := len(store.Trace(id)); n != 4 || store.Dropped() != 3 {
		t.Errorf("a full trace has %d spans, %d dropped", n, store.Dropped())
	}
	var last trace.Span
	for range 5 {
		_, last = eu.Tracer.Start(t.Context(), "submit")
		last.End()
	}
	recent = store.Recent(2)
	if len(recent) != 2 || recent[0].ID != last.SpanContext().TraceID().String() {
		t.Errorf("the two latest: %+v", recent)
	}
	if len(store.Recent(100)) != 3 || store.Trace(id) != nil {
		t.Error("the oldest trace did not make room")
	}
	if store.Trace("nonsense") != nil {
		t.Error("a trace with a nonsensical id")
	}
}

// TestOTLPIsOptional: an endpoint that does not answer costs nothing but the traces, and does not hold up an exit.
func TestOTLPIsOptional(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tel, err := New(Config{Service: "router", OTLP: "127.0.0.1:1", SampleRatio: 1, Admin: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	_, s := tel.Tracer.Start(t.Context(), "apply")
	s.End()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_ = tel.Close(ctx)                                           // it says that a span was lost
	if took := time.Since(begun); took > 2900*time.Millisecond { // it would try for 3 s
		t.Errorf("closing took %v", took)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAdminNamesATakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = New(Config{Service: "router", Admin: l.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a taken port: %v", err)
	}
}
