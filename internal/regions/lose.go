package regions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Peer is a region that has copies of the log of the one that is lost: its replicator.
type Peer interface {
	// Hold tells what the copies hold, read to their ends; unless the generation is 0, they are held under it first.
	Hold(ctx context.Context, o im.Origin, generation uint32) ([]im.CopyState, error)
	// Fill brings copies up to where others are.
	Fill(ctx context.Context, o im.Origin, generation uint32, fills []im.CopyFill) ([]im.CopyState, error)
	// Seal appends final markers.
	Seal(ctx context.Context, o im.Origin, generation uint32, seals []im.CopyFill) ([]im.CopyState, error)
}

// Loss says what is declared lost, and by whom it is settled.
type Loss struct {
	Origin   im.Origin
	Peers    map[im.Region]Peer          // every region that has copies and whose loss is not accepted
	Timeout  time.Duration               // of a call that moves no data [1 min]
	Stands   func(context.Context) error // asked before anything is sealed: fails if Peers are not all any more; may be nil
	Progress func(string)                // told one line at a time; may be nil
}

// Settled is how a loss ended.
type Settled struct {
	Origin  im.Origin
	Stamp   im.Stamp               // of the declaration
	Seals   map[im.Partition]int64 // one past the last record that counts
	Shipped int64                  // records that peers got from each other
	Already bool                   // every copy was sealed before
}

// Lose seals the log of an origin at the highest offset that any peer holds, and brings every peer there:
//
//	ask     every peer answers, else nothing is changed
//	hold    a marker in every copy: what links add behind it counts nowhere, so what each peer holds stands still
//	fill    the peer that holds most ships the others the rest
//	seal    a final marker in every copy
//
// A peer that has acked a record as global had read it back before the marker: so it is below the seal. So may one that became
// a peer meanwhile, and was not asked: then nothing is sealed. When it fails on the way, copies stay held and the next run goes on from what they hold; a partition that is sealed anywhere stays
// sealed at that offset.
func Lose(ctx context.Context, l Loss) (Settled, error) {
	if l.Timeout == 0 {
		l.Timeout = time.Minute
	}
	if l.Progress == nil {
		l.Progress = func(string) {}
	}
	if len(l.Peers) == 0 {
		return Settled{}, errors.New("no region is left that has a copy of the log: nothing of it can be saved")
	}
	asked, err := l.all(ctx, func(ctx context.Context, _ im.Region, p Peer) ([]im.CopyState, error) {
		return p.Hold(ctx, l.Origin, 0)
	})
	if err != nil {
		return Settled{}, fmt.Errorf("nothing was changed: %w", err)
	}
	if err := asked.comparable(); err != nil {
		return Settled{}, fmt.Errorf("nothing was changed: %w", err)
	}
	if err := asked.passed(); err != nil {
		return Settled{}, fmt.Errorf("nothing was changed: %w", err)
	}
	if asked.sealed() {
		s := l.settled(asked, 0)
		s.Already = true
		return s, nil
	}
	generation := asked.generation() + 1
	l.Progress(fmt.Sprintf("holding the copies of %s in %s under link generation %d", l.Origin, l.names(), generation))
	held, err := l.all(ctx, func(ctx context.Context, _ im.Region, p Peer) ([]im.CopyState, error) {
		return p.Hold(ctx, l.Origin, generation)
	})
	if err != nil {
		return Settled{}, l.again(err)
	}
	if err := errors.Join(held.comparable(), held.passed()); err != nil {
		return Settled{}, l.again(err)
	}
	shipped, err := l.fill(ctx, generation, held)
	if err != nil {
		return Settled{}, l.again(err)
	}
	if l.Stands != nil {
		if err := l.Stands(ctx); err != nil {
			return Settled{}, l.again(err)
		}
	}
	seals := held.seals()
	l.Progress(fmt.Sprintf("sealing %d partitions of %s in %s", len(seals), l.Origin, l.names()))
	end, err := l.all(ctx, func(ctx context.Context, _ im.Region, p Peer) ([]im.CopyState, error) {
		return p.Seal(ctx, l.Origin, generation, seals)
	})
	if err != nil {
		return Settled{}, l.again(err)
	}
	if err := errors.Join(end.comparable(), end.passed()); err != nil {
		return Settled{}, l.again(err)
	}
	if !end.sealed() {
		return Settled{}, l.again(errors.New("a copy has no final marker"))
	}
	return l.settled(end, shipped), nil
}

func (l *Loss) again(err error) error {
	return fmt.Errorf("%w: copies of %s stay held, so nothing of it is received any more: run the same command again", err, l.Origin)
}

func (l *Loss) names() string {
	var names []string
	for _, r := range slices.Sorted(maps.Keys(l.Peers)) {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// all asks every peer at once.
func (l *Loss) all(ctx context.Context, ask func(context.Context, im.Region, Peer) ([]im.CopyState, error)) (holdings, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs []error
	)
	all := holdings{}
	for region, peer := range l.Peers {
		wg.Go(func() {
			states, err := ask(ctx, region, peer)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("region %s: %w", region, err))
				return
			}
			of := make(map[im.Partition]im.CopyState, len(states))
			for _, s := range states {
				of[s.Partition] = s
			}
			all[region] = of
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// fill lets peers fetch what they lack, all at once. It takes as long as it takes.
func (l *Loss) fill(ctx context.Context, generation uint32, held holdings) (shipped int64, err error) {
	lacks := map[im.Region][]im.CopyFill{}
	for _, s := range held.seals() {
		for region, of := range held {
			if at := of[s.Partition]; !at.Sealed() && at.Next < s.To {
				lacks[region] = append(lacks[region], s)
				shipped += s.To - at.Next
			}
		}
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs []error
	)
	for region, fills := range lacks {
		l.Progress(fmt.Sprintf("%s fetches what it lacks of %d partitions from other regions' copies", region, len(fills)))
		wg.Go(func() {
			if _, err := l.Peers[region].Fill(ctx, l.Origin, generation, fills); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("region %s: %w", region, err))
			}
		})
	}
	wg.Wait()
	return shipped, errors.Join(errs...)
}

func (l *Loss) settled(end holdings, shipped int64) Settled {
	s := Settled{Origin: l.Origin, Seals: map[im.Partition]int64{}, Shipped: shipped}
	for _, of := range end {
		for p, state := range of {
			s.Seals[p] = state.Next
			s.Stamp = max(s.Stamp, state.Held)
		}
	}
	return s
}

// holdings are what peers hold.
type holdings map[im.Region]map[im.Partition]im.CopyState

// each calls f with a partition's states, by region, partitions in order.
func (h holdings) each(f func(p im.Partition, regions []im.Region, states []im.CopyState)) {
	seen := map[im.Partition]bool{}
	for _, of := range h {
		for p := range of {
			seen[p] = true
		}
	}
	regions := slices.Sorted(maps.Keys(h))
	for _, p := range slices.SortedFunc(maps.Keys(seen), im.Partition.Compare) {
		states := make([]im.CopyState, len(regions))
		for i, r := range regions {
			state, ok := h[r][p]
			if !ok {
				state.Partition = p
			}
			states[i] = state
		}
		f(p, regions, states)
	}
}

// comparable fails if the copies are of different logs: then no offset says the same in both.
func (h holdings) comparable() (err error) {
	h.each(func(p im.Partition, regions []im.Region, states []im.CopyState) {
		for i, s := range states {
			if _, has := h[regions[i]][p]; !has {
				err = first(err, fmt.Errorf("region %s has no copy of %v: run antipode migrate there", regions[i], p))
			}
			for j, t := range states[:i] {
				switch {
				case !s.Log.IsZero() && !t.Log.IsZero() && s.Log != t.Log:
					err = first(err, fmt.Errorf("%v: the copy in %s is of log %v, that in %s of %v: repair one of them first", p, regions[j], t.Log, regions[i], s.Log))
				case s.Next == t.Next && s.Checked && t.Checked && s.Checksum != t.Checksum:
					err = first(err, fmt.Errorf("%v: record %d differs between %s and %s: repair one of them first", p, s.Next-1, regions[j], regions[i]))
				}
			}
		}
	})
	return err
}

// passed fails if a partition is sealed somewhere and another region holds more: its loss was accepted then.
func (h holdings) passed() (err error) {
	h.each(func(p im.Partition, regions []im.Region, states []im.CopyState) {
		for i, s := range states {
			if !s.Sealed() {
				continue
			}
			for j, t := range states {
				if t.Next > s.Next || t.Sealed() && t.Next != s.Next {
					err = first(err, fmt.Errorf("%v is sealed at %d in %s, and region %s holds records up to %d: its loss was accepted when the seal was set: declare it lost too",
						p, s.Next, regions[i], regions[j], t.Next))
				}
			}
		}
	})
	return err
}

// sealed tells whether every copy has its final marker.
func (h holdings) sealed() bool {
	all := true
	h.each(func(_ im.Partition, _ []im.Region, states []im.CopyState) {
		for _, s := range states {
			all = all && s.Sealed()
		}
	})
	return all
}

// generation is the highest under which a copy is held.
func (h holdings) generation() uint32 {
	highest := uint32(0)
	h.each(func(_ im.Partition, _ []im.Region, states []im.CopyState) {
		for _, s := range states {
			if !s.Sealed() {
				highest = max(highest, s.Generation)
			}
		}
	})
	return highest
}

// seals is where each partition ends, and who holds all of it: where it is sealed already, or the most that anybody holds.
func (h holdings) seals() []im.CopyFill {
	var all []im.CopyFill
	h.each(func(p im.Partition, regions []im.Region, states []im.CopyState) {
		best := 0
		for i, s := range states {
			if s.Sealed() == states[best].Sealed() && s.Next > states[best].Next || s.Sealed() && !states[best].Sealed() {
				best = i
			}
		}
		all = append(all, im.CopyFill{Partition: p, To: states[best].Next, From: regions[best]})
	})
	return all
}

func first(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
