package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a client may do wrong before it is logged in: each ends the connection with its code.
func TestBadHello(t *testing.T) {
	r := newRig(t, func(c *Config) { c.HelloTimeout = time.Minute; c.MaxFrame = 4096; c.MaxText = 1024 })
	other, err := issue.New("k1", nil) // another key under the same id
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := issue.New("k2", nil)
	if err != nil {
		t.Fatal(err)
	}
	token := func(i *issue.Issuer, uid im.UID, expires time.Duration) string {
		s, err := i.Token(uid, time.Now().Add(expires))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.RegisteredClaims{Subject: "ann"}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	hello := func(change func(*wire.Hello)) *wire.Frame {
		h := r.hello("ann", 1)
		change(h)
		return wire.FrameOf(h)
	}
	for _, test := range []struct {
		name  string
		frame *wire.Frame
		raw   string // instead of a frame
		code  im.Code
	}{
		{name: "another frame first", frame: wire.FrameOf(&wire.Ping{}), code: im.CodeHelloExpected},
		{name: "garbage", raw: "\xff\xff\xff\xff", code: im.CodeBadFrame},
		{name: "too large", raw: strings.Repeat("x", 4097), code: im.CodeFrameTooLarge},
		{name: "no token", frame: hello(func(h *wire.Hello) { h.Token = "" }), code: im.CodeBadToken},
		{name: "malformed token", frame: hello(func(h *wire.Hello) { h.Token = "a.b.c" }), code: im.CodeBadToken},
		{name: "wrong signature", frame: hello(func(h *wire.Hello) { h.Token = token(other, "ann", time.Hour) }), code: im.CodeBadToken},
		{name: "unknown key id", frame: hello(func(h *wire.Hello) { h.Token = token(unknown, "ann", time.Hour) }), code: im.CodeBadToken},
		{name: "no signature", frame: hello(func(h *wire.Hello) { h.Token = none }), code: im.CodeBadToken},
		{name: "no uid", frame: hello(func(h *wire.Hello) { h.Token = token(r.issuer, "a b", time.Hour) }), code: im.CodeBadToken},
		{name: "expired token", frame: hello(func(h *wire.Hello) { h.Token = token(r.issuer, "ann", -time.Minute) }), code: im.CodeTokenExpired},
		{name: "no device", frame: hello(func(h *wire.Hello) { h.Device = "" }), code: im.CodeBadFrame},
		{name: "long device", frame: hello(func(h *wire.Hello) { h.Device = strings.Repeat("d", 65) }), code: im.CodeBadFrame},
		{name: "device with a space", frame: hello(func(h *wire.Hello) { h.Device = "my phone" }), code: im.CodeBadFrame},
		{name: "unknown platform", frame: hello(func(h *wire.Hello) { h.Platform = "fridge" }), code: im.CodeBadFrame},
		{name: "no login number", frame: hello(func(h *wire.Hello) { h.Login = 0 }), code: im.CodeBadFrame},
		{name: "long agent", frame: hello(func(h *wire.Hello) { h.Agent = strings.Repeat("a", 129) }), code: im.CodeBadFrame},
	} {
		both(t, func(t *testing.T, subprotocol string) {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				p := r.dial(subprotocol)
				p.t = t
				if test.raw != "" {
					p.sendRaw(p.codec.MessageType(), []byte(test.raw))
				} else {
					b, err := p.codec.Encode(test.frame)
					if err != nil {
						t.Fatal(err)
					}
					p.sendRaw(p.codec.MessageType(), b)
				}
				p.expectClose(test.code)
			})
		})
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *Config) { c.HelloTimeout = 6 * time.Second }) // from the handshake's beginning on
		r.dial(wire.SubprotocolJSON).expectClose(im.CodeHelloExpected)
	})
	t.Cleanup(func() {
		if claims := r.routers.claimed(); len(claims) != 0 {
			t.Errorf("claims without a login: %v", claims)
		}
	})
}

func TestFirstFrameOfUnknownKind(t *testing.T) {
	r := newRig(t)
	p := r.dial(wire.SubprotocolJSON)
	p.sendRaw(wire.TextMessage, []byte(`{"dance":{}}`))
	p.expectClose(im.CodeHelloExpected)
	p = r.dial(wire.SubprotocolProtobuf)
	p.sendRaw(wire.BinaryMessage, []byte{0xfa, 0x01, 0x00})
	p.expectClose(im.CodeHelloExpected)
}

// What a client may do wrong once it is logged in: the connection ends only where the protocol says so.
func TestBadFrames(t *testing.T) {
	const oversize = 4097
	call := func(change func(*wire.Call)) *wire.Call {
		c := submit(5, "d:ann:bob", "hi")
		change(c)
		return c
	}
	for _, test := range []struct {
		name         string
		frame        *wire.Call
		binary, text string // instead of a frame
		code         im.Code
		closes       bool // else the error comes as a reply to call 5, or with alone as a frame of its own
		alone        bool
	}{
		{name: "oversize frame", binary: strings.Repeat("x", oversize), text: strings.Repeat(" ", oversize), code: im.CodeFrameTooLarge, closes: true},
		{name: "bad encoding", binary: "\x2a\xff", text: `{"call":`, code: im.CodeBadFrame, closes: true},
		{name: "invalid UTF-8 in the frame", binary: "\x2a\x04\x12\x02\xff\xfe", text: "{\"call\":{\"id\":5,\"key\":\"\xff\"}}", code: im.CodeBadFrame, closes: true},
		{name: "empty message", binary: "", text: "", code: im.CodeBadFrame, closes: true},
		{name: "unknown frame", binary: "\xfa\x01\x00", text: `{"dance":{}}`, code: im.CodeUnknownFrame, alone: true},
		{name: "a gateway's frame", binary: "\x4a\x00", text: `{"behind":{}}`, code: im.CodeUnknownFrame, alone: true},
		{name: "a second hello", binary: "\x0a\x00", text: `{"hello":{}}`, code: im.CodeBadRequest, alone: true},
		{name: "ack of a push that was not sent", binary: "\x42\x02\x08\x07", text: `{"pushAck":{"number":"7"}}`, code: im.CodeBadRequest, alone: true},
		{name: "unknown service", frame: call(func(c *wire.Call) { c.Service = "weather" }), code: im.CodeUnknownService},
		{name: "unknown method", frame: call(func(c *wire.Call) { c.Method, c.Body = "dance", nil }), code: im.CodeUnknownMethod},
	} {
		both(t, func(t *testing.T, subprotocol string) {
			t.Run(test.name, func(t *testing.T) {
				r := newRig(t, func(c *Config) { c.MaxFrame = 4096; c.MaxText = 1024 })
				p, _ := r.login(subprotocol, "ann", 1)
				p.t = t
				switch {
				case test.frame != nil:
					p.send(test.frame)
				case subprotocol == wire.SubprotocolJSON:
					p.sendRaw(wire.TextMessage, []byte(test.text))
				default:
					p.sendRaw(wire.BinaryMessage, []byte(test.binary))
				}
				switch {
				case test.closes:
					p.expectClose(test.code)
					return
				case test.alone:
					if e := expect(p, (*wire.Frame).GetError); e.Code != string(test.code) {
						t.Errorf("error frame says %v, want %s", e, test.code)
					}
				default:
					reply := expect(p, (*wire.Frame).GetReply)
					if reply.Id != 5 || reply.Error.GetCode() != string(test.code) {
						t.Errorf("reply is %v, want %s", reply, test.code)
					}
				}
				p.expectAlive()
			})
		})
	}
}

// A body that does not fit is the call's fault only. In protobuf the service finds it, in JSON the gateway.
func TestBadBodyInJSON(t *testing.T) {
	r := newRig(t)
	p, _ := r.login(wire.SubprotocolJSON, "ann", 1)
	p.sendRaw(wire.TextMessage, []byte(`{"call":{"id":5,"method":"submit","body":{"seen":"soon"}}}`))
	if reply := expect(p, (*wire.Frame).GetReply); reply.Id != 5 || reply.Error.GetCode() != string(im.CodeBadRequest) {
		t.Errorf("reply is %v", reply)
	}
	p.expectAlive()
	if calls := r.backend.seen(); len(calls) != 0 {
		t.Errorf("the backend saw %v", calls)
	}
}

// Each subprotocol has its own kind of message.
func TestWrongMessageType(t *testing.T) {
	r := newRig(t)
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	p.sendRaw(wire.TextMessage, []byte(`{"ping":{}}`))
	p.expectClose(im.CodeBadFrame)
	p, _ = r.login(wire.SubprotocolJSON, "ann", 2)
	p.sendRaw(wire.BinaryMessage, []byte{0x1a, 0x00})
	p.expectClose(im.CodeBadFrame)
}

// Codes of the service pass through as they are, and close nothing.
func TestCodesOfTheServicePassThrough(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, _ := r.login(subprotocol, "ann", 1)
		for i, code := range []im.Code{
			im.CodeNotMember, im.CodeUnknownConversation, im.CodeTextTooLong, im.CodeBadText, im.CodeBadClientID,
			im.CodeBadCursor, im.CodeStampAhead, im.CodeBadConversation, im.CodeNotYetHere, im.CodeWrongRegion, im.CodeUnready,
		} {
			e := im.Errorf(code, "because \xff")
			e.RetryAfter = 1500 * time.Millisecond
			r.backend.mu.Lock()
			r.backend.handle = failing(e)
			r.backend.mu.Unlock()
			p.send(submit(uint32(i), "d:ann:bob", "hi"))
			reply := expect(p, (*wire.Frame).GetReply)
			if got := reply.GetError(); got.GetCode() != string(code) || got.Action != string(code.Spec().Action) ||
				got.RetryAfterMs != 1500 || got.Detail != "because ?" || reply.Id != uint32(i) {
				t.Errorf("%s: reply is %v", code, reply)
			}
		}
		p.expectAlive()
	})
}

// A bug behind the gateway is no client's business.
func TestInternalErrorsAreNotTold(t *testing.T) {
	r := newRig(t)
	p, _ := r.login(wire.SubprotocolProtobuf, "ann", 1)
	r.backend.handle = failing(http.ErrNoLocation)
	p.send(submit(1, "d:ann:bob", "hi"))
	if e := expect(p, (*wire.Frame).GetReply).GetError(); e.GetCode() != string(im.CodeInternal) || e.Detail != "" {
		t.Errorf("error is %v", e)
	}
}

// A client above its rate has calls refused, and is closed only if it goes on.
func TestRate(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t, func(c *Config) { c.Rate, c.Burst = 0.1, 5 })
		p, _ := r.login(subprotocol, "ann", 1)
		for id := range uint32(5) {
			p.send(&wire.Call{Id: id, Method: "pull"})
			if e := expect(p, (*wire.Frame).GetReply).GetError(); e != nil {
				t.Fatalf("call %d: %v", id, e)
			}
		}
		p.send(&wire.Call{Id: 6, Method: "pull"})
		reply := expect(p, (*wire.Frame).GetReply)
		if reply.Id != 6 || reply.Error.GetCode() != string(im.CodeTooManyRequests) || reply.Error.RetryAfterMs == 0 {
			t.Fatalf("reply is %v", reply)
		}
		for range 5 {
			p.send(&wire.Ping{}) // dropped; the last one is too much
		}
		p.expectClose(im.CodeTooManyRequests)
	})
}

func TestHandshakeLimits(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConns, c.MaxConnsPerIP = 3, 2; c.Origins = []string{"https://chat.example"} })
	refused := func(what string, header http.Header, subprotocol string, status int) {
		t.Helper()
		_, response, err := r.tryDial(subprotocol, header)
		if err == nil || response == nil || response.StatusCode != status {
			t.Errorf("%s: %v, %v; want status %d", what, err, response, status)
		}
	}
	refused("a foreign page", http.Header{"Origin": {"https://evil.example"}}, wire.SubprotocolJSON, 403)
	refused("a sandboxed page", http.Header{"Origin": {"null"}}, wire.SubprotocolJSON, 403)
	refused("no subprotocol of ours", nil, "antipode.v0", 400)
	if _, _, err := r.tryDial(wire.SubprotocolJSON, http.Header{"Origin": {"https://chat.example"}}); err != nil {
		t.Error("an allowed page:", err)
	}
	p, _, err := r.tryDial(wire.SubprotocolJSON, http.Header{"Origin": {"http://" + r.g.Addr()}})
	if err != nil {
		t.Fatal("a page of the gateway's host:", err)
	}
	refused("a third conn of one address", nil, wire.SubprotocolJSON, 429)
	p.ws.Close()
	eventually(t, "there is room again", func() bool {
		p, _, err := r.tryDial(wire.SubprotocolJSON, nil)
		if err == nil {
			p.ws.Close()
		}
		return err == nil
	})
}

func TestMaxConns(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConns = 1 })
	r.dial(wire.SubprotocolJSON)
	_, response, err := r.tryDial(wire.SubprotocolJSON, nil)
	if err == nil || response.StatusCode != 503 {
		t.Errorf("got %v, %v", err, response)
	}
}

// FuzzSocket: whatever a client sends, first or later, the gateway answers with a code of the list and goes on serving
// others.
func FuzzSocket(f *testing.F) {
	r := newRig(f, func(c *Config) { c.IdleTimeout, c.Heartbeat = 200*time.Millisecond, 100*time.Millisecond })
	for _, s := range []string{"", "{}", `{"ping":{}}`, `{"hello":{"token":"x"}}`, "\x0a\x03\x0a\x01x", "\x1a\x00", "\xfa\x01\x00", `{"call":{"id":1}}`} {
		f.Add([]byte(s), true, true)
		f.Add([]byte(s), false, false)
	}
	login := uint64(0)
	f.Fuzz(func(t *testing.T, message []byte, asJSON, first bool) {
		subprotocol := wire.SubprotocolProtobuf
		if asJSON {
			subprotocol = wire.SubprotocolJSON
		}
		r.t = t
		p := r.dial(subprotocol)
		defer p.ws.Close()
		if !first {
			login++
			p.send(r.hello("ann", login))
			expect(p, (*wire.Frame).GetWelcome)
		}
		p.sendRaw(p.codec.MessageType(), message)
		p.ws.SetReadDeadline(time.Now().Add(30 * time.Second))
		for {
			_, b, err := p.ws.ReadMessage()
			if err != nil {
				return
			}
			frame, err := p.codec.Decode(b)
			if err != nil {
				t.Fatalf("answered with %q: %v", b, err)
			}
			if e := frame.GetError(); e != nil && im.Code(e.Code) == im.CodeInternal {
				t.Fatal(e)
			}
		}
	})
}

// Compression is agreed to by nobody, so that a compressed bomb is a protocol error before a byte of it is inflated.
func TestNothingIsInflated(t *testing.T) {
	r := newRig(t)
	d := websocket.Dialer{Subprotocols: []string{wire.SubprotocolProtobuf}, HandshakeTimeout: 20 * time.Second, EnableCompression: true}
	ws, response, err := d.Dial(r.g.WebSocketURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if extensions := response.Header.Get("Sec-WebSocket-Extensions"); extensions != "" {
		t.Errorf("agreed to %q", extensions)
	}
	if _, err := ws.NetConn().Write([]byte{0xC2, 0x81, 0, 0, 0, 0, 0}); err != nil { // binary, with the bit of a compressed message
		t.Fatal(err)
	}
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseProtocolError) {
		t.Errorf("a compressed message ends with %v", err)
	}
	header := r.authorized("application/json")
	header["Content-Encoding"] = "gzip"
	if response, _ := r.post("/v1/submit", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", header); response.StatusCode != http.StatusBadRequest {
		t.Errorf("a compressed body is answered %d", response.StatusCode)
	}
}
