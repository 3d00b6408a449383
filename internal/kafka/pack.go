package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/compress"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// packBytes is the most that a Packed of several records holds. With what it takes to become a batch it stays below the
// brokers' default limit of 1 MiB, which one record may reach alone.
const packBytes = 640 << 10

// copyHeaders is what the two headers of a copy take: for each the length of its name, the name, the length of its value,
// the value.
const copyHeaders = (1 + 1 + 1 + 8) + (1 + 1 + 1 + 4)

// crates keeps the memory of large Packed: a link makes hundreds a second.
type crates struct{ pool sync.Pool }

// crateBytes is how large a Packed must be for its memory to be kept.
const crateBytes = 64 << 10

func (c *crates) get(size int) []byte {
	if size >= crateBytes {
		if v, ok := c.pool.Get().(*[]byte); ok && cap(*v) >= size {
			return (*v)[:0]
		}
		size = max(size, packBytes)
	}
	return make([]byte, 0, size)
}

// Recycle takes the memory of a Packed that a reader returned and nobody needs any more.
func (c *Cluster) Recycle(p *im.Packed) {
	if b := p.Bytes; cap(b) >= crateBytes {
		c.crates.pool.Put(&b)
	}
	p.Bytes = nil
}

// raw is a record that was taken apart, not decoded. It points into the batch.
type raw struct {
	offset  int64
	content []byte // key and value, behind their lengths
	count   int64  // of headers
	headers []byte // each: length of its name, name, length of its value, value
}

// record takes the next record apart.
func (d *decoder) record(base int64) (r raw) {
	one := decoder{b: d.varbytes(), bad: d.bad}
	one.int8()   // attributes
	one.varint() // timestamp
	r.offset = base + one.varint()
	content := one.b
	one.varbytes()
	one.varbytes()
	if one.bad {
		d.bad = true
		return r
	}
	r.content = content[:len(content)-len(one.b)]
	r.count = one.varint()
	r.headers = one.b
	d.bad = d.bad || one.bad || r.count < 0 || r.count > int64(len(one.b))
	return r
}

// each calls f with a record's headers.
func (r *raw) each(f func(key, value []byte)) bool {
	h := decoder{b: r.headers}
	for range r.count {
		key := h.varbytes()
		value := h.varbytes()
		if h.bad {
			return false
		}
		f(key, value)
	}
	return true
}

// entry decodes the record. It shares the batch's memory.
func (r *raw) entry(p im.Partition) im.Entry {
	d := decoder{b: r.content}
	e := im.Entry{Partition: p, Offset: r.offset, Key: d.varbytes(), Value: d.varbytes()}
	e.Headers = make([]im.Header, 0, r.count)
	r.each(func(key, value []byte) { e.Headers = append(e.Headers, im.Header{Key: string(key), Value: value}) })
	return e
}

// pack copies a batch's records as a copy takes them.
func (r *records) pack(d *decoder, base int64, count int) error {
	var into *im.Packed
	for i := range count {
		left := len(d.b)
		one := d.record(base)
		if one.offset < r.next && !d.bad {
			continue
		}
		size := left - len(d.b) + copyHeaders + 2*binary.MaxVarintLen32
		if n := len(r.packed); n > 0 && into == nil {
			into = &r.packed[n-1]
		}
		if into == nil || len(into.Bytes)+size > packBytes || one.offset != into.First+int64(into.Count) {
			r.packed = append(r.packed, im.Packed{
				Partition: r.partition, First: one.offset,
				Bytes: r.crates.get(max(size, min(packBytes, left+(count-i)*(copyHeaders+4)))),
			})
			into = &r.packed[len(r.packed)-1]
		}
		if d.bad || !r.add(into, &one) {
			return fmt.Errorf("decode the record at offset %d: %w", max(one.offset, r.next), errShort)
		}
		r.next = one.offset + 1
	}
	return nil
}

// add appends a record to a Packed.
func (r *records) add(into *im.Packed, one *raw) bool {
	var h wire.PackHead
	if !one.each(h.See) {
		return false
	}
	headers, n := one.headers, one.count
	if h.Copied { // the log is a copy itself: the headers that made it one are left out
		kept := make([]byte, 0, len(headers))
		n = 0
		one.each(func(key, value []byte) {
			if !wire.IsCopyHeader(key) {
				kept = appendBytes(appendBytes(kept, key), value)
				n++
			}
		})
		headers = kept
	}
	delta := int64(into.Count)
	length := 1 + 1 + sizeVarint(delta) + len(one.content) + sizeVarint(n+2) + len(headers) + copyHeaders
	b := binary.AppendVarint(into.Bytes, int64(length))
	b = append(b, 0, 0) // attributes, time
	b = binary.AppendVarint(b, delta)
	b = append(b, one.content...)
	b = binary.AppendVarint(b, n+2)
	b = append(b, headers...)
	into.Bytes = wire.AppendCopyHeaders(b, one.offset, 0)
	into.Size = len(into.Bytes)
	into.Count++
	if h.Names {
		e := one.entry(r.partition)
		if name, err := wire.DecodeLogName(&e); err == nil {
			into.Name = name
		}
	}
	if h.Sampled() {
		into.Traces = append(into.Traces, im.PackedTrace{Offset: one.offset, Parent: string(h.Trace)})
	}
	return true
}

// heed takes the heads of a batch's records. Only the last gets a checksum: it is what a link is opened with.
func (r *records) heed(d *decoder, base int64, count int) error {
	if r.heads == nil {
		r.heads = make([]im.CopyHead, 0, count)
	}
	for i := range count {
		one := d.record(base)
		if one.offset < r.next && !d.bad {
			continue
		}
		h := im.CopyHead{Local: one.offset, Origin: one.offset}
		names := false
		if d.bad || !one.each(func(key, value []byte) { names = wire.SeeCopyHeader(&h, key, value) || names }) {
			return fmt.Errorf("decode the record at offset %d: %w", max(one.offset, r.next), errShort)
		}
		if names || i == count-1 {
			e := one.entry(r.partition)
			h.Checksum, h.Summed = wire.Checksum(&e), true
			if names {
				if name, err := wire.DecodeLogName(&e); err == nil {
					h.Name = &name
				}
			}
		}
		r.heads = append(r.heads, h)
		r.next = one.offset + 1
	}
	return nil
}

// codecs are the numbers of compressions in a batch's attributes.
var codecs = map[string]compress.Compression{"": compress.None, "zstd": compress.Zstd}

// Unpack decodes a Packed. Its entries have their origin offsets, and share its memory unless it is compressed.
func Unpack(p *im.Packed) ([]im.Entry, error) {
	codec, ok := codecs[p.Codec]
	if !ok {
		return nil, fmt.Errorf("kafka: packed records of %v from %d are compressed by %q, which this build does not know", p.Partition, p.First, p.Codec)
	}
	body := p.Bytes
	if codec != compress.None {
		var err error
		if body, err = decompress(codec, body); err != nil {
			return nil, fmt.Errorf("kafka: packed records of %v from %d: %w", p.Partition, p.First, err)
		}
	}
	if p.Count < 1 || p.Count > len(body) {
		return nil, fmt.Errorf("kafka: packed records of %v from %d: %d records in %d bytes: %w", p.Partition, p.First, p.Count, len(body), errShort)
	}
	all := make([]im.Entry, 0, p.Count)
	d := decoder{b: body}
	for i := range p.Count {
		one := d.record(p.First)
		if d.bad || one.offset != p.First+int64(i) {
			return nil, fmt.Errorf("kafka: packed record %d of %v from %d: %w", i, p.Partition, p.First, errShort)
		}
		all = append(all, one.entry(p.Partition))
	}
	if len(d.b) > 0 {
		return nil, fmt.Errorf("kafka: %d bytes after the last packed record of %v from %d", len(d.b), p.Partition, p.First)
	}
	return all, nil
}

// StartPacked appends packed records to their partitions, each as one batch of its own, which is Append in all else but that it does
// not wait: each Then is called once, by another goroutine or before this returns. Those of one leader go in one request, as
// far as it holds them and nothing of their partitions is under way. After limit, or AppendTimeout if that is less, a batch is not
// sent again, so what became of it is known a RequestTimeout later at the latest, or when ctx ends.
func (c *Cluster) StartPacked(ctx context.Context, limit time.Duration, all []im.PackedAppend) {
	deadline := time.Now().Add(min(limit, c.cfg.AppendTimeout))
	calls := make([]*call, 0, len(all))
	c.app.mu.Lock() // none leaves before it has its watch
	for _, k := range all {
		if _, ok := codecs[k.Codec]; !ok || k.Count < 1 {
			w := &call{partition: k.Partition, then: k.Then}
			c.app.end(w, 0, im.Errorf(im.CodeBadRequest, "kafka: append to %v: %d records compressed by %q", k.Partition, k.Count, k.Codec))
			continue
		}
		w := &call{partition: k.Partition, packed: k.Packed, size: len(k.Bytes), count: k.Count, deadline: deadline, then: k.Then}
		w.stay = context.AfterFunc(ctx, func() { c.app.leave(w, ctx.Err()) })
		calls = append(calls, w)
	}
	c.app.unlock()
	c.app.enqueue(calls)
}

// headPacked returns what goes before packed records to make a batch of them, with its size before it.
func headPacked(p *im.Packed, millis int64) []byte {
	b := make([]byte, batchHead)
	headBatch(b, p.Count, millis)
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(codecs[p.Codec]))
	sizeBatch(b, len(p.Bytes))
	return b
}
