package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// handler is the public HTTP surface.
func (g *Gateway) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ws", g.serveWebSocket)
	mux.HandleFunc("POST /v1/poll", g.servePoll)
	mux.HandleFunc("POST /v1/submit", func(w http.ResponseWriter, r *http.Request) {
		g.serveCall(w, r, wire.ServiceIM, wire.MethodSubmit)
	})
	mux.HandleFunc("POST /v1/pull", func(w http.ResponseWriter, r *http.Request) {
		g.serveCall(w, r, wire.ServiceIM, wire.MethodPull)
	})
	mux.HandleFunc("POST /v1/call/{service}/{method}", func(w http.ResponseWriter, r *http.Request) {
		g.serveCall(w, r, r.PathValue("service"), r.PathValue("method"))
	})
	mux.HandleFunc("OPTIONS /v1/", g.servePreflight)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if g.draining.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the caller left: nobody to tell
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.handlers.Add(1)
		defer g.handlers.Done()
		mux.ServeHTTP(w, r)
	})
}

// serveWebSocket turns a request into a conn. What refuses it is answered over HTTP, as the fallback answers errors.
func (g *Gateway) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !g.originAllowed(r) {
		http.Error(w, "this origin may not connect", http.StatusForbidden)
		return
	}
	i := slices.IndexFunc(wire.Subprotocols(), func(s string) bool {
		return slices.Contains(websocket.Subprotocols(r), s)
	})
	if i < 0 {
		writeError(w, im.Errorf(im.CodeBadRequest, "Sec-WebSocket-Protocol must offer %s", strings.Join(wire.Subprotocols(), " or ")))
		return
	}
	if g.draining.Load() {
		writeError(w, errDraining)
		return
	}
	ip := g.clientIP(r)
	if err := g.admitUpgrade(ip); err != nil {
		g.metrics.shed("handshake")
		writeError(w, err)
		return
	}
	if err := g.conns.reserve(ip); err != nil {
		g.metrics.shed("handshake")
		writeError(w, err)
		return
	}
	g.upgrading.Add(1)
	defer g.upgrading.Add(-1)
	if g.successor.has() {
		g.conns.release(ip)
		writeError(w, errDraining)
		return
	}
	upgrader := websocket.Upgrader{
		HandshakeTimeout: g.cfg.HelloTimeout,
		Subprotocols:     wire.Subprotocols()[i : i+1],
		CheckOrigin:      func(*http.Request) bool { return true }, // checked above
	}
	upgraded, err := upgrader.Upgrade(w, r, nil) // answers errors itself; refuses a client that sent frames already
	if err != nil {
		g.conns.release(ip)
		return
	}
	c := g.newConn(g.codecs[upgraded.Subprotocol()], ip)
	// The library's conn is left: its handshake is what was wanted.
	nc := settle(upgraded.NetConn())
	if nc.SetDeadline(time.Time{}) != nil { // it has closed
		g.conns.release(ip)
		nc.Close()
		return
	}
	g.serve(c, nc)
}

// originAllowed keeps web pages out that are not the operator's. Programs that are no browsers send no Origin.
func (g *Gateway) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(g.cfg.Origins, "*") || slices.Contains(g.cfg.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// subscriber is what the limits of an address are counted by: the address, or of IPv6 the /64, all of which is one's own.
func subscriber(ip netip.Addr) netip.Addr {
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// clientIP is the address of the client, as limits count it: the peer's, or the last one that trusted proxies did not add.
func (g *Gateway) clientIP(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	ip = ip.Unmap()
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0 && g.trusted(ip); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(forwarded[i]))
		if err != nil {
			break
		}
		ip = next.Unmap()
	}
	return subscriber(ip)
}

func (g *Gateway) trusted(ip netip.Addr) bool {
	return slices.ContainsFunc(g.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(ip) })
}
