package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// admin is the server that operators, orchestrators and Prometheus talk to: never clients.
type admin struct {
	listener net.Listener
	server   *http.Server
	mux      *http.ServeMux
}

func newAdmin(l net.Listener, ready *checks, metrics prometheus.Gatherer, log *slog.Logger) *admin {
	a := &admin{listener: l}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", newChecks()) // it answers: nothing else here is mended by a restart
	mux.Handle("GET /readyz", ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	a.mux = mux
	a.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return a
}

func (a *admin) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(a.listener) }()
	select {
	case err := <-served:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("telemetry: admin server on %s: %w", a.listener.Addr(), err)
	case <-ctx.Done():
	}
	a.close()
	<-served
	return nil
}

// close drops connections: a scrape is repeated anyway, and a profile under way must not hold up an exit.
func (a *admin) close() {
	a.server.Close()
	a.listener.Close()
}

// checks are named conditions, all of which must hold but the soft ones.
type checks struct {
	mu    sync.Mutex
	named map[string]Check
	soft  map[string]bool
}

func newChecks() *checks { return &checks{named: map[string]Check{}, soft: map[string]bool{}} }

func (c *checks) set(name string, check Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named[name] = check
	delete(c.soft, name)
}

func (c *checks) setSoft(name string, check Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named[name] = check
	c.soft[name] = true
}

func (c *checks) isSoft(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.soft[name]
}

// checkTimeout bounds a probe; a check that takes longer has failed.
const checkTimeout = 2 * time.Second

// ServeHTTP answers 200 or 503 and {"ok": bool, "checks": {name: "ok" or the reason}, "degraded": [name]}: degraded are
// the failed checks without which the instance works.
func (c *checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	answer := struct {
		OK       bool              `json:"ok"`
		Checks   map[string]string `json:"checks"`
		Degraded []string          `json:"degraded,omitempty"`
	}{OK: true, Checks: map[string]string{}}
	for name, reason := range c.run(ctx) {
		answer.Checks[name] = "ok"
		if reason != nil {
			answer.Checks[name] = reason.Error()
			if c.isSoft(name) {
				answer.Degraded = append(answer.Degraded, name)
			} else {
				answer.OK = false
			}
		}
	}
	slices.Sort(answer.Degraded)
	w.Header().Set("Content-Type", "application/json")
	if !answer.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// failed tells the first of the hard checks that fails, by name.
func (c *checks) failed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	all := c.run(ctx)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := all[name]; err != nil && !c.isSoft(name) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// run asks all checks at once. One that does not heed ctx is left behind and reported as too slow.
func (c *checks) run(ctx context.Context) map[string]error {
	type result struct {
		name string
		err  error
	}
	c.mu.Lock()
	results := make(chan result, len(c.named))
	all := make(map[string]error, len(c.named))
	for name, check := range c.named {
		all[name] = fmt.Errorf("no answer in %v", checkTimeout)
		go func() { results <- result{name, check(ctx)} }()
	}
	c.mu.Unlock()
	for range all {
		select {
		case r := <-results:
			all[r.name] = r.err
		case <-ctx.Done():
			return all
		}
	}
	return all
}
