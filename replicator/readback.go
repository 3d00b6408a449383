package replicator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// placement is where the read-back of a copy begins, and what stands before it.
type placement struct {
	local    int64
	follower im.Follower
	last     lastRecord
	name     im.LogName
	held     im.Stamp
}

// readBack reads the copies on, for as long as the replicator runs, and takes from them what a view would take. Reads
// that bring something are HeldLinger apart.
func (c *receiving) readBack(ctx context.Context) {
	wait := c.r.backoff()
	for ctx.Err() == nil {
		if err := c.locateAll(ctx); err == nil {
			break
		} else if ctx.Err() == nil {
			c.r.log.Warn("the tails of copies cannot be found", "peer", string(c.peer.Region), "error", err.Error())
			pause(ctx, wait.NextBackOff())
		}
	}
	if ctx.Err() != nil {
		return
	}
	c.keepHeld(ctx)
	wait.Reset()
	from := make(map[im.Partition]int64, len(c.parts))
	for _, p := range c.parts {
		from[p.p] = p.local
	}
	var reader Reader
	if c.r.deps.Packing != nil {
		reader = c.r.deps.Packing.NewHeadReader(from)
	} else {
		reader = c.r.deps.NewReader(from)
	}
	defer reader.Close()
	var due time.Time
	for {
		poll, cancel := context.WithCancel(ctx)
		c.mu.Lock()
		c.nudge = cancel
		moves := len(c.moves)
		for p, to := range c.moves {
			p.place(to)
			reader.Seek(p.p, to.local)
		}
		clear(c.moves)
		c.mu.Unlock()
		if moves > 0 {
			c.progress()
		}
		// What is held is told for many records at once, so it is read for many at once: the first record after a quiet
		// time comes at once, those after it within HeldLinger.
		select {
		case <-time.After(time.Until(due)):
		case <-poll.Done():
		}
		batches, err := reader.Poll(poll)
		nudged := poll.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return
		}
		for _, b := range batches {
			p := c.index[b.Partition]
			switch {
			case p == nil:
			case b.Heads != nil:
				p.read(b.Heads, c.r.now())
			default:
				p.read(headsOf(b.Entries), c.r.now())
			}
		}
		if len(batches) > 0 {
			due = time.Now().Add(c.r.cfg.HeldLinger)
			c.progress()
		}
		if err != nil && !nudged {
			c.r.log.Warn("copies cannot be read", "peer", string(c.peer.Region), "error", err.Error())
			for _, p := range c.parts { // a partition that the reader gave up begins again
				reader.Seek(p.p, p.local)
			}
			c.relocate(ctx)
			if !pause(ctx, wait.NextBackOff()) {
				return
			}
			continue
		}
		wait.Reset()
	}
}

// recall reads the last records whose checksums the read-back left out, so that a link can be opened with them.
func (c *receiving) recall(ctx context.Context) error {
	lasts := make([]lastRecord, len(c.parts))
	from := map[im.Partition]int64{}
	for i, p := range c.parts {
		p.mu.Lock()
		lasts[i] = p.last
		p.mu.Unlock()
		if lasts[i].known && !lasts[i].summed {
			from[p.p] = lasts[i].local
		}
	}
	together := c.r.excerpt(ctx, from, excerptBytes)
	for i, p := range c.parts {
		last := lasts[i]
		if !last.known || last.summed {
			continue
		}
		entries := together.at(p.p, last.local)
		if len(entries) == 0 {
			var err error
			if entries, err = c.r.read(ctx, p.p, last.local, 1); err != nil {
				return err
			}
		}
		if len(entries) == 0 || entries[0].Offset != last.local {
			return fmt.Errorf("%v: record %d of the copy cannot be read", p.p, last.local)
		}
		h := wire.DecodeShipHead(&entries[0])
		p.mu.Lock()
		if p.last.local == last.local {
			p.last = lastOf(&entries[0], &h)
		}
		p.mu.Unlock()
	}
	return nil
}

// progress wakes those who wait for the read-back.
func (c *receiving) progress() {
	c.mu.Lock()
	close(c.moved)
	c.moved = make(chan struct{})
	c.mu.Unlock()
}

// settle waits until parts are located and were read to where their copies end now. Whatever an append of unknown
// outcome left behind, what the followers say then is true until the next append; one that lands even later repeats what
// will be appended again, and readers skip it.
func (c *receiving) settle(ctx context.Context, parts []*part) error {
	ctx, cancel := context.WithTimeout(ctx, 2*c.r.cfg.ReadTimeout)
	defer cancel()
	ps := make([]im.Partition, len(parts))
	before := make([]int64, len(parts))
	for i, p := range parts {
		ps[i] = p.p
		p.mu.Lock()
		before[i] = p.local
		p.mu.Unlock()
	}
	bounds, err := c.r.bounds(ctx, ps)
	if err != nil {
		return err
	}
	for i, p := range parts {
		b, ok := bounds[p.p]
		if !ok {
			return fmt.Errorf("the copy %v does not exist: run `antipode migrate` in %s", p.p, c.r.cfg.Region)
		}
		if before[i] > b.End { // the copy lost its end: what was read from there is not in it any more
			if err := c.move(ctx, p, b); err != nil {
				return err
			}
		}
		for {
			c.mu.Lock()
			moved := c.moved
			_, moving := c.moves[p]
			c.mu.Unlock()
			p.mu.Lock()
			at, located := p.local, p.located
			p.mu.Unlock()
			if located && !moving && at >= b.End {
				break
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return fmt.Errorf("%v: the copy was read to %d, it ends at %d: %w", p.p, at, b.End, context.Cause(ctx))
			}
		}
	}
	return nil
}

// move lets the read-back of one part begin anew.
func (c *receiving) move(ctx context.Context, p *part, b im.Bounds) error {
	c.r.log.Error("the copy does not hold what was read from it; finding its tail anew", "partition", p.p.String(), "start", b.Start, "end", b.End)
	to, err := c.locate(ctx, p.p, b, c.applied(ctx))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moves[p] = to
	if c.nudge != nil {
		c.nudge()
	}
	return nil
}

// relocate moves the parts whose place in the copy no longer exists: retention or a loss of the own Kafka passed it.
func (c *receiving) relocate(ctx context.Context) {
	ps := make([]im.Partition, len(c.parts))
	for i, p := range c.parts {
		ps[i] = p.p
	}
	bounds, err := c.r.bounds(ctx, ps)
	if err != nil {
		return // Kafka is away: the reader goes on when it is back
	}
	for _, p := range c.parts {
		if b, ok := bounds[p.p]; ok && (p.local < b.Start || p.local > b.End) {
			if err := c.move(ctx, p, b); err != nil {
				c.r.log.Warn("the tail of a copy cannot be found", "partition", p.p.String(), "error", err.Error())
			}
		}
	}
}

// locateAll finds the tails of all copies at start.
func (c *receiving) locateAll(ctx context.Context) error {
	ps := make([]im.Partition, len(c.parts))
	for i, p := range c.parts {
		ps[i] = p.p
	}
	bounds, err := c.r.bounds(ctx, ps)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if _, ok := bounds[p]; !ok {
			return fmt.Errorf("the copy %v does not exist: run `antipode migrate` in %s", p, c.r.cfg.Region)
		}
	}
	applied := c.applied(ctx)
	placements, begins := make([]placement, len(c.parts)), make([]int64, len(c.parts))
	for rest := c.parts; len(rest) > 0; {
		n := together(rest, bounds, int64(c.r.cfg.ScanRecords))
		if err := c.scanAll(ctx, rest[:n], bounds, applied, placements, begins); err != nil {
			return err
		}
		rest = rest[n:]
	}
	nameless := map[im.Partition]int64{}
	for i, p := range c.parts {
		if placements[i].name.IsZero() && bounds[p.p].Start < begins[i] {
			nameless[p.p] = bounds[p.p].Start
		}
	}
	firsts := c.r.excerpt(ctx, nameless, excerptBytes)
	for i, p := range c.parts {
		if err := c.name(ctx, p.p, bounds[p.p], begins[i], applied, firsts, &placements[i]); err != nil {
			return err
		}
	}
	for i, p := range c.parts {
		p.place(placements[i])
	}
	c.progress()
	return nil
}

// scanTogether is of how many copies that have ScanRecords records the tails are read together; of shorter ones accordingly more. It bounds
// the memory that this takes: appendBytes of each, about.
const scanTogether = 16

// together tells the tails of how many parts are to be read at once.
func together(parts []*part, bounds map[im.Partition]im.Bounds, tail int64) int {
	records := int64(0)
	for i, p := range parts {
		b := bounds[p.p]
		if records += min(tail, b.End-b.Start); records > scanTogether*tail {
			return max(1, i)
		}
	}
	return len(parts)
}

// scanAll scans some parts, and puts what it finds at their places. Links to several peers take turns, so that what is read for all of
// them together is no more than for one.
func (c *receiving) scanAll(
	ctx context.Context, parts []*part, bounds map[im.Partition]im.Bounds, applied map[im.Partition]im.Position, placements []placement, begins []int64,
) error {
	select {
	case c.r.scanning <- struct{}{}:
		defer func() { <-c.r.scanning }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	tails := make(map[im.Partition]int64, len(parts))
	for _, p := range parts {
		if b := bounds[p.p]; b.Start < b.End {
			tails[p.p] = max(b.Start, b.End-int64(c.r.cfg.ScanRecords))
		}
	}
	tailed := c.r.excerpt(ctx, tails, appendBytes)
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelReads)
	for i, p := range parts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			placements[p.i], begins[p.i], errs[i] = c.scan(ctx, p.p, bounds[p.p], applied, tailed)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// appliedTimeout bounds how long a start waits for views to tell how far they are.
const appliedTimeout = 2 * time.Second

// applied returns where views stand in each partition, as far as they answer; nil if there are any and none does.
func (c *receiving) applied(ctx context.Context) map[im.Partition]im.Position {
	ctx, cancel := context.WithTimeout(ctx, appliedTimeout)
	defer cancel()
	all := map[im.Partition]im.Position{}
	silent := len(c.r.deps.Applied)
	for _, view := range c.r.deps.Applied {
		positions, err := view.Positions(ctx, c.peer.Origin)
		if err != nil {
			c.r.log.Info("a view does not tell how far it is; the copies alone decide", "origin", string(c.peer.Origin), "error", err.Error())
			continue
		}
		silent--
		for _, v := range positions {
			if v.Next > all[v.Partition].Next {
				all[v.Partition] = v
			}
		}
	}
	if silent > 0 && silent == len(c.r.deps.Applied) {
		return nil
	}
	return all
}

// locate finds the tail of a copy, and the name of its log. A copy that tells none (it was made anew, or retention emptied it) is of
// the log that the view was derived from.
func (c *receiving) locate(ctx context.Context, p im.Partition, b im.Bounds, applied map[im.Partition]im.Position) (placement, error) {
	to, from, err := c.scan(ctx, p, b, applied, excerpts{})
	if err == nil {
		err = c.name(ctx, p, b, from, applied, excerpts{}, &to)
	}
	return to, err
}

// scan finds the tail of a copy: the last record that a follower takes. It reads the last ScanRecords records only, and tells from
// where on. They suffice, because every writer appends at most from the tail it saw: so no record of the copy is past the tail as it
// then was, and the highest offset among the last ones is the tail, unless the copy lost acknowledged records. Of that, the position
// of a view which stands before the gap tells; asking again from there is harmless. Where the copy was held, those ScanRecords are
// the ones before its first marker: what stands behind one and does not count could be mistaken for the tail.
func (c *receiving) scan(
	ctx context.Context, p im.Partition, b im.Bounds, applied map[im.Partition]im.Position, together excerpts,
) (to placement, from int64, err error) {
	next := applied[p].Next
	if b.Start == b.End {
		return placement{local: b.End, follower: im.Follower{Next: next}}, b.End, nil
	}
	var entries []im.Entry
	for window := int64(c.r.cfg.ScanRecords); ; window *= 4 {
		from, entries = max(b.Start, b.End-window), entries[:0]
		for at := from; at < b.End; {
			more := together.at(p, at)
			if len(more) == 0 {
				if more, err = c.r.read(ctx, p, at, appendBytes); err != nil {
					return to, from, err
				}
			}
			if len(more) == 0 {
				return to, from, fmt.Errorf("%v: nothing can be read at %d, the copy ends at %d", p, at, b.End)
			}
			entries = append(entries, more...)
			at = more[len(more)-1].Offset + 1
		}
		if from == b.Start || before(entries) >= c.r.cfg.ScanRecords {
			break
		}
	}
	to = tail(entries, from == 0, next)
	to.local = entries[len(entries)-1].Offset + 1
	return to, from, nil
}

// name completes a placement whose records, from where they were scanned, do not name their log: the first of the copy does, if
// retention left it, or else a view.
func (c *receiving) name(
	ctx context.Context, p im.Partition, b im.Bounds, from int64, applied map[im.Partition]im.Position, together excerpts, to *placement,
) error {
	if to.name.IsZero() && b.Start < b.End && b.Start < from {
		first := together.at(p, b.Start)
		if len(first) == 0 {
			var err error
			if first, err = c.r.read(ctx, p, b.Start, 1); err != nil {
				return err
			}
		}
		for i := range first {
			h := wire.DecodeShipHead(&first[i])
			if n, ok := nameOf(&first[i], &h); ok {
				to.name = n
				break
			}
		}
	}
	if at := applied[p]; to.name.IsZero() && at.Log != (im.UUID{}) {
		to.name = im.LogName{Origin: c.peer.Origin, ID: at.Log}
	}
	return nil
}

// tail returns what a follower says after the entries at the end of a copy. Whole tells that they are all of it; applied
// is the next offset that a view needs, 0 if unknown.
func tail(entries []im.Entry, whole bool, applied int64) placement {
	var to placement
	taken := -1
	if whole = whole && !beginsLate(entries); !whole {
		to.follower = begin(entries, applied)
	}
	for i := range entries {
		h := wire.DecodeShipHead(&entries[i])
		switch see(&to.follower, entries[i].Partition, h.OriginOffset, h.Generation, h.Marker()) {
		case im.Take:
		case im.Raise, im.Seal:
			to.held = max(to.held, h.Stamp)
			continue
		default:
			continue
		}
		taken = i
		if n, ok := nameOf(&entries[i], &h); ok {
			to.name = n
		}
	}
	if taken < 0 { // nothing is new to the view; the link is still to compare the record below
		for i := range entries {
			h := wire.DecodeShipHead(&entries[i])
			if h.OriginOffset == to.follower.Next-1 && !h.Marker() &&
				(h.Generation == to.follower.Generation || to.follower.Sealed()) {
				taken = i
				if n, ok := nameOf(&entries[i], &h); ok {
					to.name = n
				}
			}
		}
	}
	if taken >= 0 {
		h := wire.DecodeShipHead(&entries[taken])
		to.last = lastOf(&entries[taken], &h)
	}
	if to.follower.Next < applied { // the view is ahead of the copy: what the copy lacks is not needed any more
		to.follower.Next = applied
		to.last = lastRecord{}
	}
	return to
}

// beginsLate tells whether a copy that is read from its start begins past the log's: it was made anew while views went on. Of one
// that has markers alone only views tell.
func beginsLate(entries []im.Entry) bool {
	for i := range entries {
		if h := wire.DecodeShipHead(&entries[i]); !h.Marker() {
			return h.OriginOffset > 0
		}
	}
	return true
}

// before counts the entries that certainly stand before the first marker of their copy: all, if no generation was raised;
// none, if the first one is out of sight.
func before(entries []im.Entry) int {
	for i := range entries {
		h := wire.DecodeShipHead(&entries[i])
		if h.Generation > 0 {
			if first := h.Marker() && h.Generation == 1; !first {
				return 0
			}
			return i
		}
	}
	return len(entries)
}

// begin returns a follower for entries that are the end of a longer copy.
func begin(entries []im.Entry, applied int64) im.Follower {
	heads := make([]wire.ShipHead, len(entries))
	for i := range entries {
		heads[i] = wire.DecodeShipHead(&entries[i])
	}
	for i := range heads {
		if heads[i].Generation == 0 {
			continue
		}
		if heads[i].Marker() && heads[i].Generation == 1 && i > 0 { // before the first marker everything counts
			heads = heads[:i]
			break
		}
		// The origin was declared lost. Which of the records in sight count, the markers before them tell, and they are out
		// of sight: so only what a view has applied is certain.
		generation := uint32(0)
		for _, h := range heads {
			generation = max(generation, h.Generation)
		}
		return im.Follower{Next: applied, Generation: generation}
	}
	lowest, top, run := int64(-1), int64(-1), int64(-1)
	for _, h := range heads {
		if lowest < 0 || h.OriginOffset < lowest {
			lowest = h.OriginOffset
		}
		if h.OriginOffset > top+1 || top < 0 { // what came before repeats old records
			run = h.OriginOffset
		}
		top = max(top, h.OriginOffset)
	}
	if applied > lowest {
		return im.Follower{Next: applied}
	}
	return im.Follower{Next: run}
}
