package wire

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// TestLinkEntriesFollowTheSchema: the hand-written encoding is that of the generated messages, both ways.
func TestLinkEntriesFollowTheSchema(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blob := rapid.SliceOfN(rapid.Byte(), 0, 40)
		entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) im.Entry {
			e := im.Entry{Value: blob.Draw(t, "value")}
			if rapid.Bool().Draw(t, "keyed") {
				e.Key = blob.Draw(t, "key")
			}
			for range rapid.IntRange(0, 4).Draw(t, "headers") {
				e.Headers = append(e.Headers, im.Header{
					Key: rapid.SampledFrom([]string{"k", "c", "o", "s", "t", "v", "zz", ""}).Draw(t, "name"), Value: blob.Draw(t, "header"),
				})
			}
			return e
		}), 0, 5).Draw(t, "entries")
		p := im.Partition{Topic: "msg.eu.direct", Number: 1}
		var raw []byte
		for i := range entries {
			before := len(raw)
			raw = AppendLinkEntry(raw, &entries[i])
			if n := len(raw) - before; n > LinkEntrySize(&entries[i]) {
				t.Fatalf("%d bytes, LinkEntrySize says %d at most", n, LinkEntrySize(&entries[i]))
			}
		}
		got, err := DecodeLinkEntries(raw, p, 7, len(entries))
		if err != nil {
			t.Fatal(err)
		}
		rest := raw
		for i := range entries {
			want, e := &entries[i], &got[i]
			if e.Partition != p || e.Offset != 7+int64(i) || Checksum(e) != Checksum(want) || (e.Key == nil) != (want.Key == nil) {
				t.Fatalf("entry %d: %+v for %+v", i, e, want)
			}
			b, n := protowire.ConsumeBytes(rest)
			if n < 0 {
				t.Fatal(protowire.ParseError(n))
			}
			rest = rest[n:]
			var m antipodev1.LinkEntry
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.Key, want.Key) || !bytes.Equal(m.Value, want.Value) || len(m.Headers) != len(want.Headers) {
				t.Fatalf("the schema reads %v of %+v", &m, want)
			}
			for j, h := range want.Headers {
				if m.Headers[j].Key != h.Key || !bytes.Equal(m.Headers[j].Value, h.Value) {
					t.Fatalf("the schema reads header %v of %+v", m.Headers[j], h)
				}
			}
			again, err := proto.Marshal(&m)
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeLinkEntries(protowire.AppendBytes(nil, again), p, 0, 1)
			if err != nil || Checksum(&back[0]) != Checksum(want) {
				t.Fatalf("what the schema writes reads as %+v, %v", back, err)
			}
		}
	})
}

// TestCopiesShipUnchanged: shipping drops the headers of a copy and nothing else.
func TestCopiesShipUnchanged(t *testing.T) {
	e := EncodeRecord(&im.Record{
		ID: im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: im.NewUUID(time.Now())}, Kind: im.KindMessage, Version: 1,
		Place: im.Place{Stamp: 5, Origin: "eu"}, Body: []byte("x"), Trace: "00-1-2-01",
	})
	e.Offset = 3
	relayed := AsCopy(AsCopy(e, 41, 1), 42, 2)
	if h := DecodeShipHead(&relayed); h.OriginOffset != 42 || h.Generation != 2 || h.Kind != im.KindMessage || h.Stamp != 5 || h.Trace != "00-1-2-01" {
		t.Errorf("head %+v", h)
	}
	if h := DecodeShipHead(&e); h.OriginOffset != 3 || h.Generation != 0 {
		t.Errorf("in the origin's own log: %+v", h)
	}
	got, err := DecodeLinkEntries(AppendLinkEntry(nil, &relayed), im.Partition{}, 42, 1)
	if err != nil || len(got[0].Headers) != len(e.Headers) || Checksum(&got[0]) != Checksum(&e) {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzDecodeLinkEntries(f *testing.F) {
	e := EncodeLogName(im.KindHeartbeat, im.LogName{Origin: "eu"}, 7)
	one := AppendLinkEntry(nil, &e)
	f.Add(one, 1)
	f.Add(AppendLinkEntry(one, &e), 2)
	f.Add([]byte{0}, 1)
	f.Add([]byte{}, 0)
	f.Add([]byte{0xff}, 1<<30)
	f.Fuzz(func(t *testing.T, b []byte, count int) {
		entries, err := DecodeLinkEntries(b, im.Partition{Topic: "msg.eu.direct"}, 5, count)
		if err != nil {
			return
		}
		if len(entries) != count {
			t.Fatalf("%d entries, %d asked for", len(entries), count)
		}
		var raw []byte
		for i := range entries {
			h := DecodeHead(&entries[i])
			s := DecodeShipHead(&entries[i])
			if h.Kind != s.Kind || h.Stamp != s.Stamp || h.Trace != s.Trace || h.OriginOffset != s.OriginOffset || h.Generation != s.Generation {
				t.Fatalf("heads differ: %+v, %+v", h, s)
			}
			raw = AppendLinkEntry(raw, &entries[i])
		}
		again, err := DecodeLinkEntries(raw, im.Partition{}, 5, count)
		if err != nil {
			t.Fatal(err)
		}
		for i := range again {
			if Checksum(&again[i]) != Checksum(&entries[i]) {
				t.Fatalf("entry %d changed", i)
			}
		}
	})
}

func TestNotifiesCrossWhole(t *testing.T) {
	d := im.Delivery{
		Service: "im", Method: "event", Key: "d:ann:bob", Recipients: []im.UID{"ann", "bob", im.InterestIn("s:eu:0199a2c4-7f3e-7d11-8a52-3b6f0c9d1e24")},
		Body: []byte{1, 2}, Trace: "t", Notify: true, Ephemeral: true,
	}
	r := NotifyOf("eu", "us", []im.Delivery{d})
	r.Deliveries[0].Recipients = append(r.Deliveries[0].Recipients, "no:uid")
	got := DeliveriesOf(r)
	if len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(d) || r.From != "eu" || r.To != "us" {
		t.Errorf("%+v", got)
	}
}
