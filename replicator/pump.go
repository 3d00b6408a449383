package replicator

import (
	"context"
	"errors"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What happens to a record between the log and the link:
//
//	log ─▶ Reader ─▶ pump ─▶ shelf: a queue a lane ─▶ load: turns, window, cap ─▶ write ─▶ link

// sendWindow is how many bytes may be under way to the receiver.
type sendWindow struct {
	mu    sync.Mutex
	size  int
	under int           // way; may exceed size by one message, which is let through alone
	lanes []int         // the same by lane
	byBid bool          // the receiver gives credit by lane
	more  chan struct{} // capacity 1
}

func (w *sendWindow) open(open *wire.LinkOpen) {
	most := min(max(open.WindowBytes, 64<<10), 256<<20)
	w.size = int(most)
	if first := open.FirstWindowBytes; first > 0 {
		w.size = int(min(max(first, 64<<10), most))
	}
	w.more = make(chan struct{}, 1)
}

// credit takes bytes back.
func (w *sendWindow) credit(c *wire.LinkCredit) {
	w.mu.Lock()
	w.under = max(0, w.under-int(min(c.Bytes, 1<<31)))
	w.size = min(w.size+int(min(c.More, 256<<20)), 256<<20)
	for i, n := range c.Topics {
		if i < len(w.lanes) {
			w.byBid = true
			w.lanes[i] = max(0, w.lanes[i]-int(min(n, 1<<31)))
		}
	}
	w.mu.Unlock()
	wake(w.more)
}

// laneShare is the part of the window that one lane gets: what the receiver cannot append at present of one leaves room for
// the others.
const laneShare = 2

// may tells whether a message may go that holds so many bytes, and so many of one lane.
func (w *sendWindow) may(lane, bytes, ofLane int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.under > 0 && w.under+bytes > w.size {
		return false
	}
	return !w.byBid || w.lanes[lane] == 0 || w.lanes[lane]+ofLane <= w.size/laneShare
}

// take counts what is sent.
func (w *sendWindow) take(lane, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.under += bytes
	w.lanes[lane] += bytes
}

// pump reads the log onto the shelf.
func (l *sending) pump(ctx context.Context) error {
	from := make(map[im.Partition]int64, len(l.index))
	for p, i := range l.index {
		from[p] = l.parts[i].next
	}
	reader := l.source.reader(from, l.packs)
	defer reader.Close()
	wait := l.r.backoff()
	paused := make([]bool, len(l.parts)) // while the shelf is full of them
	for {
		batches, err := l.poll(ctx, reader)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := l.store(reader, batches, paused); err != nil {
			return err
		}
		if err != nil {
			if err := l.source.readable(ctx, l.standing(), err); err != nil {
				return err
			}
			l.r.log.Warn("a log cannot be read", "peer", string(l.peer), "origin", string(l.source.origin()), "error", err.Error())
			for p, i := range l.index { // a partition that the reader gave up begins again
				if part := &l.parts[i]; part.next >= 0 && !paused[i] {
					reader.Seek(p, part.next)
				}
			}
			if !pause(ctx, wait.NextBackOff()) {
				return context.Cause(ctx)
			}
		} else {
			wait.Reset()
		}
		l.seek(reader, paused)
	}
}

// poll reads on until something is there or something else is asked for.
func (l *sending) poll(ctx context.Context, reader Reader) ([]im.Batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.seeks.Lock()
	if len(l.seeks.want) > 0 || len(l.seeks.roomy) > 0 {
		cancel()
	}
	l.seeks.interrupt = cancel
	l.seeks.Unlock()
	batches, err := reader.Poll(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // that it was interrupted is no error; a partition that it gave up is
		err = nil
	}
	return batches, err
}

// seek moves the reader to where the receiver asked to go on, and reads lanes on that have room again.
func (l *sending) seek(reader Reader, paused []bool) {
	l.seeks.Lock()
	want, roomy := l.seeks.want, l.seeks.roomy
	l.seeks.want, l.seeks.roomy = map[int]int64{}, nil
	l.seeks.Unlock()
	for i, offset := range want {
		part := &l.parts[i]
		if l.shelf.purge(part.lane, i) {
			roomy = append(roomy, part.lane)
		}
		if offset < 0 {
			reader.Drop(part.p)
			part.next = -1 // nothing that was read before is shipped
			continue
		}
		part.next = offset
		if !paused[i] {
			reader.Seek(part.p, offset)
		}
		l.r.metrics.seeks(l.peer)
	}
	for _, lane := range roomy {
		for i := range l.parts {
			part := &l.parts[i]
			if part.lane != lane || !paused[i] {
				continue
			}
			paused[i] = false
			if part.next >= 0 {
				reader.Seek(part.p, part.next)
			}
		}
	}
}

// readOn has the pump read on what it stopped of lanes.
func (l *sending) readOn(lanes []int) {
	l.seeks.Lock()
	defer l.seeks.Unlock()
	l.seeks.roomy = append(l.seeks.roomy, lanes...)
	if l.seeks.interrupt != nil {
		l.seeks.interrupt()
	}
}

// standing is the next offset to read of each partition.
func (l *sending) standing() map[im.Partition]int64 {
	next := make(map[im.Partition]int64, len(l.index))
	for p, i := range l.index {
		next[p] = l.parts[i].next
	}
	return next
}

// store puts what a poll brought on the shelf, and stops reading what has more than its share there.
func (l *sending) store(reader Reader, polled []im.Batch, paused []bool) error {
	var all []item
	for _, b := range polled {
		i, ok := l.index[b.Partition]
		if !ok || l.parts[i].next < 0 {
			continue
		}
		part := &l.parts[i]
		var items []item
		var err error
		if l.packs {
			items, err = l.packed(part, b.Packed)
		} else {
			items, err = l.encoded(part, b.Entries)
		}
		if err != nil {
			return err
		}
		for k := range items {
			items[k].part, items[k].lane = i, part.lane
		}
		all = append(all, items...)
	}
	for _, i := range l.shelf.put(all) {
		paused[i] = true
		reader.Drop(l.parts[i].p)
	}
	return nil
}

// packed takes records as the reader packed them.
func (l *sending) packed(part *sendPart, all []im.Packed) (items []item, err error) {
	for k := range all {
		p := &all[k]
		switch {
		case p.First+int64(p.Count) <= part.next: // read before the reader was moved
			continue
		case p.First != part.next:
			return nil, errHole(part, p.First)
		}
		it := item{first: p.First, records: p.Count, bytes: len(p.Bytes), packed: p}
		for _, t := range p.Traces {
			it.spans = append(it.spans, l.r.shipSpan(t.Parent, part.p, t.Offset, l.peer, true))
		}
		items = append(items, it)
		part.next += int64(p.Count)
	}
	return items, nil
}

// encoded encodes entries, as many together as a message holds.
func (l *sending) encoded(part *sendPart, entries []im.Entry) (items []item, err error) {
	for len(entries) > 0 && entries[0].Offset < part.next {
		entries = entries[1:]
	}
	for len(entries) > 0 {
		it := item{first: part.next}
		for it.records < len(entries) {
			e := &entries[it.records]
			size := wire.LinkEntrySize(e)
			if it.records > 0 && len(it.raw)+size > l.r.cfg.BatchBytes {
				break
			}
			if e.Offset != part.next+int64(it.records) {
				return nil, errHole(part, e.Offset)
			}
			if it.raw == nil {
				it.raw = make([]byte, 0, max(size, min(l.r.cfg.BatchBytes, size*len(entries))))
			}
			it.raw = wire.AppendLinkEntry(it.raw, e)
			it.spans = l.r.startShip(it.spans, e, l.peer, true)
			it.records++
		}
		it.bytes = len(it.raw)
		part.next += int64(it.records)
		entries = entries[it.records:]
		items = append(items, it)
	}
	return items, nil
}

func errHole(part *sendPart, came int64) error {
	return im.Errorf(im.CodeInternal, "%v: the log has a hole: offset %d follows %d", part.p, came, part.next-1)
}

// load fills messages from the shelf as window and cap allow, and hands them to the writer.
func (l *sending) load(ctx context.Context) error {
	for {
		if err := l.throttle.wait(ctx); err != nil {
			return err
		}
		items, roomy := l.shelf.take(l.r.cfg.BatchBytes, l.window.may)
		if len(roomy) > 0 {
			l.readOn(roomy)
		}
		if len(items) == 0 {
			select {
			case <-l.shelf.more:
			case <-l.window.more:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		select {
		case l.batches <- l.message(items):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// message encodes items, which are under way from here on.
func (l *sending) message(items []item) outgoing {
	compress := l.r.cfg.Compression == CompressAlways || l.r.cfg.Compression == CompressCapped && l.throttle.capped()
	batches := make([]*wire.LinkBatch, len(items))
	var spans []trace.Span
	records, bytes, sent := 0, 0, 0
	for k := range items {
		it := &items[k]
		b := &wire.LinkBatch{Partition: uint32(it.part), First: it.first, Count: uint32(it.records), Entries: it.raw}
		if p := it.packed; p != nil {
			b.Entries, b.Packed, b.Size = p.Bytes, wire.PackedVersion, uint32(p.Size)
			if !p.Name.IsZero() {
				b.LogId = slices.Clone(p.Name.ID[:])
			}
			for _, t := range p.Traces {
				b.Traces = append(b.Traces, &wire.LinkTrace{Place: uint32(t.Offset - p.First), Parent: t.Parent})
			}
		}
		if compress {
			l.r.codec.compress(b)
		}
		took := it.bytes
		if it.packed != nil {
			took = len(b.Entries)
		}
		l.window.take(l.parts[it.part].lane, took)
		spans = append(spans, it.spans...)
		records += it.records
		bytes += it.bytes
		sent += len(b.Entries)
		batches[k] = b
	}
	l.throttle.spend(sent)
	m := &wire.LinkResponse{Kind: &wire.LinkResponseBatches{Batches: &wire.LinkBatches{Batches: batches}}}
	if len(batches) == 1 {
		m.Kind = &wire.LinkResponseBatch{Batch: batches[0]}
	}
	return outgoing{m, func() {
		for k := range items { // the link has copied them
			if p := items[k].packed; p != nil {
				l.r.deps.Packing.Recycle(p)
			}
		}
		endAll(spans, nil)
		l.r.metrics.sent(l.peer, records, bytes, sent)
		st := l.counts
		st.records.Add(uint64(records))
		st.bytes.Add(uint64(bytes))
	}}
}
