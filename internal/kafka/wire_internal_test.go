package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
)

// brokerSession is what a broker keeps of a session, as deliberately dumb as can be.
type brokerSession struct {
	id, epoch int32
	offsets   map[im.Partition]int64
}

// take answers a request's session part: the session's id, or an error code.
func (b *brokerSession) take(id, epoch int32, wants []want, named []int, forgotten []im.Partition) (answer int32, code int16) {
	switch {
	case epoch == 0:
		b.id, b.epoch, b.offsets = b.id+1, 1, map[im.Partition]int64{}
	case id != b.id:
		return 0, 70
	case epoch != b.epoch:
		return 0, 71
	default:
		b.epoch++
	}
	for _, p := range forgotten {
		delete(b.offsets, p)
	}
	for _, n := range named {
		b.offsets[wants[n].partition] = wants[n].from
	}
	return b.id, 0
}

// After every request the broker holds exactly the partitions and offsets that are wanted, whatever is sought, dropped
// or lost between them; and no more is named than what changed.
func TestSessionTellsTheBrokerEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, broker := newSession(0), &brokerSession{}
		follows := map[im.Partition]int64{}
		changed := map[im.Partition]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				p := im.Partition{Topic: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic"), Number: rapid.IntRange(0, 3).Draw(t, "number")}
				if rapid.IntRange(0, 3).Draw(t, "drop") == 0 {
					delete(follows, p)
				} else {
					follows[p] = int64(rapid.IntRange(0, 3).Draw(t, "offset"))
				}
				changed[p] = true
			}
			var wants []want
			for p, from := range follows {
				wants = append(wants, want{partition: p, from: from, leader: 1, read: -1})
			}
			opening := s.epoch == 0
			named, forgotten := s.ask(wants)
			if !opening && len(named)+len(forgotten) > len(changed) {
				t.Fatalf("%d named and %d forgotten, where only %v changed", len(named), len(forgotten), changed)
			}
			switch rapid.SampledFrom([]string{"", "", "", "lost request", "lost answer", "evicted", "no room"}).Draw(t, "fault") {
			case "lost request":
				s.reset()
				continue
			case "lost answer":
				broker.take(s.id, s.epoch, wants, named, forgotten)
				s.reset()
				continue
			case "evicted":
				broker.id++
			case "no room":
				if opening {
					s.answered(0)
					continue
				}
			}
			id, code := broker.take(s.id, s.epoch, wants, named, forgotten)
			if err := codeError(code, ""); err != nil {
				if !lost(err) {
					t.Fatal(err)
				}
				s.reset()
				continue
			}
			s.answered(id)
			if !maps.Equal(broker.offsets, follows) {
				t.Fatalf("the broker holds %v, wanted are %v", broker.offsets, follows)
			}
			clear(changed)
		}
	})
}

// aFetch is a request for one partition, and an answer to it that holds two records.
func aFetch(t testing.TB) (*fetchRequest, []byte) {
	t.Helper()
	s := newSession(0)
	r := &fetchRequest{wants: []want{{partition: im.Partition{Topic: "t"}, from: 7, leader: -1, read: -1}}, buffers: &buffers{}, table: crc32.MakeTable(crc32.Castagnoli)}
	r.named, r.forgotten = s.ask(r.wants)
	r.parts, r.round = s.parts, s.round

	entries := []im.Entry{{Key: []byte("k"), Value: []byte("v"), Headers: []im.Header{{Key: "h", Value: []byte{}}}}, {Value: []byte("w")}}
	batch := encodeBatch([]*call{{entries: entries}}, len(entries), 200, 1)
	sealBatch(batch, nil, producer{id: 5}, r.table)
	binary.BigEndian.PutUint64(batch[atBaseOffset:], 6) // the first is below what was asked for
	batch = batch[atBaseOffset:]

	b := []byte{0}                                    // tags of the head
	b = append(b, make([]byte, 4+2)...)               // throttled for, error
	b = binary.BigEndian.AppendUint32(b, 9)           // session
	b = append(b, 2, 2, 't', 2)                       // one topic, one partition
	b = append(b, make([]byte, 4+2)...)               // number, error
	b = binary.BigEndian.AppendUint64(b, 8)           // high watermark
	b = append(b, make([]byte, 8+8)...)               // stable offset, log start
	b = append(b, 0, 255, 255, 255, 255)              // aborted, preferred replica
	b = binary.AppendUvarint(b, uint64(len(batch)+1)) // records
	return r, append(append(b, batch...), 0 /* tags of the partition */, 0 /* of the topic */, 0)
}

func TestFetchDecodes(t *testing.T) {
	r, b := aFetch(t)
	res, err := r.decode(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	g := res.found[0]
	if res.session != 9 || g == nil || g.err != nil || len(g.batch.Entries) != 1 || g.next != 8 || g.batch.End != 8 {
		t.Fatalf("got %+v, %+v", res, g)
	}
	if e := g.batch.Entries[0]; e.Offset != 7 || string(e.Value) != "w" || e.Key != nil {
		t.Errorf("got %+v", e)
	}
	damaged := bytes.Clone(b)
	damaged[len(damaged)-5] ^= 1
	if res, err := r.decode(damaged); err != nil || res.found[0].err == nil || res.found[0].next != 7 {
		t.Errorf("a damaged batch: %+v, %v", res, err)
	}
}

// A log that lost what was read of it says so, whatever it has grown to since.
func TestFetchOfATruncatedLog(t *testing.T) {
	r, b := aFetch(t)
	b = append(b[:len(b)-3], 1, 0, 13)              // one tag of the partition: 0, of 13 bytes
	b = binary.BigEndian.AppendUint32(b, 3)         // epoch
	b = append(binary.BigEndian.AppendUint64(b, 5), // end
		0, 0, 0)
	res, err := r.decode(b)
	if err != nil {
		t.Fatal(err)
	}
	ranged, ok := errors.AsType[*RangeError](res.found[0].err)
	if !ok || ranged.Wanted != 7 || ranged.Bounds.End != 5 {
		t.Errorf("got %v", res.found[0].err)
	}
}

// Whatever bytes come, decoding ends in an answer or an error.
func FuzzFetchAnswer(f *testing.F) {
	r, b := aFetch(f)
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		res, err := r.decode(b)
		if err == nil && len(res.found) != 1 {
			t.Errorf("%d answers", len(res.found))
		}
		rs := records{next: 0, epoch: -1, table: r.table}
		if err := rs.decode(b); err == nil && len(rs.entries) > len(b) {
			t.Errorf("%d entries of %d bytes", len(rs.entries), len(b))
		}
	})
}

// What a broker that hung tells of leaders does not replace what was learnt since, but for a while: a topic may be new.
func TestFormerLeadersAreNotTakenBack(t *testing.T) {
	p := im.Partition{Topic: "t"}
	told := func(leader, epoch int32, at time.Time) *layout {
		return &layout{
			brokers: map[int32]string{2: "b:1", 3: "c:1"}, learnt: at,
			leaders: map[im.Partition]int32{p: leader}, epochs: map[im.Partition]int32{p: epoch},
		}
	}
	start := time.Now()
	now := told(2, 6, start)
	for _, step := range []struct {
		after         time.Duration
		leader, epoch int32 // told
		want          int32
	}{
		{10 * time.Second, 3, 5, 2},
		{25 * time.Second, 3, 5, 2}, // counted from when it was told, not from when it was kept
		{26 * time.Second, 3, 6, 3}, // the same epoch again
		{30 * time.Second, 3, 7, 3},
		{45 * time.Second, 2, 0, 3},
		{61 * time.Second, 2, 0, 2}, // for good
	} {
		next := told(step.leader, step.epoch, start.Add(step.after))
		next.keep(now)
		now = next
		if got, err := now.leader(p); err != nil || got != step.want {
			t.Errorf("after %v: leader %d, %v, want %d", step.after, got, err, step.want)
		}
	}
	gone := told(3, 5, start.Add(62*time.Second))
	delete(gone.brokers, 2)
	former := told(2, 6, start.Add(61*time.Second))
	gone.keep(former)
	if got, err := gone.leader(p); err == nil {
		t.Errorf("the leader is %d, which is gone", got)
	}
}
