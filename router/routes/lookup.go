package routes

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// counts tells whether a log's rows count at now: read up to the end seen at start, and, for another region, heard of
// lately. The lock is held.
func (t *Table) counts(l *log, now im.Stamp) bool {
	if l.expect < 0 || l.tail.Read() < l.expect {
		return false
	}
	return l.region == t.self || t.silence == 0 || l.watermark.Millis()+t.silence.Milliseconds() >= now.Millis()
}

// Lookup appends the route of each device of a user to dst: of the live ones in regions that count, the highest.
func (t *Table) Lookup(dst []im.Route, uid im.UID, now im.Stamp) []im.Route {
	s := &t.shards[t.Number(uid)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	rows := s.users[uid]
	for i := range rows {
		r := &rows[i]
		if !t.usable(s, r, now) {
			continue
		}
		best := true
		for j := range rows { // a user has few rows
			if o := &rows[j]; j != i && o.device == r.device && t.usable(s, o, now) && t.compare(o, r) > 0 {
				best = false
				break
			}
		}
		if best {
			dst = append(dst, t.route(uid, r))
		}
	}
	return dst
}

func (t *Table) usable(s *shard, r *row, now im.Stamp) bool {
	return !aged(r.claimed, now) && t.counts(&s.logs[r.origin], now)
}

// Unknown lists the regions whose routes of a partition number do not count now: nothing may be concluded from a lookup
// about them (I10).
func (t *Table) Unknown(number int, now im.Stamp) []im.Region {
	s := &t.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	var unknown []im.Region
	for i := range s.logs {
		if !t.counts(&s.logs[i], now) {
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
		ready := s.logs[o].expect >= 0 && s.logs[o].tail.Read() >= s.logs[o].expect
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

// Fence is the highest epoch of a gateway that was declared down in a partition of the own region, 0 for none.
func (t *Table) Fence(number int, id string) uint64 {
	s := &t.shards[number]
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range s.logs {
		if s.logs[i].region == t.self {
			return s.logs[i].fences[id]
		}
	}
	return 0
}

// Fenced tells whether a life of a gateway of the own region was declared down, in any partition.
func (t *Table) Fenced(gw im.Gateway) bool {
	for i := range t.shards {
		if t.Fence(i, gw.ID) >= gw.Epoch {
			return true
		}
	}
	return false
}

// Lives lists the gateways of the own region that have rows in a partition.
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
	return lives
}

// Count returns the number of rows by region, dead of age or not.
func (t *Table) Count() map[im.Region]int {
	n := make(map[im.Region]int, len(t.origins))
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for o := range s.logs {
			for _, l := range s.logs[o].lives {
				n[s.logs[o].region] += l.rows
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
		for uid, rows := range s.users {
			for j := range rows {
				if aged(rows[j].claimed, now) {
					continue
				}
				r := t.route(uid, &rows[j])
				b = appendRoute(b[:0], &r)
				h := sha256.Sum256(b)
				for k := range sum { // a sum does not depend on the order of a map
					sum[k] += binary.LittleEndian.Uint64(h[8*k:])
				}
			}
		}
		s.mu.RUnlock()
	}
	out := make([]byte, 0, 32)
	for _, n := range sum {
		out = binary.LittleEndian.AppendUint64(out, n)
	}
	return hex.EncodeToString(out)
}

func appendRoute(b []byte, r *im.Route) []byte {
	for _, s := range [...]string{string(r.UID), string(r.Device), string(r.Platform), string(r.Region), r.Gateway.ID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, n := range [...]uint64{r.Gateway.Epoch, r.Conn, r.Login, uint64(r.Offset), uint64(r.Claimed)} {
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
	for i := range s.users[uid] {
		if r := &s.users[uid][i]; !aged(r.claimed, now) {
			all = append(all, t.route(uid, r))
		}
	}
	slices.SortFunc(all, func(a, b im.Route) int {
		if c := strings.Compare(string(a.Device), string(b.Device)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Region), string(b.Region))
	})
	return all
}
