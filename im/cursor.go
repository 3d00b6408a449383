package im

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Cursor is how far somebody is in one conversation: per origin, the highest contiguous seq. It only grows (I7).
// A missing origin means 0: nothing of it. The zero value (nil) is the empty cursor.
type Cursor map[Origin]uint64

// MaxCursorOrigins bounds what a cursor read from a client may name.
const MaxCursorOrigins = 64

// ParseCursor reads the normative text form: origin=seq pairs, sorted by origin, joined by commas, no zero, no repeats,
// no white space, numbers without sign or leading zeros; the empty cursor is the empty text.
// So equal cursors have equal texts.
func ParseCursor(s string) (Cursor, error) {
	if s == "" {
		return nil, nil
	}
	n := strings.Count(s, ",") + 1
	if n > MaxCursorOrigins {
		return nil, Errorf(CodeBadCursor, "the cursor names %d origins; at most %d are allowed", n, MaxCursorOrigins)
	}
	c := make(Cursor, n)
	last := Origin("")
	for part := range strings.SplitSeq(s, ",") {
		name, number, ok := strings.Cut(part, "=")
		if !ok {
			return nil, Errorf(CodeBadCursor, "cursor part %q: want origin=seq", part)
		}
		o, err := ParseOrigin(name)
		if err != nil {
			return nil, Errorf(CodeBadCursor, "cursor part %q: %v", part, err)
		}
		if o <= last {
			return nil, Errorf(CodeBadCursor, "cursor: origin %q must come after %q", o, last)
		}
		seq, err := strconv.ParseUint(number, 10, 63)
		if err != nil || seq == 0 || strconv.FormatUint(seq, 10) != number {
			return nil, Errorf(CodeBadCursor, "cursor part %q: seq must be a number from 1", part)
		}
		c[o], last = seq, o
	}
	return c, nil
}

// String is the normative text form.
func (c Cursor) String() string {
	var b strings.Builder
	for _, o := range slices.Sorted(maps.Keys(c)) {
		if c[o] == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(o))
		b.WriteByte('=')
		b.WriteString(strconv.FormatUint(c[o], 10))
	}
	return b.String()
}

// Covers tells whether the record (origin, seq) is within the cursor.
func (c Cursor) Covers(o Origin, seq uint64) bool { return seq <= c[o] }

// CoversAll tells whether c covers everything that d covers.
func (c Cursor) CoversAll(d Cursor) bool {
	for o, seq := range d {
		if c[o] < seq {
			return false
		}
	}
	return true
}

// Merge returns the cursor that covers what either covers: the maximum per origin. It commutes, associates and is
// idempotent. Neither argument changes.
func (c Cursor) Merge(d Cursor) Cursor {
	if len(c) == 0 && len(d) == 0 {
		return nil
	}
	m := make(Cursor, max(len(c), len(d)))
	maps.Copy(m, c)
	for o, seq := range d {
		if seq > m[o] {
			m[o] = seq
		}
	}
	return m
}

// Cut returns the part of c that is within limit: the minimum per origin. Accept cuts delivered and read cursors to what
// the region has applied, so that a forged one cannot poison the maximum.
func (c Cursor) Cut(limit Cursor) Cursor {
	var m Cursor
	for o, seq := range c {
		if seq = min(seq, limit[o]); seq > 0 {
			if m == nil {
				m = make(Cursor, len(c))
			}
			m[o] = seq
		}
	}
	return m
}

// Clone returns a copy that shares nothing with c.
func (c Cursor) Clone() Cursor { return maps.Clone(c) }

// ListCursor is how far a client's conversation list is: per partition of the origins' logs, the origin offset up to
// which it has seen rows. Its text form is topic/number=offset pairs, sorted, joined by commas.
type ListCursor map[Partition]int64

// MaxListCursorPartitions bounds what a list cursor read from a client may name.
const MaxListCursorPartitions = 64 * 1024

// ParseListCursor reads the text form. Numbers have neither sign nor leading zeros; the order of the pairs is free.
func ParseListCursor(s string) (ListCursor, error) {
	if s == "" {
		return nil, nil
	}
	if n := strings.Count(s, ",") + 1; n > MaxListCursorPartitions {
		return nil, Errorf(CodeBadCursor, "the list cursor names %d partitions; at most %d are allowed", n, MaxListCursorPartitions)
	}
	c := ListCursor{}
	for part := range strings.SplitSeq(s, ",") {
		name, number, ok := strings.Cut(part, "=")
		if !ok {
			return nil, Errorf(CodeBadCursor, "list cursor part %q: want topic/partition=offset", part)
		}
		p, err := ParsePartition(name)
		if err != nil {
			return nil, Errorf(CodeBadCursor, "list cursor part %q: %v", part, err)
		}
		offset, err := strconv.ParseInt(number, 10, 64)
		if err != nil || offset < 0 || strconv.FormatInt(offset, 10) != number {
			return nil, Errorf(CodeBadCursor, "list cursor part %q: the offset must be a number from 0", part)
		}
		if _, twice := c[p]; twice {
			return nil, Errorf(CodeBadCursor, "list cursor: %v is named twice", p)
		}
		c[p] = offset
	}
	return c, nil
}

// String is the text form.
func (c ListCursor) String() string {
	parts := make([]string, 0, len(c))
	for p, offset := range c {
		parts = append(parts, fmt.Sprintf("%v=%d", p, offset))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
