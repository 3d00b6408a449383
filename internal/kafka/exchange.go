package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/segmentio/kafka-go/protocol"
)

// Requests that are made by the hundred a second are encoded and decoded here, and not by kafka-go, which does it by
// reflection: fetches and appends. kafka-go's conn only carries their bytes (protocol.RawExchanger).

// maxAnswer bounds an answer: brokers send a first batch whole, however large it is, and bytes that are no answer at all
// must not be taken for a size.
const maxAnswer = 128 << 20

// keptBuffer is the largest buffer that is kept for the next exchange.
const keptBuffer = 8 << 20

// buffers keeps the memory of requests and answers. Nothing decoded from it points into it.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[]byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		*v = (*v)[:0]
		return v
	}
	v := make([]byte, 0, 4<<10)
	return &v
}

func (b *buffers) put(v *[]byte) {
	if cap(*v) <= keptBuffer {
		b.pool.Put(v)
	}
}

// correlation is the number that a broker repeats in its answer. A conn carries one exchange at a time and is closed by
// the first that fails, so one number does for all.
const correlation = 0x616e7469

// requestHead begins a request: room for its size, key, version, correlation and client id. Flexible versions have
// tags behind it.
func requestHead(b []byte, key protocol.ApiKey, version int16, clientID string, flexible bool) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, correlation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(clientID)))
	b = append(b, clientID...)
	if flexible {
		b = append(b, 0)
	}
	return b
}

// exchange sends a request that requestHead began, and returns the answer's body in the same memory.
func exchange(rw io.ReadWriter, b *[]byte) ([]byte, error) {
	binary.BigEndian.PutUint32(*b, uint32(len(*b)-4))
	if _, err := rw.Write(*b); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return nil, midway(err)
	}
	size := int64(int32(binary.BigEndian.Uint32(head[:]))) - 4
	if size < 0 || size > maxAnswer {
		return nil, fmt.Errorf("an answer of %d bytes: this is no Kafka broker, or it speaks TLS", size+4)
	}
	if got := binary.BigEndian.Uint32(head[4:]); got != correlation {
		return nil, fmt.Errorf("the answer of another request: correlation %d", got)
	}
	if int64(cap(*b)) < size {
		*b = make([]byte, size)
	}
	*b = (*b)[:size]
	if _, err := io.ReadFull(rw, *b); err != nil {
		return nil, midway(err)
	}
	return *b, nil
}

// midway turns an end of file into what it is inside an exchange.
func midway(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// errShort is what a decoder of bytes that end too soon returns.
var errShort = errors.New("it ends too soon, or was damaged")

// decoder reads an answer's body. After the first failure everything it returns is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) int8() int8 {
	if v := d.bytes(1); v != nil {
		return int8(v[0])
	}
	return 0
}

func (d *decoder) int16() int16 {
	if v := d.bytes(2); v != nil {
		return int16(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (d *decoder) int32() int32 {
	if v := d.bytes(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (d *decoder) int64() int64 {
	if v := d.bytes(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// length is of what follows, plus less: more than the bytes that are left is a failure.
func (d *decoder) length(less uint64) int {
	v := d.uvarint()
	if v > uint64(len(d.b))+less {
		d.bad = true
		return 0
	}
	return int(v)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// compact is a length plus one, and so many bytes; 0 is nil.
func (d *decoder) compact() []byte {
	if n := d.length(1); n > 0 {
		return d.bytes(n - 1)
	}
	return nil
}

// nullable is a signed 16-bit length, and so many bytes; a negative one is nil.
func (d *decoder) nullable() []byte {
	if n := d.int16(); n >= 0 {
		return d.bytes(int(n))
	}
	return nil
}

// count is a length plus one of an array; 0 is nil.
func (d *decoder) count() int { return max(0, d.length(1)-1) }

// varbytes is a signed length, and so many bytes; a negative one is nil.
func (d *decoder) varbytes() []byte {
	n := d.varint()
	if n < 0 {
		return nil
	}
	if n > int64(len(d.b)) {
		d.bad = true
		return nil
	}
	return d.bytes(int(n))
}

// tags skips tagged fields, but calls known for each.
func (d *decoder) tags(known func(tag uint64, value decoder)) {
	for n := d.length(0); n > 0 && !d.bad; n-- {
		tag := d.uvarint()
		value := d.bytes(d.length(0))
		if known != nil && !d.bad {
			known(tag, decoder{b: value})
		}
	}
}
