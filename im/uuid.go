package im

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
)

// UUID is an RFC 9562 UUID. Antipode makes version 7 only: 48 bits of Unix milliseconds, then randomness.
type UUID [16]byte

// UUIDLen is the length of the text form.
const UUIDLen = 36

// NewUUID returns a version 7 UUID for the given time.
func NewUUID(now time.Time) UUID {
	var u UUID
	rand.Read(u[:]) // crypto/rand.Read never fails (Go 1.24)
	ms := uint64(now.UnixMilli())
	u[0], u[1] = byte(ms>>40), byte(ms>>32)
	binary.BigEndian.PutUint32(u[2:6], uint32(ms))
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	return u
}

// pairs are where the two digits of each byte stand in the text form.
var pairs = [len(UUID{})]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

const digits = "0123456789abcdef"

// ParseUUID reads the canonical lower-case text form, 36 characters. Other spellings are refused, so that one id has
// one text.
func ParseUUID(s string) (UUID, error) {
	if u, ok := UUIDOf(s); ok {
		return u, nil
	}
	if !hyphened(s) {
		return UUID{}, fmt.Errorf("uuid %q: want the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	return UUID{}, fmt.Errorf("uuid %q: want digits and a to f, in lower case", s)
}

func hyphened(s string) bool {
	return len(s) == UUIDLen && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-'
}

// UUIDOf is ParseUUID where most texts may be none: it makes no error of them.
func UUIDOf(s string) (u UUID, ok bool) {
	if !hyphened(s) {
		return UUID{}, false
	}
	for i, at := range pairs {
		high, low := digit(s[at]), digit(s[at+1])
		if high|low > 15 {
			return UUID{}, false
		}
		u[i] = high<<4 | low
	}
	return u, true
}

// digit is what a hexadecimal digit stands for, 255 if it is none.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// String is the canonical lower-case text form.
func (u UUID) String() string {
	var b [UUIDLen]byte
	return string(u.Append(b[:0]))
}

// Append appends the text form.
func (u UUID) Append(b []byte) []byte {
	text := [UUIDLen]byte{8: '-', 13: '-', 18: '-', 23: '-'}
	for i, at := range pairs {
		text[at], text[at+1] = digits[u[i]>>4], digits[u[i]&15]
	}
	return append(b, text[:]...)
}

// IsZero tells whether u was never set.
func (u UUID) IsZero() bool { return u == UUID{} }

// IsV7 tells whether u has the version and variant bits of a version 7 UUID.
func (u UUID) IsV7() bool { return u[6]>>4 == 7 && u[8]>>6 == 0b10 }

// Millis is the Unix time in milliseconds inside a version 7 UUID.
func (u UUID) Millis() int64 {
	return int64(u[0])<<40 | int64(u[1])<<32 | int64(binary.BigEndian.Uint32(u[2:6]))
}
