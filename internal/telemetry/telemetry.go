// Package telemetry gives one instance of a service its logs, traces, metrics and admin server. Each instance has its
// own of everything, so that `antipode dev` can run dozens in one process without mixing them: no globals are set.
//
// Services see only the OpenTelemetry API and slog; what is exported where is decided here. Logs are JSON lines with
// service, region and instance. Metrics are served to Prometheus at /metrics with the same three as labels. Traces go to
// an OTLP endpoint, to a SpanStore in memory, to both or nowhere.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The attributes of a span's resource that say where it was made. Service and instance are OpenTelemetry's names.
const (
	attrService  = attribute.Key("service.name")
	attrInstance = attribute.Key("service.instance.id")
	attrRegion   = attribute.Key("cloud.region")
)

const scope = "github.com/antipode-im/antipode"

// Config says who the instance is and where its telemetry goes.
type Config struct {
	Service, Region, Instance string

	LogWriter io.Writer  // stderr if nil
	LogLevel  slog.Level // info if 0

	Admin  string                                  // host:port of the admin server; empty: none
	Listen func(addr string) (net.Listener, error) // binds it; nil: as usual

	SampleRatio float64    // of traces begun here, 0 to 1; a caller's decision is followed
	OTLP        string     // gRPC endpoint for traces: host:port in plain text, or https://host:port; empty: none
	Spans       *SpanStore // keeps spans in memory as well; may be shared by instances; may be nil
}

// Telemetry is one instance's.
type Telemetry struct {
	Log            *slog.Logger
	Tracer         trace.Tracer
	Meter          metric.Meter
	TracerProvider trace.TracerProvider // for libraries that instrument themselves

	registry *prometheus.Registry
	traces   *sdktrace.TracerProvider
	metrics  *sdkmetric.MeterProvider
	otlp     *otlptrace.Exporter // nil without an endpoint
	ready    *checks
	admin    *admin
}

// New sets everything up and binds the admin server, which Run serves.
func New(cfg Config) (*Telemetry, error) {
	t := &Telemetry{registry: prometheus.NewRegistry(), ready: newChecks(), Log: newLogger(cfg)}
	who := resource.NewSchemaless(
		attribute.String("service.namespace", "antipode"),
		attrService.String(cfg.Service), attrInstance.String(cfg.Instance), attrRegion.String(cfg.Region))

	labelled := prometheus.WrapRegistererWith(prometheus.Labels{
		"service": cfg.Service, "region": cfg.Region, "instance": cfg.Instance,
	}, t.registry)
	exporter, err := otelprometheus.New(
		otelprometheus.WithRegisterer(labelled),
		otelprometheus.WithoutTargetInfo(), otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return nil, fmt.Errorf("telemetry: metrics: %w", err)
	}
	if err := errors.Join(labelled.Register(collectors.NewGoCollector()),
		labelled.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))); err != nil {
		return nil, fmt.Errorf("telemetry: metrics: %w", err)
	}
	t.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithResource(who), sdkmetric.WithReader(exporter), sdkmetric.WithView(buckets()...))
	t.Meter = t.metrics.Meter(scope)

	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(who),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.SampleRatio))),
	}
	if cfg.Spans != nil {
		options = append(options, sdktrace.WithSpanProcessor(cfg.Spans))
	}
	if cfg.OTLP != "" {
		endpoint := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.OTLP), otlptracegrpc.WithInsecure()}
		if strings.Contains(cfg.OTLP, "://") {
			endpoint = []otlptracegrpc.Option{otlptracegrpc.WithEndpointURL(cfg.OTLP)}
		}
		if t.otlp, err = otlptracegrpc.New(context.Background(), endpoint...); err != nil { // connects in the background
			return nil, fmt.Errorf("telemetry: OTLP endpoint %s: %w", cfg.OTLP, err)
		}
		options = append(options, sdktrace.WithBatcher(&quietExporter{SpanExporter: t.otlp, log: t.Log}))
	}
	t.traces = sdktrace.NewTracerProvider(options...)
	t.TracerProvider, t.Tracer = t.traces, t.traces.Tracer(scope)

	if cfg.Admin != "" {
		listen := cfg.Listen
		if listen == nil {
			listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
		}
		l, err := listen(cfg.Admin)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("telemetry: the admin server cannot listen: %w", err), t.Close(context.Background()))
		}
		t.admin = newAdmin(l, t.ready, t.registry, t.Log)
	}
	return t, nil
}

// AdminAddr is the host:port of the admin server, "" without one.
func (t *Telemetry) AdminAddr() string {
	if t.admin == nil {
		return ""
	}
	return t.admin.listener.Addr().String()
}

// Handle serves a pattern (as of http.ServeMux) on the admin server, for operators.
func (t *Telemetry) Handle(pattern string, h http.Handler) {
	if t.admin != nil {
		t.admin.mux.Handle(pattern, h)
	}
}

// Gatherer reads the metrics as /metrics shows them.
func (t *Telemetry) Gatherer() prometheus.Gatherer { return t.registry }

// Check is asked whether something works: nil, or the reason why not, for an operator to read.
type Check func(ctx context.Context) error

// Ready adds a check to /readyz: while it fails, the instance must get no new work. A name that is taken is replaced.
func (t *Telemetry) Ready(name string, c Check) { t.ready.set(name, c) }

// Degraded adds a check to /readyz that is told there, and does not make the instance unready: it does its work without what
// is checked, and taking it out of service would only make things worse.
func (t *Telemetry) Degraded(name string, c Check) { t.ready.setSoft(name, c) }

// Unready tells why the instance must get no new work, as /readyz does: the first of the reasons by name, or nil.
func (t *Telemetry) Unready(ctx context.Context) error { return t.ready.failed(ctx) }

// Run serves the admin server until ctx ends. Let it end after the service, so that probes see the drain.
func (t *Telemetry) Run(ctx context.Context) error {
	if t.admin == nil {
		<-ctx.Done()
		return nil
	}
	return t.admin.run(ctx)
}

// Close sends what is still to be sent and lets go of everything. It takes at most 3 s, or until ctx ends.
func (t *Telemetry) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	err := errors.Join(t.traces.Shutdown(ctx), t.metrics.Shutdown(ctx))
	if t.otlp != nil { // after a shutdown that ran out of time it goes on trying for a while otherwise
		err = errors.Join(err, t.otlp.Shutdown(ctx))
	}
	if t.admin != nil {
		t.admin.close()
	}
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}

// quietExporter logs when exporting begins to fail, and when it works again. The SDK would report every failure to a
// handler that is global to the process.
type quietExporter struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	failing bool // the SDK calls one export at a time
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *quietExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !e.failing:
		e.log.Warn("traces are lost: the OTLP endpoint does not take them", "error", err)
	case err == nil && e.failing:
		e.log.Info("the OTLP endpoint takes traces again")
	}
	e.failing = err != nil
	return nil
}

// buckets fit the histograms' bounds to what is measured; OpenTelemetry's defaults are made for milliseconds.
func buckets() []sdkmetric.View {
	view := func(unit string, bounds ...float64) sdkmetric.View {
		return sdkmetric.NewView(sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram, Unit: unit},
			sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: bounds}})
	}
	return []sdkmetric.View{
		view("s", .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60),
		view("By", 64, 256, 1<<10, 4<<10, 16<<10, 64<<10, 256<<10, 1<<20, 4<<20, 16<<20),
		view("{record}", 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000),
	}
}

// written is an attribute as it stands in the log: a duration as people write it, not as a number of nanoseconds.
func written(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().Round(time.Microsecond).String())
	}
	return mask(groups, a)
}

func newLogger(cfg Config) *slog.Logger {
	var w io.Writer = os.Stderr
	if cfg.LogWriter != nil {
		w = cfg.LogWriter
	}
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: cfg.LogLevel, ReplaceAttr: written})
	log := slog.New(h)
	for _, a := range [][2]string{{"service", cfg.Service}, {"region", cfg.Region}, {"instance", cfg.Instance}} {
		if a[1] != "" {
			log = log.With(a[0], a[1])
		}
	}
	return log
}
