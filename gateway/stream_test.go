package gateway

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/webtransport-go"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func withQUIC(c *Config) {
	withTLS(c)
	c.QUIC = "127.0.0.1:0"
}

// streamPeer is a client's end of a WebTransport session.
type streamPeer struct {
	t       testing.TB
	conn    *quic.Conn
	session *webtransport.Session
	stream  *webtransport.Stream
}

// dialSession opens a session at a gateway, or at an address that leads to it.
func (r *rig) dialSession(addr string, subprotocols ...string) (*quic.Conn, *http.Response, *webtransport.Session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var conn *quic.Conn
	d := &webtransport.Transport{
		TLSClientConfig: trusting(), ApplicationProtocols: subprotocols,
		QUICConfig: &quic.Config{EnableDatagrams: true, EnableStreamResetPartialDelivery: true, MaxIdleTimeout: time.Minute},
	}
	d.DialAddr = func(ctx context.Context, at string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
		if addr != "" {
			at = addr
		}
		var err error
		conn, err = quic.DialAddrEarly(ctx, at, t, q)
		return conn, err
	}
	response, session, err := d.Dial(ctx, r.g.WebTransportURL(), nil)
	if conn != nil {
		r.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	}
	return conn, response, session, err
}

func (r *rig) dialStream(subprotocol string) *peer {
	r.t.Helper()
	return r.dialStreamAt("", subprotocol)
}

func (r *rig) dialStreamAt(addr, subprotocol string) *peer {
	r.t.Helper()
	conn, response, session, err := r.dialSession(addr, subprotocol)
	if err != nil {
		r.t.Fatal(err, response)
	}
	if got := session.SessionState().ApplicationProtocol; got != subprotocol {
		r.t.Fatalf("the gateway speaks %q, not %q", got, subprotocol)
	}
	stream, err := session.OpenStream()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := stream.Write(nil); err != nil { // what opens it towards the gateway
		r.t.Fatal(err)
	}
	codec, err := wire.NewCodec(subprotocol)
	if err != nil {
		r.t.Fatal(err)
	}
	return &peer{t: r.t, codec: codec, stream: &streamPeer{t: r.t, conn: conn, session: session, stream: stream}}
}

func (p *streamPeer) send(frame []byte) {
	p.t.Helper()
	p.stream.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := p.stream.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		p.t.Fatal(err)
	}
}

// receive reads a frame. The end is told as a WebSocket's would be.
func (p *streamPeer) receive() ([]byte, error) {
	p.stream.SetReadDeadline(time.Now().Add(20 * time.Second))
	var head [4]byte
	_, err := io.ReadFull(p.stream, head[:])
	switch n := binary.BigEndian.Uint32(head[:]); {
	case err == nil && n > 0:
		b := make([]byte, n)
		_, err = io.ReadFull(p.stream, b)
		return b, err
	case err == nil:
		end, err := io.ReadAll(p.stream)
		if err != nil || len(end) < 2 {
			return nil, fmt.Errorf("a close of %q: %w", end, err)
		}
		return nil, &websocket.CloseError{Code: int(binary.BigEndian.Uint16(end)), Text: string(end[2:])}
	}
	if closed, ok := errors.AsType[*webtransport.SessionError](err); ok {
		return nil, &websocket.CloseError{Code: int(closed.ErrorCode), Text: closed.Message}
	}
	return nil, err
}

func (p *streamPeer) cut() { _ = p.conn.CloseWithError(0, "") }

// Over WebTransport, a gateway does the same.
func TestWebTransport(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"LoginSubmitPush", TestLoginSubmitPush},
		{"SubmitsOfAKeyGoInOrder", TestSubmitsOfAKeyGoInOrder},
		{"Resume", TestResume},
		{"ResumeAfterOffline", TestResumeAfterOffline},
		{"ResumeTakesTheSessionOver", TestResumeTakesTheSessionOver},
		{"ResumeWindow", TestResumeWindow},
		{"ClaimRefused", TestClaimRefused},
		{"Kick", TestKick},
		{"SlowConsumer", TestSlowConsumer},
		{"ConsumerThatDoesNotRead", TestConsumerThatDoesNotRead},
		{"Idle", TestIdle},
		{"TokenExpiresOnTheWay", TestTokenExpiresOnTheWay},
		{"BadHello", TestBadHello},
		{"Drain", TestDrain},
	} {
		t.Run(test.name, test.run)
	}
}

// A session goes from WebSocket to WebTransport and back, with what was not acknowledged.
func TestWebTransportTakesASessionUp(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		socket, welcome := r.login(subprotocol, "ann", 1)
		r.push("one", r.routers.last().Conn)
		socket.expectPush(1, "one")
		socket.cut()
		stream := r.dialStream(subprotocol)
		resume := func(p *peer, w *wire.Welcome, login, push uint64) *wire.Welcome {
			t.Helper()
			h := r.hello("ann", login)
			h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret, Push: push}
			p.send(h)
			again := expect(p, (*wire.Frame).GetWelcome)
			if !again.Resumed {
				t.Fatal("not resumed")
			}
			return again
		}
		welcome = resume(stream, welcome, 2, 0)
		stream.expectPush(1, "one")
		r.push("two", r.routers.last().Conn)
		stream.expectPush(2, "two")
		stream.send(submit(7, "d:ann:bob", "by stream"))
		if reply := expect(stream, (*wire.Frame).GetReply); reply.Id != 7 || reply.Error != nil {
			t.Fatal(reply)
		}
		stream.cut()
		back := r.dial(subprotocol)
		resume(back, welcome, 3, 1)
		back.expectPush(2, "two")
		back.expectAlive()
	})
}

// With a certificate of its own it is served beside sockets whose TLS ends elsewhere.
func TestWebTransportBesidePlainSockets(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Certificate, c.QUICCertificate = nil, c.Certificate })
	if !strings.HasPrefix(r.g.URL(), "http://") {
		t.Fatal("its URL is ", r.g.URL())
	}
	r.login(wire.SubprotocolJSON, "ann", 1)
	p := r.dialStream(wire.SubprotocolJSON)
	p.send(r.hello("bob", 1))
	expect(p, (*wire.Frame).GetWelcome)
}

// A frame that is too large is refused by its length, a hello included, and one of just the size is not.
func TestWebTransportFrameTooLarge(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxFrame, c.MaxText = 4096, 1024 })
	for _, loggedIn := range []bool{false, true} {
		p := r.dialStream(wire.SubprotocolJSON)
		if loggedIn {
			p.send(r.hello("ann", 1))
			expect(p, (*wire.Frame).GetWelcome)
			p.stream.send([]byte(`{"ping":{}}` + strings.Repeat(" ", 4096-11)))
			expect(p, (*wire.Frame).GetPong)
		}
		if _, err := p.stream.stream.Write([]byte{0, 0, 0x10, 1}); err != nil { // 4,097
			t.Fatal(err)
		}
		p.expectClose(im.CodeFrameTooLarge)
	}
}

// A frame that comes byte by byte is a frame.
func TestWebTransportSlowFrames(t *testing.T) {
	r := newRig(t)
	p := r.dialStream(wire.SubprotocolProtobuf)
	p.send(r.hello("ann", 1))
	expect(p, (*wire.Frame).GetWelcome)
	b, err := p.codec.Encode(wire.FrameOf(submit(1, "d:ann:bob", strings.Repeat("long ", 1000))))
	if err != nil {
		t.Fatal(err)
	}
	all := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	for _, part := range [][]byte{all[:1], all[1:3], all[3:5], all[5:3000], all[3000:]} {
		if _, err := p.stream.stream.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if reply := expect(p, (*wire.Frame).GetReply); reply.Id != 1 || reply.Error != nil {
		t.Fatal(reply)
	}
	calls := r.backend.seen()
	if got := textOf(calls[len(calls)-1]); got != strings.Repeat("long ", 1000) {
		t.Errorf("got %d bytes", len(got))
	}
}

// What is wrong with a session is said before it begins, in the words of an upgrade.
func TestWebTransportRefused(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, func(c *Config) { c.MaxQUIC, c.HelloTimeout = 1, 8*time.Second })
	refused := func(status int, subprotocols ...string) {
		t.Helper()
		_, response, _, err := r.dialSession("", subprotocols...)
		if err == nil || response == nil || response.StatusCode != status {
			t.Fatalf("%v: %v, %v, want status %d", subprotocols, response, err, status)
		}
	}
	refused(http.StatusBadRequest, "chat.v9")
	p := r.dialStream(wire.SubprotocolProtobuf)
	p.send(r.hello("ann", 1))
	expect(p, (*wire.Frame).GetWelcome)
	refused(http.StatusServiceUnavailable, wire.SubprotocolProtobuf) // full
	p.send(&wire.Bye{})
	if _, err := p.receive(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Fatal(err)
	}
	eventually(t, "the place is free", func() bool { return r.g.quic.sessions.Load() == 0 })
	_, _, session, err := r.dialSession("", wire.SubprotocolProtobuf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err = session.AcceptStream(ctx); ctx.Err() != nil { // a session without a stream ends
		t.Fatal(err)
	}
	eventually(t, "the place is free again", func() bool { return r.g.quic.sessions.Load() == 0 && r.g.conns.reserved.Load() == 0 })
	r.g.draining.Store(true)
	refused(http.StatusServiceUnavailable, wire.SubprotocolProtobuf)
}

// Connections that open no session are bounded, and end.
func TestWebTransportHandshakesAreBounded(t *testing.T) {
	t.Parallel() // it waits for most of its time
	r := newRig(t, func(c *Config) { c.MaxHandshakes, c.HelloTimeout = 2, 8*time.Second })
	var mute []*quic.Conn
	for range 2 {
		t1 := trusting()
		t1.NextProtos, t1.ServerName = []string{"h3"}, "127.0.0.1"
		c, err := quic.DialAddr(t.Context(), fmt.Sprint("127.0.0.1:", r.g.quic.port), t1, &quic.Config{EnableDatagrams: true})
		if err != nil {
			t.Fatal(err)
		}
		mute = append(mute, c)
	}
	if _, _, _, err := r.dialSession("", wire.SubprotocolProtobuf); err == nil {
		t.Fatal("a third connection was taken")
	}
	for _, c := range mute {
		select {
		case <-c.Context().Done():
		case <-time.After(20 * time.Second):
			t.Fatal("a connection without a session stays")
		}
	}
	eventually(t, "the places are free", func() bool { return r.g.quic.shaking.Load() == 0 })
	r.dialStream(wire.SubprotocolProtobuf)
}

// relay passes datagrams on, and may change the address that it has towards the gateway.
type relay struct {
	t      *testing.T
	client *net.UDPConn // towards clients
	to     *net.UDPAddr

	mu     sync.Mutex
	from   net.Addr // of the client
	server *net.UDPConn
}

func newRelay(t *testing.T, to string) *relay {
	addr, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, client: client, to: addr}
	r.move()
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := client.ReadFrom(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.from = from
			_, _ = r.server.Write(b[:n])
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		client.Close()
		r.server.Close()
	})
	return r
}

// move takes another port: what NATs do to clients, and networks that they change to.
func (r *relay) move() {
	server, err := net.DialUDP("udp", nil, r.to)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	old := r.server
	r.server = server
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := server.Read(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			from := r.from
			r.mu.Unlock()
			_, _ = r.client.WriteTo(b[:n], from)
		}
	}()
}

// A client whose address changes stays connected: nothing is to be resumed.
func TestWebTransportAddressChanges(t *testing.T) {
	r := newRig(t)
	way := newRelay(t, fmt.Sprint("127.0.0.1:", r.g.quic.port))
	p := r.dialStreamAt(way.client.LocalAddr().String(), wire.SubprotocolProtobuf)
	p.send(r.hello("ann", 1))
	expect(p, (*wire.Frame).GetWelcome)
	for n := range uint64(3) {
		way.move()
		p.expectAlive()
		r.push("after", r.routers.last().Conn)
		p.expectPush(n+1, "after")
	}
	if n := len(r.routers.claimed()); n != 1 {
		t.Errorf("%d claims: the client logged in again", n)
	}
}
