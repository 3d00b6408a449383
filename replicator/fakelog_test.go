package replicator_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// fakeLog is a region's Kafka in memory, with faults.
type fakeLog struct {
	mu      sync.Mutex
	parts   map[im.Partition]*fakePart
	changed chan struct{}
	fault   func(p im.Partition, entries []im.Entry) appendFault // called with mu held; nil: none
	down    bool
	refused int             // operations, while it was down
	drops   int             // of partitions, by its readers
	reads   int             // of single partitions
	room    bool            // ReadEach has room for everything
	kept    map[string]bool // topics that retention passes by
	wg      sync.WaitGroup
}

type fakePart struct {
	start   int64
	entries []im.Entry // from start on
}

func (p *fakePart) end() int64 { return p.start + int64(len(p.entries)) }

// appendFault is what goes wrong with an append.
type appendFault int

const (
	fine     appendFault = iota
	lost                 // an error, and it did not land
	landed               // an error, but it landed
	late                 // an error, and it lands a moment later
	vanished             // acknowledged, but lost: what acks=all is to rule out
)

func newFakeLog(origins []im.Origin, partitions int) *fakeLog {
	l := &fakeLog{parts: map[im.Partition]*fakePart{}, kept: map[string]bool{}, changed: make(chan struct{})}
	for _, o := range origins {
		for _, topic := range im.Topics(o) {
			for n := range partitions {
				l.parts[im.Partition{Topic: topic, Number: n}] = &fakePart{}
			}
		}
	}
	return l
}

// name appends record 0 of each partition of an origin.
func (l *fakeLog) name(n im.LogName) {
	for p := range l.parts {
		if p.Origin() == n.Origin {
			l.must(p, wire.EncodeLogName(im.KindLog, n, im.StampAt(time.Now())))
		}
	}
}

func (l *fakeLog) must(p im.Partition, entries ...im.Entry) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.land(p, entries)
}

func (l *fakeLog) land(p im.Partition, entries []im.Entry) int64 {
	f := l.parts[p]
	first := f.end()
	for i, e := range entries {
		e.Partition, e.Offset = p, first+int64(i)
		e.Headers = slices.Clone(e.Headers)
		f.entries = append(f.entries, e)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return first
}

func (l *fakeLog) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parts[p] == nil {
		return 0, fmt.Errorf("no partition %v", p)
	}
	if err := l.away(); err != nil {
		return 0, err
	}
	f := fine
	if l.fault != nil {
		f = l.fault(p, entries)
	}
	switch f {
	case lost:
		return 0, im.Errorf(im.CodeUnavailable, "lost")
	case landed:
		l.land(p, entries)
		return 0, im.Errorf(im.CodeUnavailable, "landed")
	case late:
		l.wg.Go(func() {
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			l.must(p, entries...)
		})
		return 0, im.Errorf(im.CodeUnavailable, "late")
	case vanished:
		return l.parts[p].end() - int64(len(entries)), nil
	}
	return l.land(p, entries), ctx.Err()
}

func (l *fakeLog) Bounds(_ context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.away(); err != nil {
		return nil, err
	}
	b := map[im.Partition]im.Bounds{}
	for _, p := range ps {
		if f := l.parts[p]; f != nil {
			b[p] = im.Bounds{Start: f.start, End: f.end()}
		}
	}
	return b, nil
}

func (l *fakeLog) Read(_ context.Context, p im.Partition, from int64, maxBytes int) ([]im.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.away(); err != nil {
		return nil, err
	}
	l.reads++
	return l.slice(p, from, maxBytes)
}

// roomy sets whether ReadEach has room for everything, and counts reads of single partitions from now on.
func (l *fakeLog) roomy(room bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room, l.reads = room, 0
}

// single is how often a single partition was read.
func (l *fakeLog) single() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads
}

// ReadEach leaves out some, as a broker does whose answer is full, unless it has room.
func (l *fakeLog) ReadEach(_ context.Context, from map[im.Partition]int64, maxBytes int) map[im.Partition][]im.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[im.Partition][]im.Entry{}
	if l.away() != nil {
		return all
	}
	for p, at := range from {
		if entries, err := l.slice(p, at, maxBytes); err == nil && (l.room || rand.IntN(4) > 0) {
			all[p] = entries
		}
	}
	return all
}

func (l *fakeLog) slice(p im.Partition, from int64, maxBytes int) ([]im.Entry, error) {
	f := l.parts[p]
	if f == nil || from < f.start || from > f.end() {
		return nil, fmt.Errorf("%v: offset %d is out of range", p, from)
	}
	var out []im.Entry
	for _, e := range f.entries[from-f.start:] {
		maxBytes -= len(e.Value) + 100
		if maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

// truncate drops everything from offset on.
func (l *fakeLog) truncate(p im.Partition, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.parts[p]
	f.entries = f.entries[:offset-f.start]
}

// retain drops everything below offset, until restore.
func (l *fakeLog) retain(p im.Partition, offset int64) (restore func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.parts[p]
	start, gone := f.start, slices.Clone(f.entries[:offset-f.start])
	f.entries = slices.Clone(f.entries[offset-f.start:])
	f.start = offset
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		f.start, f.entries = start, slices.Concat(gone, f.entries)
	}
}

// KeepTopics has topics keep what they hold.
func (l *fakeLog) KeepTopics(_ context.Context, names []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.away(); err != nil {
		return err
	}
	for _, name := range names {
		l.kept[name] = true
	}
	return nil
}

// age lets so much time pass that retention drops all that is not kept.
func (l *fakeLog) age() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, f := range l.parts {
		if !l.kept[p.Topic] {
			f.start, f.entries = f.end(), nil
		}
	}
}

// away refuses an operation while the log is down. The caller holds mu.
func (l *fakeLog) away() error {
	if !l.down {
		return nil
	}
	l.refused++
	return im.Errorf(im.CodeUnavailable, "kafka is down")
}

// count reads one of the counters.
func (l *fakeLog) count(n *int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *n
}

func (l *fakeLog) setDown(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *fakeLog) setFault(f func(im.Partition, []im.Entry) appendFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

// taken is what a follower takes from a partition of the log or copy, from its first record on.
func (l *fakeLog) taken(p im.Partition) []im.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f im.Follower
	var out []im.Entry
	for i := range l.parts[p].entries {
		e := &l.parts[p].entries[i]
		h := wire.DecodeHead(e)
		if i == 0 && !h.Marker() { // a copy may be held before anything came
			f.Next = h.OriginOffset
		}
		if f.See(h.OriginOffset, h.Generation, h.Marker()) == im.Take {
			out = append(out, *e)
		}
	}
	return out
}

func (l *fakeLog) end(p im.Partition) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.parts[p].end()
}

func (l *fakeLog) partitions(o im.Origin) []im.Partition {
	var ps []im.Partition
	for p := range l.parts {
		if p.Origin() == o {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, im.Partition.Compare)
	return ps
}

// fakeReader reads like Kafka's.
type fakeReader struct {
	l  *fakeLog
	at map[im.Partition]int64
}

func (l *fakeLog) NewReader(from map[im.Partition]int64) replicator.Reader {
	return &fakeReader{l, maps.Clone(from)}
}

func (r *fakeReader) Poll(ctx context.Context) ([]im.Batch, error) {
	for {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.l.mu.Lock()
		changed := r.l.changed
		var out []im.Batch
		var errs []error
		if err := r.l.away(); err != nil {
			errs = append(errs, err)
		} else {
			for p, at := range r.at {
				entries, err := r.l.slice(p, at, 512<<10)
				if err != nil {
					delete(r.at, p)
					errs = append(errs, err)
					continue
				}
				if len(entries) > 0 {
					out = append(out, im.Batch{Partition: p, Entries: entries, End: r.l.parts[p].end()})
					r.at[p] = entries[len(entries)-1].Offset + 1
				}
			}
		}
		r.l.mu.Unlock()
		if len(out) > 0 || len(errs) > 0 {
			return out, errors.Join(errs...)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (r *fakeReader) Seek(p im.Partition, offset int64) { r.at[p] = offset }
func (r *fakeReader) Close()                            {}

func (r *fakeReader) Drop(p im.Partition) {
	delete(r.at, p)
	r.l.mu.Lock()
	r.l.drops++
	r.l.mu.Unlock()
}

// fakePacking packs as Kafka does, in an encoding of its own. Faults are those of the log.
type fakePacking struct{ *fakeLog }

type packedReader struct{ *fakeReader }

func (p fakePacking) NewPacker(from map[im.Partition]int64) replicator.Reader {
	return packedReader{p.NewReader(from).(*fakeReader)}
}

func (r packedReader) Poll(ctx context.Context) ([]im.Batch, error) {
	batches, err := r.fakeReader.Poll(ctx)
	for i := range batches {
		b := &batches[i]
		for len(b.Entries) > 0 {
			n := min(len(b.Entries), 1+rand.IntN(len(b.Entries)))
			k := im.Packed{Partition: b.Partition, First: b.Entries[0].Offset, Count: n}
			for j := range b.Entries[:n] {
				e := &b.Entries[j]
				k.Bytes = wire.AppendLinkEntry(k.Bytes, e)
				if name, err := wire.DecodeLogName(e); err == nil && wire.DecodeShipHead(e).Kind != im.KindMessage {
					k.Name = name
				}
				if h := wire.DecodeShipHead(e); wire.Sampled(h.Trace) {
					k.Traces = append(k.Traces, im.PackedTrace{Offset: e.Offset, Parent: h.Trace})
				}
			}
			k.Size = len(k.Bytes)
			b.Packed = append(b.Packed, k)
			b.Entries = b.Entries[n:]
		}
	}
	return batches, err
}

func (p fakePacking) NewHeadReader(from map[im.Partition]int64) replicator.Reader {
	return headReader{p.NewReader(from).(*fakeReader)}
}

type headReader struct{ *fakeReader }

func (r headReader) Poll(ctx context.Context) ([]im.Batch, error) {
	batches, err := r.fakeReader.Poll(ctx)
	for i := range batches {
		b := &batches[i]
		for j := range b.Entries {
			e := &b.Entries[j]
			h := wire.DecodeShipHead(e)
			head := im.CopyHead{Local: e.Offset, Origin: h.OriginOffset, Generation: h.Generation, Kind: h.Kind, Stamp: h.Stamp}
			if h.Kind == im.KindLog || h.Kind == im.KindHeartbeat {
				if name, err := wire.DecodeLogName(e); err == nil {
					head.Name = &name
				}
			}
			if rand.IntN(2) == 0 { // Kafka's has those of the last records of its batches only
				head.Checksum, head.Summed = wire.Checksum(e), true
			}
			b.Heads = append(b.Heads, head)
		}
		b.Entries = nil
	}
	return batches, err
}

func (p fakePacking) StartPacked(ctx context.Context, limit time.Duration, all []im.PackedAppend) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	var wg sync.WaitGroup
	for _, k := range all {
		wg.Go(func() {
			entries, err := p.Unpack(k.Packed)
			if err != nil {
				k.Then(0, err)
				return
			}
			for i := range entries {
				entries[i] = wire.AsCopy(entries[i], k.First+int64(i), 0)
			}
			k.Then(p.Append(ctx, k.Partition, entries))
		})
	}
	go func() { wg.Wait(); cancel() }()
}

func (fakePacking) Recycle(*im.Packed) {}

func (fakePacking) Unpack(k *im.Packed) ([]im.Entry, error) {
	raw := k.Bytes
	if k.Codec == "zstd" {
		d, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		if raw, err = d.DecodeAll(raw, nil); err != nil {
			return nil, err
		}
	}
	return wire.DecodeLinkEntries(raw, k.Partition, k.First, k.Count)
}

// message is a record of a conversation with some text.
func message(o im.Origin, text string) im.Entry {
	return wire.EncodeRecord(&im.Record{
		ID:   im.ID{Conversation: "d:ann:bob", Sender: "ann", ClientID: im.NewUUID(time.Now())},
		Kind: im.KindMessage, Version: 1, Place: im.Place{Stamp: im.StampAt(time.Now()), Origin: o}, Body: []byte(text),
	})
}

// patience is how long a test waits for what must come: far more than it takes, on however busy a machine.
const patience = time.Minute

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
