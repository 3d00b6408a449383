package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

var update = flag.Bool("update", false, "write the worked example of docs/protocol.md anew")

// The key of the example's token, as the document tells it.
const (
	exampleKey    = "example"
	exampleSecret = "an example secret of 32 bytes !!"
)

// step is one line of the example's story.
type step struct {
	arrow string // → the client sends, ← the gateway sends, otherwise something happens
	title string
	json  []byte
	bytes []byte
}

// What happens besides frames.
const (
	happensOpen  = "The socket opens."
	happensLost  = "The socket is lost."
	happensClose = "The gateway closes the socket with 1000."
)

const (
	exampleBegin = "<!-- example: begin."
	exampleEnd   = "<!-- example: end -->"
)

var exampleStep = regexp.MustCompile("(?s)^([→←]) \\*\\*([a-z_]+)\\*\\*[^\n]*\n\n```json\n(.*?)\n```\n\n```\n(.*?)\n```$")

// parseExample reads the steps out of the document.
func parseExample(t *testing.T, text string) []step {
	t.Helper()
	_, text, ok := strings.Cut(text, exampleBegin)
	if !ok {
		t.Fatal("the document has no example")
	}
	_, text, _ = strings.Cut(text, "-->")
	text, _, ok = strings.Cut(text, exampleEnd)
	if !ok {
		t.Fatal("the example does not end")
	}
	var steps []step
	// A step begins with its arrow, or is a line of its own.
	for part := range strings.SplitSeq(strings.ReplaceAll(strings.TrimSpace(text), "\n\n```", "\n\x00```"), "\n\n") {
		part = strings.ReplaceAll(strings.TrimSpace(part), "\x00```", "\n```")
		if part == happensOpen || part == happensLost || part == happensClose {
			steps = append(steps, step{title: part})
			continue
		}
		m := exampleStep.FindStringSubmatch(part)
		if m == nil {
			t.Fatalf("not a step:\n%s", part)
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(m[4]), ""))
		if err != nil {
			t.Fatalf("%s: %v", m[2], err)
		}
		steps = append(steps, step{m[1], m[2], []byte(strings.ReplaceAll(m[3], "\n", "")), b})
	}
	return steps
}

// TestWorkedExample replays the example of docs/protocol.md against a real gateway, byte for byte, in both subprotocols.
// What the services behind the gateway answer and push is what the document says that the client gets.
func TestWorkedExample(t *testing.T) {
	if *update {
		writeExample(t)
	}
	steps := parseExample(t, protocol(t))
	if len(steps) < 20 {
		t.Fatalf("the example has %d steps only", len(steps))
	}
	frames := decodeExample(t, steps)
	both(t, func(t *testing.T, subprotocol string) {
		r := prepareRig(t, []auth.Key{{
			ID: exampleKey, Algorithm: auth.HS256, Secret: base64.StdEncoding.EncodeToString([]byte(exampleSecret)),
		}}, func(c *Config) { c.Gateway.ID, c.MaxUnacked = "eu-1", exampleKept })
		texts := []string{exampleSession, exampleResumeSecret}
		r.g.random = func(int) string { s := texts[0]; texts = texts[1:]; return s }
		r.g.now = func() time.Time { return exampleTime }
		replies := map[string]*wire.Reply{}
		for _, f := range frames {
			if reply := f.GetReply(); reply != nil {
				replies[fmt.Sprint(reply.Id)] = reply
			}
		}
		var calling uint32
		r.backend.handle = func(_ context.Context, c im.Call) (im.CallResult, error) {
			reply := replies[fmt.Sprint(calling)] // one call is under way at a time
			return im.CallResult{Body: reply.Body}, wire.ErrorOf(reply.Error)
		}
		r.run()
		var p *peer
		conn := uint64(0)
		for i, s := range steps {
			at := fmt.Sprintf("step %d, %s %s", i+1, s.arrow, s.title)
			message := s.bytes
			if subprotocol == wire.SubprotocolJSON {
				message = s.json
			}
			switch {
			case s.title == happensOpen:
				conn++
				p = r.dial(subprotocol)
				p.t = t
			case s.title == happensLost:
				p.ws.NetConn().Close()
				eventually(t, "the route is offline", func() bool { return r.routers.last().Offline })
				for range exampleKept { // what the story says of the time without a socket
					r.push("more than is kept", conn)
				}
			case s.title == happensClose:
				if _, err := p.receive(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					t.Errorf("%s: %v", at, err)
				}
			case s.arrow == "→":
				if call := frames[i].GetCall(); call != nil {
					calling = call.Id
				}
				p.sendRaw(p.codec.MessageType(), message)
			default:
				if push := frames[i].GetPush(); push != nil {
					r.routers.toGateway().Push([]im.Push{{
						Conns: []uint64{conn}, Service: push.Service, Method: push.Method, Body: push.Body, Trace: push.Trace,
					}})
				}
				p.ws.SetReadDeadline(time.Now().Add(30 * time.Second))
				_, got, err := p.ws.ReadMessage()
				if err != nil || !bytes.Equal(got, message) {
					t.Fatalf("%s: the gateway sent\n%s (%v)\nthe document says\n%s", at, got, err, message)
				}
			}
		}
		calls := r.backend.seen()
		for _, f := range frames {
			if call := f.GetCall(); call != nil {
				if c := calls[0]; c.Method != call.Method || c.Key != call.Key || !bytes.Equal(c.Body, call.Body) {
					t.Errorf("the backend saw %+v for call %v", c, call)
				}
				calls = calls[1:]
			}
		}
	})
}

// decodeExample checks that each step says the same in both encodings.
func decodeExample(t *testing.T, steps []step) []*wire.Frame {
	t.Helper()
	binary, err := wire.NewCodec(wire.SubprotocolProtobuf)
	if err != nil {
		t.Fatal(err)
	}
	text, err := wire.NewCodec(wire.SubprotocolJSON)
	if err != nil {
		t.Fatal(err)
	}
	frames := make([]*wire.Frame, len(steps))
	for i, s := range steps {
		if s.arrow == "" {
			continue
		}
		f, err := binary.Decode(s.bytes)
		if err != nil {
			t.Fatalf("step %d, %s: %v", i+1, s.title, err)
		}
		fromText, err := text.Decode(s.json)
		if err != nil {
			t.Fatalf("step %d, %s: %v", i+1, s.title, err)
		}
		if !proto.Equal(f, fromText) {
			t.Fatalf("step %d, %s: the hex says\n%v\nthe JSON\n%v", i+1, s.title, f, fromText)
		}
		kind := f.ProtoReflect().WhichOneof(f.ProtoReflect().Descriptor().Oneofs().ByName("kind"))
		if string(kind.Name()) != s.title {
			t.Errorf("step %d is called %s and is %s", i+1, s.title, kind.Name())
		}
		if f.GetCall() != nil {
			if _, err := text.Encode(f); err != nil { // so that the reply is understood
				t.Fatal(err)
			}
		}
		frames[i] = f
	}
	return frames
}

// What the example makes up.
const (
	exampleSession      = "5e55105e55105e55105e55105e55105e"
	exampleAt           = "@eu/eu-1"
	exampleKept         = 100 // unacknowledged pushes
	exampleResumeSecret = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"
)

var exampleTime = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// writeExample makes the example from the story below and puts it into the document.
func writeExample(t *testing.T) {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "ann", "aud": "antipode", "exp": time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix(),
	})
	token.Header["kid"] = exampleKey
	signed, err := token.SignedString([]byte(exampleSecret))
	if err != nil {
		t.Fatal(err)
	}
	const conversation = "d:ann:bob"
	id := func(after time.Duration, last byte) string {
		ms := exampleTime.Add(after).UnixMilli()
		return im.UUID{
			byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms),
			0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, last,
		}.String()
	}
	stamp := func(after time.Duration) uint64 { return uint64(im.StampAt(exampleTime.Add(after))) }
	body := func(m proto.Message) []byte {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	call := func(id uint32, method, key string, m proto.Message) *wire.Frame {
		return wire.FrameOf(&wire.Call{Id: id, Service: "im", Method: method, Key: key, Body: body(m)})
	}
	reply := func(id uint32, m proto.Message) *wire.Frame { return wire.FrameOf(&wire.Reply{Id: id, Body: body(m)}) }
	push := func(number uint64, e *wire.Event) *wire.Frame {
		return wire.FrameOf(&wire.Push{Number: number, Service: "im", Method: "event", Body: body(e)})
	}
	ms := time.Millisecond
	record := func(sender, clientID, origin string, at time.Duration, seq uint64, text string) *wire.Record {
		return &wire.Record{
			Conversation: conversation, Kind: "message", Version: 1, Sender: sender, ClientId: clientID, Stamp: stamp(at),
			Origin: origin, Seq: seq, Content: &wire.RecordText{Text: &wire.Text{Text: text}},
		}
	}
	hi := record("ann", id(900*ms, 1), "eu", 1000*ms, 1, "Hi Bob")
	answer := record("bob", id(5000*ms, 2), "us", 5100*ms, 1, "Hello Ann")
	later := record("bob", id(9000*ms, 3), "us", 9100*ms, 2, "Are you there?")
	hello := &wire.Hello{Token: signed, Device: "phone-7f3a", Platform: "ios", Login: 41, Agent: "example/1.0"}
	again := proto.Clone(hello).(*wire.Hello)
	again.Login = 42
	again.Resume = &wire.Resume{Session: exampleSession + exampleAt, Secret: exampleResumeSecret, Push: 3}
	defaults := Config{}.Defaults()
	welcome := &wire.Welcome{
		Uid: "ann", Session: exampleSession + exampleAt, ResumeSecret: exampleResumeSecret,
		ResumeWindowMs: uint32(defaults.ResumeWindow.Milliseconds()), Region: "eu", Origin: "eu", Gateway: "eu-1",
		ServerTimeMs: exampleTime.UnixMilli(), HeartbeatMs: uint32(defaults.Heartbeat.Milliseconds()),
		MaxFrameBytes: uint32(defaults.MaxFrame), MaxTextBytes: uint32(defaults.MaxText),
		IdleMs: uint32(defaults.IdleTimeout.Milliseconds()),
	}
	resumed := proto.Clone(welcome).(*wire.Welcome)
	resumed.Resumed = true
	const missed = 3 + exampleKept
	story := []struct {
		arrow string
		frame *wire.Frame
		note  string
	}{
		{note: happensOpen},
		{"→", wire.FrameOf(hello), ""},
		{"←", wire.FrameOf(welcome), "A new session."},
		{"→", call(1, "list", "", &wire.ListRequest{}), "Nothing is stored yet: an empty list cursor."},
		{"←", reply(1, &wire.ListResponse{Cursor: "msg.eu.direct/2=17,msg.us.direct/2=9"}), "No conversation yet."},
		{"→", call(2, "submit", conversation, &wire.SubmitRequest{
			Conversation: conversation, ClientId: hi.ClientId, Content: &wire.SubmitText{Text: &wire.Text{Text: "Hi Bob"}},
		}), "Ann greets Bob."},
		{"←", reply(2, &wire.SubmitResponse{Conversation: conversation, ClientId: hi.ClientId, Stamp: hi.Stamp, Origin: "eu"}), "Durable in eu: one tick."},
		{"←", push(1, &wire.Event{Event: &wire.EventRecord{Record: hi}, From: "eu"}), "Her own message comes back with its place."},
		{"←", push(2, &wire.Event{Event: &wire.EventRecord{Record: answer}, From: "us"}), "Bob's answer: a notify, for `from` is not Ann's region."},
		{"→", wire.FrameOf(&wire.PushAck{Number: 2}), ""},
		{"→", call(3, "mark", conversation, &wire.MarkRequest{Conversation: conversation, Delivered: "eu=1,us=1", Read: "eu=1,us=1"}), "Ann has read it."},
		{"←", reply(3, &wire.MarkResponse{Delivered: "eu=1", Read: "eu=1"}), "Region eu has not applied us=1 yet: Ann's client repeats the mark later."},
		{"←", push(3, &wire.Event{Event: &wire.EventReceipt{Receipt: &wire.Receipt{
			Conversation: conversation, Uid: "bob", Delivered: "eu=1,us=1", Read: "eu=1,us=1",
		}}, From: "eu"}), "Bob has read Ann's message: her third tick."},
		{"→", call(4, "submit", conversation, &wire.SubmitRequest{
			Conversation: conversation, ClientId: id(8000*ms, 4), Seen: answer.Stamp, Content: &wire.SubmitText{Text: &wire.Text{}},
		}), "An empty text is refused."},
		{"←", wire.FrameOf(&wire.Reply{Id: 4, Error: &wire.Error{Code: "bad_text", Detail: "the text is empty", Action: "stop"}}), ""},
		{"→", wire.FrameOf(&wire.Ping{}), "Nothing was sent for a while."},
		{"←", wire.FrameOf(&wire.Pong{}), ""},
		{note: happensLost},
		{note: happensOpen},
		{"→", wire.FrameOf(again), "A higher login number, and the session to resume."},
		{"←", wire.FrameOf(resumed), ""},
		{"←", wire.FrameOf(&wire.Behind{Number: missed}), "More came while there was no socket than a gateway keeps: it dropped pushes 4 to 103."},
		{"→", wire.FrameOf(&wire.PushAck{Number: missed}), ""},
		{"→", call(5, "pull", conversation, &wire.PullRequest{Conversation: conversation, Cursor: "eu=1,us=1"}), "What Ann does not have."},
		{"←", reply(5, &wire.PullResponse{Records: []*wire.Record{later}, Cursor: "eu=1,us=2"}), ""},
		{"←", push(missed+1, &wire.Event{Event: &wire.EventRecord{Record: later}, From: "eu"}), "The same record again: the cursor covers us=2, so it is dropped."},
		{"→", wire.FrameOf(&wire.PushAck{Number: missed + 1}), ""},
		{"→", wire.FrameOf(&wire.Bye{}), ""},
		{note: happensClose},
	}
	binary, err := wire.NewCodec(wire.SubprotocolProtobuf)
	if err != nil {
		t.Fatal(err)
	}
	text, err := wire.NewCodec(wire.SubprotocolJSON)
	if err != nil {
		t.Fatal(err)
	}
	methods := map[uint32]string{}
	var out strings.Builder
	for _, s := range story {
		if s.frame == nil {
			fmt.Fprintf(&out, "\n%s\n", s.note)
			continue
		}
		b, err := binary.Encode(s.frame)
		if err != nil {
			t.Fatal(err)
		}
		j, err := text.Encode(s.frame)
		if c := s.frame.GetCall(); c != nil {
			methods[c.Id] = c.Method
		}
		if r := s.frame.GetReply(); r != nil {
			j, err = text.EncodeReply("im", methods[r.Id], r)
		}
		if err != nil {
			t.Fatal(err)
		}
		kind := s.frame.ProtoReflect().WhichOneof(s.frame.ProtoReflect().Descriptor().Oneofs().ByName("kind"))
		fmt.Fprintf(&out, "\n%s **%s**", s.arrow, kind.Name())
		if s.note != "" {
			fmt.Fprintf(&out, " %s", s.note)
		}
		fmt.Fprintf(&out, "\n\n```json\n%s\n```\n\n```\n%s\n```\n", j, wrap(hex.EncodeToString(b), 96))
	}
	document := protocol(t)
	begin := strings.Index(document, exampleBegin)
	begin += strings.Index(document[begin:], "-->") + len("-->")
	end := strings.Index(document, exampleEnd)
	if err := os.WriteFile(protocolPath, []byte(document[:begin]+"\n"+out.String()+"\n"+document[end:]), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wrap(s string, width int) string {
	var lines []string
	for len(s) > width {
		lines, s = append(lines, s[:width]), s[width:]
	}
	return strings.Join(append(lines, s), "\n")
}
