package wire

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// FuzzLogRecord holds what reads every record of every log to the generated code: both take the same bytes, and read the
// same from them.
func FuzzLogRecord(f *testing.F) {
	whole, err := proto.Marshal(&antipodev1.LogRecord{Sender: "ann", ClientId: make([]byte, 16), Seen: 1 << 60, Body: []byte("\n\x02hi")})
	if err != nil {
		f.Fatal(err)
	}
	bytesField := func(n protowire.Number, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), v)
	}
	for _, b := range [][]byte{
		nil, whole, whole[:len(whole)-1],
		bytes.Repeat(whole, 2),                 // the last one counts
		append(bytesField(9, "new"), whole...), // what a later version adds is passed over
		bytesField(1, "\xff"), bytesField(2, "\xff"), bytesField(4, ""),
		protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 5), // of another type: passed over as well
		protowire.AppendTag(nil, 5, protowire.EndGroupType),
		protowire.AppendTag(protowire.AppendTag(nil, 5, protowire.StartGroupType), 5, protowire.EndGroupType),
		protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3), 0),
		{0, 0},
		{0x80},
		{0x0a, 0x80},
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want antipodev1.LogRecord
		refused := proto.Unmarshal(b, &want) != nil
		got, err := readLogRecord(b)
		if (err != nil) != refused {
			t.Fatalf("%x: read with %v, and refused by the generated code: %t", b, err, refused)
		}
		if err == nil && (string(got.sender) != want.Sender || !bytes.Equal(got.clientID, want.ClientId) || got.seen != im.Stamp(want.Seen) || !bytes.Equal(got.body, want.Body)) {
			t.Fatalf("%x: read as %+v, by the generated code as %v", b, got, &want)
		}
		var name antipodev1.LogName
		refused = proto.Unmarshal(b, &name) != nil
		origin, id, err := readLogName(b)
		if (err != nil) != refused || err == nil && (string(origin) != name.Origin || !bytes.Equal(id, name.Id)) {
			t.Fatalf("%x: read as the name %q %x, %v; by the generated code as %v, refused: %t", b, origin, id, err, &name, refused)
		}
		if got, want := IsText(b), proto.Unmarshal(b, new(Text)) == nil; got != want {
			t.Fatalf("%x: a text: %t, by the generated code: %t", b, got, want)
		}
	})
}
