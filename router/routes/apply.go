package routes

import (
	"encoding/binary"

	"github.com/antipode-im/antipode/im"
)

// Result is what became of a batch.
type Result struct {
	Taken, Skipped, Ahead int // records; Ahead are past a gap
	Position              im.RoutePosition
	Kicks                 []Kick       // routes of the own region that lost
	Down                  []im.Gateway // of the own region, declared down by it
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
	if l.gone { // read before, or beside, it was dropped
		res.Skipped = len(entries)
		return res
	}
	caught, before := l.read(), l.watermark // before is of when the end seen at start was reached, if it is in this batch
	for i := range entries {
		e := &entries[i]
		switch l.tail.See(e, now) {
		case im.Take:
			res.Taken++
			if before == 0 {
				before = e.Route.Claimed
			}
			l.watermark = max(l.watermark, e.Route.Claimed)
			if e.Checksum != 0 {
				l.mark = Mark{Local: e.Local, Offset: e.Route.Offset, Checksum: e.Checksum}
			}
			t.take(s, o, e, now, &res)
		case im.Gap:
			res.Ahead++
		case im.Skip:
			res.Skipped++
		case im.Raise: // a marker takes no offset
		}
		if !caught && l.read() {
			caught, before = true, l.watermark
		}
	}
	if res.Taken > 0 && caught && t.silence > 0 && l.region != t.self {
		if since := l.reach.hear(before, l.watermark, now, t.silence); since > 0 {
			t.links[o].flap(since, now, t.halfLife())
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
		if !l.fences[r.Gateway.ID].down(r.Gateway.Epoch, r.Claimed) {
			t.claim(s, o, e, now, res)
		}
	case im.KindRelease:
		dev := pack(r.Device)
		slot, place := s.of(r.UID, &dev, o)
		if place == 0 {
			return
		}
		b := s.at(place)
		if s.store.lives[b.life()].gateway != r.Gateway || b.conn() != r.Conn || b.login() != r.Login {
			return
		}
		s.leave(b.life())
		s.unlink(slot, place)
	case im.KindGatewayDown:
		if l.fences[r.Gateway.ID].down(r.Gateway.Epoch, r.Claimed) {
			return
		}
		l.fences[r.Gateway.ID] = fence{r.Gateway.Epoch, r.Claimed}
		if l.region == t.self {
			res.Down = append(res.Down, r.Gateway)
		}
		dead := make(map[uint32]bool)
		for gw, n := range l.lives {
			if gw.ID == r.Gateway.ID && gw.Epoch <= r.Gateway.Epoch {
				dead[n] = true
			}
		}
		if len(dead) > 0 {
			s.forget(func(b row) bool { return dead[b.life()] })
		}
	}
}

// of returns the row of a device in an origin, and its user's slot; no row is 0.
func (s *shard) of(uid im.UID, d *packed, o int) (slot int, place ref) {
	slot, r, _ := s.find(uid, s.hash(uid))
	for r != 0 {
		b := s.at(r)
		if b.isDevice(d) && s.origin(b) == o {
			return slot, r
		}
		r = b.next()
	}
	return slot, 0
}

// valid tells whether a claim's names fit a row; gateways let only shorter ones in.
func valid(c *im.Route) bool {
	return len(c.UID) <= maxName && len(c.Device) <= maxName && len(c.Platform) <= maxName
}

// claim is the rule of two claims of one device in one origin, and of the kicks that follow.
func (t *Table) claim(s *shard, o int, e *Entry, now im.Stamp, res *Result) {
	c := &e.Route
	if !valid(c) {
		return
	}
	dev := pack(c.Device)
	since := e.Since
	if since == 0 || since > c.Claimed { // of a writer that does not tell it
		since = c.Claimed
	}
	slot, place := s.of(c.UID, &dev, o)
	if place != 0 {
		old := s.at(place)
		gw := s.store.lives[old.life()].gateway
		same := gw == c.Gateway && old.conn() == c.Conn
		if !aged(old.claimed(), c.Claimed) {
			if old.login() > c.Login {
				if !same {
					t.kick(s, o, c.Gateway, c.Conn, c.Login, old.login(), res)
				}
				return
			}
			if !same {
				t.kick(s, o, gw, old.conn(), old.login(), c.Login, res)
			}
		}
		if s.platformOf(old) != c.Platform { // names are not changed in place
			s.leave(old.life())
			s.unlink(slot, place)
			place = 0
		}
	}
	if place == 0 {
		place = s.insert(c.UID, &dev, c.Platform)
		s.at(place).setLife(s.live(o, c.Gateway))
	}
	won := s.at(place)
	if n := won.life(); s.store.lives[n].gateway != c.Gateway {
		won.setLife(s.live(o, c.Gateway))
		s.leave(n)
	}
	won.set(c, since)

	// Against the other regions. Rows of a log that is not read up to its end yet are facts too: a higher login was
	// given to a later socket.
	rows := 0
	for r := s.first(c.UID); r != 0; {
		other := s.at(r)
		r = other.next()
		rows++
		if s.origin(other) == o || !other.isDevice(&dev) || aged(won.claimed(), now) || aged(other.claimed(), now) {
			continue
		}
		lost, by := other, won
		if t.compare(s, won, other) < 0 {
			lost, by = won, other
		}
		t.kickRow(s, lost, by.login(), res)
	}
	if limit := t.limits[c.Platform]; limit > 0 && rows > limit {
		t.enforce(s, c.UID, c.Platform, limit, now, res)
	}
}

// set writes what a claim says, but for the names.
func (r row) set(c *im.Route, since im.Stamp) {
	binary.LittleEndian.PutUint64(r, c.Login)
	binary.LittleEndian.PutUint64(r[8:], uint64(c.Offset))
	binary.LittleEndian.PutUint64(r[16:], uint64(since))
	binary.LittleEndian.PutUint64(r[rowConn:], c.Conn)
	binary.LittleEndian.PutUint64(r[32:], uint64(c.Claimed))
	r[49] &^= flagOffline
	if c.Offline {
		r[49] |= flagOffline
	}
}

func (t *Table) kickRow(s *shard, lost row, by uint64, res *Result) {
	l := &s.store.lives[lost.life()]
	t.kick(s, int(l.origin), l.gateway, lost.conn(), lost.login(), by, res)
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

// Lost lists the kicks of a partition's routes that others win over now: what an owner before may have died without telling.
// Routes of the own region that another of it replaced are not among them; nothing is kept of these.
func (t *Table) Lost(number int, now im.Stamp) []Kick {
	s := &t.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var res Result
	best := make(map[crowdKey]row)
	for _, v := range s.slots {
		first := ref(v)
		if first == 0 || s.at(first).next() == 0 { // most have one device
			continue
		}
		clear(best)
		for r := first; r != 0; {
			b := s.at(r)
			r = b.next()
			if aged(b.claimed(), now) {
				continue
			}
			d := keyOf(b)
			if have, ok := best[d]; !ok || t.compare(s, b, have) > 0 {
				best[d] = b
			}
		}
		for r := first; r != 0; {
			b := s.at(r)
			r = b.next()
			if aged(b.claimed(), now) {
				continue
			}
			if won := best[keyOf(b)]; t.compare(s, won, b) > 0 {
				t.kickRow(s, b, won.login(), &res)
			}
		}
		for platform, limit := range t.limits {
			if limit > 0 && len(best) > limit {
				t.enforce(s, im.UID(s.at(first).uid()), platform, limit, now, &res)
			}
		}
	}
	return res.Kicks
}
