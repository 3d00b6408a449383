package gateway

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// The media types of the HTTP fallback.
const (
	mediaJSON     = "application/json"
	mediaProtobuf = "application/x-protobuf"
)

// serveCall is one call over HTTP, for networks on which a WebSocket does not last. There is no session: seen is what
// the request says, and calls are answered in any order.
func (g *Gateway) serveCall(w http.ResponseWriter, r *http.Request, service, method string) {
	if !g.originAllowed(r) {
		http.Error(w, "this origin may not call", http.StatusForbidden)
		return
	}
	g.allowOrigin(w, r)
	result, asJSON, err := g.callHTTP(r, service, method)
	if err != nil {
		writeErrorAs(w, err, asJSON)
		return
	}
	body := result.Body
	w.Header().Set("Content-Type", mediaProtobuf)
	if asJSON {
		if body, err = wire.ResponseToJSON(service, method, body); err != nil {
			g.log.Error("an answer does not encode", "service", service, "method", method, "err", err)
			writeErrorAs(w, im.Errorf(im.CodeInternal, "the answer cannot be shown"), asJSON)
			return
		}
		w.Header().Set("Content-Type", mediaJSON)
	}
	g.metrics.wrote(len(body))
	_, _ = w.Write(body) // the caller left: nobody to tell
}

// errCutShort is of a request whose body did not come in time, or not to its end: the network's fault, and no reason not to try
// again.
var errCutShort = im.Errorf(im.CodeUnavailable, "the body of the request did not come whole in time")

func (g *Gateway) callHTTP(r *http.Request, service, method string) (result im.CallResult, asJSON bool, err error) {
	media, _, mediaErr := mime.ParseMediaType(r.Header.Get("Content-Type"))
	asJSON = media != mediaProtobuf
	if g.draining.Load() {
		return result, asJSON, errDraining
	}
	ip := g.clientIP(r)
	if err := g.admitUpgrade(ip); err != nil { // before the token is looked at, which costs more than all the rest
		g.metrics.shed("handshake")
		return result, asJSON, err
	}
	identity, err := g.verify(ip, bearer(r))
	if err != nil {
		return result, asJSON, err
	}
	if !g.rates.allow(identity.UID, time.Now()) {
		g.metrics.shed("rate")
		e := im.Errorf(im.CodeTooManyRequests, "more than %v calls a second", g.cfg.Rate)
		e.RetryAfter = time.Second
		return result, asJSON, e
	}
	select {
	case g.httpCalls <- struct{}{}:
		defer func() { <-g.httpCalls }()
	default:
		g.metrics.shed("calls")
		return result, asJSON, im.Errorf(im.CodeOverloaded, "%d calls are under way over HTTP; at most %d may be", g.cfg.MaxHTTPCalls, g.cfg.MaxHTTPCalls)
	}
	if mediaErr != nil || media != mediaJSON && media != mediaProtobuf {
		return result, asJSON, im.Errorf(im.CodeBadRequest, "Content-Type must be %s or %s", mediaJSON, mediaProtobuf)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(g.cfg.MaxFrame)+1))
	g.metrics.read(len(body))
	switch {
	case err != nil:
		return result, asJSON, errCutShort
	case len(body) > g.cfg.MaxFrame:
		return result, asJSON, im.Errorf(im.CodeFrameTooLarge, "the body has more than %d bytes", g.cfg.MaxFrame)
	}
	if asJSON {
		if body, err = wire.RequestFromJSON(service, method, body); err != nil {
			return result, asJSON, err
		}
	}
	call := im.Call{
		Service: service, Method: method, Key: r.URL.Query().Get("key"), Body: body, UID: identity.UID, MaxText: g.cfg.MaxText,
	}
	if key := wire.KeyOf(service, method, body); key != "" {
		call.Key = key
	}
	ctx, cancel := context.WithCancelCause(g.base)
	defer cancel(nil)
	if method != submitMethod { // that may have happened
		defer context.AfterFunc(r.Context(), func() { cancel(errCancelled) })()
	}
	result, err = g.forward(ctx, r.Header.Get("Traceparent"), g.cfg.CallTimeout, call)
	if errors.Is(err, errCancelled) { // by whoever has the answer from elsewhere: what it cost is little
		g.rates.giveBack(identity.UID, time.Now())
	}
	return result, asJSON, err
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// writeError answers an error as JSON.
func writeError(w http.ResponseWriter, err error) { writeErrorAs(w, err, true) }

func writeErrorAs(w http.ResponseWriter, err error, asJSON bool) {
	e := wire.ErrorFrame(err)
	spec := im.CodeOf(err).Spec()
	encode, media := wire.ErrorJSON, mediaJSON
	if !asJSON {
		encode, media = wire.ErrorProtobuf, mediaProtobuf
	}
	b, encodeErr := encode(e)
	if encodeErr != nil {
		b = nil
	}
	if coded, ok := errors.AsType[*im.Error](err); ok && coded.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((coded.RetryAfter+time.Second-1)/time.Second)))
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(spec.HTTP)
	_, _ = w.Write(b) // the caller left: nobody to tell
}

// allowOrigin lets a page of an allowed origin read the answer.
func (g *Gateway) allowOrigin(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); origin != "" {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
	}
}

// servePreflight answers a browser that asks whether it may call.
func (g *Gateway) servePreflight(w http.ResponseWriter, r *http.Request) {
	if !g.originAllowed(r) {
		http.Error(w, "this origin may not call", http.StatusForbidden)
		return
	}
	g.allowOrigin(w, r)
	w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
	w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Traceparent")
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}
