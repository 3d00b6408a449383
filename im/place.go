package im

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Place is where a record stands in its conversation: the total order by (stamp, origin, seq), the same in every region
// (I3). It is a pure function of the record and the prefix of its origin's log, and never changes once assigned (I5).
type Place struct {
	Stamp  Stamp
	Origin Origin
	Seq    uint64 // dense 1,2,3… per (conversation, origin)
}

// Compare orders places: -1 if p is before q, 0 if equal, +1 if after.
func (p Place) Compare(q Place) int {
	if c := cmp.Compare(p.Stamp, q.Stamp); c != 0 {
		return c
	}
	if c := cmp.Compare(p.Origin, q.Origin); c != 0 {
		return c
	}
	return cmp.Compare(p.Seq, q.Seq)
}

// Before tells whether p comes before q.
func (p Place) Before(q Place) bool { return p.Compare(q) < 0 }

// IsZero tells whether p was never set.
func (p Place) IsZero() bool { return p == Place{} }

// String is the text form <stamp>/<origin>/<seq>, with the stamp in decimal.
func (p Place) String() string {
	return strconv.FormatUint(uint64(p.Stamp), 10) + "/" + string(p.Origin) + "/" + strconv.FormatUint(p.Seq, 10)
}

// ParsePlace reads the text form.
func ParsePlace(s string) (Place, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Place{}, fmt.Errorf("place %q: want <stamp>/<origin>/<seq>", s)
	}
	stamp, ok := number(parts[0])
	if !ok {
		return Place{}, fmt.Errorf("place %q: the stamp must be a number", s)
	}
	o, err := ParseOrigin(parts[1])
	if err != nil {
		return Place{}, fmt.Errorf("place %q: %w", s, err)
	}
	seq, ok := number(parts[2])
	if !ok || seq == 0 {
		return Place{}, fmt.Errorf("place %q: seq must be a number from 1", s)
	}
	return Place{Stamp(stamp), o, seq}, nil
}

// number reads a decimal without sign or leading zeros, so that one place has one text.
func number(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}
