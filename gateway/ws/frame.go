package ws

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Opcode is a frame's kind (RFC 6455, 11.8).
type Opcode byte

// The kinds of frames.
const (
	Continuation Opcode = 0
	Text         Opcode = 1
	Binary       Opcode = 2
	Close        Opcode = 8
	Ping         Opcode = 9
	Pong         Opcode = 10
)

// MaxControl is how many bytes a control frame may carry.
const MaxControl = 125

// Status codes of a close frame (RFC 6455, 7.4.1) that this package itself speaks of.
const (
	StatusNormal        = 1000
	StatusProtocolError = 1002
	StatusNoStatus      = 1005 // never on the wire: the close frame had no code
	StatusInvalidData   = 1007
	StatusTooBig        = 1009
)

// Error is what a client did wrong: the conn is to be failed with its status.
type Error struct {
	Status int
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("websocket: %s (%d)", e.Detail, e.Status) }

func protocolError(format string, args ...any) error {
	return &Error{Status: StatusProtocolError, Detail: fmt.Sprintf(format, args...)}
}

// AppendHeader appends the header of an unfragmented frame of n bytes. Servers do not mask.
func AppendHeader(b []byte, op Opcode, n int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case n <= MaxControl:
		return append(b, byte(n))
	case n <= 0xffff:
		return append(b, 126, byte(n>>8), byte(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

// AppendFrame appends an unfragmented frame.
func AppendFrame(b []byte, op Opcode, payload []byte) []byte {
	return append(AppendHeader(b, op, len(payload)), payload...)
}

// AppendClose appends a close frame. StatusNoStatus sends none. A reason that does not fit is cut, between two runes.
func AppendClose(b []byte, status int, reason string) []byte {
	if status == StatusNoStatus {
		return AppendHeader(b, Close, 0)
	}
	const most = MaxControl - 2
	for len(reason) > most {
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	b = AppendHeader(b, Close, 2+len(reason))
	return append(append(b, byte(status>>8), byte(status)), reason...)
}

// ParseClose reads a close frame's payload. Codes that no endpoint may send (RFC 6455, 7.4) are a protocol error.
func ParseClose(payload []byte) (status int, reason string, err error) {
	switch len(payload) {
	case 0:
		return StatusNoStatus, "", nil
	case 1:
		return 0, "", protocolError("a close frame of one byte")
	}
	status = int(binary.BigEndian.Uint16(payload))
	switch {
	case status >= 3000 && status < 5000:
	case status >= 1000 && status <= 1003, status >= 1007 && status <= 1014:
	default:
		return 0, "", protocolError("close status %d may not be sent", status)
	}
	if !utf8.Valid(payload[2:]) {
		return 0, "", &Error{StatusInvalidData, "the reason of a close frame is not UTF-8"}
	}
	return status, string(payload[2:]), nil
}

// mask applies the key to b, of which the first byte is number pos of the frame's payload (RFC 6455, 5.3).
func mask(b []byte, key [4]byte, pos int) {
	for pos&3 != 0 && len(b) > 0 {
		b[0] ^= key[pos&3]
		b = b[1:]
		pos++
	}
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// runes checks UTF-8 that comes in pieces. The zero value is at a boundary.
type runes struct {
	part [utf8.UTFMax]byte // of a rune that is not complete
	n    uint8
}

// take checks the next piece; false: no continuation makes it UTF-8.
func (r *runes) take(b []byte) bool {
	for r.n > 0 && len(b) > 0 {
		r.part[r.n] = b[0]
		r.n++
		b = b[1:]
		if part := r.part[:r.n]; utf8.FullRune(part) {
			if !utf8.Valid(part) {
				return false
			}
			r.n = 0
		}
	}
	whole := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if last := b[len(b)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				whole = len(b) - i
			}
			break
		}
	}
	if r.n == 0 {
		r.n = uint8(copy(r.part[:], b[whole:]))
	}
	return utf8.Valid(b[:whole])
}

func (r *runes) complete() bool { return r.n == 0 }

// ParseOwn takes a frame that AppendFrame or AppendClose wrote off b; n is its length, 0 if it is not whole.
func ParseOwn(b []byte) (op Opcode, payload []byte, n int) {
	if len(b) < 2 {
		return 0, nil, 0
	}
	header, length := 2, uint64(b[1]&0x7f)
	switch {
	case length == 126 && len(b) >= 4:
		header, length = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case length == 127 && len(b) >= 10:
		header, length = 10, binary.BigEndian.Uint64(b[2:])
	case length > MaxControl:
		return 0, nil, 0
	}
	if uint64(len(b)-header) < length {
		return 0, nil, 0
	}
	n = header + int(length)
	return Opcode(b[0] & 0x0f), b[header:n:n], n
}
