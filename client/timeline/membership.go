package timeline

import (
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Membership is what the records of a group that were heard say of one user. Pulls cover what was hidden from the user, so it
// tells when a record makes readable what may have been covered already: an addition that stands before the one that was known,
// because two regions added the user while they could not hear each other.
//
// It spells stretches as regions do. The zero Membership knows nothing.
type Membership struct {
	changes []change // in place order, each place once
}

type change struct {
	id    key
	place im.Place
	add   bool
}

// maxChanges bounds what is remembered of one user: the latest.
const maxChanges = 1_024

type stretch struct {
	from, to im.Place // to zero: it goes on
}

// Hear takes the records of a push or of a page. added tells whether any of them adds the user; earlier are those additions that
// stand before a stretch that was known before, and in none.
func (m *Membership) Hear(uid im.UID, records ...*wire.Record) (added bool, earlier []im.Place) {
	var known []stretch
	for _, r := range records {
		add, named := names(r, uid)
		if !named {
			continue
		}
		id, err := im.ParseUUID(r.ClientId)
		place := wire.RecordPlace(r)
		if err != nil || checkPlace(place) != nil {
			continue
		}
		i, dup := slices.BinarySearchFunc(m.changes, place, func(c change, p im.Place) int { return c.place.Compare(p) })
		if dup {
			continue
		}
		if known == nil {
			known = m.spell()
		}
		added = added || add
		if add && precedes(place, known) {
			earlier = append(earlier, place)
		}
		m.changes = slices.Insert(m.changes, i, change{key{im.UID(r.Sender), id}, place, add})
	}
	if n := len(m.changes) - maxChanges; n > 0 {
		m.changes = slices.Delete(m.changes, 0, n)
	}
	return added, earlier
}

// names tells whether a record adds or removes a user. One who is both added and removed is removed; who creates a group is in it.
func names(r *wire.Record, uid im.UID) (add, named bool) {
	if r.GetVersion() > im.CurrentVersion {
		return false, false
	}
	switch c := r.GetContent().(type) {
	case *wire.RecordCreate:
		named = r.Sender == string(uid) || slices.Contains(c.Create.GetMembers(), string(uid))
		return named, named
	case *wire.RecordMember:
		if slices.Contains(c.Member.GetRemove(), string(uid)) {
			return false, true
		}
		named = slices.Contains(c.Member.GetAdd(), string(uid))
		return named, named
	}
	return false, false
}

// spell returns the stretches, in place order. Of records with one id the one with the lowest place counts.
func (m *Membership) spell() []stretch {
	spelled := []stretch{}
	seen := make(map[key]struct{}, len(m.changes))
	for _, c := range m.changes {
		if _, repeat := seen[c.id]; repeat {
			continue
		}
		seen[c.id] = struct{}{}
		n := len(spelled)
		switch current := n > 0 && spelled[n-1].to.IsZero(); {
		case c.add && !current:
			spelled = append(spelled, stretch{from: c.place})
		case !c.add && current:
			spelled[n-1].to = c.place
		}
	}
	return spelled
}

// precedes tells whether a place is before one of the stretches, and in none.
func precedes(p im.Place, stretches []stretch) bool {
	for _, s := range stretches { // the first that does not end before p decides
		if s.to.IsZero() || p.Compare(s.to) <= 0 {
			return p.Before(s.from)
		}
	}
	return false
}
