package dev

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/wire"
)

// raw is a client's end of a socket, for frames that no client would send.
type raw struct {
	t     *testing.T
	ws    *websocket.Conn
	codec *wire.Codec
}

func dialRaw(t *testing.T, url, subprotocol string) *raw {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{subprotocol}, HandshakeTimeout: 30 * time.Second}
	ws, _, err := dialer.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	codec, err := wire.NewCodec(ws.Subprotocol())
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t, ws, codec}
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if err := r.ws.WriteMessage(r.codec.MessageType(), b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) encode(m proto.Message) []byte {
	r.t.Helper()
	b, err := r.codec.Encode(wire.FrameOf(m))
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// next reads the next frame; the error is the socket's end.
func (r *raw) next() (*wire.Frame, error) {
	r.t.Helper()
	r.ws.SetReadDeadline(time.Now().Add(time.Minute))
	_, b, err := r.ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	f, err := r.codec.Decode(b)
	if err != nil {
		r.t.Fatalf("%q: %v", b, err)
	}
	return f, nil
}

// refused reads until an error comes, be it a frame of its own or a reply's, and tells its code; a reply without one is "".
func (r *raw) refused() im.Code {
	r.t.Helper()
	for {
		f, err := r.next()
		if err != nil {
			r.t.Fatalf("the socket ended without a frame that says why: %v", err)
		}
		if e := f.GetError(); e != nil {
			return im.Code(e.Code)
		}
		if reply := f.GetReply(); reply != nil {
			return im.Code(reply.GetError().GetCode())
		}
	}
}

// fate checks what the code's row in docs/protocol.md says of the connection: that it ends with a close code, or goes on.
func (r *raw) fate(code im.Code) {
	r.t.Helper()
	want := code.Spec().Close
	if want == 0 {
		r.write(r.encode(&wire.Ping{}))
	}
	for {
		f, err := r.next()
		switch {
		case err == nil && want == 0 && f.GetPong() != nil:
			return
		case err == nil:
			continue // a push, say
		}
		if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != want || closed.Text != string(code) {
			r.t.Errorf("after %s the socket ended with %v; want %d (0: it goes on)", code, err, want)
		}
		return
	}
}

// devToken signs claims as dev's own login service does, whatever they say.
func devToken(t *testing.T, data string, claims map[string]any) string {
	t.Helper()
	seed, err := os.ReadFile(filepath.Join(data, "token-key"))
	if err != nil {
		t.Fatal(err)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"alg": "EdDSA", "kid": "dev", "typ": "JWT"}) + "." + part(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(ed25519.NewKeyFromSeed(seed), []byte(text)))
}

// held is what a region keeps of messages, groups and cursors: the records in its log, and the digests of its timelines.
func held(t *testing.T, d *app.Dev) string {
	t.Helper()
	await(t, "everything is applied", func() bool {
		behind, err := d.Behind(t.Context())
		return err == nil && len(behind) == 0
	})
	logged, err := d.Logged(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digests, err := d.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parts := digests["eu"]
	maps.DeleteFunc(parts, func(part, _ string) bool { return strings.HasPrefix(part, "routes") }) // each login has one
	if len(parts) == 0 {
		t.Fatalf("no digest of the timelines among %v", digests)
	}
	return fmt.Sprint(len(logged), " records ", logged, "\n", parts)
}

// TestBadInput sends to a whole region, through a gateway to an imserver, each kind of bad input: its code is the documented one, the
// connection ends only where the protocol says so, and the region holds afterwards what it held before.
func TestBadInput(t *testing.T) {
	data := t.TempDir()
	d := startWith(t, app.DevConfig{Regions: []string{"eu"}, Data: data})
	gateway := gatewayURL(t, d)
	token := func(uid im.UID) string {
		s, _, err := d.Token(uid)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	devices := 0
	hello := func(token string) *wire.Hello {
		devices++
		return &wire.Hello{Token: token, Device: fmt.Sprint("device-", devices), Platform: "web", Login: 1}
	}
	login := func(t *testing.T, subprotocol string, uid im.UID) (*raw, *wire.Welcome) {
		t.Helper()
		r := dialRaw(t, gateway, subprotocol)
		r.write(r.encode(hello(token(uid))))
		f, err := r.next()
		if err != nil || f.GetWelcome() == nil {
			t.Fatalf("no welcome but %v, %v", f, err)
		}
		return r, f.GetWelcome()
	}
	call := func(method, key string, body proto.Message) *wire.Call {
		b, err := wire.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return &wire.Call{Id: 7, Service: wire.ServiceIM, Method: method, Key: key, Body: b}
	}
	newID := func() string { return im.NewUUID(time.Now()).String() }
	submit := func(conversation, text string, change ...func(*wire.SubmitRequest)) *wire.Call {
		m := &wire.SubmitRequest{Conversation: conversation, ClientId: newID(), Content: &wire.SubmitText{Text: &wire.Text{Text: text}}}
		for _, f := range change {
			f(m)
		}
		return call(wire.MethodSubmit, conversation, m)
	}

	// What the region holds: a group of ann and bob, and a message in it and between the two.
	ann, welcome := login(t, wire.SubprotocolProtobuf, "ann")
	group := string(im.Group("eu", im.NewUUID(time.Now())))
	unknown := string(im.Group("eu", im.NewUUID(time.Now().Add(-time.Hour))))
	const chat = "d:ann:bob"
	for _, c := range []*wire.Call{
		call(wire.MethodSubmit, group, &wire.SubmitRequest{
			Conversation: group, ClientId: newID(), Content: &wire.SubmitCreate{Create: &wire.Create{Title: "Lunch", Members: []string{"bob"}}},
		}),
		submit(group, "hello"), submit(chat, "hello"),
	} {
		await(t, "a good submit is taken", func() bool { // one to the group after its create was applied
			ann.write(ann.encode(c))
			code := ann.refused()
			if code != "" && code != im.CodeNotYetHere {
				t.Fatalf("a good submit got %s", code)
			}
			return code == ""
		})
	}
	before := held(t, d)

	frame := func(c *wire.Call) func(*raw) []byte { return func(r *raw) []byte { return r.encode(c) } }
	text := func(protobuf, json string) func(*raw) []byte {
		return func(r *raw) []byte {
			if r.codec.Subprotocol() == wire.SubprotocolJSON {
				return []byte(json)
			}
			return []byte(protobuf)
		}
	}
	broken := submit(chat, "MARK")
	broken.Body = bytes.ReplaceAll(broken.Body, []byte("MARK"), []byte("\xff\xfe\xfdK"))
	for _, c := range []struct {
		name  string
		hello string // a token; or
		bytes func(*raw) []byte
		code  im.Code
		json  im.Code // where it is another
	}{
		{name: "bad token", hello: "x." + token("eve"), code: im.CodeBadToken},
		{name: "expired token", hello: devToken(t, data, map[string]any{"sub": "eve", "aud": "antipode", "exp": time.Now().Add(-time.Hour).Unix()}), code: im.CodeTokenExpired},
		{name: "wrong audience", hello: devToken(t, data, map[string]any{"sub": "eve", "aud": "bank", "exp": time.Now().Add(time.Hour).Unix()}), code: im.CodeBadToken},

		{name: "unknown frame", bytes: text("\xfa\x01\x00", `{"dance":{}}`), code: im.CodeUnknownFrame},
		{name: "oversize frame", bytes: frame(submit("d:bob:eve", strings.Repeat("x", int(welcome.MaxFrameBytes)))), code: im.CodeFrameTooLarge},
		{name: "bad encoding", bytes: text("\x2a\xff", `{"call":{"id":7,`), code: im.CodeBadFrame},
		{name: "not UTF-8", bytes: func(r *raw) []byte {
			if r.codec.Subprotocol() == wire.SubprotocolJSON {
				return bytes.ReplaceAll(r.encode(submit("d:bob:eve", "MARK")), []byte("MARK"), []byte("\xff\xfe\xfdK"))
			}
			return r.encode(broken)
		}, code: im.CodeBadRequest, json: im.CodeBadFrame},
		{name: "bad body", bytes: text("\x2a\x13\x08\x07\x12\x02im\x1a\x06submit\x2a\x03\xff\xff\xff", `{"call":{"id":7,"method":"submit","body":{"seen":"soon"}}}`), code: im.CodeBadRequest},

		{name: "submit to a foreign group", bytes: frame(submit(group, "let me in")), code: im.CodeNotMember},
		{name: "submit to others' chat", bytes: frame(submit(chat, "let me in")), code: im.CodeNotMember},
		{name: "join a foreign group", bytes: frame(call(wire.MethodSubmit, group, &wire.SubmitRequest{
			Conversation: group, ClientId: newID(), Content: &wire.SubmitMember{Member: &wire.Member{Add: []string{"eve"}}},
		})), code: im.CodeNotMember},
		{name: "rename a foreign group", bytes: frame(call(wire.MethodSubmit, group, &wire.SubmitRequest{
			Conversation: group, ClientId: newID(), Content: &wire.SubmitSettings{Settings: &wire.Settings{Title: "Mine"}},
		})), code: im.CodeNotMember},
		{name: "pull a foreign group", bytes: frame(call(wire.MethodPull, group, &wire.PullRequest{Conversation: group})), code: im.CodeNotMember},
		{name: "members of a foreign group", bytes: frame(call(wire.MethodMembers, group, &wire.MembersRequest{Conversation: group})), code: im.CodeNotMember},
		{name: "receipts of others' chat", bytes: frame(call(wire.MethodReceipts, chat, &wire.ReceiptsRequest{Conversation: chat})), code: im.CodeNotMember},
		{name: "mark in a foreign group", bytes: frame(call(wire.MethodMark, group, &wire.MarkRequest{Conversation: group, Read: "eu=1"})), code: im.CodeNotMember},
		{name: "submit to an unknown conversation", bytes: frame(submit(unknown, "hello")), code: im.CodeUnknownConversation},
		{name: "pull an unknown conversation", bytes: frame(call(wire.MethodPull, unknown, &wire.PullRequest{Conversation: unknown})), code: im.CodeUnknownConversation},
		{name: "a conversation that is none", bytes: frame(submit("d:eve:bob", "hello")), code: im.CodeBadConversation},
		{name: "too long a text", bytes: frame(submit("d:bob:eve", strings.Repeat("x", int(welcome.MaxTextBytes)+1))), code: im.CodeTextTooLong},
		{name: "empty client_id", bytes: frame(submit("d:bob:eve", "hello", func(m *wire.SubmitRequest) { m.ClientId = "" })), code: im.CodeBadClientID},
		{name: "stamp from the future", bytes: frame(submit("d:bob:eve", "hello", func(m *wire.SubmitRequest) {
			m.Seen = uint64(time.Now().Add(time.Hour).UnixMilli()) << 16
		})), code: im.CodeStampAhead},
		{name: "pull with a tampered cursor", bytes: frame(call(wire.MethodPull, "d:bob:eve", &wire.PullRequest{Conversation: "d:bob:eve", Cursor: "eu=1,eu=2"})), code: im.CodeBadCursor},
		{name: "list with a tampered cursor", bytes: frame(call(wire.MethodList, "", &wire.ListRequest{Cursor: "msg.eu.direct/0=-1"})), code: im.CodeBadCursor},
		{name: "mark with a tampered cursor", bytes: frame(call(wire.MethodMark, "d:bob:eve", &wire.MarkRequest{Conversation: "d:bob:eve", Read: "eu=99999999999999999999"})), code: im.CodeBadCursor},
	} {
		for _, subprotocol := range wire.Subprotocols() {
			t.Run(c.name+"/"+subprotocol, func(t *testing.T) {
				want := c.code
				if subprotocol == wire.SubprotocolJSON && c.json != "" {
					want = c.json
				}
				var r *raw
				if c.hello != "" {
					r = dialRaw(t, gateway, subprotocol)
					r.write(r.encode(hello(c.hello)))
				} else {
					r, _ = login(t, subprotocol, "eve")
					r.write(c.bytes(r))
				}
				if code := r.refused(); code != want {
					t.Errorf("it is refused with %q, want %q", code, want)
				}
				r.fate(want)
			})
		}
	}

	if after := held(t, d); after != before {
		t.Errorf("the region held\n%s\nand now holds\n%s", before, after)
	}
	// A cursor far ahead is none that is wrong: what it says beyond what is there is not believed.
	r, _ := login(t, wire.SubprotocolJSON, "bob")
	r.write(r.encode(call(wire.MethodMark, chat, &wire.MarkRequest{Conversation: chat, Read: "eu=9000000,us=5"})))
	f, err := r.next()
	if err != nil {
		t.Fatal(err)
	}
	var marked wire.MarkResponse
	if err := wire.Unmarshal(f.GetReply().GetBody(), &marked); err != nil || marked.Read != "eu=1" {
		t.Errorf("of eu=9000000,us=5 %q was taken (%v, %v); one message is there", marked.Read, f, err)
	}
	ann.write(ann.encode(submit(chat, "still here")))
	if code := ann.refused(); code != "" {
		t.Errorf("the good conn of before got %s", code)
	}
	log, err := os.ReadFile(d.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"panic", `"level":"ERROR"`} {
		if i := bytes.Index(log, []byte(word)); i >= 0 {
			t.Errorf("the log has %s: %s", word, log[max(0, i-500):min(len(log), i+500)])
		}
	}
}

// gatewayURL is where the first gateway that ipconf names takes sockets.
func gatewayURL(t *testing.T, d *app.Dev) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.IPConf("eu")+"/v1/endpoints", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	endpoints, err := wire.DecodeEndpoints(b)
	if err != nil || len(endpoints.Gateways) == 0 {
		t.Fatalf("no gateway in %s (%v)", b, err)
	}
	return endpoints.Gateways[0].URL
}
