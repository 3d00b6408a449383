package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

func TestMain(m *testing.M) {
	code := m.Run()
	var leak error
	// net/http keeps a connection that it refused for half a second, which is longer than goleak looks.
	for until := time.Now().Add(20 * time.Second); code == 0; {
		if leak = goleak.Find(); leak == nil {
			break
		}
		if time.Now().After(until) {
			code = 1
		}
	}
	if leak != nil {
		fmt.Fprintln(os.Stderr, leak)
	}
	os.Exit(code)
}

// backend answers calls as a test tells it; by default every submit gets the next stamp.
type backend struct {
	mu     sync.Mutex
	calls  []im.Call
	stamp  im.Stamp
	handle func(context.Context, im.Call) (im.CallResult, error)
}

func (b *backend) Call(ctx context.Context, c im.Call) (im.CallResult, error) {
	b.mu.Lock()
	b.calls = append(b.calls, c)
	handle := b.handle
	b.mu.Unlock()
	if handle != nil {
		return handle(ctx, c)
	}
	return b.answer(c)
}

func (b *backend) answer(c im.Call) (im.CallResult, error) {
	if c.Service != wire.ServiceIM {
		return im.CallResult{}, im.Errorf(im.CodeUnknownService, "no service %q", c.Service)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var m proto.Message
	switch c.Method {
	case wire.MethodSubmit:
		b.stamp++
		m = &wire.SubmitResponse{Conversation: c.Key, Stamp: uint64(b.stamp), Origin: "eu"}
	case wire.MethodPull:
		m = &wire.PullResponse{Cursor: "eu=1"}
	case wire.MethodMark:
		m = &wire.MarkResponse{}
	default:
		return im.CallResult{}, im.Errorf(im.CodeUnknownMethod, "no method %q", c.Method)
	}
	body, err := wire.Marshal(m)
	return im.CallResult{Body: body, Stamp: b.stamp}, err
}

func (b *backend) seen() []im.Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]im.Call(nil), b.calls...)
}

// routers keep what was claimed.
type routers struct {
	mu       sync.Mutex
	gateways []im.Gateway // of each attach
	handler  Handler
	claims   []im.Claim
	refuse   func(im.Claim) error
}

func (r *routers) Attach(ctx context.Context, gw im.Gateway, h Handler) error {
	r.mu.Lock()
	r.gateways = append(r.gateways, gw)
	r.handler = h
	r.claims = append(r.claims, h.Claims()...)
	r.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (r *routers) Claim(_ context.Context, claims []im.Claim) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, len(claims))
	for i, c := range claims {
		if r.refuse != nil {
			if errs[i] = r.refuse(c); errs[i] != nil {
				continue
			}
		}
		r.claims = append(r.claims, c)
	}
	return errs
}

func (r *routers) claimed() []im.Claim {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]im.Claim(nil), r.claims...)
}

func (r *routers) last() im.Claim {
	claims := r.claimed()
	if len(claims) == 0 {
		return im.Claim{}
	}
	return claims[len(claims)-1]
}

func (r *routers) toGateway() Handler {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.handler
}

// rig is a real gateway on loopback with fakes behind it.
type rig struct {
	t       testing.TB
	g       *Gateway
	backend *backend
	routers *routers
	issuer  *issue.Issuer
	stop    context.CancelCauseFunc
	done    chan error
	epochs  uint64
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	r := prepareRig(t, nil, change...)
	r.run()
	return r
}

// prepareRig makes a rig that does not run yet; its gateway also takes tokens of further keys.
func prepareRig(t testing.TB, keys []auth.Key, change ...func(*Config)) *rig {
	t.Helper()
	issuer, err := issue.New("k1", nil)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.NewVerifier(auth.Config{Keys: append(keys, issuer.Key()), Leeway: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, backend: &backend{}, routers: &routers{}, issuer: issuer, done: make(chan error, 1), epochs: 7}
	cfg := Config{
		Gateway: im.Gateway{ID: "g1", Epoch: 7}, Region: "eu", Origin: "eu", Listen: "127.0.0.1:0",
		HelloTimeout: 10 * time.Second, DrainTimeout: 2 * time.Second, Goroutines: strings.HasPrefix(t.Name(), "TestGoroutines/"),
	}
	if strings.HasPrefix(t.Name(), "TestTLS/") {
		withTLS(&cfg)
	}
	if strings.HasPrefix(t.Name(), "TestWebTransport") {
		withQUIC(&cfg)
	}
	for _, f := range change {
		f(&cfg)
	}
	r.g, err = New(cfg, Deps{
		Backend: r.backend, Routers: r.routers, Tokens: verifier,
		NextEpoch:    func(context.Context) (uint64, error) { r.epochs++; return r.epochs, nil },
		Alternatives: func() []string { return []string{"wss://g2.eu.example/v1/ws"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	r.stop = cancel
	go func() { r.done <- r.g.Run(ctx) }()
	r.t.Cleanup(func() { r.shut(im.ErrKilled) })
	eventually(r.t, "the gateway is attached", func() bool { return r.routers.toGateway() != nil })
}

// shut ends the gateway and waits for it.
func (r *rig) shut(cause error) {
	r.t.Helper()
	r.stop(cause)
	select {
	case err := <-r.done:
		r.done <- err
		if err != nil && err != ErrTakenOver {
			r.t.Error("Run:", err)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("Run does not return")
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("never: ", what)
		}
	}
}

func (r *rig) token(uid im.UID) string {
	r.t.Helper()
	s, err := r.issuer.Token(uid, time.Now().Add(time.Hour))
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// peer is a client's end of a socket.
type peer struct {
	t     testing.TB
	ws    *websocket.Conn
	codec *wire.Codec
	poll  *pollPeer // in place of ws

	stream *streamPeer // likewise
}

// cut ends the socket without a word.
func (p *peer) cut() {
	if p.stream != nil {
		p.stream.cut()
		return
	}
	p.ws.NetConn().Close()
}

func (r *rig) dial(subprotocol string) *peer {
	r.t.Helper()
	if strings.HasPrefix(r.t.Name(), "TestWebTransport/") {
		return r.dialStream(subprotocol)
	}
	p, response, err := r.tryDial(subprotocol, nil)
	if err != nil {
		r.t.Fatal(err, response)
	}
	return p
}

func (r *rig) tryDial(subprotocol string, header http.Header) (*peer, *http.Response, error) {
	d := websocket.Dialer{Subprotocols: []string{subprotocol}, HandshakeTimeout: 30 * time.Second, TLSClientConfig: trusting()}
	ws, response, err := d.Dial(r.g.WebSocketURL(), header)
	if err != nil {
		return nil, response, err
	}
	r.t.Cleanup(func() { ws.Close() })
	codec, err := wire.NewCodec(ws.Subprotocol())
	return &peer{t: r.t, ws: ws, codec: codec}, response, err
}

func (p *peer) send(m proto.Message) {
	p.t.Helper()
	b, err := p.codec.Encode(wire.FrameOf(m))
	if err != nil {
		p.t.Fatal(err)
	}
	p.sendRaw(p.codec.MessageType(), b)
}

func (p *peer) sendRaw(typ int, b []byte) {
	p.t.Helper()
	if p.poll != nil {
		p.poll.send(b)
		return
	}
	if p.stream != nil {
		p.stream.send(b)
		return
	}
	if err := p.ws.WriteMessage(typ, b); err != nil {
		p.t.Fatal(err)
	}
}

// receive reads the next frame; the error is the socket's end.
func (p *peer) receive() (*wire.Frame, error) {
	p.t.Helper()
	typ := p.codec.MessageType()
	var b []byte
	var err error
	if p.poll != nil {
		b, err = p.poll.receive()
	} else if p.stream != nil {
		b, err = p.stream.receive()
	} else {
		p.ws.SetReadDeadline(time.Now().Add(30 * time.Second))
		typ, b, err = p.ws.ReadMessage()
	}
	if err != nil {
		return nil, err
	}
	if typ != p.codec.MessageType() {
		p.t.Fatalf("a message of type %d", typ)
	}
	f, err := p.codec.Decode(b)
	if err != nil {
		p.t.Fatalf("%q: %v", b, err)
	}
	return f, nil
}

// expect reads the next frame, which must be of want's kind, and returns it.
func expect[M proto.Message](p *peer, get func(*wire.Frame) M) M {
	p.t.Helper()
	f, err := p.receive()
	if err != nil {
		p.t.Fatalf("the socket ended: %v", err)
	}
	m := get(f)
	if !m.ProtoReflect().IsValid() {
		p.t.Fatalf("got %v", f)
	}
	return m
}

// expectClose reads the error frame and the close frame of a code.
func (p *peer) expectClose(code im.Code) {
	p.t.Helper()
	for {
		f, err := p.receive()
		if err == nil {
			if e := f.GetError(); e != nil && (e.Code != string(code) || e.Action != string(code.Spec().Action)) {
				p.t.Fatalf("the error frame says %v, want %s", e, code)
			}
			continue
		}
		closed, ok := errors.AsType[*websocket.CloseError](err)
		if !ok {
			p.t.Fatalf("the socket ended with %v, want a close with %s", err, code)
		}
		if closed.Code != code.Spec().Close || closed.Text != string(code) {
			p.t.Fatalf("closed with %d %q, want %d %s", closed.Code, closed.Text, code.Spec().Close, code)
		}
		return
	}
}

// expectAlive pings.
func (p *peer) expectAlive() {
	p.t.Helper()
	p.send(&wire.Ping{})
	expect(p, (*wire.Frame).GetPong)
}

func (r *rig) hello(uid im.UID, login uint64) *wire.Hello {
	r.t.Helper()
	return &wire.Hello{Token: r.token(uid), Device: "phone", Platform: "ios", Login: login, Agent: "test/1"}
}

// login opens a session.
func (r *rig) login(subprotocol string, uid im.UID, login uint64) (*peer, *wire.Welcome) {
	r.t.Helper()
	p := r.dial(subprotocol)
	p.send(r.hello(uid, login))
	return p, expect(p, (*wire.Frame).GetWelcome)
}

// resume takes a session up again.
func (r *rig) resume(subprotocol string, uid im.UID, login uint64, w *wire.Welcome, push uint64) (*peer, *wire.Welcome) {
	r.t.Helper()
	p := r.dial(subprotocol)
	h := r.hello(uid, login)
	h.Resume = &wire.Resume{Session: w.Session, Secret: w.ResumeSecret, Push: push}
	p.send(h)
	return p, expect(p, (*wire.Frame).GetWelcome)
}

// push sends an event that says text to conns.
func (r *rig) push(text string, conns ...uint64) {
	r.t.Helper()
	body, err := wire.Marshal(&wire.Event{From: text})
	if err != nil {
		r.t.Fatal(err)
	}
	r.routers.toGateway().Push([]im.Push{{Conns: conns, Service: "im", Method: "event", Body: body}})
}

func (p *peer) expectPush(number uint64, text string) {
	p.t.Helper()
	push := expect(p, (*wire.Frame).GetPush)
	var e wire.Event
	if err := wire.Unmarshal(push.Body, &e); err != nil {
		p.t.Fatal(err)
	}
	if push.Number != number || e.From != text || push.Service != "im" || push.Method != "event" {
		p.t.Fatalf("got push %d %q, want %d %q", push.Number, e.From, number, text)
	}
}

func submit(id uint32, key, text string) *wire.Call {
	body, err := wire.Marshal(&wire.SubmitRequest{Conversation: key, Content: &wire.SubmitText{Text: &wire.Text{Text: text}}})
	if err != nil {
		panic(err)
	}
	return &wire.Call{Id: id, Service: "im", Method: "submit", Key: key, Body: body}
}

func textOf(c im.Call) string {
	var m wire.SubmitRequest
	if err := wire.Unmarshal(c.Body, &m); err != nil {
		return err.Error()
	}
	return m.GetText().GetText()
}

// both runs a test over both subprotocols.
func both(t *testing.T, f func(t *testing.T, subprotocol string)) {
	for _, s := range wire.Subprotocols() {
		t.Run(strings.TrimPrefix(s, "antipode."), func(t *testing.T) { f(t, s) })
	}
}

func prefixes(t testing.TB, texts ...string) []netip.Prefix {
	t.Helper()
	var list []netip.Prefix
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}
