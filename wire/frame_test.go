package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

func codec(t testing.TB, subprotocol string) *Codec {
	t.Helper()
	c, err := NewCodec(subprotocol)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCodecOfUnknownSubprotocol(t *testing.T) {
	if _, err := NewCodec("antipode.v2"); err == nil {
		t.Fatal("a codec for antipode.v2")
	}
}

// text draws strings that protobuf can carry.
var text = rapid.StringN(0, 12, 40)

func drawBody(t *rapid.T, fields func(*rapid.T) proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(fields(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func drawRecord(t *rapid.T) *Record {
	r := &Record{
		Conversation: text.Draw(t, "conversation"), Kind: text.Draw(t, "kind"), Stamp: rapid.Uint64().Draw(t, "stamp"),
		Seq: rapid.Uint64().Draw(t, "seq"), Origin: text.Draw(t, "origin"), Trace: text.Draw(t, "trace"),
	}
	if rapid.Bool().Draw(t, "content") {
		r.Content = &RecordText{Text: &Text{Text: text.Draw(t, "text")}}
	}
	return r
}

// drawFrame draws a frame of any kind but reply, whose JSON depends on its call.
func drawFrame(t *rapid.T) *Frame {
	u32, u64 := rapid.Uint32(), rapid.Uint64()
	switch rapid.IntRange(0, 11).Draw(t, "kind") {
	case 0:
		h := &Hello{Token: text.Draw(t, "token"), Device: text.Draw(t, "device"), Login: u64.Draw(t, "login")}
		if rapid.Bool().Draw(t, "resume") {
			h.Resume = &Resume{Session: text.Draw(t, "session"), Secret: text.Draw(t, "secret"), Push: u64.Draw(t, "push")}
		}
		return FrameOf(h)
	case 1:
		return FrameOf(&Welcome{
			Uid: text.Draw(t, "uid"), ResumeWindowMs: u32.Draw(t, "window"), Resumed: rapid.Bool().Draw(t, "resumed"),
			ServerTimeMs: rapid.Int64().Draw(t, "time"),
		})
	case 2:
		return FrameOf(&Ping{})
	case 3:
		return FrameOf(&Pong{})
	case 4:
		return FrameOf(&Call{
			Id: u32.Draw(t, "id"), Service: "im", Method: MethodSubmit, Key: text.Draw(t, "key"), Trace: text.Draw(t, "trace"),
			Body: drawBody(t, func(t *rapid.T) proto.Message {
				return &SubmitRequest{
					Conversation: text.Draw(t, "conversation"), Seen: u64.Draw(t, "seen"),
					Content: &SubmitText{Text: &Text{Text: text.Draw(t, "text")}},
				}
			}),
		})
	case 5:
		return FrameOf(&Call{
			Id: u32.Draw(t, "id"), Service: "weather", Method: text.Draw(t, "method"),
			Body: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "body"),
		})
	case 6:
		return FrameOf(&Push{
			Number: u64.Draw(t, "number"), Service: "im", Method: MethodEvent, Trace: text.Draw(t, "trace"),
			Body: drawBody(t, func(t *rapid.T) proto.Message {
				return &Event{From: text.Draw(t, "from"), Event: &EventRecord{Record: drawRecord(t)}}
			}),
		})
	case 7:
		return FrameOf(&PushAck{Number: u64.Draw(t, "number")})
	case 8:
		return FrameOf(&Behind{Number: u64.Draw(t, "number")})
	case 9:
		return FrameOf(&Goaway{WithinMs: u32.Draw(t, "within"), Alternatives: rapid.SliceOfN(text, 0, 3).Draw(t, "alternatives")})
	case 10:
		return FrameOf(&Error{Code: text.Draw(t, "code"), Detail: text.Draw(t, "detail"), RetryAfterMs: u32.Draw(t, "after")})
	}
	return FrameOf(&Bye{})
}

// Every frame comes back as it was, in both subprotocols, and both say the same.
func TestFramesRoundTrip(t *testing.T) {
	for _, subprotocol := range Subprotocols() {
		t.Run(subprotocol, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				c, err := NewCodec(subprotocol)
				if err != nil {
					t.Fatal(err)
				}
				f := drawFrame(t)
				b, err := c.Encode(f)
				if err != nil {
					t.Fatalf("encode %v: %v", f, err)
				}
				got, err := c.Decode(b)
				if err != nil {
					t.Fatalf("decode %q: %v", b, err)
				}
				if !proto.Equal(f, got) {
					t.Fatalf("%v came back as %v, through %q", f, got, b)
				}
				again, err := c.Encode(got)
				if err != nil || !bytes.Equal(b, again) {
					t.Fatalf("equal frames have encodings %q and %q (%v)", b, again, err)
				}
			})
		})
	}
}

// A reply's body is of its call's type: the gateway names the method, the client remembers it.
func TestRepliesRoundTrip(t *testing.T) {
	body, err := proto.Marshal(&SubmitResponse{Conversation: "d:ann:bob", Stamp: math.MaxUint64, Origin: "eu", Global: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name            string
		service, method string
		reply           *Reply
		json            string
	}{
		{
			"a body", "im", "submit", &Reply{Id: 7, Body: body},
			`{"reply":{"id":7,"body":{"conversation":"d:ann:bob","stamp":"18446744073709551615","origin":"eu","global":true}}}`,
		},
		{"an empty body", "", "mark", &Reply{Id: 7}, `{"reply":{"id":7,"body":{}}}`},
		{
			"an error", "im", "pull", &Reply{Id: 7, Error: &Error{Code: "unavailable", Action: "back_off"}},
			`{"reply":{"id":7,"error":{"code":"unavailable","action":"back_off"}}}`,
		},
		{"no schema", "weather", "now", &Reply{Id: 7, Body: []byte{1, 255}}, `{"reply":{"id":7,"body":"Af8="}}`},
		{"an unknown method", "im", "dance", &Reply{Id: 7, Error: &Error{Code: "unknown_method"}}, `{"reply":{"id":7,"error":{"code":"unknown_method"}}}`},
	} {
		for _, subprotocol := range Subprotocols() {
			t.Run(test.name+" in "+subprotocol, func(t *testing.T) {
				client, server := codec(t, subprotocol), codec(t, subprotocol)
				if _, err := client.Encode(FrameOf(&Call{Id: 7, Service: test.service, Method: test.method})); err != nil {
					t.Fatal(err)
				}
				b, err := server.EncodeReply(test.service, test.method, test.reply)
				if err != nil {
					t.Fatal(err)
				}
				if subprotocol == SubprotocolJSON && string(b) != test.json {
					t.Errorf("encoded as\n%s, want\n%s", b, test.json)
				}
				f, err := client.Decode(b)
				if err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(f.GetReply(), test.reply) {
					t.Errorf("%v came back as %v", test.reply, f.GetReply())
				}
				if len(client.calls) != 0 {
					t.Errorf("the client still remembers %v", client.calls)
				}
			})
		}
	}
}

// The reply to a call that the client gave up must not stop it.
func TestReplyToForgottenCall(t *testing.T) {
	f, err := codec(t, SubprotocolJSON).Decode([]byte(`{"reply":{"id":9,"body":{"stamp":"1"}}}`))
	if err != nil || f.GetReply().GetId() != 9 || f.GetReply().Body != nil {
		t.Fatalf("got %v, %v", f, err)
	}
}

func TestBadFrames(t *testing.T) {
	nested := strings.Repeat(`{"ping":`, 5000) + "1" + strings.Repeat("}", 5000)
	for _, test := range []struct {
		name, subprotocol, message string
		code                       im.Code
		frame                      bool // the frame is returned with the error
	}{
		{"nothing", SubprotocolProtobuf, "", im.CodeBadFrame, false},
		{"no protobuf", SubprotocolProtobuf, "\xff\xff\xff", im.CodeBadFrame, false},
		{"cut short", SubprotocolProtobuf, "\x0a\x10abc", im.CodeBadFrame, false},
		{"a string that is no UTF-8", SubprotocolProtobuf, "\x2a\x04\x12\x02\xff\xfe", im.CodeBadFrame, false},
		{"another kind", SubprotocolProtobuf, "\xfa\x01\x00", im.CodeUnknownFrame, false},
		{"nothing", SubprotocolJSON, "", im.CodeBadFrame, false},
		{"an empty object", SubprotocolJSON, "{}", im.CodeBadFrame, false},
		{"an array", SubprotocolJSON, `[{"ping":{}}]`, im.CodeBadFrame, false},
		{"cut short", SubprotocolJSON, `{"ping":{}`, im.CodeBadFrame, false},
		{"two frames", SubprotocolJSON, `{"ping":{}}{"ping":{}}`, im.CodeBadFrame, false},
		{"two kinds", SubprotocolJSON, `{"ping":{},"bye":{}}`, im.CodeBadFrame, false},
		{"a kind twice", SubprotocolJSON, `{"ping":{},"ping":{}}`, im.CodeBadFrame, false},
		{"a field twice", SubprotocolJSON, `{"call":{"id":1,"id":2}}`, im.CodeBadFrame, false},
		{"a kind without an object", SubprotocolJSON, `{"hello":7}`, im.CodeBadFrame, false},
		{"a wrong type", SubprotocolJSON, `{"hello":{"login":"many"}}`, im.CodeBadFrame, false},
		{"a number out of range", SubprotocolJSON, `{"call":{"id":4294967296}}`, im.CodeBadFrame, false},
		{"no UTF-8", SubprotocolJSON, "{\"hello\":{\"token\":\"\xff\"}}", im.CodeBadFrame, false},
		{"a lone surrogate", SubprotocolJSON, `{"hello":{"token":"\ud800"}}`, im.CodeBadFrame, false},
		{"deep nesting", SubprotocolJSON, nested, im.CodeBadFrame, false},
		{"another kind", SubprotocolJSON, `{"dance":{}}`, im.CodeUnknownFrame, false},
		{"null for a kind", SubprotocolJSON, `{"ping":null}`, im.CodeUnknownFrame, false},
		{"a body of another type", SubprotocolJSON, `{"call":{"id":3,"method":"submit","body":{"seen":"x"}}}`, im.CodeBadRequest, true},
		{"a body that is no object", SubprotocolJSON, `{"call":{"id":3,"method":"submit","body":[1]}}`, im.CodeBadRequest, true},
		{"a body with a lone surrogate", SubprotocolJSON, `{"call":{"id":3,"method":"submit","body":{"text":{"text":"\ud800"}}}}`, im.CodeBadRequest, true},
		{"two contents", SubprotocolJSON, `{"call":{"id":3,"method":"submit","body":{"text":{},"create":{}}}}`, im.CodeBadRequest, true},
		{"a body that is no base64", SubprotocolJSON, `{"call":{"id":3,"service":"weather","body":"%"}}`, im.CodeBadRequest, true},
		{"an object without a schema", SubprotocolJSON, `{"call":{"id":3,"service":"weather","body":{}}}`, im.CodeBadRequest, true},
	} {
		t.Run(test.name+" in "+test.subprotocol, func(t *testing.T) {
			f, err := codec(t, test.subprotocol).Decode([]byte(test.message))
			if im.CodeOf(err) != test.code {
				t.Errorf("error is %v, want %s", err, test.code)
			}
			if (f != nil) != test.frame {
				t.Errorf("frame is %v", f)
			}
			if test.frame && f.GetCall().GetId() != 3 {
				t.Errorf("the frame has lost its id: %v", f)
			}
		})
	}
}

// A newer client's fields are ignored wherever they stand.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	message := `{"later":1,"call":{"id":3,"method":"mark","later":{"a":[1]},"body":{"conversation":"d:a:b","later":true}}}`
	f, err := codec(t, SubprotocolJSON).Decode([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	var m MarkRequest
	if err := Unmarshal(f.GetCall().Body, &m); err != nil || m.Conversation != "d:a:b" {
		t.Fatalf("body is %v, %v", &m, err)
	}
	b, err := proto.Marshal(FrameOf(&Ping{}))
	if err != nil {
		t.Fatal(err)
	}
	b = protowire.AppendString(protowire.AppendTag(b, 99, protowire.BytesType), "later")
	if f, err = codec(t, SubprotocolProtobuf).Decode(b); err != nil || f.GetPing() == nil {
		t.Fatalf("got %v, %v", f, err)
	}
}

// Both spellings of protobuf's JSON mapping are read.
func TestFieldNames(t *testing.T) {
	for _, message := range []string{`{"pushAck":{"number":"7"}}`, `{"push_ack":{"number":7}}`} {
		f, err := codec(t, SubprotocolJSON).Decode([]byte(message))
		if err != nil || f.GetPushAck().GetNumber() != 7 {
			t.Errorf("%s: got %v, %v", message, f, err)
		}
	}
}

// A prepared push is the frame that Encode makes, whatever its number.
func TestPreparedPush(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		push := &Push{
			Number: rapid.Uint64().Draw(t, "number"), Service: rapid.SampledFrom([]string{"im", "weather"}).Draw(t, "service"),
			Method: MethodEvent, Trace: text.Draw(t, "trace"),
		}
		if push.Service == "im" {
			push.Body = drawBody(t, func(t *rapid.T) proto.Message { return &Event{Event: &EventRecord{Record: drawRecord(t)}} })
		} else {
			push.Body = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "body")
		}
		p := PreparePush(push.Service, push.Method, push.Body, push.Trace)
		for _, subprotocol := range Subprotocols() {
			c, err := NewCodec(subprotocol)
			if err != nil {
				t.Fatal(err)
			}
			want, err := c.Encode(FrameOf(push))
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Append([]byte("before"), c, push.Number)
			if err != nil || string(got) != "before"+string(want) {
				t.Fatalf("got %q (%v), want %q", got, err, want)
			}
		}
	})
}

// A body that is not of its type costs the body, not the number: clients count.
func TestPreparedPushOfBadBody(t *testing.T) {
	p := PreparePush("im", MethodEvent, []byte("\xff\xff"), "")
	c := codec(t, SubprotocolJSON)
	b, err := p.Append(nil, c, 4)
	if err == nil {
		t.Error("no error")
	}
	if f, err := c.Decode(b); err != nil || f.GetPush().GetNumber() != 4 {
		t.Errorf("%q reads as %v, %v", b, f, err)
	}
}

func TestKeyOf(t *testing.T) {
	body, err := proto.Marshal(&PullRequest{Conversation: "d:ann:bob"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ service, method, want string }{
		{"im", MethodPull, "d:ann:bob"}, {"im", MethodList, ""}, {"im", "dance", ""}, {"weather", MethodPull, ""},
	} {
		if got := KeyOf(test.service, test.method, body); got != test.want {
			t.Errorf("%s.%s: %q, want %q", test.service, test.method, got, test.want)
		}
	}
}

// contentField splices bodies into records under the numbers that the schema gives them.
func TestContentFieldsMatchTheSchema(t *testing.T) {
	names := map[im.Kind]protoreflect.Name{
		im.KindMessage: "text", im.KindCreate: "create", im.KindMember: "member", im.KindSettings: "settings",
	}
	fields := (&Record{}).ProtoReflect().Descriptor().Oneofs().ByName("content").Fields()
	if fields.Len() != len(contentField) {
		t.Errorf("the schema has %d contents, contentField %d", fields.Len(), len(contentField))
	}
	for kind, number := range contentField {
		if fd := fields.ByNumber(number); fd == nil || fd.Name() != names[kind] {
			t.Errorf("kind %s: field %d is %v, want %s", kind, number, fd, names[kind])
		}
	}
	for kind, content := range map[im.Kind]proto.Message{
		im.KindMessage: &Text{Text: "hi"}, im.KindCreate: &Create{Title: "t", Members: []string{"ann"}},
		im.KindMember: &Member{Add: []string{"bob"}}, im.KindSettings: &Settings{Title: "u"},
	} {
		body, err := proto.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		r := &im.Record{
			ID:   im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: im.NewUUID(time.UnixMilli(1))},
			Kind: kind, Version: 1, Place: im.Place{Stamp: 5, Origin: "eu", Seq: 2}, Body: body,
		}
		var e Event
		if err := Unmarshal(AppendRecordEvent(nil, r, "us"), &e); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if want := RecordOf(r); !proto.Equal(want, e.GetRecord()) || want.Content == nil || e.From != "us" {
			t.Errorf("%s: spliced as %v, want %v", kind, &e, want)
		}
	}
}

func FuzzDecodeProtobuf(f *testing.F) { fuzzDecode(f, SubprotocolProtobuf) }
func FuzzDecodeJSON(f *testing.F)     { fuzzDecode(f, SubprotocolJSON) }

// fuzzDecode: whatever comes in, the answer is a frame or a named code; and a frame that was read can be written and
// reads the same.
func fuzzDecode(f *testing.F, subprotocol string) {
	c := codec(f, subprotocol)
	body, err := proto.Marshal(&SubmitRequest{Conversation: "d:ann:bob", Content: &SubmitText{Text: &Text{Text: "hi"}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range []proto.Message{
		&Hello{Token: "t", Device: "d", Platform: "ios", Login: 3, Resume: &Resume{Session: "s", Push: 9}},
		&Call{Id: 1, Service: "im", Method: "submit", Key: "d:ann:bob", Body: body},
		&Call{Id: 2, Service: "weather", Method: "now", Body: []byte{0, 1}},
		&PushAck{Number: 3}, &Ping{}, &Bye{}, &Cancel{Id: 4},
	} {
		b, err := c.Encode(FrameOf(m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"call":{"id":1,"body":null}}`))
	f.Add([]byte(`{"reply":{"id":1,"body":"AA=="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := c.Decode(b)
		switch im.CodeOf(err) {
		case "":
		case im.CodeBadFrame, im.CodeUnknownFrame:
			if frame != nil {
				t.Fatal("a frame with", err)
			}
			return
		case im.CodeBadRequest:
			if frame == nil {
				t.Fatal("no frame with", err)
			}
			return
		default:
			t.Fatal("unnamed error", err)
		}
		again, err := c.Encode(frame)
		if err != nil {
			t.Fatalf("%v does not encode: %v", frame, err)
		}
		if subprotocol == SubprotocolJSON && !json.Valid(again) {
			t.Fatalf("%q is no JSON", again)
		}
		back, err := c.Decode(again)
		if err != nil || !proto.Equal(frame, back) {
			t.Fatalf("%v came back as %v (%v) through %q", frame, back, err, again)
		}
	})
}
