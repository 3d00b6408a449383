package replicator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// maxLinksPerPeer bounds the links of one peer: two while one replicator takes over from another, and one that is dead
// but not yet known to be.
const maxLinksPerPeer = 4

// sending is the sender's end of one open link.
type sending struct {
	r      *Replicator
	peer   im.Region
	since  time.Time
	stream wire.LinkSender
	parts  []sendPart
	index  map[im.Partition]int // only of parts that are shipped

	batches  chan outgoing
	notifies chan notify
	opened   atomic.Bool

	window struct {
		sync.Mutex
		free int // may be negative: one batch larger than the window is let through alone
		size int
		more chan struct{} // capacity 1
	}
	seeks struct {
		sync.Mutex
		want      map[int]int64
		interrupt context.CancelFunc // ends the poll under way
	}
}

// sendPart is one partition of the link. Next is used by the pump alone.
type sendPart struct {
	p       im.Partition
	next    int64 // the next offset to ship
	refused string
}

type outgoing struct {
	m    *wire.LinkResponse
	sent func()
}

type notify struct {
	at time.Time
	ds []im.Delivery
}

// Link serves a peer's link to the own log until ctx ends, the replicator stops, or the link fails. From is the peer's
// region as its certificate says, or empty where links are not authenticated.
func (r *Replicator) Link(ctx context.Context, from im.Region, s wire.LinkSender) error {
	if !r.enter() {
		return im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	defer r.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.running(), func() {
		cancel(im.Errorf(im.CodeUnavailable, "the replicator of %s is stopping", r.cfg.Region))
	})()

	l := &sending{
		r: r, stream: s, since: r.now(),
		batches: make(chan outgoing, 1), notifies: make(chan notify, r.cfg.NotifyQueue),
	}
	// Only the end of this call ends a Recv, so it has a goroutine of its own that outlives the call by a moment.
	received := make(chan *wire.LinkRequest)
	r.linger.Go(func() {
		for {
			m, err := s.Recv()
			if err != nil {
				cancel(fmt.Errorf("the link from %s: %w", from, err))
				return
			}
			select {
			case received <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	var first *wire.LinkRequest
	select {
	case first = <-received:
	case <-time.After(r.cfg.LinkTimeout):
		return im.Errorf(im.CodeBadRequest, "no open within %v", r.cfg.LinkTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	open := first.GetOpen()
	if open == nil {
		return im.Errorf(im.CodeBadRequest, "the first message of a link must be open")
	}
	if stamp, lost := r.lostTo(im.Region(open.Region), im.Origin(open.Own)); lost && (from == "" || from == im.Region(open.Region)) {
		if err := s.Send(&wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: &wire.LinkOpened{
			Region: string(r.cfg.Region), Lost: uint64(stamp),
		}}}); err != nil {
			return err
		}
		return im.Errorf(im.CodeWrongRegion, "origin %q was declared lost: it must return under its next epoch", open.Own)
	}
	if err := l.accept(from, open); err != nil {
		r.log.Error("link refused", "peer", string(from), "reason", err.Error())
		return err
	}
	if err := l.verify(ctx, open); err != nil {
		return err
	}
	return l.run(ctx, cancel, received)
}

// accept checks who asks for what.
func (l *sending) accept(from im.Region, open *wire.LinkOpen) error {
	cfg := &l.r.cfg
	l.peer = im.Region(open.Region)
	if from != "" && l.peer != from {
		return im.Errorf(im.CodeBadToken, "a link opened by region %s with a certificate of region %s", open.Region, from)
	}
	if _, known := l.r.origins[l.peer]; !known {
		return im.Errorf(im.CodeWrongRegion, "region %q is no peer of %s", open.Region, cfg.Region)
	}
	if im.Origin(open.Origin) != cfg.Origin {
		return im.Errorf(im.CodeWrongRegion, "the log asked for is %q; this replicator sends %s", open.Origin, cfg.Origin)
	}
	if open.Version != wire.LinkVersion {
		return im.Errorf(im.CodeBadRequest, "link protocol version %d; this build speaks %d", open.Version, wire.LinkVersion)
	}
	if limit := len(cfg.partitions(cfg.Origin)); len(open.Partitions) > limit {
		return im.Errorf(im.CodeBadRequest, "%d partitions asked for; the log has %d", len(open.Partitions), limit)
	}
	l.window.size = int(min(max(open.WindowBytes, 64<<10), 256<<20))
	l.window.free = l.window.size
	l.window.more = make(chan struct{}, 1)
	l.seeks.want = map[int]int64{}
	return nil
}

func (l *sending) run(ctx context.Context, cancel context.CancelCauseFunc, received <-chan *wire.LinkRequest) error {
	l.r.addSending(l, cancel)
	defer l.r.dropSending(l)
	dog := time.AfterFunc(l.r.cfg.LinkTimeout, func() {
		cancel(im.Errorf(im.CodeUnavailable, "the receiver in %s is silent for %v", l.peer, l.r.cfg.LinkTimeout))
	})
	defer dog.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { cancel(l.pump(ctx)) })
	l.r.linger.Go(func() { cancel(l.write(ctx)) }) // a Send that blocks ends after this call only
	for {
		select {
		case m := <-received:
			dog.Reset(l.r.cfg.LinkTimeout)
			if err := l.handle(m); err != nil {
				cancel(err)
			}
		case <-ctx.Done():
			cause := context.Cause(ctx)
			l.r.log.Info("link closed", "direction", "out", "peer", string(l.peer), "reason", cause.Error())
			return cause
		}
	}
}

func (l *sending) handle(m *wire.LinkRequest) error {
	switch k := m.Kind.(type) {
	case *wire.LinkRequestHeld:
		offsets := make(map[im.Partition]int64, len(k.Held.Offsets))
		for _, o := range k.Held.Offsets {
			if int(o.Partition) >= len(l.parts) {
				return im.Errorf(im.CodeBadRequest, "held names partition %d of %d", o.Partition, len(l.parts))
			}
			if part := &l.parts[o.Partition]; part.refused == "" {
				offsets[part.p] = o.Offset
			}
		}
		l.r.held.report(l.peer, offsets)
		if k.Held.StatusMs != 0 {
			l.r.clocks.observe(l.peer, k.Held.ClockMs, time.UnixMilli(k.Held.StatusMs), l.r.now())
		}
	case *wire.LinkRequestCredit:
		l.window.Lock()
		l.window.free = min(l.window.free+int(min(k.Credit.Bytes, 1<<31)), l.window.size)
		l.window.Unlock()
		wake(l.window.more)
	case *wire.LinkRequestSeek:
		o := k.Seek.Offset
		if o == nil || int(o.Partition) >= len(l.parts) || l.parts[o.Partition].refused != "" {
			return im.Errorf(im.CodeBadRequest, "seek names no partition of the link")
		}
		l.seeks.Lock()
		l.seeks.want[int(o.Partition)] = o.Offset
		if l.seeks.interrupt != nil {
			l.seeks.interrupt()
		}
		l.seeks.Unlock()
	default:
		return im.Errorf(im.CodeBadRequest, "a link has one open, and then held, credit and seek")
	}
	return nil
}

// reserve waits until the window has room for a batch. A batch larger than the window goes when nothing else is under
// way.
func (l *sending) reserve(ctx context.Context, bytes int) error {
	for {
		l.window.Lock()
		if l.window.free >= bytes || l.window.free == l.window.size {
			l.window.free -= bytes
			l.window.Unlock()
			return nil
		}
		l.window.Unlock()
		select {
		case <-l.window.more:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pump reads the log and packs batches, as the window allows.
func (l *sending) pump(ctx context.Context) error {
	from := make(map[im.Partition]int64, len(l.index))
	for p, i := range l.index {
		from[p] = l.parts[i].next
	}
	reader := l.r.deps.NewReader(from)
	defer reader.Close()
	wait := l.r.backoff()
	for {
		batches, err := l.poll(ctx, reader)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := l.ship(ctx, batches); err != nil {
			return err
		}
		if err != nil {
			if err := l.readable(ctx, err); err != nil {
				return err
			}
			l.r.log.Warn("the own log cannot be read", "peer", string(l.peer), "error", err.Error())
			for p, i := range l.index { // a partition that the reader gave up begins again
				if next := l.parts[i].next; next >= 0 {
					reader.Seek(p, next)
				}
			}
			if !pause(ctx, wait.NextBackOff()) {
				return context.Cause(ctx)
			}
		} else {
			wait.Reset()
		}
		l.seek(reader)
	}
}

// poll reads on until something is there or a seek is asked for.
func (l *sending) poll(ctx context.Context, reader Reader) ([]im.Batch, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.seeks.Lock()
	if len(l.seeks.want) > 0 {
		cancel()
	}
	l.seeks.interrupt = cancel
	l.seeks.Unlock()
	batches, err := reader.Poll(ctx)
	if ctx.Err() != nil { // what it says about being interrupted is no error
		err = nil
	}
	return batches, err
}

// seek moves the reader to where the receiver asked to go on.
func (l *sending) seek(reader Reader) {
	l.seeks.Lock()
	want := l.seeks.want
	l.seeks.want = map[int]int64{}
	l.seeks.Unlock()
	for i, offset := range want {
		part := &l.parts[i]
		if offset < 0 {
			reader.Drop(part.p)
			part.next = -1 // nothing that was read before is shipped
			continue
		}
		part.next = offset
		reader.Seek(part.p, offset)
		l.r.metrics.seeks(l.peer)
	}
}

// readable tells whether the partitions can be read on after an error: not when retention or a truncation passed one.
// Then the link ends; when it opens again, that partition is refused with its reason.
func (l *sending) readable(ctx context.Context, cause error) error {
	bounds, err := l.r.bounds(ctx, l.r.own)
	if err != nil {
		return nil // Kafka is away: try again
	}
	for p, i := range l.index {
		b, ok := bounds[p]
		if next := l.parts[i].next; ok && next >= 0 && (next < b.Start || next > b.End) {
			return im.Errorf(im.CodeUnavailable, "%v: offset %d is outside of the log, %d to %d: %v", p, next, b.Start, b.End, cause)
		}
	}
	return nil
}

// cargo is a message that is being packed.
type cargo struct {
	batches []*wire.LinkBatch
	spans   []trace.Span
	records int
	bytes   int // uncompressed
}

// ship packs what a poll brought into as few messages as BatchBytes allows.
func (l *sending) ship(ctx context.Context, polled []im.Batch) error {
	var c cargo
	for _, b := range polled {
		i, ok := l.index[b.Partition]
		if !ok || l.parts[i].next < 0 {
			continue
		}
		part := &l.parts[i]
		entries := b.Entries
		for len(entries) > 0 && entries[0].Offset < part.next {
			entries = entries[1:]
		}
		for len(entries) > 0 {
			n, err := l.pack(&c, i, entries)
			if err != nil {
				return err
			}
			entries = entries[n:]
			if len(entries) > 0 { // the message is full
				if err := l.dispatch(ctx, c); err != nil {
					return err
				}
				c = cargo{}
			}
		}
	}
	return l.dispatch(ctx, c)
}

// pack adds as many of a partition's entries to a message as have room in it, and at least one if it is empty.
func (l *sending) pack(c *cargo, i int, entries []im.Entry) (n int, err error) {
	part, room := &l.parts[i], l.r.cfg.BatchBytes-c.bytes
	var raw []byte
	for n < len(entries) {
		size := wire.LinkEntrySize(&entries[n])
		if len(raw)+size > room && c.records+n > 0 {
			break
		}
		if entries[n].Offset != part.next+int64(n) {
			return 0, im.Errorf(im.CodeInternal, "%v: the own log has a hole: offset %d follows %d", part.p, entries[n].Offset, part.next+int64(n)-1)
		}
		if raw == nil {
			raw = make([]byte, 0, max(size, min(room, size*len(entries))))
		}
		raw = wire.AppendLinkEntry(raw, &entries[n])
		c.spans = l.r.startShip(c.spans, &entries[n], l.peer, true)
		n++
	}
	if n > 0 {
		c.batches = append(c.batches, l.r.codec.batch(i, part.next, n, raw))
		c.records += n
		c.bytes += len(raw)
		part.next += int64(n)
	}
	return n, nil
}

// dispatch hands a message to the writer once the window has room for it.
func (l *sending) dispatch(ctx context.Context, c cargo) error {
	if c.records == 0 {
		return nil
	}
	if err := l.reserve(ctx, c.bytes); err != nil {
		return err
	}
	m := &wire.LinkResponse{Kind: &wire.LinkResponseBatches{Batches: &wire.LinkBatches{Batches: c.batches}}}
	if len(c.batches) == 1 {
		m.Kind = &wire.LinkResponseBatch{Batch: c.batches[0]}
	}
	out := outgoing{m, func() {
		endAll(c.spans, nil)
		l.r.metrics.sent(l.peer, c.records, c.bytes)
		st := l.r.out(l.peer)
		st.records.Add(uint64(c.records))
		st.bytes.Add(uint64(c.bytes))
	}}
	select {
	case l.batches <- out:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write sends statuses, notifies and batches, in this order when several wait: a notify is worth something only while it
// is early.
func (l *sending) write(ctx context.Context) error {
	if err := l.stream.Send(l.openedMessage()); err != nil {
		return fmt.Errorf("send opened: %w", err)
	}
	l.opened.Store(true)
	l.r.held.link(l.peer, +1)
	defer l.r.held.link(l.peer, -1)
	tick := time.NewTicker(l.r.cfg.StatusInterval)
	defer tick.Stop()
	for {
		var out outgoing
		select {
		case <-tick.C:
			out.m = l.statusMessage()
		case n := <-l.notifies:
			out.m = l.notifyMessage(n)
		default:
			select {
			case <-tick.C:
				out.m = l.statusMessage()
			case n := <-l.notifies:
				out.m = l.notifyMessage(n)
			case out = <-l.batches:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if out.m == nil {
			continue
		}
		if err := l.stream.Send(out.m); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("send: %w", err)
		}
		if out.sent != nil {
			out.sent()
		}
	}
}

func (l *sending) openedMessage() *wire.LinkResponse {
	o := &wire.LinkOpened{Region: string(l.r.cfg.Region), Partitions: make([]*wire.LinkPartitionState, len(l.parts))}
	names, ends := l.r.ends.snapshot()
	for i := range l.parts {
		p := &l.parts[i]
		s := &wire.LinkPartitionState{Refused: p.refused, Start: ends[p.p].Start, End: ends[p.p].End}
		if n, ok := names[p.p]; ok {
			s.LogId = n.ID[:]
		}
		o.Partitions[i] = s
	}
	o.ClockMs = l.r.now().UnixMilli()
	return &wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: o}}
}

func (l *sending) statusMessage() *wire.LinkResponse {
	_, ends := l.r.ends.snapshot()
	s := &wire.LinkStatus{ClockMs: l.r.now().UnixMilli(), Ends: make([]*wire.LinkOffset, 0, len(l.index))}
	for p, i := range l.index {
		if b, ok := ends[p]; ok {
			s.Ends = append(s.Ends, &wire.LinkOffset{Partition: uint32(i), Offset: b.End})
		}
	}
	return &wire.LinkResponse{Kind: &wire.LinkResponseStatus{Status: s}}
}

// notifyDeliveries is how many deliveries one message carries, about.
const notifyDeliveries = 256

// notifyMessage puts a notify and those that wait behind it into one message. Those that waited too long behind a
// congested stream are dropped: by now the log brings them. It returns nil if nothing is left.
func (l *sending) notifyMessage(n notify) *wire.LinkResponse {
	var ds []im.Delivery
	for more := true; more; {
		if l.r.now().Sub(n.at) > l.r.cfg.NotifyAge {
			l.r.dropped(l.peer, len(n.ds))
		} else {
			ds = append(ds, n.ds...)
		}
		more = len(ds) < notifyDeliveries
		if more {
			select {
			case n = <-l.notifies:
			default:
				more = false
			}
		}
	}
	if len(ds) == 0 {
		return nil
	}
	return &wire.LinkResponse{Kind: &wire.LinkResponseNotify{Notify: wire.NotifyOf(l.r.cfg.Region, l.peer, ds)}}
}

// Notify puts deliveries on the link to a peer. It never blocks; when the link is closed or its queue is full, they are
// dropped, counted, and the error says so.
func (r *Replicator) Notify(ctx context.Context, to im.Region, ds []im.Delivery) error {
	if _, known := r.origins[to]; !known {
		return im.Errorf(im.CodeBadRequest, "notify: region %q is no peer of %s", to, r.cfg.Region)
	}
	l := r.newestSending(to)
	if l == nil {
		r.dropped(to, len(ds))
		return im.Errorf(im.CodeUnavailable, "notify: no link to %s is open", to)
	}
	select {
	case l.notifies <- notify{r.now(), ds}:
		return nil
	default:
		r.dropped(to, len(ds))
		return im.Errorf(im.CodeOverloaded, "notify: the link to %s is congested", to)
	}
}

func (r *Replicator) dropped(peer im.Region, n int) {
	r.out(peer).dropped.Add(uint64(n))
	r.metrics.notifyDropped(peer, n)
}

// addSending counts a link in; the oldest of too many gives way.
func (r *Replicator) addSending(l *sending, cancel context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	links := append(r.sendings[l.peer], openSending{l, cancel})
	if len(links) > maxLinksPerPeer {
		links[0].cancel(errors.New("newer links of the same peer took its place"))
		links = links[1:]
	}
	r.sendings[l.peer] = links
	r.outs[l.peer].since = l.since
}

func (r *Replicator) dropSending(l *sending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.sendings[l.peer] {
		if o.sending == l {
			r.sendings[l.peer] = append(r.sendings[l.peer][:i:i], r.sendings[l.peer][i+1:]...)
			break
		}
	}
	if len(r.sendings[l.peer]) == 0 {
		r.outs[l.peer].since = r.now()
	}
}

// newestSending returns the link to a peer that opened last, or nil.
func (r *Replicator) newestSending(peer im.Region) *sending {
	r.mu.Lock()
	defer r.mu.Unlock()
	links := r.sendings[peer]
	for i := len(links) - 1; i >= 0; i-- {
		if links[i].sending.opened.Load() {
			return links[i].sending
		}
	}
	return nil
}
