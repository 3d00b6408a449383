package imserver

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/owner"
	"github.com/antipode-im/antipode/imserver/view"
)

// applier reads the owned partitions of one database, of every origin, and applies them:
//
//	read ──▶ gather ──▶ number ──▶ collect ──▶ commit
//	                          └──▶ deliver
//
// Records are numbered and delivered in small pieces as they come, one hand-over at a time. Meanwhile one batch is being
// committed, and the pieces are collected into the next. When that is full nothing more is gathered: that is the
// back-pressure, and the log is the queue. So a delivery waits for no commit, and a slow database gets large batches
// instead of many. Everything here belongs to one goroutine, but for what a flight and a hand-over do. A database that is
// gone holds up no applier but its own.
type applier struct {
	s        *Server
	database int
	reader   Reader
	owned    map[int]*owner.Shard
	tails    []*view.Tail                 // of what is owned, by partition
	ledger   *owner.Ledger                // what is committed, being committed, and collected
	flight   *flight                      // being committed
	handing  chan struct{}                // closed when the last hand-over is done; nil: it was seen to be
	hurry    context.CancelFunc           // gives up the hand-over under way
	sent     map[im.Partition]im.Position // delivered since it was last saved
	gapped   map[im.Partition]bool        // alarmed
	halted   map[im.Partition]bool
	join     <-chan time.Time      // when what it owns first is taken over; nil: it owned nothing yet
	joined   bool                  // that was so
	unsure   map[im.Partition]bool // of the own log: reading it failed, so that it may have lost what was read
}

// flight is a batch that is being committed.
type flight struct {
	*owner.Batch
	landed chan struct{}
	err    error // once landed
}

// polled is what a poll returned.
type polled struct {
	batches []im.Batch
	err     error
}

// errOwners ends a reign because the owners changed, or whose logs are applied.
var errOwners = errors.New("owners changed")

func newApplier(s *Server, database int) *applier {
	return &applier{
		s: s, database: database, owned: map[int]*owner.Shard{}, ledger: owner.NewLedger(), sent: map[im.Partition]im.Position{},
		gapped: map[im.Partition]bool{}, halted: map[im.Partition]bool{}, unsure: map[im.Partition]bool{},
	}
}

// run applies until ctx ends. What is under way then may still land until hard ends.
func (a *applier) run(ctx, hard context.Context) {
	defer a.s.shards.set(a.database, nil)
	for ctx.Err() == nil {
		err := a.reign(ctx, hard)
		if ctx.Err() != nil || errors.Is(err, errOwners) {
			continue
		}
		// Another owner was faster: what is remembered may be wrong. Look who owns what, after a moment in which both
		// sides hear of it.
		a.s.deps.Logger.Warn("apply begins anew: reading positions", "error", err)
		a.forget()
		sleep(ctx, time.Duration(20+rand.IntN(80))*time.Millisecond)
	}
}

// reign applies what is owned now. It returns when the owners change, when a commit is fenced, or when ctx ends; by then
// nothing is under way.
func (a *applier) reign(ctx, hard context.Context) error {
	all, changed := a.s.deps.Ownership.Owned()
	origins, more := a.s.follow.now()
	numbers := slices.DeleteFunc(slices.Clone(all), func(n int) bool { return n%a.s.cfg.Databases != a.database })
	if len(numbers) > 0 && !a.joined {
		if a.join == nil {
			a.join = time.After(a.s.cfg.JoinGrace)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			return errOwners
		case <-a.join:
			a.joined = true
		}
	}
	if err := a.takeOver(ctx, hard, numbers, origins); err != nil {
		return err
	}
	from := map[im.Partition]int64{}
	for _, t := range a.tails {
		if at := t.At(); !a.halted[at.Partition] {
			from[at.Partition] = at.Local
		}
	}
	a.reader = a.s.deps.NewReader(from)
	poll, stop := context.WithCancel(ctx)
	out := make(chan polled)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.poll(poll, out)
	}()
	err := a.follow(ctx, hard, out, changed, more)
	stop()
	<-ended
	a.reader.Close()
	a.reader = nil
	if a.hurry != nil { // who takes partitions over is not to wait for routers that are away
		late := time.AfterFunc(handOverGrace, a.hurry)
		defer late.Stop()
	}
	if landed := a.finish(hard, err == nil || errors.Is(err, errOwners)); err == nil || landed != nil {
		err = landed
	}
	if !killed(ctx) {
		a.saveSent(hard)
	}
	return err
}

// poll reads on while the loop applies.
func (a *applier) poll(ctx context.Context, out chan<- polled) {
	wait := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: time.Second}
	for {
		batches, err := a.reader.Poll(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case out <- polled{batches, err}:
		case <-ctx.Done():
			return
		}
		if err == nil {
			wait.Reset()
		} else {
			sleep(ctx, wait.NextBackOff())
		}
	}
}

// follow is the loop of a reign.
func (a *applier) follow(ctx, hard context.Context, out <-chan polled, changed, more <-chan struct{}) error {
	save := time.NewTicker(a.s.cfg.SentInterval)
	defer save.Stop()
	wait, pace := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer wait.Stop()
	defer pace.Stop()
	var (
		pending         []im.Batch
		gathered        int
		moved           = a.moved() // left by the last reign
		waiting, waited bool        // for a piece to grow
		paced           = true      // enough time has passed since the last commit began
	)
	for {
		rows := gathered
		if b := a.ledger.Collected(); b != nil {
			rows += b.Rows
		}
		before := rows
		pending = a.take(ctx, pending, &rows, &moved)
		a.takeAhead(ctx, &rows, &moved)
		gathered += rows - before
		full := rows >= a.s.cfg.BatchRows
		if moved && !waiting {
			waiting = true
			wait.Reset(a.s.cfg.BatchWait)
		}
		if moved && (waited || full) && a.handing == nil {
			if err := a.number(ctx, hard); err != nil {
				return err
			}
			gathered, moved, waiting, waited = 0, false, false, false
			continue
		}
		if a.ledger.Collected() != nil && a.flight == nil && (paced || full) {
			a.launch(hard)
			if paced = a.s.cfg.CommitPace == 0; !paced {
				pace.Reset(a.s.cfg.CommitPace)
			}
			continue
		}
		in := out
		if len(pending) > 0 { // there is no room for it
			in = nil
		}
		var landed chan struct{}
		if a.flight != nil {
			landed = a.flight.landed
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			return errOwners
		case <-more:
			return errOwners
		case p := <-in:
			if p.err != nil {
				a.pollFailed(ctx, p.err)
			}
			pending = p.batches
		case <-a.s.ahead.wake[a.database]:
		case <-wait.C:
			waited = waiting
		case <-pace.C:
			paced = true
		case <-a.handing:
			a.handing = nil
		case <-landed:
			if err := a.land(hard); err != nil {
				return err
			}
		case <-save.C:
			a.saveSent(hard)
		}
	}
}

// take moves entries from pending into the tails until a batch is full.
func (a *applier) take(ctx context.Context, pending []im.Batch, rows *int, moved *bool) []im.Batch {
	for len(pending) > 0 && *rows < a.s.cfg.BatchRows {
		b := &pending[0]
		sh := a.owned[b.Partition.Number]
		if sh == nil || sh.Tails[b.Partition.Topic] == nil || a.halted[b.Partition] {
			pending = pending[1:]
			continue
		}
		t := sh.Tails[b.Partition.Topic]
		if !a.sure(ctx, t) {
			pending = pending[1:]
			continue
		}
		if b.Partition.Origin() == a.s.cfg.Origin { // what was taken ahead of the reader comes again
			for len(b.Entries) > 0 && b.Entries[0].Offset < t.At().Next {
				b.Entries = b.Entries[1:]
			}
		}
		b.Entries = b.Entries[a.feed(ctx, t, b.Entries, rows, moved):]
		if len(b.Entries) == 0 {
			pending = pending[1:]
		}
	}
	return pending
}

// sure tells whether a tail may go on with what is polled. A reader that failed may have left a log that lost its end, and
// come back to one that grew past the place again.
func (a *applier) sure(ctx context.Context, t *view.Tail) bool {
	p := t.At().Partition
	if why := a.s.halts.of(p); why != nil { // a submit was faster to see it
		a.halt(ctx, p, why)
		return false
	}
	if !a.unsure[p] {
		return true
	}
	if err := a.verify(ctx, []view.Position{t.Summed()}); err != nil {
		return false
	}
	delete(a.unsure, p)
	return !a.halted[p]
}

// takeAhead takes what this instance appended and has not read back, until a batch is full.
func (a *applier) takeAhead(ctx context.Context, rows *int, moved *bool) {
	if a.s.ahead.kept.Load() == 0 {
		return
	}
	for _, t := range a.tails {
		p := t.At().Partition
		if room := a.s.cfg.BatchRows - *rows; room > 0 && !a.halted[p] && p.Origin() == a.s.cfg.Origin && a.sure(ctx, t) {
			a.feed(ctx, t, a.s.ahead.next(p, t.At().Next, room), rows, moved)
		}
	}
}

// feed gives entries to a tail until a batch is full. It returns how many the tail has seen.
func (a *applier) feed(ctx context.Context, t *view.Tail, entries []im.Entry, rows *int, moved *bool) (n int) {
	p, before := t.At().Partition, t.Pending()
	t.Room(max(0, min(len(entries), a.s.cfg.BatchRows-*rows)))
	for n < len(entries) && *rows+t.Pending()-before < a.s.cfg.BatchRows {
		verdict, err := t.Take(&entries[n])
		n++
		if err != nil {
			a.halt(ctx, p, err)
			break
		}
		if verdict == im.Gap && !a.gapped[p] {
			a.gapped[p] = true
			a.s.meter.gap(ctx, p.Origin())
			a.s.deps.Logger.Error("a copy skips records of its origin: the partition waits until they come", "partition", p,
				"next", t.At().Next, "local", entries[n-1].Offset)
		}
	}
	if a.gapped[p] && !t.Gap() {
		delete(a.gapped, p)
		a.s.deps.Logger.Info("the missing records came", "partition", p, "next", t.At().Next)
	}
	for _, err := range t.Errors() {
		a.s.deps.Logger.Warn("a value does not decode: it is kept as it is and shown to no one", "error", err)
	}
	*rows += t.Pending() - before
	*moved = *moved || a.wants(t)
	return n
}

// moved tells whether there is anything to commit.
func (a *applier) moved() bool { return slices.ContainsFunc(a.tails, a.wants) }

// wants tells whether a tail has something to commit. What a halted one gathered stays where it is.
func (a *applier) wants(t *view.Tail) bool { return t.Moved() && !a.halted[t.At().Partition] }

// number gives what was gathered its seqs, hands its deliveries over, and collects it.
func (a *applier) number(ctx, hard context.Context) error {
	byShard := map[int][]view.Part{}
	for _, t := range a.tails {
		if a.wants(t) {
			p := t.Cut()
			byShard[p.Partition.Number] = append(byShard[p.Partition.Number], p)
		}
	}
	if len(byShard) == 0 {
		return nil
	}
	if err := a.recall(ctx, byShard); err != nil {
		return err
	}
	var deliveries []im.Delivery
	for number, parts := range byShard {
		deliveries = append(deliveries, a.owned[number].Take(parts, a.s.cfg.Region, a.s.interest.trusted(a.s.deps.Now()))...)
		for _, p := range parts {
			a.ledger.Collect(p)
		}
	}
	if len(deliveries) == 0 {
		return nil
	}
	done := make(chan struct{})
	give, hurry := context.WithCancel(hard)
	a.handing, a.hurry = done, hurry
	a.s.handOvers.Go(func() {
		defer close(done)
		defer hurry()
		a.s.handOver(give, hard, deliveries)
	})
	return nil
}

// launch sends off what was collected. It has landed when it is committed and what it holds was handed over.
func (a *applier) launch(hard context.Context) {
	f := &flight{Batch: a.ledger.Launch(), landed: make(chan struct{})}
	a.flight = f
	handing := a.handing
	go func() {
		defer close(f.landed)
		f.err = a.s.commit(hard, f.Parts)
		if handing != nil {
			<-handing
		}
	}()
}

// finish ends a reign with nothing under way. What was numbered is committed, unless what is remembered is wrong.
func (a *applier) finish(hard context.Context, good bool) error {
	if err := a.land(hard); err != nil || !good || a.ledger.Collected() == nil {
		return err
	}
	a.launch(hard)
	return a.land(hard)
}

// recall fetches what the batch needs and is not remembered.
func (a *applier) recall(ctx context.Context, byShard map[int][]view.Part) error {
	batch := a.ledger.Number()
	asks := make(map[int]view.Ask, len(byShard))
	var all view.Ask
	for number, parts := range byShard {
		ask := a.owned[number].Missing(parts, batch)
		if len(ask.Heads)+len(ask.Groups) == 0 {
			continue
		}
		asks[number] = ask
		all.Heads, all.Groups = append(all.Heads, ask.Heads...), append(all.Groups, ask.Groups...)
		for i := range parts {
			all.Partitions = append(all.Partitions, parts[i].Partition)
		}
	}
	if len(asks) == 0 {
		return nil
	}
	var facts view.Facts
	if err := a.s.patiently(ctx, "read heads and groups", func() (err error) {
		facts, err = a.s.deps.Store.Known(ctx, all)
		return err
	}); err != nil {
		return err
	}
	if err := a.ledger.Check(all.Partitions, facts.Next); err != nil {
		a.s.meter.fence(ctx, fencedNumber, err)
		return err
	}
	for number, ask := range asks {
		a.owned[number].Remember(ask, facts)
	}
	return nil
}

// land waits for the flight under way and takes its outcome.
func (a *applier) land(hard context.Context) error {
	f := a.flight
	if f == nil {
		return nil
	}
	<-f.landed // both halves end with hard
	a.flight = nil
	a.ledger.Land(f.err == nil)
	if f.err != nil {
		return f.err
	}
	for i := range f.Parts {
		to := f.Parts[i].To
		a.sent[to.Partition] = to.Position
	}
	for _, sh := range a.owned {
		sh.Committed(f.Number)
	}
	return hard.Err()
}

// commit applies parts, for as long as it takes.
func (s *Server) commit(ctx context.Context, parts []view.Part) error {
	begun := s.deps.Now()
	var spans []trace.Span
	for i := range parts {
		for j := range parts[i].Records {
			r := &parts[i].Records[j]
			if parent, ok := sampled(r.Trace); ok {
				_, span := s.deps.Tracer.Start(trace.ContextWithRemoteSpanContext(ctx, parent), "apply", trace.WithAttributes(s.attributes(string(r.Conversation))...))
				spans = append(spans, span)
			}
		}
	}
	err := s.patiently(ctx, "commit a batch", func() error { return s.deps.Store.Apply(ctx, parts) })
	for _, span := range spans {
		span.End()
	}
	if err == nil {
		now := s.deps.Now()
		s.meter.committed(ctx, parts, now.Sub(begun), now)
	}
	s.meter.fence(ctx, fencedCommit, err)
	return err
}

// patiently runs do until it succeeds, is fenced, or ctx ends: while PostgreSQL is down, apply stands still.
func (s *Server) patiently(ctx context.Context, what string, do func() error) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 2 * time.Second}
	for attempt := 1; ; attempt++ {
		err := do()
		switch {
		case err == nil && attempt > 1:
			s.deps.Logger.Info("the timelines answer again", "what", what, "attempts", attempt)
			return nil
		case err == nil || errors.Is(err, view.ErrFenced):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.deps.Logger.Error("the timelines do not take or give: apply stands still", "what", what, "attempt", attempt, "error", err)
		sleep(ctx, wait.NextBackOff())
	}
}

// pollFailed finds out which partitions the reader dropped because their logs do not hold what comes next. What they hold
// again by now is read on, and so is everything while the bounds cannot be had: a reader forgets what it dropped.
func (a *applier) pollFailed(ctx context.Context, failure error) {
	a.s.deps.Logger.Warn("reading the logs failed", "error", failure)
	var partitions []im.Partition
	for _, t := range a.tails {
		partitions = append(partitions, t.At().Partition)
	}
	bounds, err := a.s.deps.Log.Bounds(ctx, partitions)
	for _, t := range a.tails {
		at := t.At()
		b, ok := bounds[at.Partition]
		a.unsure[at.Partition] = at.Partition.Origin() == a.s.cfg.Origin
		switch {
		case a.halted[at.Partition]:
		case err == nil && ok && (at.Local < b.Start || at.Local > b.End) && !a.s.own(at.Partition.Origin()):
			// A copy that was made anew or repaired brings the next record again, at another place of its own; until it
			// does, what is read is passed by as a gap.
			a.s.deps.Logger.Error("the copy does not hold the place where apply is to go on: reading it from its start", "partition", at.Partition,
				"next", at.Next, "local", at.Local, "start", b.Start, "end", b.End)
			a.reader.Seek(at.Partition, b.Start)
		case err == nil && ok && (at.Local < b.Start || at.Local > b.End):
			a.halt(ctx, at.Partition, failure)
		default: // what is polled already comes twice, and is skipped
			a.reader.Seek(at.Partition, at.Local)
		}
	}
}

// halt stops a partition until somebody acts: what comes next is not in the log, or the log is another. Going on would
// skip records.
func (a *applier) halt(ctx context.Context, p im.Partition, why error) {
	if a.halted[p] {
		return
	}
	a.halted[p] = true
	if a.reader != nil {
		a.reader.Drop(p)
	}
	if p.Origin() == a.s.cfg.Origin {
		a.s.halts.set(p, why)
	}
	a.s.meter.halt(ctx, p.Origin(), 1)
	a.s.deps.Logger.Error("a partition is not applied any more: the runbook says under AntipodePartitionsHalted what to do", "partition", p, "error", why)
}

// saveSent keeps how far was delivered.
func (a *applier) saveSent(ctx context.Context) {
	if len(a.sent) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, a.s.cfg.SentInterval)
	defer cancel()
	sent := make([]im.Position, 0, len(a.sent))
	for _, p := range a.sent {
		sent = append(sent, p)
	}
	slices.SortFunc(sent, func(x, y im.Position) int { return x.Partition.Compare(y.Partition) })
	if err := a.s.deps.Store.SaveSent(ctx, sent); err != nil {
		a.s.deps.Logger.Warn("how far was delivered is not saved: a new owner would deliver it again", "error", err)
		return
	}
	clear(a.sent)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
