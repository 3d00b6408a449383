package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/segmentio/kafka-go/compress"

	"github.com/antipode-im/antipode/im"
)

// records reads record batches of one partition, one after another.
type records struct {
	partition im.Partition
	next      int64 // entries below it are left out: a broker sends the whole batch that holds what was asked for
	epoch     int32 // of the leader that appended the last batch; -1 before the first
	entries   []im.Entry
	room      []byte // where the next entries' bytes go
	table     *crc32.Table

	form   form
	crates *crates
	packed []im.Packed
	heads  []im.CopyHead
}

// form is what a reader makes of records.
type form int

const (
	asEntries form = iota // everything, decoded
	asPacked              // bytes as a copy takes them
	asHeads               // what a replicator looks at
)

// sizedHead is where a batch's length stands, and what goes before what it counts.
const (
	lengthAt = atLength - atBaseOffset
	sizedEnd = atLeaderEpoch - atBaseOffset
	headEnd  = batchHead - atBaseOffset
)

// roomSize bounds how much memory an entry that is kept keeps with it.
const roomSize = 16 << 10

// decode takes the batches in b. The last may be cut off: brokers cut at the size they were told. What was decoded
// before an error is good.
func (r *records) decode(b []byte) error {
	for n := 0; len(b) >= sizedEnd; n++ {
		length := int(int32(binary.BigEndian.Uint32(b[lengthAt:])))
		if length < 0 {
			return fmt.Errorf("decode the batch after offset %d: %w", r.next, errShort)
		}
		if length > len(b)-sizedEnd {
			if n == 0 {
				return fmt.Errorf("decode the batch after offset %d: of its %d bytes only %d came: raise the configured fetch size", r.next, length+sizedEnd, len(b))
			}
			return nil
		}
		if err := r.batch(b[:sizedEnd+length]); err != nil {
			return err
		}
		b = b[sizedEnd+length:]
	}
	return nil
}

// batch takes one batch.
func (r *records) batch(b []byte) error {
	if len(b) < atCRC-atBaseOffset || b[atMagic-atBaseOffset] != 2 {
		return fmt.Errorf("decode the batch after offset %d: it is not of format version 2: only what Kafka 0.11 or later appended can be read", r.next)
	}
	if len(b) < headEnd {
		return fmt.Errorf("decode the batch after offset %d: %w", r.next, errShort)
	}
	base := int64(binary.BigEndian.Uint64(b))
	end := base + int64(int32(binary.BigEndian.Uint32(b[atLastDelta-atBaseOffset:]))) + 1
	if end <= r.next {
		return nil
	}
	if want := binary.BigEndian.Uint32(b[atCRC-atBaseOffset:]); crc32.Checksum(b[atAttributes-atBaseOffset:], r.table) != want {
		return fmt.Errorf("decode the batch at offset %d: its checksum is wrong: the broker's disk or the network damaged it", base)
	}
	const (
		compression = 0x07
		control     = 0x20 // a transaction's end: no record of ours, but it takes an offset
	)
	attributes := binary.BigEndian.Uint16(b[atAttributes-atBaseOffset:])
	epoch := int32(binary.BigEndian.Uint32(b[atLeaderEpoch-atBaseOffset:]))
	count := int(int32(binary.BigEndian.Uint32(b[atCount-atBaseOffset:])))
	body := b[headEnd:]
	if codec := attributes & compression; codec != 0 { // by us never, but a topic's compression.type makes brokers do it
		var err error
		if body, err = decompress(compress.Compression(codec), body); err != nil {
			return fmt.Errorf("decode the batch at offset %d: %w", base, err)
		}
	}
	if attributes&control == 0 {
		if count < 0 || count > len(body) {
			return fmt.Errorf("decode the batch at offset %d: %w", base, errShort)
		}
		if err := r.all(body, base, count); err != nil {
			return err
		}
	}
	r.next, r.epoch = end, epoch
	return nil
}

// all takes the records of a batch.
func (r *records) all(body []byte, base int64, count int) error {
	d := decoder{b: body}
	switch r.form {
	case asPacked:
		return r.pack(&d, base, count)
	case asHeads:
		return r.heed(&d, base, count)
	}
	if r.entries == nil {
		r.entries = make([]im.Entry, 0, count)
	}
	for range count {
		if err := r.record(&d, base); err != nil {
			return err
		}
	}
	return nil
}

// record takes one record.
func (r *records) record(d *decoder, base int64) error {
	one := decoder{b: d.varbytes(), bad: d.bad}
	one.int8()   // attributes
	one.varint() // timestamp
	offset := base + one.varint()
	if offset < r.next && !one.bad {
		return nil
	}
	one.b = r.keep(one.b, len(d.b))
	e := im.Entry{Partition: r.partition, Offset: offset, Key: one.varbytes(), Value: one.varbytes()}
	headers := one.varint()
	if one.bad || headers < 0 || headers > int64(len(one.b)) {
		return fmt.Errorf("decode the record at offset %d: %w", max(offset, r.next), errShort)
	}
	if headers > 0 {
		e.Headers = make([]im.Header, headers)
		for i := range e.Headers {
			e.Headers[i] = im.Header{Key: string(one.varbytes()), Value: one.varbytes()}
		}
	}
	if one.bad {
		return fmt.Errorf("decode the record at offset %d: %w", offset, errShort)
	}
	r.entries = append(r.entries, e)
	r.next = offset + 1
	return nil
}

// keep copies bytes to where they may stay; so many more of the batch follow. Entries that came together share memory,
// but not much of it.
func (r *records) keep(b []byte, follow int) []byte {
	if len(b) > len(r.room) {
		if len(b) >= roomSize/4 {
			return bytes.Clone(b)
		}
		r.room = make([]byte, min(len(b)+follow, roomSize))
	}
	n := copy(r.room, b)
	kept := r.room[:n:n]
	r.room = r.room[n:]
	return kept
}

// decompress returns what a compressed batch holds.
func decompress(by compress.Compression, b []byte) ([]byte, error) {
	codec := by.Codec()
	if codec == nil {
		return nil, fmt.Errorf("it is compressed in an unknown way (%d): set the topic's compression.type to producer", int(by))
	}
	from := codec.NewReader(bytes.NewReader(b))
	defer from.Close()
	out, err := io.ReadAll(io.LimitReader(from, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", codec.Name(), err)
	}
	if len(out) > maxAnswer {
		return nil, fmt.Errorf("it holds more than %d bytes", maxAnswer)
	}
	return out, nil
}
