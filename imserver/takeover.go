package imserver

import (
	"context"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/owner"
	"github.com/antipode-im/antipode/imserver/view"
)

// takeOver makes the owned shards those of numbers: it forgets what went to others, and begins what is new at the stored
// positions, delivering again what its last owner may not have. A shard that is owned already goes on, and begins what it
// lacks of origins.
func (a *applier) takeOver(ctx, hard context.Context, numbers []int, origins []im.Origin) error {
	for number, sh := range a.owned {
		if !slices.Contains(numbers, number) {
			a.drop(sh)
		}
	}
	var fresh []int
	for _, number := range numbers {
		if sh := a.owned[number]; sh == nil || len(sh.Tails) < len(origins)*len(a.s.ownTopics()) {
			fresh = append(fresh, number)
		}
	}
	if len(fresh) == 0 {
		a.publish()
		return nil
	}
	var stored []view.Position
	var sent []im.Position
	if err := a.s.patiently(ctx, "read positions", func() (err error) {
		if stored, err = a.s.deps.Store.Positions(ctx, fresh...); err != nil {
			return err
		}
		sent, err = a.s.deps.Store.Sent(ctx, fresh...)
		return err
	}); err != nil {
		return err
	}
	if err := a.verify(ctx, stored); err != nil {
		return err
	}
	at := make(map[im.Partition]view.Position, len(stored))
	for _, p := range stored {
		at[p.Partition] = p
	}
	begun := map[im.Partition]*view.Tail{}
	for _, number := range fresh {
		sh := a.owned[number]
		if sh == nil {
			sh = owner.New(number, a.s.cfg.CachedConversations/a.s.cfg.Partitions)
		}
		for _, o := range origins {
			for _, topic := range a.s.topics(o) {
				p := im.Partition{Topic: topic, Number: number}
				if sh.Tails[topic] != nil {
					continue
				}
				position, ok := at[p]
				if !ok {
					position.Partition = p
				}
				t, err := view.NewTail(position, a.s.cfg.Partitions)
				if err != nil { // topics are made of checked origins
					return fmt.Errorf("imserver: %w", err)
				}
				sh.Follow(t)
				a.ledger.Begin(p, position.Next)
				begun[p] = t
			}
		}
		a.owned[number] = sh
	}
	noted := make(map[im.Partition]bool, len(sent))
	for _, p := range sent {
		noted[p.Partition] = true
		if begun[p.Partition] != nil {
			if err := a.resend(ctx, hard, a.owned[p.Partition.Number], p); err != nil {
				return err
			}
		}
	}
	// Where nothing was noted yet, deliveries begin here; noted before anything is applied, else a crash after the first
	// commit would leave its records undelivered.
	var begin []im.Position
	for p, t := range begun {
		if !noted[p] {
			begin = append(begin, t.At().Position)
		}
	}
	if len(begin) > 0 {
		slices.SortFunc(begin, func(x, y im.Position) int { return x.Partition.Compare(y.Partition) })
		if err := a.s.patiently(ctx, "note where deliveries begin", func() error { return a.s.deps.Store.SaveSent(ctx, begin) }); err != nil {
			return err
		}
	}
	a.publish()
	select {
	case a.s.gained <- struct{}{}:
	default:
	}
	return nil
}

// resend delivers again what was applied past the last saved sent offset. Its last owner may have delivered it; clients
// drop what they have.
func (a *applier) resend(ctx, hard context.Context, sh *owner.Shard, sent im.Position) error {
	p := sent.Partition
	current := sh.Tails[p.Topic]
	if current == nil || sent.Next >= current.At().Next {
		return nil
	}
	end := current.At().Next
	if end-sent.Next > int64(a.s.cfg.Resend) {
		a.s.deps.Logger.Warn("too much was applied since deliveries were last noted: clients will pull it", "partition", p, "records", end-sent.Next)
		return nil
	}
	t, err := view.NewTail(view.Position{Position: sent}, a.s.cfg.Partitions)
	if err != nil {
		return fmt.Errorf("imserver: %w", err)
	}
	for local := sent.Local; t.At().Next < end; {
		entries, err := a.s.deps.Log.Read(ctx, p, local, 1<<20)
		if err != nil || len(entries) == 0 {
			a.s.deps.Logger.Warn("what may not have been delivered cannot be read: clients will pull it", "partition", p, "error", err)
			return ctx.Err()
		}
		local += int64(len(entries))
		for i := range entries {
			if t.At().Next == end {
				break
			}
			if _, err := t.Take(&entries[i]); err != nil {
				return nil //nolint:nilerr // apply meets the same entry and halts the partition
			}
		}
	}
	part := t.Cut()
	if len(part.Records)+len(part.Cursors) == 0 {
		return nil
	}
	ask := sh.Missing([]view.Part{part}, 0)
	ask.Partitions = []im.Partition{p}
	var facts view.Facts
	if err := a.s.patiently(ctx, "read heads and groups", func() (err error) {
		facts, err = a.s.deps.Store.Known(ctx, ask)
		return err
	}); err != nil {
		return err
	}
	if facts.Next[p] != end {
		a.s.meter.fence(ctx, fencedNumber, view.ErrFenced)
		return view.ErrFenced // the last owner is still at it
	}
	sh.Remember(ask, facts)
	deliveries := sh.Again(part, a.s.cfg.Region, a.s.interest.trusted(a.s.deps.Now()))
	sh.Committed(0)
	again, cancel := context.WithTimeout(hard, handOverGrace)
	defer cancel()
	a.s.handOver(again, hard, deliveries)
	a.sent[p] = current.At().Position
	return nil
}

// publish lists what is owned, and lets accept use what it remembers.
func (a *applier) publish() {
	owned := make(map[int]*owner.Shard, len(a.owned))
	a.tails = a.tails[:0]
	var own []im.Partition
	for number, sh := range a.owned {
		owned[number] = sh
		for _, t := range sh.Tails {
			a.tails = append(a.tails, t)
			if p := t.At().Partition; p.Origin() == a.s.cfg.Origin {
				own = append(own, p)
			}
		}
	}
	a.s.ahead.follow(a.database, own)
	slices.SortFunc(a.tails, func(x, y *view.Tail) int { return x.At().Partition.Compare(y.At().Partition) })
	a.s.shards.set(a.database, owned)
}

// forget drops everything remembered.
func (a *applier) forget() {
	a.flight = nil
	a.ledger.Void()
	for _, sh := range a.owned {
		a.drop(sh)
	}
	a.publish()
}

func (a *applier) drop(sh *owner.Shard) {
	for topic := range sh.Tails {
		p := im.Partition{Topic: topic, Number: sh.Number}
		a.ledger.Forget(p)
		delete(a.gapped, p)
		delete(a.unsure, p)
		if a.halted[p] {
			delete(a.halted, p)
			a.s.halts.clear(p)
			a.s.meter.halt(context.Background(), p.Origin(), -1)
		}
	}
	delete(a.owned, sh.Number)
}
