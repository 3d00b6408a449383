package kafka

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"

	"github.com/antipode-im/antipode/im"
)

// A record batch of format version 2, as https://kafka.apache.org/documentation/#recordbatch gives it. It is encoded
// here, and not by kafka-go, because kafka-go cannot set producer id, epoch and sequence. The offsets below count from
// the size that goes before a batch in an append request.
const (
	atSize          = 0 // of all that follows; not part of the batch
	atBaseOffset    = 4
	atLength        = 12 // of all that follows
	atLeaderEpoch   = 16
	atMagic         = 20
	atCRC           = 21 // of all that follows
	atAttributes    = 25
	atLastDelta     = 27
	atBaseTimestamp = 31
	atMaxTimestamp  = 39
	atProducerID    = 47
	atProducerEpoch = 55
	atSequence      = 57
	atCount         = 61
	batchHead       = 65
)

// recordOverhead bounds what the encoding adds to the bytes of one record: seven varints of at most 5 bytes and the
// attributes.
const recordOverhead = 36

// headerOverhead bounds what it adds to the bytes of one header.
const headerOverhead = 10

// boundEntry is at least the encoded size of an entry.
func boundEntry(e *im.Entry) int {
	n := recordOverhead + len(e.Key) + len(e.Value)
	for i := range e.Headers {
		n += headerOverhead + len(e.Headers[i].Key) + len(e.Headers[i].Value)
	}
	return n
}

// encodeBatch returns a record batch with its size before it. Room is at least its encoded size without the head.
func encodeBatch(calls []*call, count, room int, millis int64) []byte {
	b := make([]byte, batchHead, batchHead+room)
	headBatch(b, count, millis)
	delta := int64(0)
	for _, c := range calls {
		for i := range c.entries {
			b = appendRecord(b, &c.entries[i], delta)
			delta++
		}
	}
	sizeBatch(b, 0)
	return b
}

// headBatch writes what a batch begins with, but who produces it.
func headBatch(b []byte, count int, millis int64) {
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], math.MaxUint32)
	b[atMagic] = 2
	binary.BigEndian.PutUint32(b[atLastDelta:], uint32(count-1))
	binary.BigEndian.PutUint64(b[atBaseTimestamp:], uint64(millis))
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(millis))
	binary.BigEndian.PutUint32(b[atCount:], uint32(count))
}

// sizeBatch writes how large a batch has become, of which more bytes follow.
func sizeBatch(b []byte, more int) {
	binary.BigEndian.PutUint32(b[atSize:], uint32(len(b)+more-atBaseOffset))
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)+more-atLeaderEpoch))
}

// sealBatch writes who produces the batch and as which of its batches, and the checksum over it and what follows.
func sealBatch(b, more []byte, p producer, table *crc32.Table) {
	binary.BigEndian.PutUint64(b[atProducerID:], uint64(p.id))
	binary.BigEndian.PutUint16(b[atProducerEpoch:], uint16(p.epoch))
	binary.BigEndian.PutUint32(b[atSequence:], uint32(p.sequence))
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Update(crc32.Checksum(b[atAttributes:], table), table, more))
}

func appendRecord(b []byte, e *im.Entry, delta int64) []byte {
	n := 1 + sizeVarint(0) + sizeVarint(delta) + sizeBytes(e.Key) + sizeBytes(e.Value) + sizeVarint(int64(len(e.Headers)))
	for i := range e.Headers {
		h := &e.Headers[i]
		n += sizeVarint(int64(len(h.Key))) + len(h.Key) + sizeBytes(h.Value)
	}
	b = binary.AppendVarint(b, int64(n))
	b = append(b, 0) // attributes
	b = binary.AppendVarint(b, 0)
	b = binary.AppendVarint(b, delta)
	b = appendBytes(b, e.Key)
	b = appendBytes(b, e.Value)
	b = binary.AppendVarint(b, int64(len(e.Headers)))
	for i := range e.Headers {
		h := &e.Headers[i]
		b = binary.AppendVarint(b, int64(len(h.Key)))
		b = append(b, h.Key...)
		b = appendBytes(b, h.Value)
	}
	return b
}

// appendBytes keeps nil and empty apart: nil has the length -1.
func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(v)))
	return append(b, v...)
}

func sizeBytes(v []byte) int {
	if v == nil {
		return sizeVarint(-1)
	}
	return sizeVarint(int64(len(v))) + len(v)
}

func sizeVarint(v int64) int {
	zigzag := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(zigzag|1) + 6) / 7
}

// producer says as whom a partition's batches are sent, and the number of the next record, so that the broker appends a
// batch that is sent twice only once, and refuses one that it did not expect. Each partition has a producer of its own.
type producer struct {
	id       int64 // -1 until the broker gave one
	epoch    int16
	sequence int32
}

// advance moves past a batch of count records. Sequences go from 0 to the highest int32 and on from 0.
func (p *producer) advance(count int) {
	p.sequence = int32((int64(p.sequence) + int64(count)) & math.MaxInt32)
}

// abandon starts over after a batch whose end is unknown. The broker refuses batches of the former epoch from the first
// batch of the new one on, so that the abandoned batch cannot land behind its followers.
func (p *producer) abandon() {
	p.sequence = 0
	if p.epoch == math.MaxInt16 {
		p.id, p.epoch = -1, 0
		return
	}
	p.epoch++
}

// forget has the broker give a new producer: it does not know the former, or holds a higher epoch of it.
func (p *producer) forget() { *p = producer{id: -1} }
