package wire

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/antipode-im/antipode/im"
)

// Every region reads every record of every log, and most are texts or heartbeats. So these messages are read without the
// generated code, which makes an object of each and copies what it holds; a test holds both to the same answers.

// Fields of antipode.v1.LogName, LogRecord and Text.
const (
	logNameOrigin protowire.Number = 1
	logNameID     protowire.Number = 2

	logRecordSender   protowire.Number = 1
	logRecordClientID protowire.Number = 2
	logRecordSeen     protowire.Number = 3
	logRecordBody     protowire.Number = 4

	textText protowire.Number = 1
)

// logRecord is antipode.v1.LogRecord as it stands in an entry's value: its fields share that memory.
type logRecord struct {
	sender, clientID []byte
	seen             im.Stamp
	body             []byte
}

var errNotUTF8 = errors.New("a text that is not UTF-8")

func readLogRecord(b []byte) (r logRecord, err error) {
	for len(b) > 0 {
		var f field
		if f, b, err = nextField(b); err != nil {
			return logRecord{}, err
		}
		switch {
		case f.is(logRecordSender, protowire.BytesType):
			if r.sender = f.value; !utf8.Valid(f.value) {
				return logRecord{}, errNotUTF8
			}
		case f.is(logRecordClientID, protowire.BytesType):
			r.clientID = f.value
		case f.is(logRecordSeen, protowire.Fixed64Type):
			r.seen = im.Stamp(binary.LittleEndian.Uint64(f.value))
		case f.is(logRecordBody, protowire.BytesType):
			r.body = f.value
		}
	}
	return r, nil
}

// readLogName returns the fields of an antipode.v1.LogName, which share b's memory.
func readLogName(b []byte) (origin, id []byte, err error) {
	for len(b) > 0 {
		var f field
		if f, b, err = nextField(b); err != nil {
			return nil, nil, err
		}
		switch {
		case f.is(logNameOrigin, protowire.BytesType):
			if origin = f.value; !utf8.Valid(origin) {
				return nil, nil, errNotUTF8
			}
		case f.is(logNameID, protowire.BytesType):
			id = f.value
		}
	}
	return origin, id, nil
}

// IsText tells whether b decodes as the body of a text.
func IsText(b []byte) bool {
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = nextField(b); err != nil || f.is(textText, protowire.BytesType) && !utf8.Valid(f.value) {
			return false
		}
	}
	return true
}

// field is one field of an encoded message. Its value is as encoded, but for the length in front of bytes.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  []byte
}

func (f *field) is(n protowire.Number, t protowire.Type) bool { return f.number == n && f.kind == t }

var errFieldNumber = errors.New("a field's number is too high")

// nextField splits the first field off a message.
func nextField(b []byte) (f field, rest []byte, err error) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return field{}, nil, protowire.ParseError(n)
	}
	if number > protowire.MaxValidNumber {
		return field{}, nil, errFieldNumber
	}
	b = b[n:]
	if kind == protowire.BytesType {
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return field{}, nil, protowire.ParseError(n)
		}
		return field{number, kind, value[:len(value):len(value)]}, b[n:], nil
	}
	if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
		return field{}, nil, protowire.ParseError(n)
	}
	return field{number, kind, b[:n]}, b[n:], nil
}
