package wire

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/antipode-im/antipode/im"
)

// Fields of antipode.v1.Record; a test holds them to the schema.
const (
	recordConversation protowire.Number = 1
	recordKind         protowire.Number = 2
	recordVersion      protowire.Number = 3
	recordSender       protowire.Number = 4
	recordClientID     protowire.Number = 5
	recordStamp        protowire.Number = 6
	recordOrigin       protowire.Number = 7
	recordSeq          protowire.Number = 8
	recordTrace        protowire.Number = 13
)

// appendRecordHead appends the encoded Record without its content. Every region encodes every record once for its
// clients, so this does without the generated code, which allocates for each.
func appendRecordHead(b []byte, r *im.Record) []byte {
	b = appendText(b, recordConversation, string(r.Conversation))
	b = appendText(b, recordKind, string(r.Kind))
	b = appendNumber(b, recordVersion, uint64(r.Version))
	b = appendText(b, recordSender, string(r.Sender))
	b = protowire.AppendTag(b, recordClientID, protowire.BytesType)
	b = protowire.AppendVarint(b, im.UUIDLen)
	b = r.ClientID.Append(b)
	if r.Place.Stamp != 0 {
		b = protowire.AppendTag(b, recordStamp, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, uint64(r.Place.Stamp))
	}
	b = appendText(b, recordOrigin, string(r.Place.Origin))
	b = appendNumber(b, recordSeq, r.Place.Seq)
	return appendText(b, recordTrace, r.Trace)
}

func appendText(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, n, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func appendNumber(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, n, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}
