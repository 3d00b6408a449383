package replicator

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// parallelReads bounds the reads that opening a link makes at once.
const parallelReads = 8

// verify decides, partition by partition, whether the log continues what the receiver has.
func (l *sending) verify(ctx context.Context, open *wire.LinkOpen) error {
	r := l.r
	origin := l.source.origin()
	continues, err := l.source.look(ctx, open.Partitions)
	if err != nil {
		return im.Errorf(im.CodeUnavailable, "the log of %s cannot be read: %v", origin, err)
	}
	l.parts = make([]sendPart, len(open.Partitions))
	l.index = make(map[im.Partition]int, len(open.Partitions))
	left := map[im.Partition]bool{}
	for _, p := range l.source.partitions() {
		left[p] = true
	}
	errs := make([]error, len(l.parts))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelReads)
	for i, want := range open.Partitions {
		part := &l.parts[i]
		part.p = im.Partition{Topic: want.Topic, Number: int(want.Partition)}
		part.next = want.Next
		part.lane = slices.Index(l.lanes, part.p.Topic)
		if part.lane < 0 {
			part.lane = len(l.lanes)
			l.lanes = append(l.lanes, part.p.Topic)
		}
		if !left[part.p] {
			part.refused = fmt.Sprintf("%v is no partition of the log of %s", part.p, origin)
			continue
		}
		left[part.p] = false // named twice, it is refused the second time
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			part.refused, errs[i] = continues(ctx, part.p, want)
		})
	}
	wg.Wait()
	l.shelf = newShelf(len(l.lanes))
	l.window.lanes = make([]int, len(l.lanes))
	asks, holds := map[im.Partition]int64{}, map[im.Partition]int64{}
	refused := 0
	for i := range l.parts {
		if errs[i] != nil {
			return im.Errorf(im.CodeUnavailable, "the log of %s cannot be read: %v", origin, errs[i])
		}
		part := &l.parts[i]
		asks[part.p] = part.next
		if part.refused != "" {
			refused++
			r.log.Error("partition refused", "direction", "out", "peer", string(l.peer), "partition", part.p.String(), "reason", part.refused)
			continue
		}
		l.index[part.p] = i
		holds[part.p] = part.next
	}
	l.source.asks(l.peer, asks)
	l.source.holds(l.peer, holds)
	r.log.Info("link opened", "direction", "out", "peer", string(l.peer), "origin", string(origin), "partitions", len(l.parts), "refused", refused)
	return nil
}

// ownLook is what opening a link reads of the own log.
type ownLook struct {
	r      *Replicator
	firsts excerpts // which name the log
	lasts  excerpts // which the receiver has last
}

func (s ownLog) look(ctx context.Context, wants []*wire.LinkPartition) (continues, error) {
	l := ownLook{r: s.r}
	if err := s.r.refreshEnds(ctx); err != nil {
		return nil, err
	}
	_, ends := s.r.ends.snapshot()
	firsts, lasts := map[im.Partition]int64{}, map[im.Partition]int64{}
	for _, want := range wants {
		p := im.Partition{Topic: want.Topic, Number: int(want.Partition)}
		b, ok := ends[p]
		if !ok || b.Start == b.End {
			continue
		}
		firsts[p] = b.Start
		if last := want.Next - 1; want.Checksum != 0 && last > b.Start && last < b.End {
			lasts[p] = last
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.firsts = s.r.excerpt(ctx, firsts, excerptBytes) })
	wg.Go(func() { l.lasts = s.r.excerpt(ctx, lasts, excerptBytes) })
	wg.Wait()
	return l.continues, nil
}

func (l *ownLook) continues(ctx context.Context, p im.Partition, want *wire.LinkPartition) (refused string, err error) {
	r := l.r
	name, err := r.logName(ctx, p, l.firsts)
	if err != nil {
		return "", err
	}
	_, ends := r.ends.snapshot()
	b, ok := ends[p]
	if !ok {
		return fmt.Sprintf("%v does not exist here", p), nil
	}
	refused, compare := Refuses(p, name, b, want)
	if refused != "" || !compare {
		return refused, nil
	}
	e, err := l.record(ctx, p, want.Next-1)
	if err != nil {
		return "", err
	}
	return Parted(p, e, want), nil
}

// Refuses decides, without a look at records, whether a log of that name and those bounds continues what a receiver has.
// The text says why not. compare asks for Parted, with the record before the one that the receiver needs next.
func Refuses(p im.Partition, name im.LogName, b im.Bounds, want *wire.LinkPartition) (refused string, compare bool) {
	switch {
	case name.IsZero():
		return fmt.Sprintf("%v has no record that names the log: run `antipode migrate` in its region", p), false
	case len(want.LogId) > 0 && string(want.LogId) != string(name.ID[:]):
		return fmt.Sprintf("%v: the receiver has a copy of the log %x, this log is %s: it was recreated or mistaken; the region must return under a new epoch",
			p, want.LogId, name), false
	case want.Next < 0:
		return fmt.Sprintf("%v: the receiver asks from %d", p, want.Next), false
	case want.Next > b.End:
		return fmt.Sprintf("%v: the receiver has records up to %d, the log ends at %d: it was truncated; the region must return under a new epoch",
			p, want.Next, b.End), false
	case want.Next < b.Start:
		return fmt.Sprintf("%v: the receiver needs %d, retention has removed everything below %d: run antipode link repair",
			p, want.Next, b.Start), false
	case want.Next == 0:
		return "", false
	case want.Checksum == 0 && len(want.LogId) == 0:
		return fmt.Sprintf("%v: the receiver asks from %d but can name neither its log nor its last record: run antipode link repair", p, want.Next), false
	case want.Checksum == 0: // it has applied the record but its copy no longer holds it
		return "", false
	case want.Next == b.Start: // the record to compare is gone by retention; the names agree, or only the checksum could tell
		if len(want.LogId) == 0 {
			return fmt.Sprintf("%v: the receiver does not name its log, and record %d, to compare by, is gone by retention: run antipode link repair",
				p, want.Next-1), false
		}
		return "", false
	}
	return "", true
}

// Parted compares the last record that a receiver has with the log's own. The text says that they differ.
func Parted(p im.Partition, e *im.Entry, want *wire.LinkPartition) (refused string) {
	if sum := wire.Checksum(e); sum != want.Checksum {
		return fmt.Sprintf("%v: record %d has checksum %016x at the receiver and %016x here: the logs have parted; the region must return under a new epoch",
			p, want.Next-1, want.Checksum, sum)
	}
	return ""
}

// record reads one record of the own log.
func (l *ownLook) record(ctx context.Context, p im.Partition, offset int64) (*im.Entry, error) {
	for _, together := range []excerpts{l.lasts, l.firsts} {
		if entries := together.at(p, offset); len(entries) > 0 && entries[0].Offset == offset {
			return &entries[0], nil
		}
	}
	for _, bytes := range []int{1, maxBatchBytes} { // a broker may return less than one record for a small limit
		entries, err := l.r.read(ctx, p, offset, bytes)
		if err != nil {
			return nil, err
		}
		if len(entries) > 0 && entries[0].Offset == offset {
			return &entries[0], nil
		}
	}
	return nil, fmt.Errorf("%v: record %d cannot be read", p, offset)
}

// nameBytes is how far into a partition its name is looked for: record 0 if retention left it, else a heartbeat.
const nameBytes = 1 << 20

// logName returns the name of a partition of the own log, zero if no record tells it.
func (r *Replicator) logName(ctx context.Context, p im.Partition, together excerpts) (im.LogName, error) {
	_, ends := r.ends.snapshot()
	b, ok := ends[p]
	if !ok || b.Start == b.End {
		return im.LogName{}, nil
	}
	named := func(entries []im.Entry) (im.LogName, bool) {
		for i := range entries {
			h := wire.DecodeShipHead(&entries[i])
			if n, ok := nameOf(&entries[i], &h); ok && n.Origin == r.cfg.Origin {
				r.ends.setName(p, n)
				return n, true
			}
		}
		return im.LogName{}, false
	}
	if n, ok := named(together.at(p, b.Start)); ok {
		return n, nil
	}
	for _, bytes := range []int{1, nameBytes} { // nearly always it is the first record
		entries, err := r.read(ctx, p, b.Start, bytes)
		if err != nil {
			return im.LogName{}, err
		}
		if n, ok := named(entries); ok {
			return n, nil
		}
	}
	return im.LogName{}, nil
}

// nameOf returns the name in a record that has one.
func nameOf(e *im.Entry, h *wire.ShipHead) (im.LogName, bool) {
	switch h.Kind {
	case im.KindLog, im.KindHeartbeat:
		n, err := wire.DecodeLogName(e)
		return n, err == nil
	}
	return im.LogName{}, false
}

// ends is where the own log begins and ends, as of a moment ago, and its names.
type ends struct {
	mu     sync.Mutex
	bounds map[im.Partition]im.Bounds
	names  map[im.Partition]im.LogName
	asked  uint64 // how often
	known  uint64 // the number of the question that bounds answer
}

// snapshot returns maps that are not changed any more.
func (e *ends) snapshot() (map[im.Partition]im.LogName, map[im.Partition]im.Bounds) {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make(map[im.Partition]im.LogName, len(e.names))
	for p, n := range e.names {
		names[p] = n
	}
	return names, e.bounds
}

func (e *ends) setName(p im.Partition, n im.LogName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.names[p] = n
}

// ask numbers a question for bounds.
func (e *ends) ask() (question uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	return e.asked
}

// answer takes the bounds, unless a later question was answered already: ends would go back.
func (e *ends) answer(question uint64, b map[im.Partition]im.Bounds) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if question > e.known {
		e.known, e.bounds = question, b
	}
}

// refreshEnds asks the own Kafka where the own log ends.
func (r *Replicator) refreshEnds(ctx context.Context) error {
	question := r.ends.ask()
	b, err := r.bounds(ctx, r.own)
	if err == nil {
		r.ends.answer(question, b)
	}
	return err
}

// watchEnds keeps the ends fresh, for statuses and for what peers are behind.
func (r *Replicator) watchEnds(ctx context.Context) {
	tick := time.NewTicker(r.cfg.StatusInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.refreshEnds(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("the own log cannot be read", "error", err.Error())
			}
		case <-ctx.Done():
			return
		}
	}
}
