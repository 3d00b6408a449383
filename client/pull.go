package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	// gapPatience lets pushes that overtook one another arrive before a gap is pulled.
	gapPatience = 25 * time.Millisecond
	// hedgePull is how long the own region is waited for, when it said itself that it has the records, before the
	// origin is asked as well.
	hedgePull = 500 * time.Millisecond
	pullSlots = 8   // pulls under way
	pullLimit = 200 // records asked for at once
	pullTries = 12  // in a row without any progress, before the next push, list or silence tries again
	listLimit = 100
)

// pulls are the conversations being pulled, one goroutine each; slots bound those that call.
type pulls struct {
	mu      sync.Mutex
	running map[im.Conversation]*pulling
	slots   chan struct{}
}

type pulling struct {
	done chan struct{}
	more bool // something new is missing: look again before ending
	// gapped tells that a push showed a gap meanwhile: the origins are asked at once, by whatever pull is under way.
	gapped chan struct{}
}

// cause is why a conversation is pulled.
type cause struct {
	gap bool // a push showed a gap, so the origin may have what the own region lacks: ask both at once
}

// pull fills a conversation's gaps in the background. done is closed when nothing is missing, or it gave up for now.
func (c *Client) pull(conversation im.Conversation, why cause) (done <-chan struct{}) {
	c.pulls.mu.Lock()
	defer c.pulls.mu.Unlock()
	if p := c.pulls.running[conversation]; p != nil {
		p.more = true
		if why.gap {
			select {
			case p.gapped <- struct{}{}:
			default:
			}
		}
		return p.done
	}
	p := &pulling{done: make(chan struct{}), gapped: make(chan struct{}, 1)}
	if c.ctx.Err() != nil {
		close(p.done)
		return p.done
	}
	c.pulls.running[conversation] = p
	if !c.spawn(func() {
		defer close(p.done)
		c.fill(conversation, why, p)
	}) {
		close(p.done)
	}
	return p.done
}

func (c *Client) fill(conversation im.Conversation, why cause, p *pulling) {
	if why.gap {
		_ = sleep(c.ctx, gapPatience) // the loop looks at the context itself
	}
	failures := 0
	for {
		gaps := c.missing(conversation)
		c.pulls.mu.Lock()
		again := c.again(conversation)
		if c.ctx.Err() != nil || !p.more && (failures >= pullTries || len(gaps) == 0 && len(again) == 0) {
			delete(c.pulls.running, conversation)
			c.pulls.mu.Unlock()
			return
		}
		p.more = false // what is new has one more try, if the tries are over
		c.pulls.mu.Unlock()
		var progress bool
		var err error
		switch {
		case len(gaps) > 0:
			select {
			case <-p.gapped:
				why.gap = true
			default:
			}
			progress, err = c.pullGaps(conversation, gaps, why, p.gapped)
		case len(again) > 0:
			progress, err = c.pullAgain(conversation, again)
		default:
			continue
		}
		if progress {
			failures = 0
			continue
		}
		why.gap = true // whoever promised it does not have it
		failures++
		if err != nil && actionOf(err) == im.ActionStop {
			failures = pullTries // refused everywhere: until something new is heard
			c.cfg.Logger.Debug("a pull is refused", "conversation", conversation, "error", err)
			continue
		}
		if sleep(c.ctx, delay(c.endpoints.currentPolicy(), failures, err)) != nil {
			continue
		}
	}
}

// pullGaps asks the own region and the origins of the gaps at the same time, as many as the policy lets race; the first answer that
// fills the gaps wins and the other calls are cancelled. Where no push showed the gap, the origins wait until the own
// region was slow, or lacked something. progress tells whether the cursor has grown at all.
func (c *Client) pullGaps(conversation im.Conversation, gaps []timeline.Gap, why cause, gapped <-chan struct{}) (progress bool, err error) {
	select {
	case c.pulls.slots <- struct{}{}:
		defer func() { <-c.pulls.slots }()
	case <-c.ctx.Done():
		return false, context.Cause(c.ctx)
	}
	own, err := c.await(c.ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.CallTimeout)
	defer cancel()
	before := c.Cursor(conversation)
	width := c.endpoints.currentPolicy().RaceWidth
	race := pullRace{known: []im.Region{own.region()}}
	race.want(gaps)
	answers := make(chan error)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	under := 0 // ways that are being asked
	ask := func(way caller) {
		under++
		target := race.target
		calls.Go(func() {
			err := c.pullFrom(ctx, way, conversation, target)
			select {
			case answers <- err:
			case <-ctx.Done():
			}
		})
	}
	ask(own)
	hedge := time.NewTimer(hedgePull)
	defer hedge.Stop()
	hurry := why.gap
	var errs []error
	for {
		for hurry && len(race.next) > 0 && under < max(width, 1) {
			r := race.next[0]
			race.next = race.next[1:]
			if f := c.fallbackTo(r); f != nil {
				ask(f)
			}
		}
		if under == 0 {
			return !before.CoversAll(c.Cursor(conversation)), worst(errs)
		}
		select {
		case <-hedge.C:
			hurry = true
		case <-gapped:
			hurry = true
			if err := sleep(ctx, gapPatience); err != nil {
				continue
			}
			race.want(c.missing(conversation))
		case err := <-answers:
			under--
			if err == nil && (c.Cursor(conversation).CoversAll(race.target) || len(c.missing(conversation)) == 0) {
				return true, nil
			}
			errs = append(errs, err)
			hurry = true // the answer was not enough: ask the others now
		case <-ctx.Done():
			return !before.CoversAll(c.Cursor(conversation)), context.Cause(ctx)
		}
	}
}

// pullRace is what is to be had, and of whom.
type pullRace struct {
	target im.Cursor
	known  []im.Region // asked, or about to be
	next   []im.Region // of these, those that are not asked yet
}

// want adds gaps: their origins have what the own region may lack.
func (r *pullRace) want(gaps []timeline.Gap) {
	target := r.target.Merge(nil)
	for _, g := range gaps {
		target = target.Merge(im.Cursor{g.Origin: g.To})
		if from := g.Origin.Region(); !slices.Contains(r.known, from) {
			r.known, r.next = append(r.known, from), append(r.next, from)
		}
	}
	r.target = target
}

// worst joins the errors of ways to the same records: it is a stop only if all are.
func worst(errs []error) error {
	for _, err := range errs {
		if err == nil || actionOf(err) != im.ActionStop {
			return public(err)
		}
	}
	return errors.Join(errs...)
}

// pullFrom pulls from one region, page by page, until target is covered or the region has no more.
func (c *Client) pullFrom(ctx context.Context, way caller, conversation im.Conversation, target im.Cursor) error {
	for {
		cursor := c.Cursor(conversation)
		page, err := c.pullPage(ctx, way, conversation, cursor, false)
		if err != nil {
			return err
		}
		now := c.Cursor(conversation)
		if now.CoversAll(target) || !page.More || cursor.CoversAll(now) {
			if !page.More {
				c.ended(conversation, way.region())
			}
			return nil
		}
	}
}

// pullPage pulls one page and applies it.
func (c *Client) pullPage(ctx context.Context, way caller, conversation im.Conversation, cursor im.Cursor, again bool) (*wire.PullResponse, error) {
	body, err := wire.Marshal(&wire.PullRequest{Conversation: string(conversation), Cursor: cursor.String(), Limit: uint32(c.records.limit(pullLimit, c.endpoints.currentPolicy().MaxFrameBytes))})
	if err != nil {
		return nil, err
	}
	b, err := way.call(ctx, wire.MethodPull, string(conversation), body)
	if err != nil {
		return nil, err
	}
	page := new(wire.PullResponse)
	if err := wire.Unmarshal(b, page); err != nil {
		return nil, err
	}
	c.records.came(len(page.Records)+len(page.Repeats), len(b))
	return page, c.applyPull(ctx, conversation, page, again, way.region())
}

// resync asks for a list soon.
func (c *Client) resync(why string) {
	select {
	case c.sync <- why:
	default: // one is waiting, and will see what this one would
	}
}

// syncLoop lists what changed, and pulls it: after a connection, after dropped pushes, after a long silence.
func (c *Client) syncLoop() {
	cursor := ""
	spread := 0.8 + 0.4*rand.Float64()
	failures := 0
	for {
		interval := time.Duration(float64(ms(c.endpoints.currentPolicy().FallbackPullMs)) * spread)
		c.mu.Lock()
		due := c.heard.Add(interval)
		c.mu.Unlock()
		if echo, ok := c.outbox.echoDue(); ok && echo.Before(due) {
			due = echo
		}
		t := time.NewTimer(time.Until(due))
		var why string
		select {
		case why = <-c.sync:
		case <-t.C:
			if !c.silent(interval) && !c.outbox.echoMissing(c.has) {
				continue
			}
			why = "nothing was heard"
		case <-c.recheck:
			t.Stop()
			continue
		case <-c.ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
		next, region, err := c.catchUp(c.ctx, cursor)
		cursor = next
		if c.ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.heard = time.Now()
		c.mu.Unlock()
		if err != nil {
			failures++
			c.cfg.Logger.Debug("catching up failed", "why", why, "error", err)
			if sleep(c.ctx, delay(c.endpoints.currentPolicy(), failures, err)) != nil {
				return
			}
			c.resync("again: " + why)
			continue
		}
		failures = 0
		spread = 0.8 + 0.4*rand.Float64()
		c.notice(CaughtUp{Region: region})
	}
}

// nudge makes the syncer look again at when it is due.
func (c *Client) nudge() {
	select {
	case c.recheck <- struct{}{}:
	default:
	}
}

func (c *Client) silent(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.heard) >= d
}

func (c *Client) has(id im.ID) (has bool) {
	c.with(id.Conversation, func(t *timeline.Timeline) { has = t.Has(id) })
	return has
}

// catchUp lists from a list cursor on and pulls every conversation that has more than its timeline. The list cursor moves
// on even if a pull fails: the timeline remembers what it wants.
func (c *Client) catchUp(ctx context.Context, cursor string) (next string, region im.Region, err error) {
	for {
		way, err := c.await(ctx)
		if err != nil {
			return cursor, "", err
		}
		page, err := c.list(ctx, way, cursor, c.rows.limit(listLimit, c.endpoints.currentPolicy().MaxFrameBytes))
		if err != nil {
			if im.CodeOf(err) == im.CodeBadCursor && cursor != "" {
				cursor = "" // of a region that knows other logs
				continue
			}
			return cursor, way.region(), err
		}
		var waits []<-chan struct{}
		for _, row := range page.Rows {
			if done := c.row(row, way.region()); done != nil {
				waits = append(waits, done)
			}
		}
		if err := c.waitAll(ctx, waits); err != nil {
			return cursor, way.region(), err
		}
		if !page.More || page.Cursor == cursor {
			c.pullIncomplete()
			return page.Cursor, way.region(), nil
		}
		cursor = page.Cursor
	}
}

// waitAll waits for pulls to end, for as long as a call may take: one that no region can fill must not hold up the rest.
func (c *Client) waitAll(ctx context.Context, waits []<-chan struct{}) error {
	t := time.NewTimer(c.cfg.CallTimeout)
	defer t.Stop()
	for _, done := range waits {
		select {
		case <-done:
		case <-t.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// pullIncomplete tries again what an earlier pull gave up on.
func (c *Client) pullIncomplete() {
	var incomplete []im.Conversation
	c.timelines.mu.Lock()
	for conversation, t := range c.timelines.of {
		if m := c.timelines.mine[conversation]; !t.Complete() || m != nil && len(m.again) > 0 {
			incomplete = append(incomplete, conversation)
		}
	}
	c.timelines.mu.Unlock()
	for _, conversation := range incomplete {
		c.pull(conversation, cause{gap: true})
	}
}

// skipHistory leaves out what Config.History says is too old, of origins that nothing was heard of yet.
func (c *Client) skipHistory(t *timeline.Timeline) {
	if c.cfg.History <= 0 {
		return
	}
	n := uint64(c.cfg.History)
	for _, g := range t.Missing() {
		if g.From == 1 && g.To > n {
			t.Skip(im.Cursor{g.Origin: g.To - n})
		}
	}
}

// row takes one row of a region's list; it returns a channel to wait on if the conversation is pulled.
func (c *Client) row(row *wire.ListRow, from im.Region) <-chan struct{} {
	conversation, err := im.ParseConversation(row.Conversation)
	if err != nil {
		return nil
	}
	head, err := im.ParseCursor(row.Head)
	if err != nil {
		return nil
	}
	c.marks.taken(conversation, row.Delivered, row.Read)
	complete := true
	c.with(conversation, func(t *timeline.Timeline) {
		if row.Member {
			c.belongs(conversation, "")
		} else {
			c.belongs(conversation, from)
		}
		t.Want(head)
		c.skipHistory(t)
		complete = t.Complete()
	})
	if complete {
		return nil
	}
	return c.pull(conversation, cause{})
}

func (c *Client) list(ctx context.Context, way caller, cursor string, limit int) (*wire.ListResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	body, err := wire.Marshal(&wire.ListRequest{Cursor: cursor, Limit: uint32(limit)})
	if err != nil {
		return nil, err
	}
	b, err := way.call(ctx, wire.MethodList, "", body)
	if err != nil {
		return nil, err
	}
	page := new(wire.ListResponse)
	if err := wire.Unmarshal(b, page); err != nil {
		return nil, err
	}
	c.rows.came(len(page.Rows), len(b))
	return page, nil
}
