package replicator

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxBatchBytes bounds what a received batch may decompress to: one record as large as Kafka allows, and room.
const maxBatchBytes = 16 << 20

// codec turns entries into the batches of a link and back. It is safe for concurrent use.
type codec struct {
	above int
	enc   *zstd.Encoder
	dec   *zstd.Decoder
}

func newCodec(compressAbove int) (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("replicator: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxBatchBytes))
	if err != nil {
		return nil, fmt.Errorf("replicator: %w", err)
	}
	return &codec{compressAbove, enc, dec}, nil
}

// batch returns consecutive entries that were already encoded into raw, compressed if that makes them smaller.
func (c *codec) batch(partition int, first int64, count int, raw []byte) *wire.LinkBatch {
	b := &wire.LinkBatch{Partition: uint32(partition), First: first, Count: uint32(count), Entries: raw}
	c.compress(b)
	return b
}

// compress compresses what a batch holds, if that makes it smaller.
func (c *codec) compress(b *wire.LinkBatch) {
	raw := b.Entries
	if len(raw) <= c.above {
		return
	}
	if packed := c.enc.EncodeAll(raw, make([]byte, 0, len(raw)/2)); len(packed) < len(raw)-len(raw)/16 {
		b.Entries, b.Compression = packed, "zstd"
	}
}

// packed takes a packed batch as it is, and returns how many bytes it took from the window.
func (c *codec) packed(p im.Partition, origin im.Origin, b *wire.LinkBatch) (*im.Packed, int, error) {
	if b.Packed > wire.PackedVersion {
		return nil, 0, fmt.Errorf("%v: the batch at %d is packed by version %d; this build takes %d", p, b.First, b.Packed, wire.PackedVersion)
	}
	if b.Count < 1 || b.Size > maxBatchBytes || int(b.Size) < len(b.Entries) {
		return nil, 0, fmt.Errorf("%v: the batch at %d holds %d records in %d bytes, %d on the link", p, b.First, b.Count, b.Size, len(b.Entries))
	}
	k := &im.Packed{
		Partition: p, First: b.First, Count: int(b.Count), Codec: b.Compression, Bytes: b.Entries, Size: int(b.Size),
	}
	if len(b.LogId) == len(k.Name.ID) {
		k.Name = im.LogName{Origin: origin, ID: im.UUID(b.LogId)}
	}
	for _, t := range b.Traces {
		k.Traces = append(k.Traces, im.PackedTrace{Offset: b.First + int64(t.Place), Parent: t.Parent})
	}
	return k, len(b.Entries), nil
}

// entries unpacks a batch and returns how many bytes it held, which is what it took from the window.
func (c *codec) entries(p im.Partition, b *wire.LinkBatch) ([]im.Entry, int, error) {
	raw := b.Entries
	switch b.Compression {
	case "":
	case "zstd":
		var err error
		if raw, err = c.dec.DecodeAll(b.Entries, nil); err != nil {
			return nil, 0, fmt.Errorf("%v: the batch at %d: %w", p, b.First, err)
		}
	default:
		return nil, 0, fmt.Errorf("%v: the batch at %d is compressed by %q, which this build does not know", p, b.First, b.Compression)
	}
	entries, err := wire.DecodeLinkEntries(raw, p, b.First, int(b.Count))
	return entries, len(raw), err
}
