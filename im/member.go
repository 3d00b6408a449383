package im

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Member is a region as the others follow it. Members live in every region's discovery, beside the states of regions; the
// configuration of each region names those that it began with.
type Member struct {
	Region     Region
	Origins    []Origin // epochs of its log that are followed, oldest first; the last is the one it writes
	Replicator string   // host:port at which replicators of other regions reach its own
	Stamp      Stamp    // when it was said; the highest holds

	Via map[Region]string // host:port of regions from which another one leads there
}

// From is where a region reaches the member's replicator.
func (m Member) From(r Region) string { return cmp.Or(m.Via[r], m.Replicator) }

// Check tells what is wrong with a member.
func (m Member) Check() error {
	if _, err := ParseRegion(string(m.Region)); err != nil {
		return err
	}
	if len(m.Origins) == 0 {
		return fmt.Errorf("member %s: no origin", m.Region)
	}
	for i, o := range m.Origins {
		if _, err := ParseOrigin(string(o)); err != nil {
			return fmt.Errorf("member %s: %w", m.Region, err)
		}
		if o.Region() != m.Region {
			return fmt.Errorf("member %s: origin %s is of another region", m.Region, o)
		}
		if i > 0 && m.Origins[i-1].Epoch() >= o.Epoch() {
			return fmt.Errorf("member %s: origin %s is not after %s", m.Region, o, m.Origins[i-1])
		}
	}
	if m.Replicator == "" {
		return fmt.Errorf("member %s: no address of its replicator", m.Region)
	}
	for r, addr := range m.Via {
		if _, err := ParseRegion(string(r)); err != nil {
			return fmt.Errorf("member %s: %w", m.Region, err)
		}
		if addr == "" || r == m.Region {
			return fmt.Errorf("member %s: no address of its replicator from %s", m.Region, r)
		}
	}
	return nil
}

// Compare orders what was said of one region: the greater is what holds. The highest stamp wins; a tie goes to more
// origins, and then by address, so that every reader settles it alike.
func (m Member) Compare(n Member) int {
	return cmp.Or(cmp.Compare(m.Stamp, n.Stamp), cmp.Compare(len(m.Origins), len(n.Origins)),
		slices.Compare(m.Origins, n.Origins), strings.Compare(m.Replicator, n.Replicator), strings.Compare(m.ways(), n.ways()))
}

// ways is Via as text.
func (m Member) ways() string {
	var b strings.Builder
	for _, r := range slices.Sorted(maps.Keys(m.Via)) {
		fmt.Fprintf(&b, "%s=%s ", r, m.Via[r])
	}
	return b.String()
}

// Equal tells whether both say the same.
func (m Member) Equal(n Member) bool { return m.Region == n.Region && m.Compare(n) == 0 }
