package replicator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a region does about logs that were sealed before it was there, or while it was away: no link brings them. It takes them from
// the copies of a region in which they are sealed, up to the seals, and ends its own copies by the same markers.
//
// It holds a copy first, as one that takes part in a declaration does, and fills and ends it under that generation. Two
// replicators of the region may do so at once, since both append the same records, of which readers take the next one only.
// Nothing of it is decided here: where a log ends the others have settled.

// inheritance is a log that is sealed elsewhere.
type inheritance struct {
	end   context.CancelFunc // of the work; nil before Run
	seals map[im.Partition]int64
	here  bool // the own copies are sealed, as seals says
}

// inheritances are the logs that are sealed elsewhere.
type inheritances struct {
	mu sync.Mutex
	of map[im.Origin]*inheritance
}

// has tells whether a log is sealed.
func (h *inheritances) has(o im.Origin) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.of[o] != nil
}

func (h *inheritances) all() []im.Origin {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.of))
}

// inherit takes the logs that are sealed. What was sealed before stays so. The caller holds the replicator's mu.
func (r *Replicator) inherit(sealed []im.Origin) {
	h := &r.inherited
	h.mu.Lock()
	defer h.mu.Unlock()
	for o, i := range h.of {
		if slices.Contains(sealed, o) {
			continue
		}
		if i.end != nil {
			i.end()
		}
		delete(h.of, o)
	}
	for _, o := range sealed {
		if o == r.cfg.Origin {
			continue // a region that was lost hears of that elsewhere
		}
		i := h.of[o]
		if i == nil {
			i = &inheritance{}
			h.of[o] = i
		}
		if i.end != nil || r.ctx == nil || r.ctx.Err() != nil {
			continue
		}
		ctx, end := context.WithCancel(r.ctx)
		i.end = end
		r.receiving.Go(func() { r.takeSealed(ctx, o, i) })
	}
}

// Sealed is where the logs end that are sealed elsewhere, of messages and read cursors, as far as the own copies hold all of them;
// missing are those of which they do not yet.
func (r *Replicator) Sealed() (seals map[im.Partition]int64, missing []im.Origin) {
	h := &r.inherited
	h.mu.Lock()
	defer h.mu.Unlock()
	seals = map[im.Partition]int64{}
	for _, o := range slices.Sorted(maps.Keys(h.of)) {
		i := h.of[o]
		if !i.here {
			missing = append(missing, o)
		}
		maps.Copy(seals, i.seals)
	}
	return seals, missing
}

// takeSealed tries until the own copies of a log are sealed.
func (r *Replicator) takeSealed(ctx context.Context, o im.Origin, i *inheritance) {
	wait := r.backoff()
	for {
		states, err := r.completeSealed(ctx, o)
		if err == nil {
			seals := map[im.Partition]int64{}
			for _, s := range states {
				if !ofRoutes(s.Partition) {
					seals[s.Partition] = s.Next
				}
			}
			r.inherited.mu.Lock()
			i.seals, i.here = seals, true
			r.inherited.mu.Unlock()
			return
		}
		if ctx.Err() != nil {
			return
		}
		d := wait.NextBackOff()
		r.log.Warn("a log that is sealed in other regions is not here yet", "origin", string(o), "again_in", d, "reason", err.Error())
		if !pause(ctx, d) {
			return
		}
	}
}

// completeSealed has the own copies of a log hold it up to its seals, and returns their states.
func (r *Replicator) completeSealed(ctx context.Context, o im.Origin) ([]im.CopyState, error) {
	c, err := r.following(o)
	if err != nil { // there is no link: a former epoch, or a region that was removed
		c = newReceiving(r, Peer{o.Region(), o})
		read, stop := context.WithCancel(ctx)
		var reading sync.WaitGroup
		reading.Go(func() { c.readBack(read) })
		defer reading.Wait()
		defer stop()
	}
	if err := c.settle(ctx, c.parts); err != nil {
		return nil, err
	}
	if c.sealed() {
		return c.states(), nil
	}
	if err := c.followViews(ctx); err != nil || c.sealed() {
		return c.states(), err
	}
	if r.deps.Copies == nil {
		return nil, im.Errorf(im.CodeInternal, "the replicator of %s cannot read copies of others", r.cfg.Region)
	}
	from, seals, err := r.sealsOf(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := r.keep(ctx, o); err != nil {
		return nil, err
	}
	began := time.Now()
	r.log.Info("taking a log that is sealed from the copies of another region", "origin", string(o), "from", string(from))
	states, err := c.each(ctx, func(ctx context.Context, p *part) error { return c.inherit(ctx, p, from, seals[p.p]) })
	if err == nil {
		r.log.Info("a log that is sealed in other regions is sealed here as well", "origin", string(o), "from", string(from), "took", time.Since(began))
	}
	return states, err
}

func (c *receiving) states() []im.CopyState {
	states := make([]im.CopyState, len(c.parts))
	for i, p := range c.parts {
		states[i] = p.state()
	}
	return states
}

// sealed tells whether all copies have their final markers.
func (c *receiving) sealed() bool {
	return !slices.ContainsFunc(c.states(), func(s im.CopyState) bool { return !s.Sealed() })
}

// followViews lets copies go on where the views are, which may have been seeded with what the copies do not hold.
func (c *receiving) followViews(ctx context.Context) error {
	applied := c.applied(ctx)
	if applied == nil {
		return im.Errorf(im.CodeUnready, "no imserver of %s tells how much of the log of %s its timelines have", c.r.cfg.Region, c.peer.Origin)
	}
	var ahead []*part
	var ps []im.Partition
	for _, p := range c.parts {
		if s := p.state(); !s.Sealed() && applied[p.p].Next > s.Next {
			ahead, ps = append(ahead, p), append(ps, p.p)
		}
	}
	if len(ahead) == 0 {
		return nil
	}
	bounds, err := c.r.bounds(ctx, ps)
	if err != nil {
		return err
	}
	for _, p := range ahead {
		if err := c.move(ctx, p, bounds[p.p]); err != nil {
			return err
		}
	}
	return c.settle(ctx, ahead)
}

// sealsTimeout bounds how long one region is asked where a log ends: it reads its copies to their ends.
const sealsTimeout = 30 * time.Second

// sealsOf finds a region in which all partitions of a log are sealed.
func (r *Replicator) sealsOf(ctx context.Context, o im.Origin) (im.Region, map[im.Partition]im.CopyState, error) {
	why := "no other region is left that could tell"
	for _, p := range r.all() {
		if r.inherited.has(p.Origin) { // it was lost itself
			continue
		}
		ask, cancel := context.WithTimeout(ctx, sealsTimeout)
		states, err := r.deps.Copies.CopyStates(ask, p.Region, o)
		cancel()
		switch i := slices.IndexFunc(states, func(s im.CopyState) bool { return !s.Sealed() }); {
		case err != nil:
			why = err.Error()
			continue
		case len(states) == 0:
			why = fmt.Sprintf("region %s has no copies of it", p.Region)
			continue
		case i >= 0:
			why = fmt.Sprintf("%v is not sealed in %s: declare it lost to its end (antipode region lose %s)", states[i].Partition, p.Region, o.Region())
			continue
		}
		seals := make(map[im.Partition]im.CopyState, len(states))
		for _, s := range states {
			seals[s.Partition] = s
		}
		return p.Region, seals, nil
	}
	return "", nil, im.Errorf(im.CodeUnavailable, "where the log of %s ends is not known: %s", o, why)
}

// inherit brings one copy up to the seal that it has in another region, and ends it there.
func (c *receiving) inherit(ctx context.Context, p *part, from im.Region, seal im.CopyState) error {
	o, s := c.peer.Origin, p.state()
	switch {
	case !seal.Sealed():
		return im.Errorf(im.CodeBadRequest, "region %s does not tell where %v ends", from, p.p)
	case s.Sealed() && (s.Next == seal.Next || ofRoutes(p.p)):
		return nil
	case s.Next > seal.Next && !ofRoutes(p.p):
		return im.Errorf(im.CodeBadRequest, "%v is sealed at %d in %s, and the copy in %s holds records up to %d: region %s must be rebuilt (antipode region lose, then region return)",
			p.p, seal.Next, from, c.r.cfg.Region, s.Next, c.r.cfg.Region)
	case !s.Log.IsZero() && !seal.Log.IsZero() && s.Log != seal.Log:
		return im.Errorf(im.CodeBadRequest, "%v: the copy in %s is of log %v, that in %s of %v", p.p, from, seal.Log, c.r.cfg.Region, s.Log)
	case s.Next == seal.Next && s.Checked && seal.Checked && s.Checksum != seal.Checksum:
		return im.Errorf(im.CodeBadRequest, "%v: record %d differs between %s and %s", p.p, s.Next-1, from, c.r.cfg.Region)
	}
	if s.Generation == 0 {
		if _, err := c.mark(ctx, p, wire.EncodeHold(o, linkGeneration+1, im.StampAt(c.r.now()))); err != nil {
			return err
		}
	}
	generation := p.state().Generation
	if ofRoutes(p.p) { // those of a dead region, of which retention took most: nobody needs them
		p.leaveOut(seal.Next)
	} else if err := c.fill(ctx, p, generation, im.CopyFill{Partition: p.p, To: seal.Next, From: from},
		"if no region has them any more, the timelines must come from another one: antipode region seed"); err != nil {
		return err
	}
	if _, err := c.mark(ctx, p, wire.EncodeSeal(o, generation, seal.Next, max(seal.Held, 1))); err != nil {
		return err
	}
	if s := p.state(); !s.Sealed() || s.Next != seal.Next {
		return im.Errorf(im.CodeOverloaded, "%v stands at %d under link generation %d after its final marker at %d", p.p, s.Next, s.Generation, seal.Next)
	}
	return nil
}
