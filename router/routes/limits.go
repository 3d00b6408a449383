package routes

import (
	"cmp"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// enforce keeps a user to as many devices of a platform as are allowed. Of the devices' winning rows those whose login began
// last stay; ties go by region name, then device. This is a function of the rows held, and the rows of every table come to
// be the same, so each region decides the same; the loser's region kicks. A device that is kicked and claims anew has the
// same beginning, and loses again. The lock is held.
func (t *Table) enforce(s *shard, uid im.UID, p im.Platform, limit int, now im.Stamp, res *Result) {
	var winners []row
	for r := s.first(uid); r != 0; {
		b := s.at(r)
		r = b.next()
		if aged(b.claimed(), now) {
			continue
		}
		i := slices.IndexFunc(winners, func(w row) bool { return w.sameDevice(b) })
		switch {
		case i < 0:
			winners = append(winners, b)
		case t.compare(s, b, winners[i]) > 0:
			winners[i] = b
		}
	}
	winners = slices.DeleteFunc(winners, func(w row) bool { return s.platformOf(w) != p })
	if len(winners) <= limit {
		return
	}
	slices.SortFunc(winners, func(a, b row) int {
		return -cmp.Or(cmp.Compare(a.since(), b.since()),
			cmp.Compare(t.origins[s.origin(a)].Region(), t.origins[s.origin(b)].Region()),
			cmp.Compare(a.device(), b.device()))
	})
	for _, lost := range winners[limit:] {
		l := &s.store.lives[lost.life()]
		if s.logs[l.origin].region == t.self {
			res.Kicks = append(res.Kicks, Kick{
				l.gateway, im.Kick{Conn: lost.conn(), Login: lost.login(), Code: im.CodeDeviceLimit},
			})
		}
	}
}
