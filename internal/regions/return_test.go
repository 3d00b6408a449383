package regions

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// kafka is the Kafka of a region that comes back. An append may fail, having landed or not.
type kafka struct {
	parts map[im.Partition][]im.Entry
	fault func() (lost, landed bool)
}

func (k *kafka) Append(_ context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	lost, landed := k.fault()
	first := int64(len(k.parts[p]))
	if !lost || landed {
		for _, e := range entries {
			e.Partition, e.Offset = p, int64(len(k.parts[p]))
			k.parts[p] = append(k.parts[p], e)
		}
	}
	if lost {
		return 0, errFault
	}
	return first, nil
}

func (k *kafka) Bounds(_ context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error) {
	all := map[im.Partition]im.Bounds{}
	for _, p := range ps {
		if entries, ok := k.parts[p]; ok {
			all[p] = im.Bounds{End: int64(len(entries))}
		}
	}
	return all, nil
}

func (k *kafka) Read(_ context.Context, p im.Partition, from int64, _ int) ([]im.Entry, error) {
	entries := k.parts[p][from:]
	return entries[:min(3, len(entries))], nil
}

func said(n int) im.Record {
	id := im.UUID{byte(n >> 8), byte(n), 0, 0, 0, 0, 0x70}
	return im.Record{
		ID: im.ID{Conversation: im.Direct("ann", "bob"), Sender: "ann", ClientID: id}, Kind: im.KindMessage, Version: 1,
		Place: im.Place{Stamp: im.Stamp(1000 + n), Origin: "eu"}, Body: fmt.Appendf(nil, "message %d", n),
	}
}

// ownLog is a partition of eu's own log: its name, messages, and heartbeats between them.
func ownLog(p im.Partition, length int) (entries []im.Entry) {
	name := im.LogName{Origin: "eu", ID: im.UUID{1}}
	for n := range length {
		e := wire.EncodeLogName(im.KindHeartbeat, name, im.Stamp(n))
		if n%4 != 0 {
			r := said(n)
			e = wire.EncodeRecord(&r)
		}
		e.Partition, e.Offset = p, int64(n)
		entries = append(entries, e)
	}
	return entries
}

// TestResubmitUnderFaults: whatever append fails, and however often it begins again, every record past the seal is in the
// next epoch's log, in its order, the first time it stands there, with its client_id, stamp and body; nothing below it is.
func TestResubmitUnderFaults(t *testing.T) {
	next := im.Partition{Topic: "msg.eu.2.direct", Number: 0}
	read := im.Partition{Topic: "read.eu", Number: 0}
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(1, 30).Draw(t, "log")
		seal := rapid.IntRange(0, length).Draw(t, "seal")
		k := &kafka{parts: map[im.Partition][]im.Entry{direct: ownLog(direct, length), read: ownLog(read, 3), next: {
			wire.EncodeLogName(im.KindLog, im.LogName{Origin: "eu.2", ID: im.UUID{2}}, 1),
		}}}
		faults := rapid.IntRange(0, 3).Draw(t, "faults")
		k.fault = func() (lost, landed bool) {
			if faults == 0 {
				return false, false
			}
			faults--
			return true, rapid.Bool().Draw(t, "landed")
		}
		state := im.CopyState{Partition: direct, Next: int64(seal), Generation: im.SealedGeneration}
		if seal > 0 {
			state.Checksum, state.Checked = wire.Checksum(&k.parts[direct][seal-1]), true
		}
		r := Remainder{Former: "eu", Next: "eu.2", Log: k, Sealed: []im.CopyState{
			state, {Partition: read, Next: 1, Generation: im.SealedGeneration},
		}}
		var sum Resent
		for tries := 0; ; tries++ {
			var err error
			if sum, err = r.Resubmit(context.Background()); err == nil {
				break
			} else if !errors.Is(err, errFault) || tries > 5 {
				t.Fatal(err)
			}
		}
		var want []im.Record
		for n := seal; n < length; n++ {
			if n%4 != 0 {
				want = append(want, said(n))
			}
		}
		var got []im.Record
		seen := map[im.UUID]bool{}
		for i := range k.parts[next] {
			e := &k.parts[next][i]
			h := wire.DecodeHead(e)
			if h.Conversation == "" {
				continue
			}
			rec, err := wire.DecodeRecord(e, h)
			if err != nil {
				t.Fatal(err)
			}
			if h.Origin != "eu.2" {
				t.Fatalf("it says that its origin is %s", h.Origin)
			}
			if !seen[rec.ClientID] {
				seen[rec.ClientID] = true
				got = append(got, rec)
			}
		}
		if len(got) != len(want) || sum.Records < int64(len(want)) {
			t.Fatalf("%d records were sent again, want %d: %+v", len(got), len(want), sum)
		}
		for i := range want {
			if got[i].ID != want[i].ID || got[i].Place.Stamp != want[i].Place.Stamp || string(got[i].Body) != string(want[i].Body) {
				t.Fatalf("number %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	})
}

// TestResubmitRefusesAnotherLog: a log that was made anew, or restored from a backup, has other records below the seal.
func TestResubmitRefusesAnotherLog(t *testing.T) {
	k := &kafka{parts: map[im.Partition][]im.Entry{direct: ownLog(direct, 9)}, fault: func() (bool, bool) { return false, false }}
	r := Remainder{Former: "eu", Next: "eu.2", Log: k, Sealed: []im.CopyState{
		{Partition: direct, Next: 6, Generation: im.SealedGeneration, Checksum: 4711, Checked: true},
	}}
	if _, err := r.Resubmit(t.Context()); !errors.Is(err, errOtherLog) {
		t.Fatal(err)
	}
	r.Sealed[0].Generation = 1
	if _, err := r.Resubmit(t.Context()); err == nil {
		t.Fatal("a remainder was sent again past a seal that is none")
	}
}

// source is another region's sealed copy.
type source struct{ entries []im.Entry }

func (s source) Read(_ context.Context, p im.Partition, from, to int64, take func(*wire.LinkBatch) error) error {
	for ; from < to; from++ {
		if err := take(&wire.LinkBatch{First: from, Count: 1, Entries: wire.AppendLinkEntry(nil, &s.entries[from])}); err != nil {
			return err
		}
	}
	return nil
}

// TestCopyUnderFaults: a former log is replaced by a copy that ends at the seal, whatever append fails on the way.
func TestCopyUnderFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(0, 20).Draw(t, "seal")
		k := &kafka{parts: map[im.Partition][]im.Entry{direct: {}}}
		faults := rapid.IntRange(0, 4).Draw(t, "faults")
		k.fault = func() (lost, landed bool) {
			if faults == 0 || rapid.Bool().Draw(t, "fine") {
				return false, false
			}
			faults--
			return true, rapid.Bool().Draw(t, "landed")
		}
		log := ownLog(direct, length)
		unpack := func(p im.Partition, b *wire.LinkBatch) ([]im.Entry, error) {
			return wire.DecodeLinkEntries(b.Entries, p, b.First, int(b.Count))
		}
		s := im.CopyState{Partition: direct, Next: int64(length), Generation: im.SealedGeneration}
		for tries := 0; ; tries++ {
			if _, err := Copy(context.Background(), k, source{log}, unpack, s, 1); err == nil {
				break
			} else if !errors.Is(err, errFault) || tries > 6 {
				t.Fatal(err)
			}
		}
		f, err := follow(context.Background(), k, direct)
		if err != nil || !f.Sealed() || f.Next != int64(length) {
			t.Fatalf("the copy is at %+v, %v", f, err)
		}
		if own, err := OwnLog(context.Background(), k, "msg.eu.direct", 1); own || err != nil {
			t.Fatalf("it is taken for the region's own log: %v, %v", own, err)
		}
	})
}
