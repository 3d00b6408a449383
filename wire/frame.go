package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/antipode-im/antipode/im"
)

// The WebSocket subprotocols. They carry the same frames.
const (
	SubprotocolProtobuf = "antipode.v1"      // protobuf in binary messages
	SubprotocolJSON     = "antipode.v1+json" // the protobuf JSON mapping in text messages
)

// Subprotocols lists them, the preferred one first.
func Subprotocols() []string { return []string{SubprotocolProtobuf, SubprotocolJSON} }

// WebSocket message types (RFC 6455, 11.8).
const (
	TextMessage   = 1
	BinaryMessage = 2
)

// maxJSONDepth bounds the nesting of a JSON frame. The deepest frame of the protocol has 7 levels.
const maxJSONDepth = 32

// Codec turns frames into the messages of one connection and back. In JSON a reply's body is an object whose shape only
// its call tells, so a codec remembers the calls that it encoded until it decodes their replies: each connection of a
// client has a Codec of its own. A gateway names the method itself (EncodeReply) and its codecs remember nothing.
//
// A Codec is safe for concurrent use.
type Codec struct {
	json bool

	mu    sync.Mutex
	calls map[uint32]method // calls encoded and not answered; JSON only
}

type method struct{ service, name string }

// NewCodec returns the codec of a subprotocol.
func NewCodec(subprotocol string) (*Codec, error) {
	switch subprotocol {
	case SubprotocolProtobuf:
		return &Codec{}, nil
	case SubprotocolJSON:
		return &Codec{json: true}, nil
	}
	return nil, fmt.Errorf("subprotocol %q: want %s or %s", subprotocol, SubprotocolProtobuf, SubprotocolJSON)
}

// Subprotocol names the codec's subprotocol.
func (c *Codec) Subprotocol() string {
	if c.json {
		return SubprotocolJSON
	}
	return SubprotocolProtobuf
}

// MessageType is the WebSocket message type that carries the codec's frames: TextMessage or BinaryMessage.
func (c *Codec) MessageType() int {
	if c.json {
		return TextMessage
	}
	return BinaryMessage
}

// Encode returns a frame as one message. Equal frames have equal encodings. A reply with a body must go through
// EncodeReply in JSON; here its body is base64. The only errors are strings that are not UTF-8 and, in JSON, a body that
// is not of its method's type.
func (c *Codec) Encode(f *Frame) ([]byte, error) {
	if !c.json {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
		if err != nil {
			return nil, fmt.Errorf("encode frame: %w", err)
		}
		return b, nil
	}
	switch k := f.Kind.(type) {
	case *FrameCall:
		b, err := encodeBody(method{k.Call.Service, k.Call.Method}, requests, k.Call.Body)
		if err != nil {
			return nil, err
		}
		c.remember(k.Call)
		return encodeJSON("call", &Call{
			Id: k.Call.Id, Service: k.Call.Service, Method: k.Call.Method, Key: k.Call.Key, Trace: k.Call.Trace,
		}, b)
	case *FrameReply:
		return c.EncodeReply("", "", k.Reply)
	case *FramePush:
		b, err := encodeBody(method{k.Push.Service, k.Push.Method}, pushes, k.Push.Body)
		if err != nil {
			return nil, err
		}
		return encodeJSON("push", &Push{
			Number: k.Push.Number, Service: k.Push.Service, Method: k.Push.Method, Trace: k.Push.Trace,
		}, b)
	}
	return marshalJSON(f)
}

// EncodeReply returns the frame of a reply to a call of a service's method. With an empty method the body has no known
// type.
func (c *Codec) EncodeReply(service, name string, r *Reply) ([]byte, error) {
	if !c.json {
		return c.Encode(&Frame{Kind: &FrameReply{Reply: r}})
	}
	var body []byte
	if r.Error == nil {
		m := method{service, name}
		if name == "" {
			m.service = noService
		}
		var err error
		if body, err = encodeBody(m, responses, r.Body); err != nil {
			return nil, err
		}
	}
	return encodeJSON("reply", &Reply{Id: r.Id, Error: r.Error}, body)
}

// Decode reads one message. Fields it does not know are ignored, so that newer peers are understood. Errors have codes:
//
//   - bad_frame: not a frame at all (not protobuf, not JSON, not UTF-8, nested too deeply, no kind, two kinds in JSON)
//   - unknown_frame: a frame of a kind that this build does not know
//   - bad_request, with the frame: a call's, reply's or push's body does not fit its method's type. Protobuf bodies are
//     not looked at; whoever takes them decodes them.
func (c *Codec) Decode(b []byte) (*Frame, error) {
	if c.json {
		return c.decodeJSON(b)
	}
	f := new(Frame)
	if err := proto.Unmarshal(b, f); err != nil {
		return nil, im.Errorf(im.CodeBadFrame, "the message is no protobuf frame: %s", plain(err))
	}
	if f.Kind == nil {
		if len(f.ProtoReflect().GetUnknown()) == 0 {
			return nil, im.Errorf(im.CodeBadFrame, "the frame is empty")
		}
		return nil, im.Errorf(im.CodeUnknownFrame, "this gateway does not know the kind of the frame")
	}
	return f, nil
}

func (c *Codec) decodeJSON(b []byte) (*Frame, error) {
	if !utf8.Valid(b) {
		return nil, im.Errorf(im.CodeBadFrame, "the message is not valid UTF-8")
	}
	if d := depth(b); d > maxJSONDepth {
		return nil, im.Errorf(im.CodeBadFrame, "the message nests more than %d levels", maxJSONDepth)
	}
	fields, err := object(b)
	if err != nil {
		return nil, im.Errorf(im.CodeBadFrame, "the message is no JSON object: %s", plain(err))
	}
	f := new(Frame)
	kinds := f.ProtoReflect().Descriptor().Fields()
	var kind protoreflect.FieldDescriptor
	var value json.RawMessage
	for _, field := range fields {
		fd := kinds.ByJSONName(field.name)
		if fd == nil {
			fd = kinds.ByTextName(field.name)
		}
		if fd == nil || string(field.value) == "null" {
			continue
		}
		if kind != nil {
			return nil, im.Errorf(im.CodeBadFrame, "the frame is both %s and %s", kind.Name(), fd.Name())
		}
		kind, value = fd, field.value
	}
	if kind == nil {
		if len(fields) == 0 {
			return nil, im.Errorf(im.CodeBadFrame, "the frame is empty")
		}
		return nil, im.Errorf(im.CodeUnknownFrame, "this gateway does not know the kind of the frame")
	}
	var body json.RawMessage
	switch kind.Name() {
	case "call", "reply", "push":
		if value, body, err = cutBody(value); err != nil {
			return nil, im.Errorf(im.CodeBadFrame, "%s: %s", kind.Name(), plain(err))
		}
	}
	m := f.ProtoReflect().Mutable(kind).Message().Interface()
	if err := unmarshalJSON(value, m); err != nil {
		return nil, im.Errorf(im.CodeBadFrame, "%s: %s", kind.Name(), plain(err))
	}
	switch m := m.(type) {
	case *Call:
		m.Body, err = decodeBody(method{m.Service, m.Method}, requests, body)
	case *Reply:
		called, ok := c.forget(m.Id)
		switch {
		case m.Error != nil:
		case ok:
			m.Body, err = decodeBody(called, responses, body)
		case bytes.HasPrefix(body, []byte(`"`)):
			m.Body, err = decodeBody(method{noService, ""}, responses, body)
		}
	case *Push:
		m.Body, err = decodeBody(method{m.Service, m.Method}, pushes, body)
	}
	return f, err
}

func (c *Codec) remember(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = make(map[uint32]method)
	}
	c.calls[call.Id] = method{call.Service, call.Method}
}

func (c *Codec) forget(id uint32) (method, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.calls[id]
	delete(c.calls, id)
	return m, ok
}

// encodeJSON returns {"kind":{…m…,"body":body}}.
func encodeJSON(kind string, m proto.Message, body []byte) ([]byte, error) {
	inner, err := marshalJSON(m)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(kind)+len(inner)+len(body)+16)
	b = append(b, `{"`...)
	b = append(b, kind...)
	b = append(b, `":`...)
	b = append(b, inner[:len(inner)-1]...)
	if body != nil {
		if len(inner) > 2 {
			b = append(b, ',')
		}
		b = append(b, `"body":`...)
		b = append(b, body...)
	}
	return append(b, "}}"...), nil
}

// cutBody takes the field "body" out of a JSON object.
func cutBody(value json.RawMessage) (rest, body json.RawMessage, err error) {
	fields, err := object(value)
	if err != nil {
		return nil, nil, err
	}
	rest = append(rest, '{')
	for _, field := range fields {
		if field.name == "body" {
			body = field.value
			continue
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		name, err := json.Marshal(field.name)
		if err != nil {
			return nil, nil, err
		}
		rest = append(append(append(rest, name...), ':'), field.value...)
	}
	return append(rest, '}'), body, nil
}

type jsonField struct {
	name  string
	value json.RawMessage
}

// object returns the fields of a JSON object in their order. A name that comes twice is an error: which of the two counts
// must not depend on the reader.
func object(b []byte) ([]jsonField, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	open, err := d.Token()
	if err != nil {
		return nil, err
	}
	if open != json.Delim('{') {
		return nil, fmt.Errorf("want an object")
	}
	var fields []jsonField
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		f := jsonField{name: name.(string)} // the decoder allows nothing else before a colon
		if seen[f.name] {
			return nil, fmt.Errorf("%q comes twice", f.name)
		}
		seen[f.name] = true
		if err := d.Decode(&f.value); err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, err
	}
	if d.More() || len(bytes.TrimSpace(b[d.InputOffset():])) > 0 {
		return nil, fmt.Errorf("something follows the object")
	}
	return fields, nil
}

// depth returns how deeply a JSON text nests, without judging the rest of it.
func depth(b []byte) int {
	level, deepest, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// marshalJSON returns the protobuf JSON mapping without the white space that protojson varies from build to build.
func marshalJSON(m proto.Message) ([]byte, error) {
	loose, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var b bytes.Buffer
	b.Grow(len(loose))
	if err := json.Compact(&b, loose); err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b.Bytes(), nil
}

func unmarshalJSON(b []byte, m proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxJSONDepth + 8}.Unmarshal(b, m)
}

// plain returns an error's text without the unusual spaces by which protobuf keeps people from matching on it.
func plain(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.ToValidUTF8(strings.TrimPrefix(s, "proto: "), "?")
}

// FrameOf puts a frame's content into a frame.
func FrameOf(m proto.Message) *Frame {
	switch m := m.(type) {
	case *Hello:
		return &Frame{Kind: &FrameHello{Hello: m}}
	case *Welcome:
		return &Frame{Kind: &FrameWelcome{Welcome: m}}
	case *Ping:
		return &Frame{Kind: &FramePing{Ping: m}}
	case *Pong:
		return &Frame{Kind: &FramePong{Pong: m}}
	case *Call:
		return &Frame{Kind: &FrameCall{Call: m}}
	case *Reply:
		return &Frame{Kind: &FrameReply{Reply: m}}
	case *Push:
		return &Frame{Kind: &FramePush{Push: m}}
	case *PushAck:
		return &Frame{Kind: &FramePushAck{PushAck: m}}
	case *Behind:
		return &Frame{Kind: &FrameBehind{Behind: m}}
	case *Goaway:
		return &Frame{Kind: &FrameGoaway{Goaway: m}}
	case *Error:
		return &Frame{Kind: &FrameError{Error: m}}
	case *Bye:
		return &Frame{Kind: &FrameBye{Bye: m}}
	case *Cancel:
		return &Frame{Kind: &FrameCancel{Cancel: m}}
	}
	return &Frame{}
}
