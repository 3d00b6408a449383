package fakedev

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// server is an HTTP server that can be killed and started again on the same port.
type server struct {
	handler http.Handler

	mu   sync.Mutex
	addr string // after the first start
	live *http.Server
}

func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		return nil
	}
	addr := s.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	s.live = &http.Server{Handler: s.handler}
	go func(live *http.Server) { _ = live.Serve(l) }(s.live) // ends with kill
	return nil
}

func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		_ = s.live.Close()
		s.live = nil
	}
}

func (s *server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live != nil
}

func (s *server) url() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "http://" + s.addr
}

// cors lets the page's origin call: page and service have different ports.
func cors(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Traceparent")
		if r.Method != http.MethodOptions {
			next(w, r)
		}
	}
}

// ipconf ranks: the preferred region's gateways first, its own next, then the rest.
func (w *World) ipconf(own *region) http.Handler {
	return cors(func(rw http.ResponseWriter, q *http.Request) {
		answer := wire.Endpoints{
			Policy: wire.Policy{
				ConnectTimeoutMs: 2000, RaceWidth: 3, RaceStaggerMs: 100, BackoffBaseMs: 100, BackoffCapMs: 1000, BackoffJitter: 0.5,
				FallbackPullMs: 3000, PollFallbackMs: 700, MarkIntervalMs: 200, PushAckMs: 50, HeartbeatMinMs: 500,
			}.Within(),
			Region: own.name, TTLMs: 5000,
		}
		order := []im.Region{im.Region(q.URL.Query().Get("region")), own.name}
		for _, name := range append(order, w.names...) {
			r := w.regions[name]
			if r == nil {
				continue
			}
			for _, g := range r.gateways {
				known := false
				for _, e := range answer.Gateways {
					known = known || e.URL == g.wsURL()
				}
				if !known && g.server.running() {
					answer.Gateways = append(answer.Gateways, wire.Endpoint{ID: g.id, Region: name, URL: g.wsURL(), PullURL: g.server.url(), Score: 1})
				}
			}
		}
		writeJSON(rw, http.StatusOK, answer)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func writeError(w http.ResponseWriter, err error) {
	if known, ok := errors.AsType[*im.Error](err); ok {
		e := wire.ErrorFrame(known)
		writeJSON(w, known.Code.Spec().HTTP, map[string]any{"code": e.Code, "detail": e.Detail, "action": e.Action})
		return
	}
	writeJSON(w, http.StatusInternalServerError, map[string]any{"code": "internal"})
}
