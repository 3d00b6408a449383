package logtest

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"

	"github.com/antipode-im/antipode/internal/kafka"
)

// packed ships a log into a copy without decoding it, plain and compressed, and compares with what decoding gives.
func packed(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	name := im.LogName{Origin: "eu", ID: im.NewUUID(time.Now())}
	const parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	in := []im.Entry{
		wire.EncodeLogName(im.KindLog, name, 5),
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}, Headers: []im.Header{{Key: "", Value: nil}, {Key: "k", Value: []byte("message")}, {Key: "t", Value: []byte(parent)}}},
		{Key: bytes.Repeat([]byte("k"), 300), Value: bytes.Repeat([]byte("v"), 100_000), Headers: []im.Header{{Key: "s", Value: []byte("12345678")}}},
		wire.AsCopy(im.Entry{Value: []byte("relayed"), Headers: []im.Header{{Key: "long name", Value: []byte{0}}}}, 99, 7),
	}
	for i := range 300 {
		in = append(in, im.Entry{Key: []byte("key"), Value: fmt.Appendf(nil, "value %d", i)})
	}
	in = append(in, wire.EncodeLogName(im.KindHeartbeat, name, 6))
	for _, codec := range []string{"", "zstd"} {
		ps := f.topic(t, c, 2)
		log, copied := ps[0], ps[1]
		for from := 0; from < len(in); from += 100 {
			must(c.Append(t.Context(), log, in[from:min(from+100, len(in))]))(t)
		}
		// The copy has something else first: its offsets are its own.
		must(c.Append(t.Context(), copied, text("before")))(t)
		packer := c.NewPacker(map[im.Partition]int64{log: 0})
		next, traced, named := int64(0), 0, im.LogName{}
		for next < int64(len(in)) {
			batches, err := packer.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range batches {
				for i := range b.Packed {
					k := &b.Packed[i]
					if k.First != next || k.Size != len(k.Bytes) {
						t.Fatalf("packed from %d, %d bytes of %d; want %d", k.First, k.Size, len(k.Bytes), next)
					}
					k.Partition, k.Codec = copied, codec
					if codec == "zstd" {
						e, err := zstd.NewWriter(nil)
						if err != nil {
							t.Fatal(err)
						}
						k.Bytes = e.EncodeAll(k.Bytes, nil)
					}
					entries := must(kafka.Unpack(k))(t)
					for j := range entries {
						if e := &entries[j]; e.Offset != next+int64(j) || wire.Checksum(e) != wire.Checksum(&in[e.Offset]) {
							t.Fatalf("unpacked record %d is %d", next+int64(j), e.Offset)
						}
					}
					if first := must(start(t, c, k))(t); first != next+1 {
						t.Fatalf("record %d stands at %d", next, first)
					}
					next += int64(k.Count)
					for _, trace := range k.Traces {
						if trace != (im.PackedTrace{Offset: 2, Parent: parent}) {
							t.Errorf("trace %+v", trace)
						}
						traced++
					}
					if !k.Name.IsZero() {
						named = k.Name
					}
					if codec == "" {
						c.Recycle(k)
					}
				}
			}
		}
		packer.Close()
		if traced != 1 || named != name {
			t.Errorf("%d traces, log %v", traced, named)
		}
		copies := all(t, c, copied)[1:]
		heads := c.NewHeadReader(map[im.Partition]int64{copied: 1})
		var got []im.CopyHead
		for len(got) < len(in) {
			batches, err := heads.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range batches {
				got = append(got, b.Heads...)
			}
		}
		heads.Close()
		if len(copies) != len(in) || len(got) != len(in) {
			t.Fatalf("%d records and %d heads in the copy, want %d", len(copies), len(got), len(in))
		}
		for i := range in {
			want := wire.AsCopy(in[i], int64(i), 0)
			same(t, fmt.Sprintf("key of %d", i), copies[i].Key, want.Key)
			same(t, fmt.Sprintf("value of %d", i), copies[i].Value, want.Value)
			if fmt.Sprint(copies[i].Headers) != fmt.Sprint(want.Headers) {
				t.Errorf("record %d has the headers %v, want %v", i, copies[i].Headers, want.Headers)
			}
			h, s := got[i], wire.DecodeShipHead(&want)
			if h.Local != int64(i+1) || h.Origin != int64(i) || h.Generation != 0 || h.Kind != s.Kind || h.Stamp != s.Stamp ||
				h.Summed && h.Checksum != wire.Checksum(&in[i]) || (h.Name != nil) != (i == 0 || i == len(in)-1) {
				t.Errorf("record %d has the head %+v", i, h)
			}
		}
		if !got[len(got)-1].Summed || *got[0].Name != name {
			t.Error("the last record has no checksum, or the first no name")
		}
	}
}

// start appends one and waits for what becomes of it.
func start(t *testing.T, c *kafka.Cluster, k *im.Packed) (first int64, err error) {
	done := make(chan struct{})
	c.StartPacked(t.Context(), time.Minute, []im.PackedAppend{{Packed: k, Then: func(at int64, why error) {
		first, err = at, why
		close(done)
	}}})
	<-done
	return first, err
}
