package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// Versions is the range of versions of a protocol that a build speaks, both ends included. Within a range everything that
// was added later is marked by a field that older builds pass over; a version is raised only for what they would
// misunderstand, and its predecessor is spoken for as long as an upgrade from a build without it is promised.
type Versions struct{ Oldest, Newest uint32 }

// LinkVersions are the versions of the link protocol that this build speaks. Version 2 ships several batches in a message.
func LinkVersions() Versions { return Versions{2, 2} }

// Common returns the highest version that both ends speak, and whether there is one.
func (v Versions) Common(other Versions) (version uint32, ok bool) {
	version = min(v.Newest, other.Newest)
	return version, version >= max(v.Oldest, other.Oldest)
}

// String returns the range as text: 2, or 2 to 4.
func (v Versions) String() string {
	if v.Oldest == v.Newest {
		return strconv.FormatUint(uint64(v.Oldest), 10)
	}
	return fmt.Sprintf("%d to %d", v.Oldest, v.Newest)
}

// Text returns the form in which a range goes over the wire as text: 2-4.
func (v Versions) Text() string { return fmt.Sprintf("%d-%d", v.Oldest, v.Newest) }

// ParseVersions reads a range of that form.
func ParseVersions(text string) (Versions, error) {
	low, high, ok := strings.Cut(text, "-")
	oldest, err := strconv.ParseUint(low, 10, 32)
	newest, err2 := strconv.ParseUint(high, 10, 32)
	if !ok || err != nil || err2 != nil || oldest == 0 || oldest > newest {
		return Versions{}, fmt.Errorf("%q is no range of versions: want the lowest and the highest, as 2-4", text)
	}
	return Versions{uint32(oldest), uint32(newest)}, nil
}

// AskedVersions are the versions that the receiver of a link speaks. Builds that name only one speak only that.
func AskedVersions(o *LinkOpen) Versions { return Versions{o.Version, max(o.Version, o.Newest)} }
