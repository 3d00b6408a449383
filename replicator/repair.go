package replicator

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a region does when a copy lacks what its views need, or the link cannot go on where the copy ends. Somebody else
// (internal/regions) decides what is to be brought; here it is found out and done.
//
// A reader of a copy passes by what is ahead of it and takes the next record wherever it comes. So what is missing is
// appended at the copy's end, and everything after it once more: nothing that stands there is changed, and nothing is taken
// twice. While records come from another region, no link appends to that partition.

// repairTries is how often in a row another region may give nothing before a repair is given up.
const repairTries = 3

// CopyCheck tells what the link from an origin says, and what the views of this region can take from its copies. It reads
// them from where the views stand to their ends.
func (r *Replicator) CopyCheck(ctx context.Context, o im.Origin) (im.CopyHealth, error) {
	c, done, err := r.beginLost(o)
	if err != nil {
		return im.CopyHealth{}, err
	}
	defer done()
	if err := c.settle(ctx, c.parts); err != nil {
		return im.CopyHealth{}, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	views, err := c.views(ctx)
	if err != nil {
		return im.CopyHealth{}, err
	}
	checks := make([]im.CopyCheck, len(c.parts))
	_, err = c.each(ctx, func(ctx context.Context, p *part) error {
		check, err := c.check(ctx, p, views[p.p])
		checks[p.i] = check
		return err
	})
	if err != nil {
		return im.CopyHealth{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return im.CopyHealth{Open: c.open, Error: c.err, Copies: checks}, nil
}

// views tells where the views are. Unlike applied, it fails if one does not answer.
func (c *receiving) views(ctx context.Context) (map[im.Partition]im.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, c.r.cfg.ReadTimeout)
	defer cancel()
	all := map[im.Partition]im.Position{}
	for _, view := range c.r.deps.Applied {
		positions, err := view.Positions(ctx, c.peer.Origin)
		if err != nil {
			return nil, im.Errorf(im.CodeUnavailable, "where the views of %s are is not known (an imserver must run): %v", c.r.cfg.Region, err)
		}
		for _, v := range positions {
			all[v.Partition] = v
		}
	}
	return all, nil
}

func (c *receiving) check(ctx context.Context, p *part, at im.Position) (im.CopyCheck, error) {
	at.Partition = p.p // a view that never read it says nothing of it
	check := im.CopyCheck{CopyState: p.state(), View: at.Next}
	p.mu.Lock()
	check.Refused, check.Origin = p.refused, p.theirs
	if p.between != nil {
		check.Between, check.BetweenRefused = p.between.At, p.between.Reason
	}
	p.mu.Unlock()
	check.Reach = max(check.Next, at.Next)
	if family, _, _ := im.ParseTopic(p.p.Topic); family == im.FamilyRoute {
		check.View = check.Next // routers begin anywhere: what is missing is claimed anew
		return check, nil
	}
	if check.Generation > 0 || at.Next >= check.Next {
		return check, nil
	}
	bounds, err := c.r.bounds(ctx, []im.Partition{p.p})
	if err != nil {
		return check, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	reach, err := c.r.reach(ctx, at, bounds[p.p])
	check.Reach = min(reach, check.Next) // it may have grown meanwhile
	return check, err
}

// reach is how far a view comes that reads on from where it stands.
func (r *Replicator) reach(ctx context.Context, at im.Position, b im.Bounds) (int64, error) {
	f, local := im.Follower{Next: at.Next}, at.Local
	if local < b.Start || local > b.End { // then it reads from the start
		local = b.Start
	}
	for local < b.End {
		entries, err := r.read(ctx, at.Partition, local, appendBytes)
		if err != nil {
			return 0, im.Errorf(im.CodeUnavailable, "%v", err)
		}
		if len(entries) == 0 {
			return 0, im.Errorf(im.CodeUnavailable, "%v: nothing can be read at %d, the copy ends at %d", at.Partition, local, b.End)
		}
		for i := range entries {
			h := wire.DecodeShipHead(&entries[i])
			f.See(h.OriginOffset, h.Generation, h.Marker())
		}
		local = entries[len(entries)-1].Offset + 1
	}
	return f.Next, nil
}

// CopyRepair brings copies what they lack and calls tell with how far each is. What the link has it is asked for; what
// another region has is fetched from there, at so many bytes a second, 0 for as fast as it goes. When ctx ends it stops,
// and the next one goes on from what the copies hold then.
func (r *Replicator) CopyRepair(ctx context.Context, o im.Origin, repairs []im.CopyRepair, bytesPerSecond int, tell func(im.CopyProgress) error) error {
	c, done, err := r.beginLost(o)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.running(), func() {
		cancel(im.Errorf(im.CodeUnavailable, "the replicator of %s is stopping", r.cfg.Region))
	})()
	want := make(map[*part]im.CopyRepair, len(repairs))
	for _, w := range repairs {
		p := c.index[w.Partition]
		if p == nil {
			return im.Errorf(im.CodeBadRequest, "%v is no partition of %s", w.Partition, o)
		}
		want[p] = w
	}
	pace := &throttle{now: r.now}
	if bytesPerSecond > 0 {
		pace.caps = []Cap{{BytesPerSecond: bytesPerSecond}}
	}
	var mu sync.Mutex
	told := func(p im.CopyProgress) error {
		mu.Lock()
		defer mu.Unlock()
		return tell(p)
	}
	defer c.reopen()
	errs := make([]error, len(c.parts)) // one that cannot be repaired does not keep the others from it
	_, err = c.each(ctx, func(ctx context.Context, p *part) error {
		if w, ok := want[p]; ok {
			errs[p.i] = c.repair(ctx, p, w, pace, told)
		}
		return ctx.Err()
	})
	return cmp.Or(errors.Join(errs...), err)
}

// repair works on one partition.
func (c *receiving) repair(ctx context.Context, p *part, w im.CopyRepair, pace *throttle, tell func(im.CopyProgress) error) error {
	fetch := w.To > w.Begin
	if fetch && c.r.deps.Copies == nil {
		return im.Errorf(im.CodeInternal, "the replicator of %s cannot read copies of others", c.r.cfg.Region)
	}
	p.mu.Lock()
	if p.repaired {
		p.mu.Unlock()
		return im.Errorf(im.CodeOverloaded, "%v is being repaired by somebody else", p.p)
	}
	p.repaired = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.repaired = false
		p.mu.Unlock()
	}()
	if fetch {
		if err := c.suspend(ctx, p); err != nil {
			return err
		}
	}
	if err := c.settle(ctx, []*part{p}); err != nil {
		return im.Errorf(im.CodeUnavailable, "%v", err)
	}
	if err := p.beginAt(w); err != nil || !fetch {
		return err
	}
	for tries := 0; ; {
		next := p.state().Next
		if next >= w.To {
			c.r.log.Info("a copy was repaired", "partition", p.p.String(), "from", string(w.From), "begin", w.Begin, "to", next)
			return nil
		}
		err := c.r.deps.Copies.ReadCopy(ctx, c.r.cfg.sources(w.From, c.peer.Region)[0], p.p, next, w.To, func(b *wire.LinkBatch) error {
			return c.bring(ctx, p, b, pace, tell)
		})
		if settled := c.settle(ctx, []*part{p}); settled != nil {
			err = settled
		}
		at := p.state()
		switch {
		case ctx.Err() != nil:
			return im.Errorf(im.CodeUnavailable, "%v: brought up to %d of %d from %s: %v", p.p, at.Next, w.To, w.From, context.Cause(ctx))
		case at.Generation > 0:
			return c.errLost()
		case at.Next > next:
			tries = 0
		default:
			if tries++; tries == repairTries {
				return im.Errorf(im.CodeUnavailable, "%v: brought up to %d of %d from %s: %v", p.p, at.Next, w.To, w.From, err)
			}
		}
	}
}

// bring appends a batch of another region.
func (c *receiving) bring(ctx context.Context, p *part, b *wire.LinkBatch, pace *throttle, tell func(im.CopyProgress) error) error {
	if err := pace.wait(ctx); err != nil {
		return err
	}
	entries, bytes, err := c.r.codec.entries(p.p, b)
	if err != nil {
		return err
	}
	if err := p.named(&work{entries: entries}); err != nil {
		return err
	}
	pace.spend(bytes)
	if err := c.appendFill(ctx, p, linkGeneration, b); err != nil {
		return err
	}
	return tell(im.CopyProgress{Partition: p.p, Next: b.First + int64(len(entries))})
}

// beginAt lets the copy's reader wait for an offset that it passed, and the link with it.
func (p *part) beginAt(w im.CopyRepair) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.follower.Generation > 0:
		return p.c.errLost()
	case w.Begin > p.follower.Next:
		return im.Errorf(im.CodeBadRequest, "%v: the copy ends at %d: to go on at %d would leave records out", p.p, p.follower.Next, w.Begin)
	case w.Log != im.UUID{} && !p.name.IsZero() && w.Log != p.name.ID:
		return im.Errorf(im.CodeBadRequest, "%v: the copy is of log %s, not of %s", p.p, p.name, w.Log)
	}
	if p.name.IsZero() && w.Log != (im.UUID{}) {
		p.name = im.LogName{Origin: p.c.peer.Origin, ID: w.Log}
	}
	if w.Begin < p.follower.Next {
		p.c.r.log.Warn("a copy is brought records once more", "partition", p.p.String(), "begin", w.Begin, "end", p.follower.Next)
		p.follower.Next, p.last = w.Begin, lastRecord{}
	}
	if p.running {
		p.reset = true
		wake(p.ready)
	}
	return nil
}

// jump lets a partition of routes go on where its log begins, if retention passed the copy: what is missing is older than
// any route lives, and routers pass a gap by. A message log is never jumped over. The caller holds mu, and opens the link
// anew.
func (p *part) jump(s *wire.LinkPartitionState) bool {
	family, _, _ := im.ParseTopic(p.p.Topic)
	same := p.name.IsZero() && !p.last.known || p.name.ID == p.theirs
	if family != im.FamilyRoute || s.Refused == "" || !same || s.Start <= p.next || p.follower.Generation > 0 {
		return false
	}
	p.c.r.metrics.gap(p.c.peer.Region)
	p.c.r.log.Error("retention passed the copy of a route log: going on where the log begins", "partition", p.p.String(),
		"next", p.next, "start", s.Start)
	p.follower.Next, p.last = s.Start, lastRecord{}
	p.name = im.LogName{Origin: p.c.peer.Origin, ID: p.theirs}
	return true
}

// begin makes the session the one that is open, and returns the partitions that it may append to: not those of which a
// repair brings records.
func (s *session) begin(good []*part) []*part {
	s.c.mu.Lock()
	s.c.now = s
	s.c.mu.Unlock()
	var may []*part
	for _, p := range good {
		p.mu.Lock()
		repaired := p.repaired
		p.mu.Unlock()
		if repaired {
			s.refuse(p, "it is being repaired from another region")
			continue
		}
		may = append(may, p)
	}
	return may
}

func (s *session) end() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.now = nil
}

// suspend keeps the link from appending to a partition while a repair does, and waits for the append under way.
func (c *receiving) suspend(ctx context.Context, p *part) error {
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	p.mu.Lock()
	running := p.running
	p.mu.Unlock()
	if s != nil && running {
		s.refuse(p, "it is being repaired from another region")
	}
	for {
		p.mu.Lock()
		appending := p.appending
		p.mu.Unlock()
		if !appending {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// reopen opens the link anew if partitions are refused: the reason may be gone.
func (c *receiving) reopen() {
	refused := false
	for _, p := range c.parts {
		p.mu.Lock()
		refused = refused || p.refused != ""
		p.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && refused {
		c.now.fail(im.Errorf(im.CodeUnavailable, "opening the link anew after a repair"))
	}
}
