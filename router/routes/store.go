package routes

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/antipode-im/antipode/im"
)

// store holds the rows of one shard in memory that the garbage collector does not look into: a row is some bytes of a chunk,
// rows of one user are chained, and an open-addressed index leads from a uid's hash to its first row. Nothing in it points,
// so a million routes are a few thousand pointers.
//
// A hash is never believed: the uid in the row is compared. The hash is seeded, so that nobody can choose uids that collide.
//
// Rows are of a multiple of 8 bytes; one that is freed is used again for the next of its size. Memory is not given back: a
// table is as large as at its largest time.
type store struct {
	seed   maphash.Seed
	chunks []*[chunkBytes]byte
	next   uint32              // the unit behind the last one taken, over all chunks
	free   [maxUnits + 1]ref   // by size in units: the first of the freed rows, chained
	slots  []uint64            // hash (32 bits), first row (32 bits); 0: none
	users  int                 // slots in use
	lives  []life              // what rows name by number
	unused []uint32            // numbers of lives that no row names
	names  []im.Platform       // platforms that rows name by number, from 1
	number map[im.Platform]int // and back
}

const (
	unit       = 8
	chunkBytes = 32 << 10
	chunkUnits = chunkBytes / unit
	maxName    = 255 // bytes of a uid, device or platform: a byte holds its length
	maxUnits   = (rowHead + 3*maxName + 1 + unit - 1) / unit
	maxNamed   = 64 // platforms that are named by number; what clients make up beyond is kept in the row
)

// ref is the place of a row: its first unit, of all chunks. 0 is none.
type ref uint32

// life is one life of a gateway in one origin.
type life struct {
	gateway im.Gateway
	origin  uint8
	rows    int
}

func newStore() store {
	return store{seed: maphash.MakeSeed(), next: 1, number: make(map[im.Platform]int)}
}

// row is the bytes of a row, and maybe more behind them.
//
//	login 8  offset 8  since 8  conn 8  claimed 8  life 4  next 4  platform 1  flags 1  uid's length 1  device's length 1
//	uid  device  (platform's length 1  platform: where it has no number)
//
// What a lookup reads stands together: from conn to the uid.
type row []byte

const (
	rowConn = 24
	rowHead = 52

	flagOffline = 1 << 0
	flagUUID    = 1 << 1 // the device is the 16 bytes of a UUID
)

func (r row) login() uint64     { return binary.LittleEndian.Uint64(r) }
func (r row) offset() int64     { return int64(binary.LittleEndian.Uint64(r[8:])) }
func (r row) since() im.Stamp   { return im.Stamp(binary.LittleEndian.Uint64(r[16:])) }
func (r row) conn() uint64      { return binary.LittleEndian.Uint64(r[rowConn:]) }
func (r row) claimed() im.Stamp { return im.Stamp(binary.LittleEndian.Uint64(r[32:])) }
func (r row) life() uint32      { return binary.LittleEndian.Uint32(r[40:]) }
func (r row) next() ref         { return ref(binary.LittleEndian.Uint32(r[44:])) }
func (r row) offline() bool     { return r[49]&flagOffline != 0 }
func (r row) uid() []byte       { return r[rowHead : rowHead+int(r[50])] }

func (r row) setLife(n uint32) { binary.LittleEndian.PutUint32(r[40:], n) }
func (r row) setNext(n ref)    { binary.LittleEndian.PutUint32(r[44:], uint32(n)) }

// deviceBytes is the device as it is kept; flagUUID tells how.
func (r row) deviceBytes() []byte {
	from := rowHead + int(r[50])
	return r[from : from+int(r[51])]
}

func (r row) sameDevice(s row) bool {
	return (r[49]^s[49])&flagUUID == 0 && string(r.deviceBytes()) == string(s.deviceBytes())
}

func (r row) isDevice(d *packed) bool {
	if d.flag != 0 {
		return r[49]&flagUUID != 0 && string(r.deviceBytes()) == string(d.uuid[:])
	}
	return r[49]&flagUUID == 0 && string(r.deviceBytes()) == string(d.name)
}

func (r row) device() im.DeviceID {
	b := r.deviceBytes()
	if r[49]&flagUUID == 0 {
		return im.DeviceID(b)
	}
	return im.DeviceID(im.UUID(b).String())
}

// size is the row's length in bytes.
func (r row) size() int {
	n := rowHead + int(r[50]) + int(r[51])
	if r[48] == 0 {
		n += 1 + int(r[n])
	}
	return n
}

func units(bytes int) int { return (bytes + unit - 1) / unit }

// packed is a device's name as rows keep it: a UUID in its 16 bytes, anything else as it is.
type packed struct {
	name im.DeviceID
	uuid im.UUID
	flag byte
}

func pack(d im.DeviceID) packed {
	p := packed{name: d}
	if id, ok := im.UUIDOf(string(d)); ok {
		p.uuid, p.flag = id, flagUUID
	}
	return p
}

func (p *packed) size() int {
	if p.flag != 0 {
		return len(p.uuid)
	}
	return len(p.name)
}

func (p *packed) append(b []byte) []byte {
	if p.flag != 0 {
		return append(b, p.uuid[:]...)
	}
	return append(b, p.name...)
}

// at returns the row at a place.
func (s *store) at(r ref) row {
	return row(s.chunks[r/chunkUnits][r%chunkUnits*unit:])
}

// take returns the place of n free units.
func (s *store) take(n int) ref {
	if r := s.free[n]; r != 0 {
		s.free[n] = s.at(r).next()
		return r
	}
	for {
		if left := len(s.chunks)*chunkUnits - int(s.next); left >= n {
			r := ref(s.next)
			s.next += uint32(n)
			return r
		} else if left > rowHead/unit {
			s.give(ref(s.next), left)
		}
		s.next = max(uint32(len(s.chunks)*chunkUnits), 1)
		s.chunks = append(s.chunks, new([chunkBytes]byte))
	}
}

// give frees the n units at a place.
func (s *store) give(r ref, n int) {
	s.at(r).setNext(s.free[n])
	s.free[n] = r
}

func (s *store) hash(uid im.UID) uint32 { return uint32(maphash.String(s.seed, string(uid)) >> 32) }

// home is the slot where the search for a hash begins.
func home(hash uint32, slots int) int { return int(uint64(hash) * uint64(slots) >> 32) }

// find returns the slot of a user and its first row; ok is false for one without rows, and then slot is where it would go.
func (s *store) find(uid im.UID, hash uint32) (slot int, first ref, ok bool) {
	if len(s.slots) == 0 {
		return 0, 0, false
	}
	for i := home(hash, len(s.slots)); ; {
		v := s.slots[i]
		if v == 0 {
			return i, 0, false
		}
		if uint32(v>>32) == hash && string(s.at(ref(v)).uid()) == string(uid) {
			return i, ref(v), true
		}
		if i++; i == len(s.slots) {
			i = 0
		}
	}
}

// first returns the first row of a user, 0 for none.
func (s *store) first(uid im.UID) ref {
	_, r, _ := s.find(uid, s.hash(uid))
	return r
}

// insert adds a row behind the others of its user. Only the names are set.
func (s *store) insert(uid im.UID, d *packed, p im.Platform) ref {
	number := s.platform(p)
	n := rowHead + len(uid) + d.size()
	if number == 0 {
		n += 1 + len(p)
	}
	place := s.take(units(n))
	b := s.at(place)
	clear(b[:n])
	b[48], b[49], b[50], b[51] = byte(number), d.flag, byte(len(uid)), byte(d.size())
	tail := d.append(append(b[rowHead:rowHead], uid...))
	if number == 0 {
		tail = append(tail, byte(len(p)))
		_ = append(tail, p...)
	}

	hash := s.hash(uid)
	slot, first, ok := s.find(uid, hash)
	if ok {
		last := s.at(first)
		for last.next() != 0 {
			last = s.at(last.next())
		}
		last.setNext(place)
		return place
	}
	if 5*(s.users+1) > 4*len(s.slots) {
		s.resize(max(16, len(s.slots)*3/2))
		slot, _, _ = s.find(uid, hash)
	}
	s.slots[slot] = uint64(hash)<<32 | uint64(place)
	s.users++
	return place
}

// resize makes the index anew.
func (s *store) resize(n int) {
	old := s.slots
	s.slots = make([]uint64, n)
	for _, v := range old {
		if v == 0 {
			continue
		}
		i := home(uint32(v>>32), n)
		for s.slots[i] != 0 {
			if i++; i == n {
				i = 0
			}
		}
		s.slots[i] = v
	}
}

// unlink takes a row out of its user's chain and frees it.
func (s *store) unlink(slot int, place ref) {
	b := s.at(place)
	next := b.next()
	if first := ref(s.slots[slot]); first == place {
		if next == 0 {
			s.vacate(slot)
		} else {
			s.slots[slot] = s.slots[slot]&^(1<<32-1) | uint64(next)
		}
	} else {
		before := s.at(first)
		for before.next() != place {
			before = s.at(before.next())
		}
		before.setNext(next)
	}
	s.give(place, units(b.size()))
}

// vacate empties a slot and moves those behind it that a search would no longer find.
func (s *store) vacate(slot int) {
	n := len(s.slots)
	for j := slot; ; {
		if j++; j == n {
			j = 0
		}
		v := s.slots[j]
		if v == 0 {
			break
		}
		h := home(uint32(v>>32), n)
		between := slot < h && h <= j // h lies cyclically behind the hole: the entry stays
		if slot > j {
			between = slot < h || h <= j
		}
		if !between {
			s.slots[slot], slot = v, j
		}
	}
	s.slots[slot] = 0
	s.users--
}

// platform returns the number of a platform, 0 for one that is to be kept in the row.
func (s *store) platform(p im.Platform) int {
	if n, ok := s.number[p]; ok {
		return n
	}
	if len(s.names) == maxNamed {
		return 0
	}
	s.names = append(s.names, p)
	s.number[p] = len(s.names)
	return len(s.names)
}

// platformOf is the platform of a row.
func (s *store) platformOf(b row) im.Platform {
	if n := b[48]; n != 0 {
		return s.names[n-1]
	}
	from := rowHead + int(b[50]) + int(b[51])
	return im.Platform(b[from+1 : from+1+int(b[from])])
}

// each calls fn with every row. The uid of a row is its own.
func (s *store) each(fn func(row)) {
	for _, v := range s.slots {
		for r := ref(v); r != 0; {
			b := s.at(r)
			fn(b)
			r = b.next()
		}
	}
}

// remove deletes the rows that match, after gone was called with each.
func (s *store) remove(match func(row) bool, gone func(row)) int {
	n := 0
	for slot := 0; slot < len(s.slots); {
		first := ref(s.slots[slot])
		if first == 0 {
			slot++
			continue
		}
		kept := false
		for r := first; r != 0; {
			b := s.at(r)
			next := b.next()
			if match(b) {
				gone(b)
				s.unlink(slot, r)
				n++
			} else {
				kept = true
			}
			r = next
		}
		if kept { // else what moved into the slot is looked at in the next turn
			slot++
		}
	}
	if n > 0 && len(s.slots) > 16 && 8*s.users < len(s.slots) {
		s.resize(max(16, 2*s.users))
	}
	return n
}
