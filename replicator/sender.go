package replicator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	source source
	since  time.Time
	stream wire.LinkSender
	parts  []sendPart
	index  map[im.Partition]int // only of parts that are shipped

	batches  chan outgoing
	notifies chan notify
	opened   atomic.Bool
	status   *time.Timer         // fires when the next status is due
	measured bool                // a status of this link was answered; used by handle alone
	waits    *notify             // taken off notifies, and not sent yet; of write alone
	refusals []*wire.LinkRefusal // that were told last; of write alone
	relays   relaying

	apart    bool     // it carries notifies alone, beside one that ships the log
	version  uint32   // of the protocol, on this link
	packs    bool     // the receiver takes packed batches
	lanes    []string // topics, in the order in which open names them
	shelf    *shelf
	throttle *throttle
	counts   *outCounts
	window   sendWindow
	seeks    struct {
		sync.Mutex
		want      map[int]int64
		roomy     []int              // lanes to read on
		interrupt context.CancelFunc // ends the poll under way
	}
}

// sendPart is one partition of the link. Next is used by the pump alone.
type sendPart struct {
	p       im.Partition
	lane    int
	next    int64 // the next offset to read
	refused string
}

type outgoing struct {
	m    *wire.LinkResponse
	sent func()
}

type notify struct {
	at time.Time
	to im.Region // the peer, or a region that takes the log from it
	ds []im.Delivery
}

// relaying is who takes the log from the peer's copy, as the peer said last.
type relaying struct {
	sync.Mutex
	to []im.Region
}

func (l *sending) relaysTo(region im.Region) bool {
	l.relays.Lock()
	defer l.relays.Unlock()
	return slices.Contains(l.relays.to, region)
}

// Link serves a peer's link to the own log, or to the copy of another's, until ctx ends, the replicator stops, or the link fails. From is the peer's
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
		batches: make(chan outgoing, 1), notifies: make(chan notify, r.cfg.NotifyQueue), status: time.NewTimer(r.cfg.StatusInterval),
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
	if !l.apart {
		if err := l.verify(ctx, open); err != nil {
			return err
		}
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
	known := l.r.peer(l.peer)
	if known == nil {
		return im.Errorf(im.CodeWrongRegion, "region %q is no peer of %s", open.Region, cfg.Region)
	}
	var err error
	if l.source, err = l.r.sourceOf(im.Origin(open.Origin), l.peer); err != nil {
		return err
	}
	if l.version, err = agree(cfg.Region, l.peer, open); err != nil {
		return err
	}
	if l.apart = open.Notifies; l.apart {
		if len(open.Partitions) > 0 {
			return im.Errorf(im.CodeBadRequest, "%d partitions asked for on a link of notifies", len(open.Partitions))
		}
		l.throttle, l.counts = known.throttle, &outCounts{} // the peer's are those of the log
		return nil
	}
	if limit := len(l.source.partitions()); len(open.Partitions) > limit {
		return im.Errorf(im.CodeBadRequest, "%d partitions asked for; the log has %d", len(open.Partitions), limit)
	}
	l.window.open(open)
	l.seeks.want = map[int]int64{}
	l.throttle, l.counts = known.throttle, known.counts
	if l.ships(cfg.Origin) {
		l.packs = open.Packed >= wire.PackedVersion && l.r.deps.Packing != nil
	} else {
		l.counts = &outCounts{} // the peer's are those of the own log
	}
	return nil
}

// ships tells whether the link ships the log of that origin.
func (l *sending) ships(o im.Origin) bool { return l.source.origin() == o }

func (l *sending) run(ctx context.Context, cancel context.CancelCauseFunc, received <-chan *wire.LinkRequest) error {
	l.r.addSending(l, cancel)
	defer l.r.dropSending(l)
	if _, err := l.r.sourceOf(l.source.origin(), l.peer); err != nil { // since it was let in
		return err
	}
	dog := time.AfterFunc(l.r.cfg.LinkTimeout, func() {
		cancel(im.Errorf(im.CodeUnavailable, "the receiver in %s is silent for %v", l.peer, l.r.cfg.LinkTimeout))
	})
	defer dog.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	if !l.apart {
		wg.Go(func() { cancel(l.pump(ctx)) })
		wg.Go(func() { cancel(l.load(ctx)) })
	}
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
		if !l.apart {
			l.source.holds(l.peer, offsets)
		}
		if k.Held.StatusMs != 0 {
			if !l.apart {
				l.relayed(k.Held.Relayed)
			}
			l.r.clocks.observe(l.peer, k.Held.ClockMs, time.UnixMilli(k.Held.StatusMs), l.r.now())
			if !l.measured { // the receiver needs to know how long a round trip takes, to give the window its size
				l.measured = true
				l.status.Reset(0)
			}
		}
	case *wire.LinkRequestCredit:
		l.window.credit(k.Credit)
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

// relayed takes what the peer says of those who take the log from its copy. They hold no more than the peer does.
func (l *sending) relayed(all []*wire.LinkRelayed) {
	if !l.ships(l.r.cfg.Origin) {
		return
	}
	to := make([]im.Region, 0, len(all))
	most := l.r.held.of(l.peer)
	for _, m := range all {
		region := im.Region(m.Region)
		if region == l.peer || l.r.peer(region) == nil {
			continue
		}
		to = append(to, region)
		offsets := make(map[im.Partition]int64, len(m.Offsets))
		for _, o := range m.Offsets {
			if int(o.Partition) < len(l.parts) && l.parts[o.Partition].refused == "" {
				p := l.parts[o.Partition].p
				offsets[p] = min(o.Offset, most[p])
			}
		}
		l.r.held.report(region, offsets)
	}
	l.relays.Lock()
	l.relays.to = to
	l.relays.Unlock()
}

// write sends statuses, notifies and batches, in this order when several wait: a notify is worth something only while it
// is early. Notifies come here where the receiver opened no link for them.
func (l *sending) write(ctx context.Context) error {
	if err := l.stream.Send(l.openedMessage()); err != nil {
		return fmt.Errorf("send opened: %w", err)
	}
	l.opened.Store(true)
	if !l.apart {
		l.source.linked(l.peer, +1)
		defer l.source.linked(l.peer, -1)
	}
	defer l.status.Stop()
	l.status.Reset(0)
	for {
		var out outgoing
		if n := l.waits; n != nil {
			select {
			case <-l.status.C: // without statuses both ends give the link up
				out.m = l.statusMessage()
			default:
				l.waits = nil
				out.m = l.notifyMessage(*n)
			}
			if out.m != nil {
				if err := l.send(ctx, out); err != nil {
					return err
				}
			}
			continue
		}
		select {
		case <-l.status.C:
			out.m = l.statusMessage()
		case n := <-l.notifies:
			out.m = l.notifyMessage(n)
		default:
			select {
			case <-l.status.C:
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
		if err := l.send(ctx, out); err != nil {
			return err
		}
	}
}

func (l *sending) send(ctx context.Context, out outgoing) error {
	if err := l.stream.Send(out.m); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("send: %w", err)
	}
	if out.sent != nil {
		out.sent()
	}
	return nil
}

func (l *sending) openedMessage() *wire.LinkResponse {
	o := &wire.LinkOpened{Region: string(l.r.cfg.Region), Notifies: true, Partitions: make([]*wire.LinkPartitionState, len(l.parts))}
	news := l.news() // before the ends, which may be newer than it says, not older
	names, ends := l.source.state()
	for i := range l.parts {
		p := &l.parts[i]
		s := &wire.LinkPartitionState{Refused: p.refused, Start: ends[p.p].Start, End: ends[p.p].End}
		if n, ok := names[p.p]; ok {
			s.LogId = n.ID[:]
		}
		o.Partitions[i] = s
	}
	o.ClockMs, o.Version, o.News = l.r.now().UnixMilli(), l.version, news
	return &wire.LinkResponse{Kind: &wire.LinkResponseOpened{Opened: o}}
}

// news leaves refusals out that the receiver knows.
func (l *sending) news() *wire.LinkNews {
	n := l.source.news(l.parts)
	if n == nil {
		return nil
	}
	now := n.Refusals.GetPartitions()
	same := slices.EqualFunc(now, l.refusals, func(a, b *wire.LinkRefusal) bool { return a.Partition == b.Partition && a.Reason == b.Reason })
	if l.refusals = now; same {
		n.Refusals = nil
	}
	return n
}

// statusMessage is the status that is due; the next one is due StatusInterval later.
func (l *sending) statusMessage() *wire.LinkResponse {
	l.status.Reset(l.r.cfg.StatusInterval)
	news := l.news() // before the ends, as in openedMessage
	_, ends := l.source.state()
	s := &wire.LinkStatus{
		ClockMs: l.r.now().UnixMilli(), RoundTripUs: l.r.clocks.trip(l.peer).Microseconds(),
		Ends: make([]*wire.LinkOffset, 0, len(l.index)), News: news,
	}
	for p, i := range l.index {
		if b, ok := ends[p]; ok {
			s.Ends = append(s.Ends, &wire.LinkOffset{Partition: uint32(i), Offset: b.End})
		}
	}
	return &wire.LinkResponse{Kind: &wire.LinkResponseStatus{Status: s}}
}

// notifyDeliveries is how many deliveries one message carries, about.
const notifyDeliveries = 256

// notifyMessage puts a notify and those that wait behind it for the same region into one message. Those that waited too long behind a
// congested stream are dropped: by now the log brings them. It returns nil if nothing is left.
func (l *sending) notifyMessage(n notify) *wire.LinkResponse {
	var ds []im.Delivery
	to := n.to
	congested := l.throttle.notify(0) > l.r.cfg.NotifyAge // there are more than the cap allows
	for more := true; more; {
		if congested || l.r.now().Sub(n.at) > l.r.cfg.NotifyAge {
			l.r.dropped(n.to, len(n.ds))
		} else {
			ds = append(ds, n.ds...)
		}
		more = len(ds) < notifyDeliveries
		if more {
			select {
			case next := <-l.notifies:
				if n = next; n.to != to {
					l.waits, more = &next, false
				}
			default:
				more = false
			}
		}
	}
	if len(ds) == 0 {
		return nil
	}
	bytes := 0
	for i := range ds {
		bytes += len(ds[i].Body)
	}
	l.throttle.notify(bytes)
	return &wire.LinkResponse{Kind: &wire.LinkResponseNotify{Notify: wire.NotifyOf(l.source.origin().Region(), to, ds)}}
}

// Notify puts deliveries on the link to a peer, or on that to the region from whose copy the peer takes the own log. It never
// blocks; when there is no link or its queue is full, they are dropped, counted, and the error says so.
func (r *Replicator) Notify(ctx context.Context, to im.Region, ds []im.Delivery) error {
	if r.peer(to) == nil {
		return im.Errorf(im.CodeBadRequest, "notify: region %q is no peer of %s", to, r.cfg.Region)
	}
	l := r.carrier(to, r.cfg.Origin)
	if l == nil {
		if hub := r.relayTo(to); hub != nil {
			l = r.carrier(hub.peer, r.cfg.Origin)
		}
	}
	if l == nil {
		r.dropped(to, len(ds))
		return im.Errorf(im.CodeUnavailable, "notify: no link to %s is open", to)
	}
	return l.notify(to, ds)
}

// pass passes deliveries on that came over the link from an origin, for a region that takes its log from the copy here. It has no
// answer: notifies may be lost.
func (r *Replicator) pass(o im.Origin, to im.Region, ds []im.Delivery) {
	l := r.carrier(to, o)
	if l == nil {
		r.dropped(to, len(ds))
		return
	}
	_ = l.notify(to, ds) // counts what it drops
}

func (l *sending) notify(to im.Region, ds []im.Delivery) error {
	select {
	case l.notifies <- notify{l.r.now(), to, ds}:
		return nil
	default:
		l.r.dropped(to, len(ds))
		return im.Errorf(im.CodeOverloaded, "notify: the link to %s is congested", l.peer)
	}
}

func (r *Replicator) dropped(peer im.Region, n int) {
	if p := r.peer(peer); p != nil {
		p.counts.dropped.Add(uint64(n))
	}
	r.metrics.notifyDropped(peer, n)
}

// endpoint is who takes which log, or the notifies beside it.
type endpoint struct {
	peer   im.Region
	origin im.Origin
	apart  bool // the notifies
}

func (l *sending) endpoint() endpoint { return endpoint{l.peer, l.source.origin(), l.apart} }

// addSending counts a link in; the oldest of too many gives way.
func (r *Replicator) addSending(l *sending, cancel context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peer(l.peer) == nil { // since it was let in
		cancel(errNoPeer)
	}
	links := append(r.sendings[l.endpoint()], openSending{l, cancel})
	if len(links) > maxLinksPerPeer {
		links[0].cancel(errors.New("newer links of the same peer took its place"))
		links = links[1:]
	}
	r.sendings[l.endpoint()] = links
	l.counts.since = l.since
}

func (r *Replicator) dropSending(l *sending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := l.endpoint()
	r.sendings[at] = slices.DeleteFunc(slices.Clone(r.sendings[at]), func(o openSending) bool { return o.sending == l })
	if len(r.sendings[at]) == 0 {
		delete(r.sendings, at)
		l.counts.since = r.now()
	}
}

// carrier returns the link on which notifies go to a peer that takes an origin's log: one of their own if there is one, or that of
// the log; nil if there is neither.
func (r *Replicator) carrier(peer im.Region, o im.Origin) *sending {
	if l := r.newest(endpoint{peer, o, true}); l != nil {
		return l
	}
	return r.newestSending(peer, o)
}

// newestSending returns the link over which a peer takes an origin's log that opened last, or nil.
func (r *Replicator) newestSending(peer im.Region, o im.Origin) *sending {
	return r.newest(endpoint{peer, o, false})
}

func (r *Replicator) newest(at endpoint) *sending {
	r.mu.Lock()
	defer r.mu.Unlock()
	links := r.sendings[at]
	for i := len(links) - 1; i >= 0; i-- {
		if links[i].sending.opened.Load() {
			return links[i].sending
		}
	}
	return nil
}

// relayTo returns the link to a region from whose copy another takes the own log; nil if there is none.
func (r *Replicator) relayTo(region im.Region) *sending {
	for _, p := range r.all() {
		if l := r.newestSending(p.Region, r.cfg.Origin); l != nil && l.relaysTo(region) {
			return l
		}
	}
	return nil
}

// endRelays ends the links over which others take an origin's log from the copy here.
func (r *Replicator) endRelays(o im.Origin, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at, links := range r.sendings {
		if at.origin == o {
			for _, l := range links {
				l.cancel(why)
			}
		}
	}
}
