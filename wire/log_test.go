package wire

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

func drawOrigin(t *rapid.T) im.Origin {
	return im.NewOrigin(im.Region(rapid.StringMatching(`[a-z0-9-]{1,12}`).Draw(t, "region")), rapid.Uint32Range(1, 5).Draw(t, "epoch"))
}

func drawUID(t *rapid.T) im.UID {
	return im.UID(rapid.StringMatching(`[a-zA-Z0-9._@-]{1,20}`).Draw(t, "uid"))
}

func drawUUID(t *rapid.T) im.UUID {
	return im.NewUUID(time.UnixMilli(rapid.Int64Range(0, 1<<47).Draw(t, "ms")))
}

func drawCursor(t *rapid.T) im.Cursor {
	var c im.Cursor
	for range rapid.IntRange(0, 4).Draw(t, "origins") {
		c = c.Merge(im.Cursor{drawOrigin(t): rapid.Uint64Range(1, 1<<62).Draw(t, "seq")})
	}
	return c
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := im.Record{
			ID:      im.ID{Conversation: im.Direct(drawUID(t), drawUID(t)), Sender: drawUID(t), ClientID: drawUUID(t)},
			Kind:    im.Kind(rapid.StringMatching(`[a-z_]{1,10}`).Draw(t, "kind")),
			Version: rapid.Uint32().Draw(t, "version"),
			Place:   im.Place{Stamp: im.Stamp(rapid.Uint64().Draw(t, "stamp")), Origin: drawOrigin(t)},
			Trace:   rapid.StringMatching(`[0-9a-f-]{0,55}`).Draw(t, "trace"),
			Seen:    im.Stamp(rapid.Uint64().Draw(t, "seen")),
			Body:    rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "body"),
		}
		own := EncodeRecord(&r)
		own.Offset = rapid.Int64Range(0, 1<<40).Draw(t, "offset")
		generation := rapid.Uint32Range(1, 9).Draw(t, "generation")
		copied := AsCopy(own, own.Offset, generation)
		copied.Offset = own.Offset + 17 // a copy's own offsets mean nothing
		relayed := AsCopy(copied, own.Offset, generation+1)
		for _, test := range []struct {
			name       string
			entry      im.Entry
			generation uint32
		}{{"own log", own, 0}, {"copy", copied, generation}, {"copy of a copy", relayed, generation + 1}} {
			h := DecodeHead(&test.entry)
			want := Head{
				Conversation: r.Conversation, Kind: r.Kind, Version: r.Version, Origin: r.Place.Origin,
				Stamp: r.Place.Stamp, Trace: r.Trace, OriginOffset: own.Offset, Generation: test.generation,
			}
			if h != want {
				t.Fatalf("%s: head is %+v, want %+v", test.name, h, want)
			}
			got, err := DecodeRecord(&test.entry, h)
			if err != nil {
				t.Fatal(test.name, err)
			}
			if got.ID != r.ID || got.Kind != r.Kind || got.Version != r.Version || got.Place != r.Place ||
				got.Trace != r.Trace || got.Seen != r.Seen || !bytes.Equal(got.Body, r.Body) {
				t.Fatalf("%s: %+v came back as %+v", test.name, r, got)
			}
			if Checksum(&test.entry) != Checksum(&own) {
				t.Fatalf("%s: the checksum differs from the own log's", test.name)
			}
		}
		other := own
		other.Value = append(bytes.Clone(own.Value), 0)
		if Checksum(&other) == Checksum(&own) {
			t.Fatal("the checksum does not see the value")
		}
	})
}

func TestCursorsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Cursors{Conversation: im.Direct(drawUID(t), drawUID(t)), UID: drawUID(t), Delivered: drawCursor(t), Read: drawCursor(t)}
		e := EncodeCursors(c, drawOrigin(t), 7)
		got, err := DecodeCursors(&e, DecodeHead(&e))
		if err != nil {
			t.Fatal(err)
		}
		if got.Conversation != c.Conversation || got.UID != c.UID ||
			got.Delivered.String() != c.Delivered.String() || got.Read.String() != c.Read.String() {
			t.Fatalf("%+v came back as %+v", c, got)
		}
	})
}

func TestRouteRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawOrigin(t)
		r := im.Route{
			UID: drawUID(t), Device: im.DeviceID(text.Draw(t, "device")), Platform: "ios", Region: o.Region(),
			Gateway: im.Gateway{ID: text.Draw(t, "gateway"), Epoch: rapid.Uint64().Draw(t, "epoch")},
			Conn:    rapid.Uint64().Draw(t, "conn"), Login: rapid.Uint64().Draw(t, "login"),
			Claimed: im.Stamp(rapid.Uint64().Draw(t, "claimed")), Offset: 5, Offline: rapid.Bool().Draw(t, "offline"),
		}
		e := AsCopy(EncodeRoute(im.KindClaim, r, o), 5, 1)
		got, err := DecodeRoute(&e, DecodeHead(&e))
		if err != nil || got != r {
			t.Fatalf("%+v came back as %+v (%v)", r, got, err)
		}
	})
}

func TestLogNameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := im.LogName{Origin: drawOrigin(t), ID: drawUUID(t)}
		e := EncodeLogName(im.KindHeartbeat, n, 9)
		got, err := DecodeLogName(&e)
		if err != nil || got != n {
			t.Fatalf("%v came back as %v (%v)", n, got, err)
		}
		if h := DecodeHead(&e); h.Kind != im.KindHeartbeat || h.Stamp != 9 || h.Conversation != "" || e.Key != nil {
			t.Fatalf("head is %+v, key %q", h, e.Key)
		}
	})
}

func TestHoldRaisesTheGeneration(t *testing.T) {
	e := EncodeHold("eu", 3, 1)
	if h := DecodeHead(&e); h.Kind != im.KindHold || h.Generation != 3 || h.Origin != "eu" {
		t.Fatalf("head is %+v", h)
	}
}

// Malformed headers leave their fields empty: the record then takes no seq, in every version.
func TestMalformedHeaders(t *testing.T) {
	e := im.Entry{Offset: 4, Headers: []im.Header{
		{Key: "c", Value: []byte("d:bob:ann")},
		{Key: "v", Value: []byte("-1")},
		{Key: "o", Value: []byte("EU")},
		{Key: "s", Value: []byte{1}},
		{Key: "n", Value: []byte{1}},
		{Key: "g", Value: []byte{1}},
		{Key: "later", Value: nil},
	}}
	if h := DecodeHead(&e); h != (Head{OriginOffset: 4}) {
		t.Fatalf("head is %+v", h)
	}
}

// Partition is part of the protocol between regions: these numbers never change.
func TestPartition(t *testing.T) {
	for key, want := range map[string]int{"": 9, "d:ann:bob": 11, "ann": 14} {
		if got := Partition(key, 16); got != want {
			t.Errorf("%q is in %d, want %d", key, got, want)
		}
	}
}

// FuzzLog: whatever stands in a log, its readers answer with an error, never a panic.
func FuzzLog(f *testing.F) {
	r := im.Record{ID: im.ID{Conversation: "d:ann:bob", Sender: "ann"}, Kind: im.KindMessage, Version: 1, Place: im.Place{Origin: "eu"}}
	e := EncodeRecord(&r)
	f.Add("c", []byte("d:ann:bob"), e.Value)
	name := EncodeLogName(im.KindLog, im.LogName{Origin: "eu"}, 1)
	f.Add("s", binary.BigEndian.AppendUint64(nil, 1), name.Value)
	cursors := EncodeCursors(Cursors{Conversation: "d:ann:bob", UID: "ann", Read: im.Cursor{"eu": 3}}, "eu", 1)
	f.Add("k", []byte("cursors"), cursors.Value)
	route := EncodeRoute(im.KindClaim, im.Route{UID: "ann", Device: "d"}, "eu")
	f.Add("g", []byte{0, 0, 0, 1}, route.Value)
	f.Fuzz(func(t *testing.T, key string, header, value []byte) {
		e := im.Entry{Partition: im.Partition{Topic: "msg.eu.direct"}, Headers: []im.Header{{Key: key, Value: header}}, Value: value}
		h := DecodeHead(&e)
		if rec, err := DecodeRecord(&e, h); err != nil && !bytes.Equal(rec.Body, value) {
			t.Fatal("a value that does not decode was not kept raw")
		}
		DecodeLogName(&e)
		DecodeCursors(&e, h)
		DecodeRoute(&e, h)
		Checksum(&e)
	})
}

func TestSealNamesTheLastOffset(t *testing.T) {
	for _, seal := range []int64{0, 1, 1 << 40} {
		e := EncodeSeal("eu", 3, seal, 1)
		h, s := DecodeHead(&e), DecodeShipHead(&e)
		got, final := im.SealAt(h.OriginOffset)
		if !h.Marker() || !s.Marker() || h.Generation != 3 || !final || got != seal || s.OriginOffset != h.OriginOffset {
			t.Errorf("the final marker of %d reads as %+v", seal, h)
		}
		v, err := DecodeHold(&e)
		if err != nil || !v.Final || v.Seal != seal || v.Generation != 3 {
			t.Errorf("its value reads as %+v, %v", v, err)
		}
	}
	forged := EncodeRecord(&im.Record{ID: im.ID{Conversation: im.Direct("ann", "bob")}, Kind: im.KindHold})
	forged = AsCopy(forged, 7, 0)
	if h := DecodeHead(&forged); h.Marker() {
		t.Error("a record that calls itself a marker is one")
	}
}
