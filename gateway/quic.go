package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// quicServer takes clients by WebTransport: HTTP/3 over UDP, one session for each connection.
//
//	udp ──▶ admit (how many) ──handshake──▶ CONNECT /v1/ws ──▶ the conditions of an upgrade ──▶ conn over a streamSocket
//
// A connection that has no session within HelloTimeout is closed. What a connection may hold in memory here before it is
// read is bounded by its windows.
type quicServer struct {
	g         *Gateway
	server    *webtransport.Server
	transport *quic.Transport
	port      int

	shaking  atomic.Int64 // connections without a session
	sessions atomic.Int64
	running  sync.WaitGroup // connections and sockets
	ctx      context.Context
	cancel   context.CancelFunc
}

const (
	quicStreamWindow = 64 << 10 // bytes of a stream that a client may send ahead of its reader; twice that once it was fast
	quicConnWindow   = 96 << 10 // and of all streams of a connection
	quicStreams      = 4        // of a connection, either way: the session's own, its one stream, and room for what is refused
	quicUniStreams   = 8        // HTTP/3 itself has three
	// quicIdle is added to IdleTimeout: conns themselves know first that a client is gone.
	quicIdle = 30 * time.Second
	// quicRebind is how often an address is tried to which another process is still bound.
	quicRebind = 200 * time.Millisecond
)

// newQUIC binds, unless another process serves the address that is to be taken over: serve does it then.
func (g *Gateway) newQUIC() (*quicServer, error) {
	q := &quicServer{g: g}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	secure := g.clientTLS()
	if g.cfg.QUICCertificate != nil {
		secure.GetCertificate = g.cfg.QUICCertificate
	}
	h3 := &http3.Server{
		Handler: http.HandlerFunc(q.handle), TLSConfig: http3.ConfigureTLSConfig(secure), MaxHeaderBytes: 16 << 10,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context { return context.WithValue(ctx, quicConn{}, c) },
	}
	q.server = &webtransport.Server{
		H3: h3, ApplicationProtocols: wire.Subprotocols(), ReorderingTimeout: g.cfg.HelloTimeout,
		CheckOrigin: func(*http.Request) bool { return true }, // checked by handle
	}
	webtransport.ConfigureHTTP3Server(h3)
	if g.predecessor != nil {
		addr, err := net.ResolveUDPAddr("udp", g.cfg.QUIC)
		if err != nil {
			return nil, fmt.Errorf("gateway: quic: %w", err)
		}
		q.port = addr.Port
		return q, nil
	}
	return q, q.bind()
}

func (q *quicServer) bind() error {
	addr, err := net.ResolveUDPAddr("udp", q.g.cfg.QUIC)
	if err != nil {
		return fmt.Errorf("gateway: quic: %w", err)
	}
	udp, err := net.ListenUDP("udp", addr)
	if err != nil {
		return fmt.Errorf("gateway: quic: listen on %s: %w", q.g.cfg.QUIC, err)
	}
	if at, ok := udp.LocalAddr().(*net.UDPAddr); ok && q.port == 0 {
		q.port = at.Port
	}
	q.transport = &quic.Transport{
		Conn: udp, ConnContext: q.admit,
		// Addresses may be made up until the handshake is over: past a quarter of the places, clients show first that theirs is not.
		VerifySourceAddress: func(net.Addr) bool { return q.shaking.Load() > int64(q.g.cfg.MaxHandshakes)/4 },
	}
	return nil
}

// url is where clients connect: at the host of the public URL.
func (q *quicServer) url() string {
	host := ""
	if u, err := url.Parse(q.g.URL()); err == nil {
		host = u.Hostname()
	}
	return fmt.Sprintf("https://%s/v1/ws", net.JoinHostPort(host, fmt.Sprint(q.port)))
}

// WebTransportURL is the public URL for WebTransport; empty: the gateway has none.
func (g *Gateway) WebTransportURL() string {
	if g.quic == nil {
		return ""
	}
	return g.quic.url()
}

// quicConn is the key of the *quic.Conn in a request's context, and quicAttempt that of its *attempt.
type (
	quicConn    struct{}
	quicAttempt struct{}
)

// attempt is a connection that is to have a session.
type attempt struct {
	settled func() // gives its place back
	opened  atomic.Bool
}

// admit counts a connection in, whoever it is of.
func (q *quicServer) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	if q.shaking.Add(1) > int64(q.g.cfg.MaxHandshakes) {
		q.shaking.Add(-1)
		q.g.metrics.shed("tls")
		return nil, errors.New("too many handshakes are under way")
	}
	a := &attempt{settled: sync.OnceFunc(func() { q.shaking.Add(-1) })}
	context.AfterFunc(ctx, a.settled)
	return context.WithValue(ctx, quicAttempt{}, a), nil
}

// begin serves until stop.
func (q *quicServer) begin() {
	q.running.Go(func() {
		if err := q.serve(); err != nil {
			q.g.log.Error("WebTransport is not served any more; clients use WebSockets", "err", err)
		}
	})
}

func (q *quicServer) serve() error {
	for until := time.Now().Add(handoffTime); q.transport == nil; {
		err := q.bind()
		switch {
		case err == nil:
		case time.Now().After(until):
			return err
		default:
			select {
			case <-time.After(quicRebind):
			case <-q.ctx.Done():
				return nil
			}
		}
	}
	c := &q.g.cfg
	listener, err := q.transport.ListenEarly(q.server.H3.TLSConfig, &quic.Config{
		HandshakeIdleTimeout: c.HelloTimeout, MaxIdleTimeout: c.IdleTimeout + quicIdle,
		InitialStreamReceiveWindow: quicStreamWindow, MaxStreamReceiveWindow: 2 * quicStreamWindow,
		InitialConnectionReceiveWindow: quicConnWindow, MaxConnectionReceiveWindow: 2 * quicConnWindow,
		MaxIncomingStreams: quicStreams, MaxIncomingUniStreams: quicUniStreams,
		EnableDatagrams: true, EnableStreamResetPartialDelivery: true, // WebTransport is not to be had without
	})
	if err != nil {
		return fmt.Errorf("gateway: quic: %w", err)
	}
	for {
		conn, err := listener.Accept(q.ctx)
		if err != nil {
			if q.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("gateway: quic: %w", err)
		}
		q.running.Go(func() { q.connected(conn) })
	}
}

// connected serves a connection until it ends.
func (q *quicServer) connected(conn *quic.Conn) {
	late := time.AfterFunc(q.g.cfg.HelloTimeout, func() {
		if a, ok := conn.Context().Value(quicAttempt{}).(*attempt); ok && !a.opened.Load() {
			_ = conn.CloseWithError(0, "no session was opened in time") // it may have closed
		}
	})
	defer late.Stop()
	if err := q.server.ServeQUICConn(conn); err != nil {
		q.g.log.Debug("a QUIC connection ended", "err", err)
	}
}

// stop ends everything. Conns were dropped; with patience, what they were sent may still arrive.
func (q *quicServer) stop(patience time.Duration) {
	await(time.Now().Add(patience), drainLook, func() bool { return q.sessions.Load() == 0 })
	q.cancel()
	_ = q.server.Close() // connections; there is nothing to be done about one that does not
	q.running.Wait()
	if q.transport != nil {
		_ = q.transport.Close()
		_ = q.transport.Conn.Close()
	}
}

// handle turns a request into a conn, under the same conditions as an upgrade.
func (q *quicServer) handle(w http.ResponseWriter, r *http.Request) {
	g := q.g
	a, _ := r.Context().Value(quicAttempt{}).(*attempt)
	conn, _ := r.Context().Value(quicConn{}).(*quic.Conn)
	offered := strings.Join(r.Header.Values("Wt-Available-Protocols"), ",")
	switch {
	case r.URL.Path != "/v1/ws" || r.Method != http.MethodConnect || a == nil || conn == nil:
		http.NotFound(w, r)
		return
	case !g.originAllowed(r):
		http.Error(w, "this origin may not connect", http.StatusForbidden)
		return
	case offered != "" && subprotocolIn(offered) == "":
		writeError(w, im.Errorf(im.CodeBadRequest, "WT-Available-Protocols must offer %s", strings.Join(wire.Subprotocols(), " or ")))
		return
	case g.draining.Load() || g.successor.has():
		writeError(w, errDraining)
		return
	}
	ip := g.clientIP(r)
	if err := q.reserve(ip); err != nil {
		g.metrics.shed("handshake")
		writeError(w, err)
		return
	}
	s, err := q.open(w, r, conn, a)
	if err != nil {
		g.log.Debug("a WebTransport session was not opened", "err", err)
		q.release(ip)
		return
	}
	s.c = g.newConn(g.codecs[s.subprotocol()], ip)
	s.c.socket = s
	if !g.conns.add(s.c) {
		s.c.gone.Store(true)
		g.conns.release(ip)
		s.Close()
		return
	}
	g.metrics.conns(1)
	s.c.arm()
	q.running.Go(s.read)
}

func subprotocolIn(offered string) string {
	for _, name := range wire.Subprotocols() {
		if strings.Contains(offered, `"`+name+`"`) {
			return name
		}
	}
	return ""
}

// reserve counts a session in, as one of these and as one of all conns.
func (q *quicServer) reserve(ip netip.Addr) error {
	if err := q.g.admitUpgrade(ip); err != nil {
		return err
	}
	if q.sessions.Add(1) > int64(q.g.cfg.MaxQUIC) {
		q.sessions.Add(-1)
		return refusal(im.CodeOverloaded, 5*time.Second, "this gateway has too many clients by WebTransport")
	}
	if err := q.g.conns.reserve(ip); err != nil {
		q.sessions.Add(-1)
		return err
	}
	return nil
}

func (q *quicServer) release(ip netip.Addr) {
	q.sessions.Add(-1)
	q.g.conns.release(ip)
}

// open makes the session and waits for its stream.
func (q *quicServer) open(w http.ResponseWriter, r *http.Request, conn *quic.Conn, a *attempt) (*streamSocket, error) {
	if a.opened.Swap(true) {
		http.Error(w, "this connection has a session", http.StatusConflict)
		return nil, errors.New("a second session on one connection")
	}
	session, err := q.server.Upgrade(w, r)
	if err != nil {
		_ = conn.CloseWithError(0, "no session")
		return nil, err
	}
	ctx, cancel := context.WithTimeout(session.Context(), q.g.cfg.HelloTimeout)
	defer cancel()
	stream, err := session.AcceptStream(ctx)
	if err != nil {
		q.g.metrics.closed(im.CodeHelloExpected)
		q.dismiss(conn, session, im.CodeHelloExpected.Spec().Close, string(im.CodeHelloExpected))
		return nil, err
	}
	a.settled()
	return newStreamSocket(q, conn, session, stream), nil
}

// dismiss closes a session with a code, and its connection once the client had the time to hear of it.
func (q *quicServer) dismiss(conn *quic.Conn, session *webtransport.Session, status int, reason string) {
	_ = session.CloseWithError(webtransport.SessionErrorCode(status), reason) // the client may have closed it
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-conn.Context().Done():
	case <-q.ctx.Done():
	case <-t.C:
	}
	_ = conn.CloseWithError(0, "")
}
