package im

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
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

// ParseUUID reads the canonical lower-case text form, 36 characters. Other spellings are refused, so that one id has
// one text.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("uuid %q: want the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	for _, c := range []byte(s) {
		if c >= 'A' && c <= 'F' {
			return u, fmt.Errorf("uuid %q: want lower case", s)
		}
	}
	var compact [32]byte
	n := copy(compact[:], s[0:8])
	n += copy(compact[n:], s[9:13])
	n += copy(compact[n:], s[14:18])
	n += copy(compact[n:], s[19:23])
	copy(compact[n:], s[24:36])
	if _, err := hex.Decode(u[:], compact[:]); err != nil {
		return UUID{}, fmt.Errorf("uuid %q: %w", s, err)
	}
	return u, nil
}

// String is the canonical lower-case text form.
func (u UUID) String() string {
	var b [UUIDLen]byte
	return string(u.Append(b[:0]))
}

// Append appends the text form.
func (u UUID) Append(b []byte) []byte {
	for i, part := range [...][]byte{u[0:4], u[4:6], u[6:8], u[8:10], u[10:16]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

// IsZero tells whether u was never set.
func (u UUID) IsZero() bool { return u == UUID{} }

// IsV7 tells whether u has the version and variant bits of a version 7 UUID.
func (u UUID) IsV7() bool { return u[6]>>4 == 7 && u[8]>>6 == 0b10 }

// Millis is the Unix time in milliseconds inside a version 7 UUID.
func (u UUID) Millis() int64 {
	return int64(u[0])<<40 | int64(u[1])<<32 | int64(binary.BigEndian.Uint32(u[2:6]))
}
