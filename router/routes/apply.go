package routes

import (
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Result is what became of a batch.
type Result struct {
	Taken, Skipped, Ahead int // records; Ahead are past a gap
	Position              im.RoutePosition
	Kicks                 []Kick       // routes of the own region that lost
	Down                  []im.Gateway // fences of the own region that rose
}

// Kick is a kick and the gateway it is for.
type Kick struct {
	Gateway im.Gateway
	im.Kick
}

// Apply takes what is next in a partition. now is used to tell live routes from dead ones when deciding kicks, and to
// remember when a gap was met; rows do not depend on it.
func (t *Table) Apply(p im.Partition, entries []Entry, now im.Stamp) Result {
	var res Result
	s, o, ok := t.at(p)
	if !ok {
		res.Skipped = len(entries)
		return res
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.logs[o]
	for i := range entries {
		e := &entries[i]
		switch l.tail.See(e, now) {
		case im.Take:
			res.Taken++
			l.watermark = max(l.watermark, e.Route.Claimed)
			t.take(s, o, e, now, &res)
		case im.Gap:
			res.Ahead++
		case im.Skip:
			res.Skipped++
		case im.Raise: // a marker takes no offset
		}
	}
	res.Position, _ = l.tail.Position()
	return res
}

func (t *Table) take(s *shard, o int, e *Entry, now im.Stamp, res *Result) {
	l := &s.logs[o]
	r := &e.Route
	switch e.Kind {
	case im.KindClaim:
		if r.Gateway.Epoch > l.fences[r.Gateway.ID] {
			t.claim(s, o, r, now, res)
		}
	case im.KindRelease:
		rows := s.users[r.UID]
		i := find(rows, r.Device, o)
		if i < 0 || rows[i].life.gateway != r.Gateway || rows[i].conn != r.Conn || rows[i].login != r.Login {
			return
		}
		s.forget(&rows[i])
		s.put(r.UID, slices.Delete(rows, i, i+1))
	case im.KindGatewayDown:
		if r.Gateway.Epoch <= l.fences[r.Gateway.ID] {
			return
		}
		l.fences[r.Gateway.ID] = r.Gateway.Epoch
		if l.region == t.self {
			res.Down = append(res.Down, r.Gateway)
		}
		dead := false
		for gw := range l.lives {
			dead = dead || gw.ID == r.Gateway.ID && gw.Epoch <= r.Gateway.Epoch
		}
		if dead {
			s.remove(func(x *row) bool {
				return int(x.origin) == o && x.life.gateway.ID == r.Gateway.ID && x.life.gateway.Epoch <= r.Gateway.Epoch
			})
		}
	}
}

// claim is the rule of two claims of one device in one origin, and of the kicks that follow.
func (t *Table) claim(s *shard, o int, c *im.Route, now im.Stamp, res *Result) {
	rows := s.users[c.UID]
	i := find(rows, c.Device, o)
	if i >= 0 {
		old := &rows[i]
		same := old.life.gateway == c.Gateway && old.conn == c.Conn
		if !aged(old.claimed, c.Claimed) {
			if old.login > c.Login {
				if !same {
					t.kick(s, o, c.Gateway, c.Conn, c.Login, old.login, res)
				}
				return
			}
			if !same {
				t.kick(s, o, old.life.gateway, old.conn, old.login, c.Login, res)
			}
		}
		s.forget(old)
	} else {
		i = len(rows)
		rows = append(rows, row{device: c.Device})
	}
	rows[i] = row{
		device: rows[i].device, platform: s.platform(c.Platform), life: s.life(o, c.Gateway), conn: c.Conn,
		login: c.Login, offset: c.Offset, claimed: c.Claimed, origin: uint8(o), offline: c.Offline,
	}
	s.users[c.UID] = rows

	// Against the other regions. Rows of a log that is not read up to its end yet are facts too: a higher login was
	// given to a later socket.
	won := &rows[i]
	for j := range rows {
		other := &rows[j]
		if other.device != c.Device || int(other.origin) == o || aged(won.claimed, now) || aged(other.claimed, now) {
			continue
		}
		lost, by := other, won
		if t.compare(won, other) < 0 {
			lost, by = won, other
		}
		t.kick(s, int(lost.origin), lost.life.gateway, lost.conn, lost.login, by.login, res)
	}
}

// kick notes a route that lost, if it is the own region's: only the loser's region kicks.
func (t *Table) kick(s *shard, o int, gw im.Gateway, conn, login, by uint64, res *Result) {
	if s.logs[o].region != t.self {
		return
	}
	code := im.CodeReplaced
	if login == by {
		code = im.CodeLoginTie
	}
	res.Kicks = append(res.Kicks, Kick{gw, im.Kick{Conn: conn, Login: login, Code: code}})
}

func find(rows []row, d im.DeviceID, o int) int {
	return slices.IndexFunc(rows, func(r row) bool { return r.device == d && int(r.origin) == o })
}

func (s *shard) life(o int, gw im.Gateway) *life {
	l, ok := s.logs[o].lives[gw]
	if !ok {
		l = &life{gateway: gw}
		s.logs[o].lives[gw] = l
	}
	l.rows++
	return l
}

// platform returns one string for all rows of a platform. What clients make up beyond a few is not kept.
func (s *shard) platform(p im.Platform) im.Platform {
	if known, ok := s.platforms[p]; ok {
		return known
	}
	if len(s.platforms) < 64 {
		s.platforms[p] = p
	}
	return p
}
