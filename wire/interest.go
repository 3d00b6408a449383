package wire

import (
	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// InterestMessage is whom a push to a large group is for, as services of one or two regions tell each other.
func InterestMessage(i *im.Interest) *antipodev1.Interest {
	if i == nil {
		return nil
	}
	return &antipodev1.Interest{
		Stamp: uint64(i.Place.Stamp), Origin: string(i.Place.Origin), Seq: i.Place.Seq,
		Changes: i.Changes.String(), Before: i.Before.String(), Changed: Texts(i.Changed),
	}
}

// InterestOf reads what InterestMessage wrote. nil: there was none, or none that can be read.
func InterestOf(m *antipodev1.Interest) *im.Interest {
	if m == nil {
		return nil
	}
	changes, err := im.ParseCursor(m.Changes)
	if err != nil {
		return nil
	}
	before, err := im.ParseCursor(m.Before)
	if err != nil {
		return nil
	}
	return &im.Interest{
		Place:   im.Place{Stamp: im.Stamp(m.Stamp), Origin: im.Origin(m.Origin), Seq: m.Seq},
		Changes: changes, Before: before, Changed: UIDs(m.Changed),
	}
}

// EncodeRollRequest asks about users.
func EncodeRollRequest(uids []im.UID) ([]byte, error) {
	return Marshal(&antipodev1.RollRequest{Uids: Texts(uids)})
}

// EncodeRoll answers.
func EncodeRoll(r im.Roll) ([]byte, error) {
	m := &antipodev1.RollResponse{Changes: r.Changes.String()}
	for uid, since := range r.Members {
		m.Members = append(m.Members, &antipodev1.RollMember{
			Uid: string(uid), Stamp: uint64(since.Stamp), Origin: string(since.Origin), Seq: since.Seq,
		})
	}
	return Marshal(m)
}

// DecodeRoll reads what EncodeRoll wrote.
func DecodeRoll(b []byte) (im.Roll, error) {
	var m antipodev1.RollResponse
	if err := Unmarshal(b, &m); err != nil {
		return im.Roll{}, err
	}
	changes, err := im.ParseCursor(m.Changes)
	if err != nil {
		return im.Roll{}, err
	}
	r := im.Roll{Changes: changes, Members: make(map[im.UID]im.Place, len(m.Members))}
	for _, one := range m.Members {
		r.Members[im.UID(one.Uid)] = im.Place{Stamp: im.Stamp(one.Stamp), Origin: im.Origin(one.Origin), Seq: one.Seq}
	}
	return r, nil
}
