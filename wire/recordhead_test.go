package wire

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

// What is appended by hand is what the generated code makes of the same record.
func TestRecordHead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, 300)
		r := &im.Record{
			ID: im.ID{
				Conversation: im.Conversation(text.Draw(t, "conversation")), Sender: im.UID(text.Draw(t, "sender")),
				ClientID: im.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "client_id")),
			},
			Kind: im.Kind(text.Draw(t, "kind")), Version: rapid.Uint32().Draw(t, "version"), Trace: text.Draw(t, "trace"),
			Place: im.Place{
				Stamp: im.Stamp(rapid.Uint64().Draw(t, "stamp")), Origin: im.Origin(text.Draw(t, "origin")), Seq: rapid.Uint64().Draw(t, "seq"),
			},
		}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(recordHead(r))
		if err != nil {
			t.Fatal(err)
		}
		if got := appendRecordHead([]byte("before"), r); !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Fatalf("got %x, want %x", got, want)
		}
	})
}

// An event is whole whatever its size.
func TestRecordEventSizes(t *testing.T) {
	for _, n := range []int{0, 100, 400, 600, 1 << 16} {
		body, err := proto.Marshal(&Text{Text: strings.Repeat("x", n)})
		if err != nil {
			t.Fatal(err)
		}
		r := &im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "ann"}, Kind: im.KindMessage, Version: 1, Body: body, Place: im.Place{Stamp: 1, Origin: "eu", Seq: 1}}
		var e Event
		if err := proto.Unmarshal(AppendRecordEvent([]byte{}, r, "us"), &e); err != nil {
			t.Fatal(err)
		}
		if got := e.GetRecord().GetText().GetText(); len(got) != n || e.From != "us" {
			t.Errorf("%d bytes came back as %d from %q", n, len(got), e.From)
		}
	}
}
