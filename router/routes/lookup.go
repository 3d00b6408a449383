package routes

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// counts tells whether a log's rows count at now: read up to the end seen at start, and, for another region, heard of
// lately and completely, by a link that does not flap. The lock is held.
func (t *Table) counts(o int, l *log, now im.Stamp) bool {
	return l.read() && t.heard(l, now) && !t.links[o].suppressed(now)
}

func (t *Table) heard(l *log, now im.Stamp) bool {
	if l.region == t.self || t.silence == 0 {
		return true
	}
	// A watermark from ahead of its time says nothing of when it was heard.
	return !l.reach.cut && !older(l.watermark, now, t.silence) && (l.reach.heard == 0 || !older(l.reach.heard, now, t.silence))
}

// Target is a route as whoever delivers needs it.
type Target struct {
	Region  im.Region
	Gateway im.Gateway
	Conn    uint64
	Offline bool
}

// Targets appends where to reach each device of a user to dst: what Lookup finds, with less said of it and nothing
// allocated.
func (t *Table) Targets(dst []Target, uid im.UID, now im.Stamp) []Target {
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return t.targets(dst, s, s.first(uid), now)
}

// targets is Targets of the user whose first row is given. The lock is held.
func (t *Table) targets(dst []Target, s *shard, first ref, now im.Stamp) []Target {
	if first == 0 {
		return dst
	}
	if b := s.at(first); b.next() == 0 { // most have one device
		if t.usable(s, b, now) {
			dst = append(dst, s.target(b))
		}
		return dst
	}
	crowd := t.crowd(s, first, now)
	for r := first; r != 0; {
		b := s.at(r)
		if crowd == nil && t.best(s, first, r, now) || crowd != nil && crowd[keyOf(b)] == r {
			dst = append(dst, s.target(b))
		}
		r = b.next()
	}
	return dst
}

func (s *shard) target(r row) Target {
	l := &s.store.lives[r.life()]
	return Target{s.logs[l.origin].region, l.gateway, r.conn(), r.offline()}
}

// Lookup appends the route of each device of a user to dst: of the live ones in regions that count, the highest.
func (t *Table) Lookup(dst []im.Route, uid im.UID, now im.Stamp) []im.Route {
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	first := s.first(uid)
	for r := first; r != 0; {
		b := s.at(r)
		if t.best(s, first, r, now) {
			dst = append(dst, t.route(s, b))
		}
		r = b.next()
	}
	return dst
}

// maxFew is up to how many rows each is compared with each.
const maxFew = 16

type crowdKey struct {
	uuid   byte
	device string
}

func keyOf(r row) crowdKey { return crowdKey{r[49] & flagUUID, string(r.deviceBytes())} }

// crowd returns the best row of each device where there are many, as a large group's gateways are, else nil.
func (t *Table) crowd(s *shard, first ref, now im.Stamp) map[crowdKey]ref {
	n := 0
	for r := first; r != 0 && n <= maxFew; r = s.at(r).next() {
		n++
	}
	if n <= maxFew {
		return nil
	}
	best := make(map[crowdKey]ref)
	for r := first; r != 0; {
		b := s.at(r)
		if t.usable(s, b, now) {
			d := keyOf(b)
			if have, ok := best[d]; !ok || t.compare(s, b, s.at(have)) > 0 {
				best[d] = r
			}
		}
		r = b.next()
	}
	return best
}

// best tells whether a row is the one that its device is reached by; first is the first of its user, who has few.
func (t *Table) best(s *shard, first, place ref, now im.Stamp) bool {
	b := s.at(place)
	if !t.usable(s, b, now) {
		return false
	}
	for r := first; r != 0; {
		other := s.at(r)
		if r != place && other.sameDevice(b) && t.usable(s, other, now) && t.compare(s, other, b) > 0 {
			return false
		}
		r = other.next()
	}
	return true
}

func (t *Table) usable(s *shard, r row, now im.Stamp) bool {
	o := s.origin(r)
	return !aged(r.claimed(), now) && t.counts(o, &s.logs[o], now)
}

// Held is the own region's route of a device, as whoever writes claims needs it.
type Held struct {
	Gateway  im.Gateway
	Platform im.Platform
	Conn     uint64
	Login    uint64
	Offline  bool
	Claimed  im.Stamp
	Since    im.Stamp
	Stands   bool // nothing is held by which it is to be kicked; a claim anew would find the same
}

// Own returns the route that a device has in the own region.
func (t *Table) Own(uid im.UID, d im.DeviceID, now im.Stamp) (h Held, ok bool) {
	dev := pack(d)
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var own row
	first := s.first(uid)
	for r := first; r != 0; {
		b := s.at(r)
		r = b.next()
		if b.isDevice(&dev) && s.logs[s.origin(b)].region == t.self {
			own = b
			break
		}
	}
	if own == nil {
		return h, false
	}
	h = Held{
		Gateway: s.store.lives[own.life()].gateway, Platform: s.platformOf(own), Conn: own.conn(), Login: own.login(),
		Offline: own.offline(), Claimed: own.claimed(), Since: own.since(), Stands: true,
	}
	rows := 0
	for r := first; r != 0; {
		b := s.at(r)
		r = b.next()
		if aged(b.claimed(), now) {
			continue
		}
		rows++
		if b.isDevice(&dev) && t.compare(s, b, own) > 0 {
			h.Stands = false
		}
	}
	if limit := t.limits[h.Platform]; limit > 0 && rows > limit { // maybe: whoever claims anew is told
		h.Stands = false
	}
	return h, true
}

// Has tells whether a device has a row in any region, dead or alive.
func (t *Table) Has(uid im.UID, d im.DeviceID) bool {
	dev := pack(d)
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	for r := s.first(uid); r != 0; {
		b := s.at(r)
		if b.isDevice(&dev) {
			return true
		}
		r = b.next()
	}
	return false
}

// Holds tells whether a user has any row, dead or alive.
func (t *Table) Holds(uid im.UID) bool {
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.first(uid) != 0
}

// Unknown lists the regions whose routes of a partition number do not count now: nothing may be concluded from a lookup
// about them (I10).
func (t *Table) Unknown(number int, now im.Stamp) []im.Region {
	s := &t.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var unknown []im.Region
	for i := range s.logs {
		if !s.logs[i].gone && !t.counts(i, &s.logs[i], now) {
			unknown = append(unknown, s.logs[i].region)
		}
	}
	return unknown
}

// Ready tells whether an origin's log was read up to the ends seen at start, in every partition.
func (t *Table) Ready(origin im.Origin) bool {
	for _, p := range t.Partitions(origin) {
		s, o, ok := t.at(p)
		if !ok {
			return false
		}
		s.mu.RLock()
		ready := s.logs[o].read()
		s.mu.RUnlock()
		if !ready {
			return false
		}
	}
	return true
}

// Position tells how far a partition is; ok is false before its first record.
func (t *Table) Position(p im.Partition) (pos im.RoutePosition, ok bool) {
	s, o, found := t.at(p)
	if !found {
		return pos, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.logs[o].tail.Position()
}

// Gaps lists the gaps that have lasted for longer than patience.
func (t *Table) Gaps(now im.Stamp, patience time.Duration) []Gap {
	var gaps []Gap
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for o := range s.logs {
			if g, ok := s.logs[o].tail.Gap(); ok && g.Since.Millis()+patience.Milliseconds() <= now.Millis() {
				g.Partition = im.Partition{Topic: im.RouteTopic(t.origins[o]), Number: i}
				gaps = append(gaps, g)
			}
		}
		s.mu.RUnlock()
	}
	return gaps
}

// Fenced tells whether a life of a gateway of the own region was declared down in a partition, so lately that it still counts.
func (t *Table) Fenced(number int, gw im.Gateway, now im.Stamp) bool {
	s := &t.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.logs {
		if s.logs[i].region == t.self {
			return s.logs[i].fences[gw.ID].down(gw.Epoch, now)
		}
	}
	return false
}

// FencedAnywhere tells whether it was in any partition.
func (t *Table) FencedAnywhere(gw im.Gateway, now im.Stamp) bool {
	for i := range t.shards {
		if t.Fenced(i, gw, now) {
			return true
		}
	}
	return false
}

// Lives lists the gateways of the own region that have rows in a partition, by id and epoch.
func (t *Table) Lives(number int) []im.Gateway {
	s := &t.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var lives []im.Gateway
	for i := range s.logs {
		if s.logs[i].region != t.self {
			continue
		}
		for gw := range s.logs[i].lives {
			lives = append(lives, gw)
		}
	}
	slices.SortFunc(lives, func(a, b im.Gateway) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Epoch, b.Epoch)) })
	return lives
}

// Count returns the number of rows by region, dead of age or not.
func (t *Table) Count() map[im.Region]int {
	n := make(map[im.Region]int)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for o := range s.logs {
			for _, l := range s.logs[o].lives {
				n[s.logs[o].region] += s.store.lives[l].rows
			}
		}
		s.mu.RUnlock()
	}
	return n
}

// Watermark is the highest stamp heard of an origin, over all partitions the lowest.
func (t *Table) Watermark(origin im.Origin) im.Stamp {
	var low im.Stamp
	for i, p := range t.Partitions(origin) {
		s, o, ok := t.at(p)
		if !ok {
			return 0
		}
		s.mu.RLock()
		w := s.logs[o].watermark
		s.mu.RUnlock()
		if i == 0 || w < low {
			low = w
		}
	}
	return low
}

// Digest is a digest of the routes that are live at now, of every region, in hexadecimal. It depends on the records
// applied only: not on their interleaving, nor on which regions count here.
func (t *Table) Digest(now im.Stamp) string {
	var sum [4]uint64
	var b []byte
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		s.each(func(x row) {
			if aged(x.claimed(), now) {
				return
			}
			r := t.route(s, x)
			b = appendRoute(b[:0], &r, x.since())
			h := sha256.Sum256(b)
			for k := range sum { // a sum does not depend on the order of an index
				sum[k] += binary.LittleEndian.Uint64(h[8*k:])
			}
		})
		s.mu.RUnlock()
	}
	out := make([]byte, 0, 32)
	for _, n := range sum {
		out = binary.LittleEndian.AppendUint64(out, n)
	}
	return hex.EncodeToString(out)
}

func appendRoute(b []byte, r *im.Route, since im.Stamp) []byte {
	for _, s := range [...]string{string(r.UID), string(r.Device), string(r.Platform), string(r.Region), r.Gateway.ID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, n := range [...]uint64{r.Gateway.Epoch, r.Conn, r.Login, uint64(r.Offset), uint64(r.Claimed), uint64(since)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	if r.Offline {
		return append(b, 1)
	}
	return append(b, 0)
}

// Rows returns every live route of a user, losers included, sorted by device, then region: what tests and the console
// look at.
func (t *Table) Rows(uid im.UID, now im.Stamp) []im.Route {
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []im.Route
	for r := s.first(uid); r != 0; {
		b := s.at(r)
		if !aged(b.claimed(), now) {
			all = append(all, t.route(s, b))
		}
		r = b.next()
	}
	slices.SortFunc(all, func(a, b im.Route) int {
		if c := strings.Compare(string(a.Device), string(b.Device)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Region), string(b.Region))
	})
	return all
}
