package replicator

import (
	"cmp"
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

// firstWindow is how many bytes may be under way before it is known how long a round trip takes.
const firstWindow = 8 << 20

// recheckRefused is how often a link that has refused partitions is opened anew to see whether the reason is gone.
const recheckRefused = time.Minute

// receiving is the receiver's end of the link to one peer, over all its sessions.
type receiving struct {
	r     *Replicator
	peer  Peer
	parts []*part
	index map[im.Partition]*part

	topics int          // how many there are
	beyond atomic.Int64 // how far the clock of the origin's region is ahead, by what a region in between says; nanoseconds
	relays relays       // who takes the log from the copies

	inbox    chan []im.Delivery // notifies for the own router
	appended atomic.Uint64
	bytes    atomic.Uint64
	came     atomic.Uint64 // records that these bytes were, repeats included

	mu    sync.Mutex          // taken before that of a part
	moved chan struct{}       // closed when the read-back made progress
	moves map[*part]placement // where the read-back is to go on
	nudge context.CancelFunc  // ends the poll of the read-back under way
	open  bool
	since time.Time
	err   string
	opens uint64
	heard time.Time     // when something came over the last link that was opened
	told  statusReading // the last one
	now   *session      // that is open; nil between sessions
	ways  *Ways

	lost lost
}

// statusReading is what was heard last of the origin's region, from itself or from one that has a copy of its log.
type statusReading struct {
	at    time.Time // own clock, when it came from there
	clock time.Time // the origin's region's; zero if it is not known
	via   im.Region // who said so, if not the origin's region
}

func newReceiving(r *Replicator, peer Peer) *receiving {
	c := &receiving{
		r: r, peer: peer, index: map[im.Partition]*part{}, inbox: make(chan []im.Delivery, r.cfg.NotifyQueue),
		lost:  lost{raised: make(chan struct{})},
		moved: make(chan struct{}), moves: map[*part]placement{}, since: r.now(), err: "not opened yet",
		ways: r.cfg.ways(peer.Region, r.now()),
	}
	for i, p := range r.cfg.partitions(peer.Origin) {
		if i > 0 && p.Topic != c.parts[i-1].p.Topic {
			c.topics++
		}
		part := &part{c: c, i: i, p: p, topic: c.topics, expect: -1, marked: -1, ready: make(chan struct{}, 1)}
		c.parts = append(c.parts, part)
		c.index[p] = part
	}
	c.topics++
	return c
}

// run keeps the link open until ctx ends.
func (c *receiving) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.deliver(ctx) })
	wg.Go(func() { c.readBack(ctx) })
	wait := c.r.backoff()
	for {
		began := time.Now()
		via := c.via()
		if via != "" { // one hop: so no circle of regions can wait for each other
			c.r.endRelays(c.peer.Origin, im.Errorf(im.CodeUnavailable, "region %s takes the log of %s from %s itself now", c.r.cfg.Region, c.peer.Origin, via))
		}
		err := c.session(ctx, via)
		if ctx.Err() != nil {
			c.closed("stopped")
			return
		}
		c.closed(err.Error())
		if errors.Is(err, errFirstWay) { // it is known to work, and nothing else is awaited
			wait.Reset()
			c.r.log.Info("link closed", "direction", "in", "peer", string(c.peer.Region), "via", string(via), "reason", err.Error())
			continue
		}
		if c.isLost() {
			c.r.log.Error("link closed for good", "direction", "in", "peer", string(c.peer.Region), "reason", err.Error())
			<-ctx.Done()
			return
		}
		if time.Since(began) > 2*c.r.cfg.BackoffMax { // it worked for a while
			wait.Reset()
		}
		d := wait.NextBackOff()
		c.r.log.Warn("link closed", "direction", "in", "peer", string(c.peer.Region), "via", string(via), "again_in", d, "reason", err.Error())
		if !pause(ctx, d) {
			return
		}
	}
}

func (c *receiving) closed(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.r.now()
	heard := now
	if c.open {
		c.since = now
		// A replicator that was stopped itself for longer than a link may be silent knows nothing of that time.
		heard = slices.MaxFunc([]time.Time{c.heard, now.Add(-c.r.cfg.LinkTimeout)}, time.Time.Compare)
		if of := c.told.at.Add(heard.Sub(c.heard)); c.told.via != "" && of.Before(heard) { // the region in between was heard, not the origin
			heard = of
		}
	}
	c.open, c.err = false, reason
	c.ways.Closed(heard, now)
}

// session is one open link.
type session struct {
	c      *receiving
	sender im.Region // the origin's, or one that has a copy
	stream wire.LinkReceiver
	fail   context.CancelCauseFunc

	flights sync.WaitGroup // appends that were started

	mu      sync.Mutex
	taken   int      // bytes received and not yet given back
	credits int      // bytes to give back
	topics  []uint64 // the same by topic
	window  int      // how much the sender may have under way
	more    int      // by how much that has grown since it was told
	meter   meter
	trip    time.Duration // as the sender measured it; 0: not known yet
	status  int64         // clock of a status that is to be answered, so that the sender hears that somebody listens; 0: none
	seeks   map[*part]int64
	order   []*part // of seeks
	dirty   chan struct{}
}

// session opens a link over a way, the origin's region if via is empty, and works it until it fails.
func (c *receiving) session(ctx context.Context, via im.Region) error {
	sender := cmp.Or(via, c.peer.Region)
	ahead := c.dialAhead(ctx, sender)
	defer ahead.leave()
	if err := c.settle(ctx, c.parts); err != nil {
		return fmt.Errorf("the copies of %s cannot be read: %w", c.peer.Origin, err)
	}
	if c.isLost() {
		return c.errLost()
	}
	if c.r.inherited.has(c.peer.Origin) { // and more of it must not come here than counts
		return im.Errorf(im.CodeWrongRegion, "origin %s was declared lost, and what counts of its log is taken from other regions", c.peer.Origin)
	}
	l, err := ahead.take()
	if err != nil {
		return err
	}
	defer c.hangUp(l)
	ctx, cancel := l.ctx, l.fail

	defer func() {
		for _, p := range c.parts {
			p.stop()
		}
	}()
	if err := c.recall(ctx); err != nil {
		return fmt.Errorf("the copies of %s cannot be read: %w", c.peer.Origin, err)
	}
	m, err := l.ask(c.openMessage())
	if err != nil {
		return err
	}
	s := &session{
		c: c, sender: sender, stream: l.stream, fail: cancel, seeks: map[*part]int64{}, dirty: make(chan struct{}, 1),
		window: min(firstWindow, c.r.cfg.WindowBytes), topics: make([]uint64, c.topics),
	}
	good, err := c.opened(m, sender)
	if err != nil {
		return err
	}
	silent, err := c.overtaken(ctx)
	if err != nil {
		return err
	}
	good = s.begin(good)
	defer s.end()
	defer s.flights.Wait() // once nothing starts any
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	for _, p := range good {
		wg.Go(func() { p.appender(ctx, s) })
	}
	wg.Go(func() { s.tell(ctx) })
	wg.Go(func() { c.watchWay(ctx, cancel) })
	if m.GetOpened().GetNotifies() {
		wg.Go(func() { s.notifies(ctx) })
	}
	wg.Go(func() {
		select {
		case <-c.lost.raised:
			cancel(c.errLost())
		case <-ctx.Done():
		}
	})
	if len(good) < len(c.parts) {
		soon := recheckRefused
		if silent {
			soon = min(soon, c.r.cfg.BackoffMax)
		}
		recheck := time.AfterFunc(soon, func() {
			cancel(im.Errorf(im.CodeUnavailable, "opening the link anew to see whether refused partitions are shipped now"))
		})
		defer recheck.Stop()
	}
	for {
		m, err := l.recv()
		if err != nil {
			return err
		}
		if err := s.handle(ctx, m); err != nil {
			return err
		}
	}
}

func (c *receiving) openMessage() *wire.LinkRequest {
	o := &wire.LinkOpen{
		Region: string(c.r.cfg.Region), Origin: string(c.peer.Origin), Own: string(c.r.cfg.Origin),
		Version: wire.LinkVersions().Oldest, Newest: wire.LinkVersions().Newest,
		WindowBytes: uint64(c.r.cfg.WindowBytes), FirstWindowBytes: uint64(min(firstWindow, c.r.cfg.WindowBytes)),
		Partitions: make([]*wire.LinkPartition, len(c.parts)),
	}
	if c.r.deps.Packing != nil {
		o.Packed = wire.PackedVersion
	}
	for i, p := range c.parts {
		p.mu.Lock()
		p.startOver()
		p.running, p.busy = true, true // until its appender has looked
		l := &wire.LinkPartition{
			Topic: p.p.Topic, Partition: uint32(p.p.Number), Next: p.next, Generation: p.follower.Generation,
		}
		if !p.name.IsZero() {
			l.LogId = p.name.ID[:]
		}
		if p.last.summed && p.last.offset == p.next-1 {
			l.Checksum = p.last.checksum
		}
		p.sentHeld = p.next
		p.mu.Unlock()
		o.Partitions[i] = l
	}
	return &wire.LinkRequest{Kind: &wire.LinkRequestOpen{Open: o}}
}

// opened takes the sender's answer and returns the partitions that are shipped.
func (c *receiving) opened(m *wire.LinkResponse, sender im.Region) ([]*part, error) {
	o := m.GetOpened()
	if o.GetLost() != 0 {
		c.r.declareLost(sender, im.Stamp(o.Lost))
		return nil, im.Errorf(im.CodeWrongRegion, "%s says that origin %s was declared lost", sender, c.r.cfg.Origin)
	}
	if o == nil || len(o.Partitions) != len(c.parts) {
		return nil, im.Errorf(im.CodeBadRequest, "%s did not answer open with opened", sender)
	}
	if im.Region(o.Region) != sender {
		return nil, im.Errorf(im.CodeWrongRegion, "the link to %s reached region %q", sender, o.Region)
	}
	if err := understood(o, sender); err != nil {
		return nil, err
	}
	var good []*part
	jumped := 0
	for i, s := range o.Partitions {
		p := c.parts[i]
		p.mu.Lock()
		if sender != c.peer.Region {
			p.end = max(p.end, s.End) // it may have heard of less than was heard here
		} else {
			p.end = s.End
		}
		if len(s.LogId) == len(p.theirs) {
			p.theirs = im.UUID(s.LogId)
		}
		if p.jump(s) {
			jumped++
		}
		p.refused = s.Refused
		if s.Refused == "" && p.name.IsZero() && len(s.LogId) == len(p.name.ID) {
			p.name = im.LogName{Origin: c.peer.Origin, ID: im.UUID(s.LogId)}
		}
		p.mu.Unlock()
		if s.Refused != "" {
			p.stop()
			c.r.log.Error("partition refused", "direction", "in", "peer", string(c.peer.Region), "partition", p.p.String(), "reason", s.Refused)
			continue
		}
		good = append(good, p)
	}
	if jumped > 0 {
		return nil, im.Errorf(im.CodeUnavailable, "opening the link to %s anew: retention passed %d partitions of routes", c.peer.Region, jumped)
	}
	now := c.r.now()
	c.mu.Lock()
	c.open, c.since, c.err = true, now, ""
	c.opens++
	c.hear(sender, o.ClockMs, o.News)
	c.hearRefusals(sender, cmp.Or(o.News.GetRefusals(), &wire.LinkRefusals{}))
	c.ways.Open(now)
	c.mu.Unlock()
	c.r.metrics.linkOpened(c.peer.Region)
	c.r.log.Info("link opened", "direction", "in", "peer", string(c.peer.Region), "via", string(sender), "partitions", len(c.parts), "refused", len(c.parts)-len(good))
	return good, nil
}

func (s *session) handle(ctx context.Context, m *wire.LinkResponse) error {
	c := s.c
	switch k := m.Kind.(type) {
	case *wire.LinkResponseBatch:
		return s.take(ctx, []*wire.LinkBatch{k.Batch})
	case *wire.LinkResponseBatches:
		return s.take(ctx, k.Batches.Batches)
	case *wire.LinkResponseNotify:
		s.notified(k.Notify)
	case *wire.LinkResponseStatus:
		for _, e := range k.Status.Ends {
			if int(e.Partition) < len(c.parts) {
				c.parts[e.Partition].ended(e.Offset, c.r.now())
			}
		}
		c.mu.Lock()
		c.hear(s.sender, k.Status.ClockMs, k.Status.News)
		if told := k.Status.News.GetRefusals(); told != nil {
			c.hearRefusals(s.sender, told)
		}
		c.mu.Unlock()
		s.mu.Lock()
		s.status = k.Status.ClockMs
		s.trip = time.Duration(k.Status.RoundTripUs) * time.Microsecond
		s.mu.Unlock()
		wake(s.dirty)
	default:
		return im.Errorf(im.CodeBadRequest, "%s sent a second opened", s.sender)
	}
	return nil
}

// take decodes the batches of one message, offers each to its partition, and starts together what can be appended at once.
func (s *session) take(ctx context.Context, batches []*wire.LinkBatch) error {
	c := s.c
	total, onLink, records := 0, 0, 0
	var starts []im.PackedAppend
	defer func() {
		if len(starts) > 0 {
			s.start(ctx, starts)
		}
	}()
	for _, b := range batches {
		if int(b.Partition) >= len(c.parts) {
			return im.Errorf(im.CodeBadRequest, "%s sent a batch of partition %d of %d", s.sender, b.Partition, len(c.parts))
		}
		p := c.parts[b.Partition]
		came, err := c.received(p, b)
		if err != nil {
			return err
		}
		bytes := came.bytes
		records += came.count
		onLink += len(b.Entries)
		if !s.receive(bytes) {
			return im.Errorf(im.CodeBadRequest, "%s sends more than the window allows", s.sender)
		}
		total += bytes
		w, ok, credit := p.offer(came)
		s.credit(p, credit)
		if ok {
			starts = append(starts, p.flight(ctx, s, w))
		}
	}
	c.bytes.Add(uint64(total))
	c.came.Add(uint64(records))
	c.r.metrics.received(c.peer.Region, total, onLink)
	s.carried(time.Now(), onLink)
	return nil
}

// received takes a batch of the link apart as far as it must be.
func (c *receiving) received(p *part, b *wire.LinkBatch) (received, error) {
	if b.Packed > 0 {
		if c.r.deps.Packing == nil {
			return received{}, im.Errorf(im.CodeBadRequest, "%s sent packed records, which were not asked for", c.peer.Region)
		}
		packed, bytes, err := c.r.codec.packed(p.p, c.peer.Origin, b)
		if err != nil {
			return received{}, err
		}
		return received{first: packed.First, count: packed.Count, packed: packed, bytes: bytes}, nil
	}
	entries, bytes, err := c.r.codec.entries(p.p, b)
	return received{first: b.First, count: len(entries), entries: entries, bytes: bytes}, err
}

// receive counts what is under way. A sender may exceed the window by one message, no more.
func (s *session) receive(bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken += bytes
	return s.taken <= s.c.r.cfg.WindowBytes+maxBatchBytes
}

// creditShare is the part of the window that is worth a message of its own when it can be given back. The sender waits for
// it besides the round trip, so it is small beside the half that one lane may use.
const creditShare = 16

// credit gives bytes of the window back. They travel with the next held, alone when creditShare of the window waits, and with
// the answer to a status at the latest: what the sender has next may be larger than the rest of the window.
func (s *session) credit(p *part, bytes int) {
	if bytes == 0 {
		return
	}
	s.mu.Lock()
	s.credits += bytes
	s.topics[p.topic] += uint64(bytes)
	urgent := s.credits >= s.window/creditShare
	s.mu.Unlock()
	if urgent {
		wake(s.dirty)
	}
}

// carried counts what the link carried, and looks whether the window is wide enough for that.
func (s *session) carried(now time.Time, bytes int) {
	s.meter.add(now, bytes)
	s.mu.Lock()
	s.grow(s.trip)
	grown := s.more > 0
	s.mu.Unlock()
	if grown {
		wake(s.dirty)
	}
}

// grow widens the window until one lane's share of it is twice what the link carries in a round trip, so that it never waits
// for credit, also where one lane has all there is. The caller holds mu.
func (s *session) grow(trip time.Duration) {
	want := min(2*laneShare*int(s.meter.rate()*trip.Seconds()), s.c.r.cfg.WindowBytes)
	if want > s.window {
		s.more += want - s.window
		s.window = want
	}
}

// meter measures how many bytes a second come, at most in any of the last moments.
type meter struct {
	mu    sync.Mutex
	began time.Time
	bytes int
	rates [8]float64
	at    int
}

// meterSlot is how long bytes are counted together.
const meterSlot = 100 * time.Millisecond

func (m *meter) add(now time.Time, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := now.Sub(m.began); d >= meterSlot {
		m.rates[m.at] = float64(m.bytes) / d.Seconds()
		m.at = (m.at + 1) % len(m.rates)
		m.began, m.bytes = now, 0
	}
	m.bytes += bytes
}

// rate is the highest of late, bytes a second.
func (m *meter) rate() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Max(m.rates[:])
}

// seek asks the sender to go on from an offset, or with wire.LinkPause to stop.
func (s *session) seek(p *part, offset int64) {
	s.mu.Lock()
	if _, waiting := s.seeks[p]; !waiting {
		s.order = append(s.order, p)
	}
	s.seeks[p] = offset
	s.mu.Unlock()
	wake(s.dirty)
}

// refuse stops one partition for the rest of the session.
func (s *session) refuse(p *part, reason string) {
	s.c.r.log.Error("partition refused", "direction", "in", "peer", string(s.c.peer.Region), "partition", p.p.String(), "reason", reason)
	p.stop()
	p.mu.Lock()
	p.refused = reason
	p.mu.Unlock()
	s.seek(p, wire.LinkPause)
}

// tell sends held offsets, credit and seeks as they come up, many in one message, and answers each status with what is
// held even if that is nothing new, so that the sender knows a silent receiver from an idle one.
func (s *session) tell(ctx context.Context) {
	for {
		s.c.mu.Lock()
		moved := s.c.moved
		s.c.mu.Unlock()
		for _, m := range s.news() {
			if err := s.stream.Send(m); err != nil {
				s.fail(fmt.Errorf("tell %s what is held: %w", s.sender, err))
				return
			}
		}
		select {
		case <-moved: // the read-back sees to it that this is seldom, and many records at once
		case <-s.dirty:
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) news() []*wire.LinkRequest {
	var all []*wire.LinkRequest
	s.mu.Lock()
	credits := s.credits
	for _, p := range s.order {
		all = append(all, &wire.LinkRequest{Kind: &wire.LinkRequestSeek{Seek: &wire.LinkSeek{
			Offset: &wire.LinkOffset{Partition: uint32(p.i), Offset: s.seeks[p]},
		}}})
	}
	clear(s.seeks)
	s.order = s.order[:0]
	var held []*wire.LinkOffset
	for _, p := range s.c.parts {
		p.mu.Lock()
		if next := p.follower.Next; p.refused == "" && next > p.sentHeld {
			held = append(held, &wire.LinkOffset{Partition: uint32(p.i), Offset: next})
			p.sentHeld = next
		}
		p.mu.Unlock()
	}
	answer := s.status
	s.status = 0
	if credits > 0 && (len(held) > 0 || answer != 0 || credits >= s.window/creditShare) || s.more > 0 {
		all = append(all, &wire.LinkRequest{Kind: &wire.LinkRequestCredit{Credit: &wire.LinkCredit{
			Bytes: uint64(credits), Topics: slices.Clone(s.topics), More: uint64(s.more),
		}}})
		s.taken -= credits
		s.credits, s.more = 0, 0
		clear(s.topics)
	}
	s.mu.Unlock()
	if len(held) > 0 || answer != 0 {
		m := &wire.LinkHeld{Offsets: held, StatusMs: answer}
		if answer != 0 {
			m.ClockMs = s.c.r.now().UnixMilli()
			if s.sender == s.c.peer.Region {
				m.Relayed = s.c.tellRelayed()
			}
		}
		all = append(all, &wire.LinkRequest{Kind: &wire.LinkRequestHeld{Held: m}})
	}
	return all
}

// deliver hands notifies to the own router, those that wait together in one call.
func (c *receiving) deliver(ctx context.Context) {
	for {
		var ds []im.Delivery
		select {
		case ds = <-c.inbox:
		case <-ctx.Done():
			return
		}
		for more := true; more && len(ds) < 256; {
			select {
			case next := <-c.inbox:
				ds = append(ds, next...)
			default:
				more = false
			}
		}
		if c.r.deps.Notifier == nil {
			c.r.metrics.notifyUndelivered(c.peer.Region, len(ds))
			continue
		}
		call, cancel := context.WithTimeout(ctx, c.r.cfg.NotifyAge)
		err := c.r.deps.Notifier.Notify(call, c.peer.Region, ds)
		cancel()
		if err != nil {
			c.r.metrics.notifyUndelivered(c.peer.Region, len(ds))
		}
	}
}

// guessedSize of a record holds until any came over the link, bytes.
const guessedSize = 512

// status is a snapshot of the link.
func (c *receiving) status() LinkIn {
	c.mu.Lock()
	s := LinkIn{
		Peer: c.peer.Region, Origin: c.peer.Origin, Via: c.between(), StandsIn: c.ways.standing, Open: c.open, Since: c.since, Error: c.err,
		Reconnects: max(c.opens, 1) - 1,
		Records:    c.appended.Load(), Bytes: c.bytes.Load(),
	}
	last := c.told
	c.mu.Unlock()
	s.Clock, _ = c.r.clocks.offset(c.peer.Region)
	now := c.r.now()
	mean := float64(guessedSize)
	if came := c.came.Load(); came > 0 {
		mean = float64(s.Bytes) / float64(came)
	}
	lags := map[string]*Lag{}
	if c.isLost() {
		return s // it is complete: nothing comes any more
	}
	for _, p := range c.parts {
		name := lane(p.p)
		l := lags[name]
		if l == nil {
			l = &Lag{Lane: name}
			lags[name] = l
		}
		p.mu.Lock()
		missing := max(0, p.end-p.follower.Next)
		stamp := p.last.stamp
		if p.refused != "" {
			s.Refused = append(s.Refused, Refusal{Partition: p.p, Reason: p.refused, At: c.r.cfg.Region})
		}
		if p.between != nil {
			s.Refused = append(s.Refused, p.between.passedOn(c.peer.Region))
		}
		p.mu.Unlock()
		l.Records += missing
		if last.at.IsZero() {
			// The peer has said nothing since this replicator started. Its heartbeats stand in the copy, so what is not there
			// may be missing.
			if stamp > 0 {
				l.Seconds = max(l.Seconds, now.Sub(stamp.Time()).Seconds())
			}
			continue
		}
		// Complete up to the last status if nothing is missing, else up to the last record held, by the origin's clock.
		age := time.Duration(0)
		if !s.Open || last.via != "" { // a region in between may not have heard itself
			age = now.Sub(last.at)
		}
		if missing > 0 {
			age = now.Sub(last.at)
			if stamp > 0 && !last.clock.IsZero() {
				age += max(0, last.clock.Sub(stamp.Time()))
			}
		}
		l.Seconds = max(l.Seconds, age.Seconds())
	}
	for _, name := range []string{"direct", "group", "super", "read", "route"} {
		if l := lags[name]; l != nil {
			l.Bytes = int64(mean * float64(l.Records))
			s.Lag = append(s.Lag, *l)
		}
	}
	return s
}
