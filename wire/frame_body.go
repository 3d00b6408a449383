package wire

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// direction tells which message of a method a body is.
type direction int

const (
	requests direction = iota
	responses
	pushes // a push's method names the method of the schema whose request is its body
)

// noService is the service of a body of no known type: no service has an empty schema under this name.
const noService = "\x00"

// bodyType returns the type of a method's body. known tells whether the service has a schema here: the bodies of its
// methods are objects in JSON, those of other services base64 strings. t is nil for a method that the schema lacks.
func bodyType(m method, d direction) (t protoreflect.MessageType, known bool) {
	if m.service != "" && m.service != ServiceIM {
		return nil, false
	}
	if m.name == "" || m.name != strings.ToLower(m.name) {
		return nil, true
	}
	name := protoreflect.Name(strings.ToUpper(m.name[:1]) + m.name[1:])
	md := antipodev1.File_antipode_v1_im_proto.Services().ByName("IM").Methods().ByName(name)
	if md == nil {
		return nil, true
	}
	desc := md.Input()
	if d == responses {
		desc = md.Output()
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(desc.FullName())
	if err != nil {
		return nil, true
	}
	return t, true
}

// encodeBody returns a body as it stands in a JSON frame; nil to leave it out.
func encodeBody(m method, d direction, body []byte) ([]byte, error) {
	t, known := bodyType(m, d)
	if !known {
		if len(body) == 0 {
			return nil, nil
		}
		return json.Marshal(base64.StdEncoding.EncodeToString(body))
	}
	if t == nil {
		return nil, nil
	}
	v := t.New().Interface()
	if err := Unmarshal(body, v); err != nil {
		return nil, err
	}
	return marshalJSON(v)
}

// decodeBody reads a body as it stands in a JSON frame; nil if it was left out.
func decodeBody(m method, d direction, raw json.RawMessage) ([]byte, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	t, known := bodyType(m, d)
	if !known {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, im.Errorf(im.CodeBadRequest, "body: want a base64 string, because the service has no schema here")
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, im.Errorf(im.CodeBadRequest, "body: %s", plain(err))
		}
		return b, nil
	}
	if t == nil {
		return nil, nil // whoever takes the call says that there is no such method
	}
	v := t.New().Interface()
	if err := unmarshalJSON(raw, v); err != nil {
		return nil, im.Errorf(im.CodeBadRequest, "body: %s", plain(err))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return nil, im.Errorf(im.CodeBadRequest, "body: %s", plain(err))
	}
	return b, nil
}

// RequestFromJSON returns the encoded request of a method from its JSON form, as in a call's body.
func RequestFromJSON(service, name string, b []byte) ([]byte, error) {
	if err := checkJSON(b); err != nil {
		return nil, err
	}
	return decodeBody(method{service, name}, requests, b)
}

// ResponseToJSON returns the JSON form of a method's encoded response, as in a reply's body. It is nil for a service
// without a schema that answered nothing.
func ResponseToJSON(service, name string, b []byte) ([]byte, error) {
	return encodeBody(method{service, name}, responses, b)
}

// ErrorJSON returns the JSON form of an error, as the HTTP fallback answers it.
func ErrorJSON(e *Error) ([]byte, error) { return marshalJSON(e) }

// ErrorProtobuf returns the protobuf form of an error.
func ErrorProtobuf(e *Error) ([]byte, error) { return proto.Marshal(e) }

// KeyOf returns the key of a request: the conversation that it names. It is empty for a request that names none or does
// not decode, and for services without a schema.
func KeyOf(service, name string, body []byte) string {
	t, _ := bodyType(method{service, name}, requests)
	if t == nil {
		return ""
	}
	v := t.New()
	if proto.Unmarshal(body, v.Interface()) != nil {
		return ""
	}
	field := v.Descriptor().Fields().ByName("conversation")
	if field == nil {
		return ""
	}
	return v.Get(field).String()
}

// checkJSON refuses what no frame may be either: text that is not UTF-8 or nests too deeply.
func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return im.Errorf(im.CodeBadRequest, "the body is not valid UTF-8")
	}
	if depth(b) > maxJSONDepth {
		return im.Errorf(im.CodeBadRequest, "the body nests more than %d levels", maxJSONDepth)
	}
	if !json.Valid(b) {
		return im.Errorf(im.CodeBadRequest, "the body is no JSON")
	}
	return nil
}
