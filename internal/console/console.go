// Package console serves the pages of `antipode dev` and `antipode cluster`: the chat page, the console page, the browser
// SDK and the JSON API behind them.
//
// The API kills regions and issues tokens to whoever asks, so it belongs on loopback only: it refuses requests whose Host
// is not one of its own (a page elsewhere that rebinds its name to 127.0.0.1), changes from other origins, and changes
// without the header that only a same-origin script can set.
package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/web"
)

// ErrUnknown is wrapped by errors about links and targets that do not exist.
var ErrUnknown = errors.New("unknown")

// Header must be present on every request that changes something. A form or an image of another site cannot set it.
const Header = "X-Antipode-Console"

// MaxDelay bounds the delay of a link.
const MaxDelay = 10 * time.Second

// Config says where the console lives.
type Config struct {
	Endpoints []Endpoint // ipconf of every region
	Hosts     []string   // host names (without port) under which the pages may be asked for, beside localhost and loopback addresses
	Connect   []string   // further origins that scripts may connect to (CSP connect-src), beside loopback
	Files     fs.FS      // the web files; nil for the embedded ones

	Also map[string]http.Handler // further patterns, as http.ServeMux takes them, behind the same guard
}

// Deps is what the console shows and orders.
type Deps struct {
	Watcher Watcher
	Links   Links
	Switch  Switch
	Tokens  TokenFunc
	Traces  Traces
	Log     *slog.Logger // nil discards
}

type handler struct {
	cfg  Config
	deps Deps
	csp  string
}

// New returns the handler of pages and API.
func New(cfg Config, deps Deps) (http.Handler, error) {
	if deps.Watcher == nil || deps.Links == nil || deps.Switch == nil || deps.Tokens == nil || deps.Traces == nil {
		return nil, errors.New("console: watcher, links, switch, tokens and traces are all needed")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Files == nil {
		cfg.Files = web.Files()
	}
	h := &handler{cfg: cfg, deps: deps, csp: policy(cfg.Connect)}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.page("chat.html"))
	mux.HandleFunc("GET /console", h.page("console.html"))
	mux.HandleFunc("GET /{path...}", h.file)
	mux.HandleFunc("GET /dev/state.json", h.state)
	mux.HandleFunc("GET /dev/endpoints.json", h.endpoints)
	mux.HandleFunc("GET /dev/token", h.token)
	mux.HandleFunc("GET /dev/traces", h.traces)
	mux.HandleFunc("GET /dev/traces/{id}", h.trace)
	mux.HandleFunc("POST /dev/links/{from}/{to}/{order}", h.link)
	mux.HandleFunc("POST /dev/gateways/{region}/{id}/{order}", h.power)
	mux.HandleFunc("POST /dev/regions/{region}/{order}", h.power)
	for pattern, also := range cfg.Also {
		mux.Handle(pattern, also)
	}
	return h.guard(mux), nil
}

// policy is the Content-Security-Policy: own scripts and styles only, nothing inline, connections to this machine.
func policy(connect []string) string {
	to := []string{"'self'"}
	for _, host := range []string{"127.0.0.1", "localhost"} { // browsers take no IPv6 address here
		to = append(to, "http://"+host+":*", "ws://"+host+":*")
	}
	to = append(to, connect...)
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src " +
		strings.Join(to, " ") + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// guard sets the headers of every answer and refuses what does not come from this site's own pages.
func (h *handler) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", h.csp)
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cross-Origin-Resource-Policy", "same-origin")
		head.Set("Cross-Origin-Opener-Policy", "same-origin")
		head.Set("Cache-Control", "no-cache")
		if !h.own(r.Host) {
			fail(w, http.StatusForbidden, fmt.Sprintf("host %q is not served here; use a loopback address", r.Host))
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if err := cross.Check(r); err != nil {
				fail(w, http.StatusForbidden, err.Error())
				return
			}
			if r.Header.Get(Header) == "" {
				fail(w, http.StatusForbidden, "set the header "+Header+": 1")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// own tells whether a Host header names this server.
func (h *handler) own(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if host == "localhost" || slices.Contains(h.cfg.Hosts, host) {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// page serves one HTML file under a path of its own.
func (h *handler) page(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, h.cfg.Files, name) }
}

// file serves scripts, styles and pictures. Folders are not listed.
func (h *handler) file(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("path")
	info, err := fs.Stat(h.cfg.Files, name)
	if err != nil || info.IsDir() {
		fail(w, http.StatusNotFound, "no such page: "+r.URL.Path)
		return
	}
	http.ServeFileFS(w, r, h.cfg.Files, name)
}

func (h *handler) state(w http.ResponseWriter, r *http.Request) {
	s, err := h.deps.Watcher.State(r.Context())
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	s.Regions, s.Links, s.Gateways = nonNil(s.Regions), nonNil(s.Links), nonNil(s.Gateways)
	answer(w, s)
}

func (h *handler) endpoints(w http.ResponseWriter, _ *http.Request) {
	answer(w, struct {
		Regions []Endpoint `json:"regions"`
	}{nonNil(h.cfg.Endpoints)})
}

func (h *handler) token(w http.ResponseWriter, r *http.Request) {
	uid, err := im.ParseUID(r.URL.Query().Get("uid"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	token, expires, err := h.deps.Tokens(uid)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, struct {
		Token     string `json:"token"`
		ExpiresMS int64  `json:"expires_ms"`
	}{token, expires.UnixMilli()})
}

func (h *handler) traces(w http.ResponseWriter, r *http.Request) {
	limit := 50
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 500 {
			fail(w, http.StatusBadRequest, fmt.Sprintf("limit %q: want 1 to 500", text))
			return
		}
		limit = n
	}
	list, err := h.deps.Traces.Recent(r.Context(), limit)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	answer(w, struct {
		Traces []Trace `json:"traces"`
	}{nonNil(list)})
}

func (h *handler) trace(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	spans, err := h.deps.Traces.Spans(r.Context(), id)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if len(spans) == 0 {
		fail(w, http.StatusNotFound, fmt.Sprintf("no spans of trace %q: it was not sampled, or newer ones took its place", id))
		return
	}
	answer(w, struct {
		ID    string `json:"id"`
		Spans []Span `json:"spans"`
	}{id, spans})
}

func (h *handler) link(w http.ResponseWriter, r *http.Request) {
	from, to := im.Region(r.PathValue("from")), im.Region(r.PathValue("to"))
	var err error
	switch order := r.PathValue("order"); order {
	case "cut":
		err = h.deps.Links.Cut(r.Context(), from, to)
	case "heal":
		err = h.deps.Links.Heal(r.Context(), from, to)
	case "delay":
		ms, bad := strconv.ParseInt(r.URL.Query().Get("ms"), 10, 64)
		if bad != nil || ms < 0 || ms > MaxDelay.Milliseconds() {
			fail(w, http.StatusBadRequest, fmt.Sprintf("delay: ms must be 0 to %d", MaxDelay.Milliseconds()))
			return
		}
		err = h.deps.Links.Delay(r.Context(), from, to, time.Duration(ms)*time.Millisecond)
	default:
		fail(w, http.StatusNotFound, fmt.Sprintf("link order %q: want cut, heal or delay", order))
		return
	}
	h.done(w, r, err)
}

func (h *handler) power(w http.ResponseWriter, r *http.Request) {
	target := Target{Region: im.Region(r.PathValue("region")), Gateway: r.PathValue("id")}
	var err error
	switch order := r.PathValue("order"); order {
	case "kill":
		err = h.deps.Switch.Kill(r.Context(), target)
	case "restart":
		err = h.deps.Switch.Restart(r.Context(), target)
	default:
		fail(w, http.StatusNotFound, fmt.Sprintf("order %q: want kill or restart", order))
		return
	}
	h.done(w, r, err)
}

// done answers an order. What was ordered shows in the next state.
func (h *handler) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.deps.Log.InfoContext(r.Context(), "console order", "path", r.URL.RequestURI())
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, ErrUnknown) {
		status = http.StatusNotFound
	} else {
		h.deps.Log.ErrorContext(r.Context(), "console request failed", "path", r.URL.Path, "error", err)
	}
	fail(w, status, err.Error())
}

func answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a number that JSON does not have
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the reader went away: nobody to tell
}

func fail(w http.ResponseWriter, status int, text string) {
	b, _ := json.Marshal(map[string]string{"error": text})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, string(b)+"\n")
}

// nonNil keeps an empty list from becoming null in JSON.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
