package wire

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/antipode-im/antipode/im"
)

// PollRequest is the body of a long poll, and PollAnswer that of its answer (frame.proto says what the fields are). Their
// frames are as Codec encodes them, one by one, so that a bad one is told from a bad body.
type (
	PollRequest struct {
		Conn   string
		Number uint32
		HoldMs uint32
		Frames [][]byte
	}
	PollAnswer struct {
		Conn   string
		Close  int
		Frames [][]byte
	}
)

// maxPollFrames bounds the frames of one body.
const maxPollFrames = 1024

var errPollBody = errors.New("it is cut short or malformed")

// EncodePoll returns the body of a request.
func (c *Codec) EncodePoll(q *PollRequest) []byte {
	if c.json {
		b := appendJSONField([]byte{'{'}, "conn", q.Conn)
		b = appendJSONNumber(b, "number", uint64(q.Number))
		b = appendJSONNumber(b, "holdMs", uint64(q.HoldMs))
		return append(appendJSONFrames(b, q.Frames), '}')
	}
	b := appendProtoString(nil, 1, q.Conn)
	b = appendProtoNumber(b, 2, uint64(q.Number))
	b = appendProtoNumber(b, 3, uint64(q.HoldMs))
	return appendProtoFrames(b, 4, q.Frames)
}

// EncodePollAnswer returns the body of an answer.
func (c *Codec) EncodePollAnswer(a *PollAnswer) []byte {
	if c.json {
		b := appendJSONField([]byte{'{'}, "conn", a.Conn)
		b = appendJSONNumber(b, "close", uint64(a.Close))
		return append(appendJSONFrames(b, a.Frames), '}')
	}
	b := appendProtoString(nil, 1, a.Conn)
	b = appendProtoNumber(b, 2, uint64(a.Close))
	return appendProtoFrames(b, 3, a.Frames)
}

// DecodePoll reads the body of a request. Its errors are bad_frame. The frames are parts of b.
func (c *Codec) DecodePoll(b []byte) (q PollRequest, err error) {
	if c.json {
		var v struct {
			Conn   string            `json:"conn"`
			Number uint32            `json:"number"`
			HoldMs uint32            `json:"holdMs"`
			Hold   uint32            `json:"hold_ms"` // the schema's name
			Frames []json.RawMessage `json:"frames"`
		}
		if err := decodePollJSON(b, &v); err != nil {
			return q, err
		}
		q.Conn, q.Number, q.HoldMs = v.Conn, v.Number, max(v.HoldMs, v.Hold)
		q.Frames, err = rawFrames(v.Frames)
		return q, err
	}
	err = eachField(b, func(field protowire.Number, number uint64, text []byte) error {
		switch field {
		case 1:
			q.Conn = string(text)
		case 2:
			q.Number = uint32(number)
		case 3:
			q.HoldMs = uint32(number)
		case 4:
			return addFrame(&q.Frames, text)
		}
		return nil
	})
	return q, err
}

// DecodePollAnswer reads the body of an answer. Its errors are bad_frame. The frames are parts of b.
func (c *Codec) DecodePollAnswer(b []byte) (a PollAnswer, err error) {
	if c.json {
		var v struct {
			Conn   string            `json:"conn"`
			Close  int               `json:"close"`
			Frames []json.RawMessage `json:"frames"`
		}
		if err := decodePollJSON(b, &v); err != nil {
			return a, err
		}
		a.Conn, a.Close = v.Conn, v.Close
		a.Frames, err = rawFrames(v.Frames)
		return a, err
	}
	err = eachField(b, func(field protowire.Number, number uint64, text []byte) error {
		switch field {
		case 1:
			a.Conn = string(text)
		case 2:
			a.Close = int(uint32(number))
		case 3:
			return addFrame(&a.Frames, text)
		}
		return nil
	})
	return a, err
}

func addFrame(frames *[][]byte, frame []byte) error {
	if len(*frames) >= maxPollFrames {
		return im.Errorf(im.CodeBadFrame, "the body has more than %d frames", maxPollFrames)
	}
	*frames = append(*frames, frame)
	return nil
}

func rawFrames(raw []json.RawMessage) (frames [][]byte, err error) {
	for _, r := range raw {
		if err := addFrame(&frames, r); err != nil {
			return nil, err
		}
	}
	return frames, nil
}

func decodePollJSON(b []byte, v any) error {
	if !utf8.Valid(b) {
		return im.Errorf(im.CodeBadFrame, "the body is not valid UTF-8")
	}
	if d := depth(b); d > maxJSONDepth+2 { // the body's own levels
		return im.Errorf(im.CodeBadFrame, "the body nests more than %d levels", maxJSONDepth+2)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return im.Errorf(im.CodeBadFrame, "the body is no poll in JSON: %s", plain(err))
	}
	return nil
}

// eachField walks over the fields of a protobuf message: varints as number, strings and messages as text, others not at all.
func eachField(b []byte, fn func(field protowire.Number, number uint64, text []byte) error) error {
	bad := im.Errorf(im.CodeBadFrame, "the body is no poll in protobuf: %s", plain(errPollBody))
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return bad
		}
		b = b[n:]
		var number uint64
		var text []byte
		switch typ {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		default:
			if n = protowire.ConsumeFieldValue(field, typ, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return bad
		}
		b = b[n:]
		if err := fn(field, number, text); err != nil {
			return err
		}
	}
	return nil
}

func appendProtoString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendProtoNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

func appendProtoFrames(b []byte, field protowire.Number, frames [][]byte) []byte {
	for _, f := range frames {
		b = protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), f)
	}
	return b
}

func appendJSONName(b []byte, name string) []byte {
	if len(b) > 1 {
		b = append(b, ',')
	}
	return append(append(append(b, '"'), name...), `":`...)
}

func appendJSONField(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	quoted, err := json.Marshal(text)
	if err != nil { // a string always encodes
		return b
	}
	return append(appendJSONName(b, name), quoted...)
}

func appendJSONNumber(b []byte, name string, n uint64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendUint(appendJSONName(b, name), n, 10)
}

func appendJSONFrames(b []byte, frames [][]byte) []byte {
	if len(frames) == 0 {
		return b
	}
	b = append(appendJSONName(b, "frames"), '[')
	for i, f := range frames {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, f...)
	}
	return append(b, ']')
}
