package postgres

import (
	"encoding/binary"

	"github.com/antipode-im/antipode/imserver/view"
)

// copyMessages is read by PostgreSQL's COPY in the order in which copyRows writes.
const copyMessages = `COPY messages (conversation, origin, seq, stamp, log_offset, version, client_id, opaque, shown, kind, sender, trace, body) FROM STDIN BINARY`

const copyColumns = 13

// copyRows encodes records for COPY in PostgreSQL's binary format: a third of the server's work for an INSERT from arrays,
// and hardly any here.
func copyRows(records []*view.Record) []byte {
	size := 32
	for _, r := range records {
		size += 2 + 4*copyColumns + 4*8 + 16 + 2 + len(r.Conversation) + len(r.Place.Origin) + len(r.Kind) + len(r.Sender) + len(r.Trace) + len(r.Body)
	}
	b := make(row, 0, size)
	b = append(b, "PGCOPY\n\xff\r\n\x00"...)
	b = append(b, make([]byte, 8)...) // no flags, no extension
	for _, r := range records {
		b = binary.BigEndian.AppendUint16(b, copyColumns)
		b = b.text(string(r.Conversation)).text(string(r.Place.Origin)).
			number(r.Place.Seq).number(uint64(r.Place.Stamp)).number(uint64(r.Offset)).number(uint64(r.Version)).
			bytes(r.ClientID[:]).flag(r.Opaque).flag(r.Shown).
			text(string(r.Kind)).text(string(r.Sender)).text(r.Trace).bytes(r.Body)
	}
	return binary.BigEndian.AppendUint16(b, 0xffff) // the end
}

// row appends fields, each behind its length.
type row []byte

func (b row) text(s string) row { return append(b.length(len(s)), s...) }

func (b row) bytes(s []byte) row { return append(b.length(len(s)), s...) }

func (b row) number(n uint64) row { return binary.BigEndian.AppendUint64(b.length(8), n) }

func (b row) flag(set bool) row {
	n := byte(0)
	if set {
		n = 1
	}
	return append(b.length(1), n)
}

func (b row) length(n int) row { return binary.BigEndian.AppendUint32(b, uint32(n)) }
