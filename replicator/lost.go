package replicator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a region does with its copies of an origin that is declared lost for good. Somebody else (internal/regions) decides;
// here are the steps, each of which may be asked again after any failure:
//
//	hold   a marker raises the link generation: what links bring is ignored from there on, and this replicator stops its own
//	fill   what another region has and this one lacks is appended under the new generation
//	seal   the final marker: nothing is ever taken after it
//
// Whatever an append answered, only what the read-back took counts: what a region says that it holds, it has read.

// Copies reads the copies of other regions.
type Copies interface {
	// CopyStates tells what the copies of an origin hold.
	CopyStates(ctx context.Context, peer im.Region, o im.Origin) ([]im.CopyState, error)
	// ReadCopy calls take with batches of the records [from, to) of a partition, in order.
	ReadCopy(ctx context.Context, peer im.Region, p im.Partition, from, to int64, take func(*wire.LinkBatch) error) error
}

// Keeper has topics keep what they hold, whatever their retention was.
type Keeper interface {
	KeepTopics(ctx context.Context, names []string) error
}

// keep has the copies of an origin that is lost keep their markers: a copy that retention emptied would not know its seal after
// a restart. It takes the records with them, which come to no more than one retention of them.
func (r *Replicator) keep(ctx context.Context, o im.Origin) error {
	if r.deps.Keeper == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if err := r.deps.Keeper.KeepTopics(ctx, im.Topics(o)); err != nil {
		return fmt.Errorf("the Kafka of %s would let the seals of %s go by retention: %w", r.cfg.Region, o, err)
	}
	return nil
}

// keepTimeout bounds it: brokers take a while to change topics.
const keepTimeout = 30 * time.Second

// keepHeld is keep for an origin that was declared lost before this process began, maybe by a build that did not do so.
func (c *receiving) keepHeld(ctx context.Context) {
	for _, p := range c.parts {
		if s := p.state(); s.Generation > 0 {
			if err := c.r.keep(ctx, c.peer.Origin); err != nil && ctx.Err() == nil {
				c.r.log.Error("a seal may be forgotten", "origin", string(c.peer.Origin), "error", err.Error())
			}
			return
		}
	}
}

// see is a follower's See, but for the final marker of a copy of routes, which ends it whatever it holds: what it lacks is
// older than any route lives, and the region is dead.
func see(f *im.Follower, p im.Partition, originOffset int64, generation uint32, marker bool) im.Verdict {
	verdict := f.See(originOffset, generation, marker)
	if seal, final := im.SealAt(originOffset); verdict == im.Gap && marker && final && ofRoutes(p) {
		f.Next = seal
		return f.See(originOffset, generation, marker)
	}
	return verdict
}

func ofRoutes(p im.Partition) bool {
	family, _, err := im.ParseTopic(p.Topic)
	return err == nil && family == im.FamilyRoute
}

// lost is the state of an origin's copies that are held or sealed.
type lost struct {
	once   sync.Once
	raised chan struct{} // closed when the first marker was read back
}

// raise stops the link: its origin is being declared lost.
func (c *receiving) raise() { c.lost.once.Do(func() { close(c.lost.raised) }) }

func (c *receiving) isLost() bool {
	select {
	case <-c.lost.raised:
		return true
	default:
		return false
	}
}

// errLost says why nothing is received any more.
func (c *receiving) errLost() error {
	return im.Errorf(im.CodeWrongRegion, "origin %s was declared lost: its copies in %s are held, and no link opens to it", c.peer.Origin, c.r.cfg.Region)
}

// heldStamp is when the origin was declared lost.
func (c *receiving) heldStamp() im.Stamp {
	at := im.Stamp(0)
	for _, p := range c.parts {
		p.mu.Lock()
		at = max(at, p.held)
		p.mu.Unlock()
	}
	return at
}

// following finds the copies of an origin.
func (r *Replicator) following(o im.Origin) (*receiving, error) {
	for _, p := range r.all() {
		if p.Origin == o {
			return p.in, nil
		}
	}
	return nil, im.Errorf(im.CodeBadRequest, "region %s has no link from origin %q", r.cfg.Region, o)
}

func (p *part) state() im.CopyState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := im.CopyState{Partition: p.p, Next: p.follower.Next, Generation: p.follower.Generation, Log: p.name.ID, Held: p.held}
	if p.last.summed && p.last.offset == p.follower.Next-1 {
		s.Checksum, s.Checked = p.last.checksum, true
	}
	return s
}

// each works parts side by side and returns their states.
func (c *receiving) each(ctx context.Context, work func(context.Context, *part) error) ([]im.CopyState, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(c.parts))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelReads)
	for i, p := range c.parts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if errs[i] = work(ctx, p); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || im.CodeOf(first) == im.CodeInternal) { // the cause before those it cancelled
			first = err
		}
	}
	if first != nil {
		return nil, first
	}
	states := make([]im.CopyState, len(c.parts))
	for i, p := range c.parts {
		states[i] = p.state()
	}
	return states, nil
}

// CopyHold tells what the copies of an origin hold, read to their ends. Unless the generation is 0, a hold marker in each
// raises its link generation first; copies that are sealed stay as they are. It fails if a copy stands under that
// generation or a higher one: somebody else holds it. Of the own log it tells where it ends, which nobody can hold.
func (r *Replicator) CopyHold(ctx context.Context, o im.Origin, generation uint32) ([]im.CopyState, error) {
	if o == r.cfg.Origin && generation == 0 {
		return r.ownEnds(ctx)
	}
	if _, err := r.following(o); err != nil && generation == 0 && o.Region() != r.cfg.Region {
		return r.look(ctx, o)
	}
	c, done, err := r.beginLost(o)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := c.settle(ctx, c.parts); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	if generation > 0 {
		if err := r.keep(ctx, o); err != nil {
			return nil, im.Errorf(im.CodeUnavailable, "%v", err)
		}
	}
	return c.each(ctx, func(ctx context.Context, p *part) error {
		if s := p.state(); generation == 0 || s.Sealed() {
			return nil
		} else if s.Generation >= generation {
			return im.Errorf(im.CodeOverloaded, "%v is held under link generation %d: another declares %s lost at the same time; begin again above it", p.p, s.Generation, o)
		}
		local, err := c.mark(ctx, p, wire.EncodeHold(o, generation, im.StampAt(r.now())))
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.marked != local || p.follower.Generation != generation {
			return im.Errorf(im.CodeOverloaded, "%v: another hold marker was faster: begin again above link generation %d", p.p, p.follower.Generation)
		}
		return nil
	})
}

// ownEnds tells where the own log ends now.
func (r *Replicator) ownEnds(ctx context.Context) ([]im.CopyState, error) {
	if !r.enter() {
		return nil, im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	defer r.leave()
	bounds, err := r.bounds(ctx, r.own)
	if err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "where the log of %s ends cannot be read: %v", r.cfg.Origin, err)
	}
	ends := make([]im.CopyState, 0, len(r.own))
	for _, p := range r.own {
		ends = append(ends, im.CopyState{Partition: p, Next: bounds[p].End})
	}
	return ends, nil
}

// look reads the state of copies that no link writes to any more: those of a region's former epochs.
func (r *Replicator) look(ctx context.Context, o im.Origin) ([]im.CopyState, error) {
	if !r.enter() {
		return nil, im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	defer r.leave()
	c := newReceiving(r, Peer{o.Region(), o})
	if err := c.locateAll(ctx); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	return c.each(ctx, func(context.Context, *part) error { return nil })
}

// Unpacker returns a function that decodes the batches that CopyRead sends.
func Unpacker() (func(im.Partition, *wire.LinkBatch) ([]im.Entry, error), error) {
	codec, err := newCodec(0)
	if err != nil {
		return nil, err
	}
	return func(p im.Partition, b *wire.LinkBatch) ([]im.Entry, error) {
		entries, _, err := codec.entries(p, b)
		return entries, err
	}, nil
}

// beginLost finds the copies of an origin and keeps the replicator from ending meanwhile.
func (r *Replicator) beginLost(o im.Origin) (*receiving, func(), error) {
	if !r.enter() {
		return nil, nil, im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	c, err := r.following(o)
	if err != nil {
		r.leave()
		return nil, nil, err
	}
	return c, r.leave, nil
}

// mark appends a marker to a copy and waits until it was read back.
func (c *receiving) mark(ctx context.Context, p *part, marker im.Entry) (local int64, err error) {
	append, cancel := context.WithTimeout(ctx, c.r.cfg.AppendTimeout)
	defer cancel()
	local, err = c.r.deps.Log.Append(append, p.p, []im.Entry{marker})
	if err != nil {
		return 0, im.Errorf(im.CodeUnavailable, "%v: the Kafka of %s did not take a marker: %v", p.p, c.r.cfg.Region, err)
	}
	if err := c.settle(ctx, []*part{p}); err != nil {
		return 0, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	return local, nil
}

// CopyRead sends the records [from, to) of a copy to a region, under the caps of the links to it. It finds them from the copy's end
// backwards: what a peer lacks is usually the last of it.
func (r *Replicator) CopyRead(ctx context.Context, reader im.Region, p im.Partition, from, to int64, send func(*wire.LinkBatch) error) error {
	if !r.enter() {
		return im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	defer r.leave()
	if from < 0 || from > to {
		return im.Errorf(im.CodeBadRequest, "%v: records %d to %d make no stretch", p, from, to)
	}
	bounds, err := r.bounds(ctx, []im.Partition{p})
	if err != nil {
		return im.Errorf(im.CodeUnavailable, "%v", err)
	}
	b, ok := bounds[p]
	if !ok {
		return im.Errorf(im.CodeBadRequest, "%v does not exist in %s", p, r.cfg.Region)
	}
	if peer := r.peer(reader); peer != nil {
		send = peer.throttle.paced(ctx, send)
	}
	next := from
	for window := int64(r.cfg.ScanRecords); next < to; window *= 4 {
		start := max(b.Start, b.End-window)
		if next, err = r.readCopy(ctx, p, im.Bounds{Start: start, End: b.End}, next, to, send); err != nil {
			return err
		}
		if start == b.Start {
			break
		}
	}
	if next < to {
		return im.Errorf(im.CodeUnavailable, "%v: the copy in %s lacks record %d: retention removed it, or it has a gap", p, r.cfg.Region, next)
	}
	return nil
}

// readCopy sends what a stretch of a copy holds from next on, and returns how far it came. An origin offset has one
// content, under whatever link generation it was appended.
func (r *Replicator) readCopy(ctx context.Context, p im.Partition, within im.Bounds, next, to int64, send func(*wire.LinkBatch) error) (int64, error) {
	begun := next
	for local := within.Start; local < within.End && next < to; {
		entries, err := r.read(ctx, p, local, r.cfg.BatchBytes)
		if err != nil {
			return next, im.Errorf(im.CodeUnavailable, "%v", err)
		}
		if len(entries) == 0 {
			return next, im.Errorf(im.CodeUnavailable, "%v: nothing can be read at %d, the copy ends at %d", p, local, within.End)
		}
		var raw []byte
		first := next
		for i := range entries {
			h := wire.DecodeShipHead(&entries[i])
			if h.Marker() {
				continue
			}
			if next == begun && h.OriginOffset > next && local == within.Start { // what is wanted stands before this stretch
				return next, nil
			}
			if h.OriginOffset == next && next < to {
				raw = wire.AppendLinkEntry(raw, &entries[i])
				next++
			}
		}
		if next > first {
			if err := send(r.codec.batch(0, first, int(next-first), raw)); err != nil {
				return next, err
			}
		}
		local = entries[len(entries)-1].Offset + 1
	}
	return next, nil
}

// CopyFill brings copies up to where other regions are, under a generation under which they must be held.
func (r *Replicator) CopyFill(ctx context.Context, o im.Origin, generation uint32, fills []im.CopyFill) ([]im.CopyState, error) {
	c, done, err := r.beginLost(o)
	if err != nil {
		return nil, err
	}
	defer done()
	if r.deps.Copies == nil {
		return nil, im.Errorf(im.CodeInternal, "the replicator of %s cannot read copies of others", r.cfg.Region)
	}
	want := make(map[im.Partition]im.CopyFill, len(fills))
	for _, f := range fills {
		if c.index[f.Partition] == nil {
			return nil, im.Errorf(im.CodeBadRequest, "%v is no partition of %s", f.Partition, o)
		}
		want[f.Partition] = f
	}
	if err := c.settle(ctx, c.parts); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	return c.each(ctx, func(ctx context.Context, p *part) error {
		f, ok := want[p.p]
		if !ok {
			return nil
		}
		return c.fill(ctx, p, generation, f, fmt.Sprintf("if no region that is left has them any more, the timelines of %s cannot have them either: "+
			"give it up as well (--accept-loss-of %s)", r.cfg.Region, r.cfg.Region))
	})
}

// fill fetches what a copy lacks until it has it, or nothing came for too long: the other copy may have lost it meanwhile, and
// remedy says what is left to do. What is missing of routes is passed by.
func (c *receiving) fill(ctx context.Context, p *part, generation uint32, f im.CopyFill, remedy string) error {
	wait, came := c.r.backoff(), time.Now()
	sources := c.r.cfg.sources(f.From, c.peer.Region)
	for try := 0; ; try++ {
		from := sources[try%len(sources)]
		s := p.state()
		switch {
		case s.Next >= f.To:
			return nil
		case s.Generation != generation:
			return im.Errorf(im.CodeOverloaded, "%v stands under link generation %d, not %d: another declares %s lost", p.p, s.Generation, generation, c.peer.Origin)
		}
		err := c.r.deps.Copies.ReadCopy(ctx, from, p.p, s.Next, f.To, func(b *wire.LinkBatch) error {
			return c.appendFill(ctx, p, generation, b)
		})
		if settled := c.settle(ctx, []*part{p}); settled != nil {
			err = settled
		}
		if ctx.Err() != nil {
			return im.Errorf(im.CodeUnavailable, "%v: filled up to %d of %d from %s: %v", p.p, p.state().Next, f.To, from, err)
		}
		if p.state().Next > s.Next { // it goes on
			came = time.Now()
			try-- // where something came from, more may
			wait.Reset()
		} else if err != nil {
			took := time.Since(came)
			switch {
			case took <= c.r.cfg.FillPatience:
			case ofRoutes(p.p):
				c.r.log.Warn("routes of a lost region are left out", "partition", p.p.String(), "from", string(f.From), "next", s.Next, "to", f.To, "error", err.Error())
				p.leaveOut(f.To)
				continue
			default:
				return im.Errorf(im.CodeUnavailable, "%v: of records %d to %d nothing came from the copy in %s for %v: %v; %s",
					p.p, s.Next, f.To-1, f.From, took.Round(time.Second), err, remedy)
			}
			c.r.log.Warn("what a copy lacks cannot be fetched", "partition", p.p.String(), "from", string(from), "next", s.Next, "error", err.Error())
			if !pause(ctx, wait.NextBackOff()) {
				return im.Errorf(im.CodeUnavailable, "%v: %v", p.p, err)
			}
		}
	}
}

// leaveOut lets a copy that is held go on at an offset.
func (p *part) leaveOut(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follower.Next, p.last = max(p.follower.Next, next), lastRecord{}
}

// appendFill appends a batch of another region's copy.
func (c *receiving) appendFill(ctx context.Context, p *part, generation uint32, b *wire.LinkBatch) error {
	entries, _, err := c.r.codec.entries(p.p, b)
	if err != nil {
		return err
	}
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && (n == 0 || size+wire.LinkEntrySize(&entries[n]) <= appendBytes) {
			size += wire.LinkEntrySize(&entries[n])
			entries[n] = wire.AsCopy(entries[n], entries[n].Offset, generation)
			n++
		}
		append, cancel := context.WithTimeout(ctx, c.r.cfg.AppendTimeout)
		_, err := c.r.deps.Log.Append(append, p.p, entries[:n])
		cancel()
		if err != nil {
			return fmt.Errorf("%v: append what was missing: %w", p.p, err)
		}
		entries = entries[n:]
	}
	return nil
}

// CopySeal appends final markers. Every copy must hold everything below its seal, under the generation; one that is sealed
// already must be so at the same offset.
func (r *Replicator) CopySeal(ctx context.Context, o im.Origin, generation uint32, seals []im.CopyFill) ([]im.CopyState, error) {
	c, done, err := r.beginLost(o)
	if err != nil {
		return nil, err
	}
	defer done()
	at := make(map[im.Partition]int64, len(seals))
	for _, s := range seals {
		at[s.Partition] = s.To
	}
	if err := c.settle(ctx, c.parts); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	if err := r.keep(ctx, o); err != nil {
		return nil, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	return c.each(ctx, func(ctx context.Context, p *part) error {
		seal, ok := at[p.p]
		s := p.state()
		switch {
		case !ok:
			return im.Errorf(im.CodeBadRequest, "no seal is given for %v", p.p)
		case s.Sealed() && s.Next == seal:
			return nil
		case s.Sealed():
			return im.Errorf(im.CodeBadRequest, "%v is sealed at %d, not %d", p.p, s.Next, seal)
		case s.Generation != generation:
			return im.Errorf(im.CodeOverloaded, "%v stands under link generation %d, not %d: another declares %s lost", p.p, s.Generation, generation, o)
		case s.Next != seal:
			return im.Errorf(im.CodeBadRequest, "%v holds records up to %d: it cannot be sealed at %d", p.p, s.Next, seal)
		}
		if _, err := c.mark(ctx, p, wire.EncodeSeal(o, generation, seal, im.StampAt(r.now()))); err != nil {
			return err
		}
		if s := p.state(); !s.Sealed() || s.Next != seal {
			return im.Errorf(im.CodeOverloaded, "%v stands at %d under link generation %d after its final marker: another declares %s lost", p.p, s.Next, s.Generation, o)
		}
		return nil
	})
}

// declareLost ends Run: a peer says that the own origin was lost.
func (r *Replicator) declareLost(by im.Region, stamp im.Stamp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end != nil {
		r.end(&im.LostError{Origin: r.cfg.Origin, By: by, Stamp: stamp})
	}
}

// lostTo tells whether a peer's origin was declared lost, as far as this region knows: then no link opens to it. A region
// that came back under its next epoch is another origin.
func (r *Replicator) lostTo(peer im.Region, own im.Origin) (im.Stamp, bool) {
	for _, p := range r.all() {
		c := p.in
		if c.peer.Region != peer {
			continue
		}
		if own == "" {
			own = c.peer.Origin
		}
		if c.peer.Origin == own && (c.isLost() || r.inherited.has(own)) {
			return max(c.heldStamp(), im.LostOnce), true
		}
		if c.peer.Origin.Epoch() > own.Epoch() {
			return im.LostOnce, true
		}
	}
	return 0, false
}
