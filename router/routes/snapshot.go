package routes

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/antipode-im/antipode/im"
)

// A snapshot is a table's rows and the positions they came from, so that a router that starts reads only what its logs hold
// since. It is one section a partition number, each taken at one moment and guarded by its checksum:
//
//	magic  partitions  origins
//	{size 4  xxhash64 8  section}…
//	section: per origin {tail, mark, watermark, fences}, gateways, rows
//
// Numbers are varints, texts stand behind their length. It is a cache: a reader that does not know the form, or finds other
// origins, takes nothing of it, and the logs are read instead.
const snapshotMagic = "antipode routes 2\n"

// maxSection bounds what a length in a damaged file can make a reader allocate.
const maxSection = 1 << 30

// Mark names the last record of a batch that was taken: whoever goes on from a snapshot looks whether the log still has it.
type Mark struct {
	Local    int64 // where it stands
	Offset   int64 // its origin offset
	Checksum uint64
}

// Snapshot writes the table. A partition number is held up for as long as its rows take to be copied.
func (t *Table) Snapshot(w io.Writer) error {
	out, origins := bufio.NewWriterSize(w, 256<<10), t.known()
	head := append([]byte(snapshotMagic), binary.AppendUvarint(nil, uint64(len(t.shards)))...)
	head = binary.AppendUvarint(head, uint64(len(origins)))
	for _, o := range origins {
		head = appendText(head, string(o))
	}
	if _, err := out.Write(head); err != nil {
		return fmt.Errorf("routes: snapshot: %w", err)
	}
	var b []byte
	for i := range t.shards {
		b = t.shards[i].appendSection(len(origins), append(b[:0], make([]byte, 12)...))
		binary.LittleEndian.PutUint32(b, uint32(len(b)-12))
		binary.LittleEndian.PutUint64(b[4:], xxhash.Sum64(b[12:]))
		if _, err := out.Write(b); err != nil {
			return fmt.Errorf("routes: snapshot: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("routes: snapshot: %w", err)
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (s *shard) appendSection(origins int, b []byte) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for o := range s.logs[:origins] {
		l := &s.logs[o]
		pos, started := l.tail.Position()
		if !started || l.mark == (Mark{}) { // nothing that could be looked for again
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		for _, n := range [...]int64{pos.Next, pos.Local, pos.Floor, l.mark.Local, l.mark.Offset} {
			b = binary.AppendVarint(b, n)
		}
		for _, n := range [...]uint64{uint64(pos.Generation), l.mark.Checksum, uint64(l.watermark), uint64(len(l.fences))} {
			b = binary.AppendUvarint(b, n)
		}
		for gw, f := range l.fences {
			b = binary.AppendUvarint(binary.AppendUvarint(appendText(b, gw), f.epoch), uint64(f.at))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(s.store.lives)))
	for _, l := range s.store.lives {
		b = append(appendText(binary.AppendUvarint(b, l.gateway.Epoch), l.gateway.ID), l.origin)
	}
	s.each(func(r row) {
		b = append(b, 1)
		b = appendText(b, string(r.uid()))
		b = append(b, r[49])
		b = appendText(b, string(r.deviceBytes()))
		b = appendText(b, string(s.platformOf(r)))
		b = binary.AppendUvarint(b, uint64(r.life()))
		for _, n := range [...]uint64{r.conn(), r.login(), uint64(r.offset()), uint64(r.claimed()), uint64(r.since())} {
			b = binary.AppendUvarint(b, n)
		}
	})
	return append(b, 0)
}

var errSnapshot = errors.New("routes: the snapshot is damaged")

// Load fills an empty table from a snapshot, and returns from where each log is to be read on: at the mark, which must still
// be what it was, or the partition has to Jump to its start. What is not returned has nothing loaded. After an error nothing
// is.
func (t *Table) Load(r io.Reader) (map[im.Partition]Mark, error) {
	t.shape.Lock()
	defer t.shape.Unlock()
	if followed := t.Origins(); len(followed) != len(t.known()) {
		return nil, fmt.Errorf("routes: regions went since the start, only %v are followed: the snapshot has more", followed)
	}
	in := bufio.NewReaderSize(r, 256<<10)
	if err := t.loadHead(in); err != nil {
		return nil, err
	}
	marks := make(map[im.Partition]Mark)
	loaded := make([]*shard, len(t.shards))
	var b []byte
	for i := range loaded {
		var head [12]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil, errSnapshot
		}
		n := int(binary.LittleEndian.Uint32(head[:]))
		if n > maxSection {
			return nil, errSnapshot
		}
		b = slices.Grow(b[:0], n)[:n]
		if _, err := io.ReadFull(in, b); err != nil || xxhash.Sum64(b) != binary.LittleEndian.Uint64(head[4:]) {
			return nil, errSnapshot
		}
		loaded[i] = t.emptyShard()
		if err := loaded[i].load(b); err != nil {
			return nil, err
		}
		for o := range t.known() {
			if m := loaded[i].logs[o].mark; m != (Mark{}) {
				marks[im.Partition{Topic: im.RouteTopic(t.origins[o]), Number: i}] = m
			}
		}
	}
	for i := range loaded {
		s := &t.shards[i]
		s.mu.Lock()
		s.store, s.logs = loaded[i].store, loaded[i].logs
		s.mu.Unlock()
	}
	return marks, nil
}

func (t *Table) loadHead(in *bufio.Reader) error {
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != snapshotMagic {
		return errors.New("routes: the snapshot is of another form")
	}
	partitions, err := binary.ReadUvarint(in)
	origins, err2 := binary.ReadUvarint(in)
	if err != nil || err2 != nil || int(partitions) != len(t.shards) || int(origins) != len(t.known()) {
		return errors.New("routes: the snapshot is of other partitions or origins")
	}
	for _, o := range t.known() {
		n, err := binary.ReadUvarint(in)
		if err != nil || n > maxName {
			return errSnapshot
		}
		name := make([]byte, n)
		if _, err := io.ReadFull(in, name); err != nil || im.Origin(name) != o {
			return errors.New("routes: the snapshot is of other origins")
		}
	}
	return nil
}

// section reads what appendSection wrote; bad is set at the first thing that is not there.
type section struct {
	b   []byte
	bad bool
}

func (s *section) uint() uint64 {
	v, n := binary.Uvarint(s.b)
	return s.took(v, n)
}

func (s *section) int() int64 {
	v, n := binary.Varint(s.b)
	return int64(s.took(uint64(v), n))
}

func (s *section) took(v uint64, n int) uint64 {
	if n <= 0 {
		s.bad, s.b = true, nil
		return 0
	}
	s.b = s.b[n:]
	return v
}

func (s *section) byte() byte {
	if len(s.b) == 0 {
		s.bad = true
		return 0
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c
}

func (s *section) text() []byte {
	n := s.uint()
	if n > uint64(len(s.b)) {
		s.bad, s.b = true, nil
		return nil
	}
	text := s.b[:n]
	s.b = s.b[n:]
	return text
}

func (s *shard) load(b []byte) error {
	in := &section{b: b}
	for o := range s.logs {
		if in.byte() == 0 {
			continue
		}
		l := &s.logs[o]
		pos := im.RoutePosition{Next: in.int(), Local: in.int(), Floor: in.int()}
		l.mark = Mark{Local: in.int(), Offset: in.int()}
		pos.Generation = uint32(in.uint())
		l.mark.Checksum = in.uint()
		l.watermark = im.Stamp(in.uint())
		for range in.uint() {
			gw := string(in.text())
			l.fences[gw] = fence{epoch: in.uint(), at: im.Stamp(in.uint())}
			if in.bad {
				return errSnapshot
			}
		}
		l.tail = NewTail(pos)
	}
	var lives []life
	for range in.uint() {
		epoch := in.uint()
		l := life{gateway: im.Gateway{ID: string(in.text()), Epoch: epoch}, origin: in.byte()}
		if in.bad || int(l.origin) >= len(s.logs) {
			return errSnapshot
		}
		lives = append(lives, l)
	}
	for in.byte() == 1 {
		uid := im.UID(in.text())
		flags := in.byte()
		dev, name := packed{flag: flags & flagUUID}, in.text()
		if dev.flag != 0 && copy(dev.uuid[:], name) != len(dev.uuid) || len(name) > maxName || len(uid) > maxName {
			return errSnapshot
		}
		dev.name = im.DeviceID(name)
		platform := im.Platform(in.text())
		n := in.uint()
		c := im.Route{Conn: in.uint(), Login: in.uint(), Offset: int64(in.uint()), Claimed: im.Stamp(in.uint()), Offline: flags&flagOffline != 0}
		since := im.Stamp(in.uint())
		if in.bad || n >= uint64(len(lives)) || len(platform) > maxName {
			return errSnapshot
		}
		at := lives[n]
		if s.logs[at.origin].mark == (Mark{}) {
			continue // of a log that is read from its start
		}
		r := s.at(s.insert(uid, &dev, platform))
		r.setLife(s.live(int(at.origin), at.gateway))
		r.set(&c, since)
	}
	if in.bad {
		return errSnapshot
	}
	return nil
}
