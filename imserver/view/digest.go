package view

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"

	"github.com/antipode-im/antipode/im"
)

// The parts of a view that have digests of their own.
const (
	PartTimelines = "timelines" // records and ids
	PartLists     = "lists"     // heads, inboxes, members, titles
	PartCursors   = "cursors"   // delivered and read cursors
)

// Digest adds up rows in any order: it is a function of the set of rows. Local offsets and what a build derives for
// itself are left out, so regions that applied the same records have equal digests (I9).
//
// Each row's SHA-256 is taken as four 64-bit numbers, which are summed. That finds divergence; it is no defence against
// somebody who makes up rows.
type Digest struct {
	sums map[string]*[4]uint64
	row  fields // that is being added, in memory used before
}

// NewDigest returns the digest of an empty view.
func NewDigest() *Digest {
	return &Digest{sums: map[string]*[4]uint64{PartTimelines: {}, PartLists: {}, PartCursors: {}}}
}

// Sums are the digests by part, in hex.
func (d *Digest) Sums() map[string]string {
	sums := make(map[string]string, len(d.sums))
	for part, sum := range d.sums {
		var b [32]byte
		for i, n := range sum {
			binary.BigEndian.PutUint64(b[8*i:], n)
		}
		sums[part] = hex.EncodeToString(b[:])
	}
	return sums
}

// Record adds a record.
func (d *Digest) Record(r *Record) {
	h := d.row[:0].text("record").text(string(r.Conversation)).place(r.Place).text(string(r.Kind)).number(uint64(r.Version)).
		text(string(r.Sender)).bytes(r.ClientID[:]).text(r.Trace).bytes(r.Body)
	if r.Opaque {
		h = h.text("opaque")
	}
	d.add(PartTimelines, h)
}

// ID adds what is known of an id in one origin: its lowest place there, and its first seq.
func (d *Digest) ID(id im.ID, lowest im.Place, first uint64) {
	d.add(PartTimelines, d.row[:0].text("id").text(string(id.Conversation)).text(string(id.Sender)).bytes(id.ClientID[:]).place(lowest).number(first))
}

// Head adds the last record of a stream.
func (d *Digest) Head(k HeadKey, seq uint64, offset int64) {
	d.add(PartLists, d.row[:0].text("head").text(string(k.Conversation)).text(string(k.Origin)).number(seq).number(uint64(offset)))
}

// Inbox adds a row of a user's inbox.
func (d *Digest) Inbox(uid im.UID, k HeadKey, offset int64) {
	d.add(PartLists, d.row[:0].text("inbox").text(string(uid)).text(string(k.Conversation)).text(string(k.Origin)).number(uint64(offset)))
}

// Member adds an event of a user's membership.
func (d *Digest) Member(c im.Conversation, uid im.UID, e Event) {
	add := uint64(0)
	if e.Add {
		add = 1
	}
	d.add(PartLists, d.row[:0].text("member").text(string(c)).text(string(uid)).text(string(e.Sender)).bytes(e.ClientID[:]).place(e.Place).
		number(uint64(e.Offset)).number(add))
}

// Title adds a title.
func (d *Digest) Title(c im.Conversation, t Title) {
	create := uint64(0)
	if t.Create {
		create = 1
	}
	d.add(PartLists, d.row[:0].text("title").text(string(c)).text(string(t.Sender)).bytes(t.ClientID[:]).place(t.Place).number(create).text(t.Text))
}

// Cursor adds one origin's part of a user's cursors.
func (d *Digest) Cursor(k HeadKey, uid im.UID, delivered, read uint64) {
	d.add(PartCursors, d.row[:0].text(string(k.Conversation)).text(string(k.Origin)).text(string(uid)).number(delivered).number(read))
}

func (d *Digest) add(part string, f fields) {
	d.row = f
	h := sha256.Sum256(f)
	sum := d.sums[part]
	var carry uint64
	for i := 3; i >= 0; i-- {
		sum[i], carry = bits.Add64(sum[i], binary.BigEndian.Uint64(h[8*i:]), carry)
	}
}

// fields is a row, each field behind its length so that no two rows read the same.
type fields []byte

func (f fields) text(s string) fields {
	return append(binary.AppendUvarint(f, uint64(len(s))), s...)
}

func (f fields) bytes(b []byte) fields {
	return append(binary.AppendUvarint(f, uint64(len(b))), b...)
}

func (f fields) number(n uint64) fields { return binary.BigEndian.AppendUint64(f, n) }

func (f fields) place(p im.Place) fields {
	return f.number(uint64(p.Stamp)).text(string(p.Origin)).number(p.Seq)
}
