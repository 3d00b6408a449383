package replicator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// What a region does that ships another's log from its copy of it (a relay), to a region that cannot reach the origin.
//
// An origin offset has one content in every copy, and whoever reads a copy takes only the next one. So a relay ships what a
// follower takes of its copy, under the offsets that the origin gave; the receiver compares its last record, and appends as it
// would from the origin. What the receiver holds is told on to the origin, apart from what the relay holds itself.

// copyLog is the copy of another region's log, for one link.
type copyLog struct {
	r *Replicator
	c *receiving

	mu     sync.Mutex
	starts map[im.Partition]int64    // the first origin offset of which the copy has all that follow, where it is known
	checks map[im.Partition]lastSeen // what the receiver has past the end of the copy, to be compared when that gets there
	held   map[im.Partition]int64    // up to where the receiver holds what was compared
}

// lastSeen is the last record that a receiver has.
type lastSeen struct {
	offset   int64
	checksum uint64
}

func newCopyLog(r *Replicator, c *receiving) *copyLog {
	return &copyLog{r: r, c: c, starts: map[im.Partition]int64{}, checks: map[im.Partition]lastSeen{}, held: map[im.Partition]int64{}}
}

func (s *copyLog) origin() im.Origin { return s.c.peer.Origin }

func (s *copyLog) partitions() []im.Partition {
	all := make([]im.Partition, len(s.c.parts))
	for i, p := range s.c.parts {
		all[i] = p.p
	}
	return all
}

// copyLook is what opening a link reads of copies.
type copyLook struct {
	*copyLog
	states map[im.Partition]im.CopyState // before bounds: all that they count stands within them
	bounds map[im.Partition]im.Bounds
	seen   sightings
}

// look waits until the copies are read: of one that is not yet, nothing can be said.
func (s *copyLog) look(ctx context.Context, wants []*wire.LinkPartition) (continues, error) {
	if err := s.c.settle(ctx, s.c.parts); err != nil {
		return nil, err
	}
	l := copyLook{copyLog: s, states: map[im.Partition]im.CopyState{}}
	next := map[im.Partition]int64{} // which is looked at first
	for _, want := range wants {
		p := im.Partition{Topic: want.Topic, Number: int(want.Partition)}
		part := s.c.index[p]
		if part == nil {
			continue
		}
		l.states[p], next[p] = part.state(), want.Next
		if want.Checksum != 0 {
			next[p]--
		}
	}
	var err error
	if l.bounds, err = s.r.bounds(ctx, slices.Collect(maps.Keys(next))); err != nil {
		return nil, err
	}
	l.seen = s.r.sight(ctx, l.bounds, next)
	return l.continues, nil
}

// state tells where the origin's log ends, as it was heard last: the receiver lacks all that is missing there, whoever lacks it too.
func (s *copyLog) state() (map[im.Partition]im.LogName, map[im.Partition]im.Bounds) {
	names := make(map[im.Partition]im.LogName, len(s.c.parts))
	bounds := make(map[im.Partition]im.Bounds, len(s.c.parts))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.c.parts {
		p.mu.Lock()
		if !p.name.IsZero() {
			names[p.p] = p.name
		}
		bounds[p.p] = im.Bounds{Start: s.starts[p.p], End: max(p.end, p.follower.Next)}
		p.mu.Unlock()
	}
	return names, bounds
}

func (s *copyLog) news(of []sendPart) *wire.LinkNews {
	s.c.mu.Lock()
	told := s.c.told
	s.c.mu.Unlock()
	ahead, _ := s.r.clocks.offset(s.c.peer.Region)
	n := &wire.LinkNews{AheadUs: ahead.Microseconds(), Refusals: s.refusals(of)}
	if !told.at.IsZero() {
		n.AgeMs, n.ClockMs = max(0, s.r.now().Sub(told.at).Milliseconds()), told.clock.UnixMilli()
	}
	return n
}

// refusals are those of a link's partitions that do not come here.
func (s *copyLog) refusals(of []sendPart) *wire.LinkRefusals {
	all := &wire.LinkRefusals{}
	for i := range of {
		part := s.c.index[of[i].p]
		if part == nil { // the receiver asks for one that there is not, which it is told
			continue
		}
		part.mu.Lock()
		reason := part.refused
		part.mu.Unlock()
		if reason != "" {
			all.Partitions = append(all.Partitions, &wire.LinkRefusal{Partition: uint32(i), Reason: reason})
		}
	}
	return all
}

// continues compares the receiver's last record with the copy's. What the receiver has and the copy lacks is compared when the
// copy has it too.
func (s *copyLook) continues(ctx context.Context, p im.Partition, want *wire.LinkPartition) (refused string, err error) {
	part, state := s.c.index[p], s.states[p]
	if state.Generation > 0 {
		return s.c.errLost().Error(), nil
	}
	b, ok := s.bounds[p]
	if !ok {
		return fmt.Sprintf("%v does not exist here", p), nil
	}
	first, err := s.r.originAt(ctx, p, b.Start, b.End, s.seen)
	if err != nil {
		return "", err
	}
	if first < 0 || first > state.Next {
		first = state.Next
	}
	s.begins(p, first)
	part.mu.Lock()
	name := part.name
	part.mu.Unlock()
	by := fmt.Sprintf("the copy in %s of the log of %s: ", s.r.cfg.Region, s.c.peer.Origin)
	refused, compare := Refuses(p, name, im.Bounds{Start: first, End: max(state.Next, want.Next)}, want)
	if name.IsZero() && state.Next == 0 && (want.Next == 0 || want.Checksum != 0) { // nothing came yet; what comes tells its name
		refused, compare = "", true
	}
	switch {
	case refused != "":
		return by + refused, nil
	case want.Next == 0 && state.Next == 0:
		return "", nil
	case want.Next > state.Next:
		check := lastSeen{offset: want.Next - 1}
		if compare {
			check.checksum = want.Checksum
		}
		s.mu.Lock()
		s.checks[p] = check
		s.mu.Unlock()
		return "", nil
	}
	from := want.Next
	if compare {
		from--
	}
	found, past, err := s.take(ctx, p, b, first, from, min(want.Next+1, state.Next))
	if err != nil {
		return "", err
	}
	if compare && len(found) > 0 {
		if refused := Parted(p, &found[0], want); refused != "" {
			return by + refused, nil
		}
	}
	if lacks := from + int64(len(found)); lacks < min(want.Next+1, state.Next) {
		if past = min(past, state.Next); past > lacks {
			s.begins(p, past)
		}
		return by + fmt.Sprintf("%v: it lacks record %d: run antipode link repair, or take this log over another way", p, lacks), nil
	}
	return "", nil
}

func (s *copyLog) begins(p im.Partition, start int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts[p] = start
}

// takeReads bounds how far past where it should stand a record is looked for.
const takeReads = 16

// take returns the records [from, to) of a copy, as far as they are found near where they should stand, and where it goes on past
// them instead: -1 if that was not found, the highest there can be if it ends before.
func (s *copyLook) take(ctx context.Context, p im.Partition, b im.Bounds, first, from, to int64) (found []im.Entry, past int64, err error) {
	past = -1
	if from >= to {
		return nil, past, nil
	}
	local, err := s.r.find(ctx, p, b, first, from, s.seen)
	if err != nil {
		return nil, past, err
	}
	f := im.Follower{Next: from}
	for reads := 0; reads < takeReads && local < b.End; reads++ {
		entries := s.seen.at(p, local)
		if len(entries) == 0 {
			if entries, err = s.r.read(ctx, p, local, appendBytes); err != nil {
				return nil, past, err
			}
		}
		if len(entries) == 0 {
			return nil, past, fmt.Errorf("%v: nothing can be read at %d, the copy ends at %d", p, local, b.End)
		}
		for i := range entries {
			h := wire.DecodeShipHead(&entries[i])
			switch f.See(h.OriginOffset, h.Generation, h.Marker()) {
			case im.Take:
				found = append(found, entries[i])
			case im.Gap:
				if past < 0 {
					past = h.OriginOffset
				}
			}
			if f.Next == to {
				return found, past, nil
			}
		}
		local = entries[len(entries)-1].Offset + 1
	}
	if past < 0 && local >= b.End {
		past = math.MaxInt64
	}
	return found, past, nil
}

func (s *copyLog) asks(im.Region, map[im.Partition]int64) {} // the origin is told what is held, and no more

// holds takes what the receiver holds, where its records were compared with the copy's.
func (s *copyLog) holds(_ im.Region, offsets map[im.Partition]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, offset := range offsets {
		if _, open := s.checks[p]; !open {
			s.held[p] = max(s.held[p], offset)
		}
	}
}

func (s *copyLog) linked(peer im.Region, by int) { s.c.relays.link(s, peer, by > 0) }

func (s *copyLog) reader(from map[im.Partition]int64, _ bool) Reader {
	r := &copyReader{
		log: s, inner: s.r.deps.NewReader(map[im.Partition]int64{}),
		places: map[im.Partition]int64{}, follows: map[im.Partition]*following{}, parked: map[im.Partition]*following{},
	}
	for p, next := range from {
		r.Seek(p, next)
	}
	return r
}

// errRelayEnds ends a link that a copy cannot go on with.
type errRelayEnds struct{ error }

// readable is false where a copy cannot be what the receiver needs; everything else is tried again.
func (s *copyLog) readable(_ context.Context, _ map[im.Partition]int64, cause error) error {
	if ends, ok := errors.AsType[errRelayEnds](cause); ok {
		return ends.error
	}
	return nil
}

// copyReader reads copies as a log: it takes what a follower takes, and its entries have the origin's offsets.
type copyReader struct {
	log     *copyLog
	inner   Reader
	places  map[im.Partition]int64 // where partitions are to be read from next, in the origin's offsets
	follows map[im.Partition]*following
	parked  map[im.Partition]*following // where those stood that are not read at present
	ended   error                       // nothing is read any more
}

// following is where the reader of a copy stands.
type following struct {
	im.Follower
	local   int64 // the copy's own offset to read next; -1 if it is to be found anew
	missing *missing
}

// missing is a record that was not where it should stand, by what the read-back had taken then: it comes before until, or the
// copy does not have it.
type missing struct{ next, until int64 }

// Seek has a partition read on from an origin offset, or from before it where the record before is still to be compared.
func (r *copyReader) Seek(p im.Partition, offset int64) {
	r.Drop(p)
	r.log.mu.Lock()
	if check, ok := r.log.checks[p]; ok {
		offset = min(offset, check.offset)
	}
	r.log.mu.Unlock()
	if f := r.parked[p]; f != nil && f.Next == offset && f.local >= 0 {
		delete(r.parked, p)
		r.follows[p] = f
		r.inner.Seek(p, f.local)
		return
	}
	r.places[p] = offset
}

// Drop has a partition not read any more.
func (r *copyReader) Drop(p im.Partition) {
	if f := r.follows[p]; f != nil {
		r.inner.Drop(p)
		r.parked[p] = f
	}
	delete(r.places, p)
	delete(r.follows, p)
}

func (r *copyReader) Close() { r.inner.Close() }

// Poll returns what comes next.
func (r *copyReader) Poll(ctx context.Context) ([]im.Batch, error) {
	if r.ended != nil { // also if its caller left that unread, as it does with errors of a Poll that it interrupted
		return nil, r.ended
	}
	if err := r.place(ctx); err != nil {
		if ctx.Err() != nil && r.ended == nil { // whatever the log says of a look that was interrupted
			return nil, ctx.Err()
		}
		return nil, err
	}
	batches, err := r.inner.Poll(ctx)
	var taken []im.Batch
	for _, b := range batches {
		f := r.follows[b.Partition]
		if f == nil {
			continue
		}
		entries, bad := r.follow(f, b.Partition, b.Entries)
		if bad != nil {
			r.ended = bad
			err = errors.Join(err, bad)
			continue
		}
		if len(entries) > 0 {
			taken = append(taken, im.Batch{Partition: b.Partition, Entries: entries})
		}
	}
	if err != nil { // retention may have passed where partitions stand
		for _, f := range r.follows {
			f.local = -1
		}
	}
	return taken, err
}

// place finds where partitions stand in their copies.
func (r *copyReader) place(ctx context.Context) error {
	if len(r.places) == 0 {
		return nil
	}
	bounds, err := r.log.r.bounds(ctx, slices.Collect(maps.Keys(r.places)))
	if err != nil {
		return err
	}
	seen := r.log.r.sight(ctx, bounds, r.places)
	for p, offset := range r.places {
		b, ok := bounds[p]
		if !ok {
			return errRelayEnds{im.Errorf(im.CodeUnavailable, "%v does not exist here any more", p)}
		}
		first, err := r.log.r.originAt(ctx, p, b.Start, b.End, seen)
		if err != nil {
			return err
		}
		local := b.End
		switch {
		case first > offset:
			return errRelayEnds{im.Errorf(im.CodeUnavailable, "%v: the copy begins at %d, the receiver needs %d", p, first, offset)}
		case first >= 0:
			if local, err = r.log.r.find(ctx, p, b, first, offset, seen); err != nil {
				return err
			}
		}
		r.inner.Seek(p, local)
		r.follows[p] = &following{Follower: im.Follower{Next: offset}, local: local}
		delete(r.places, p)
	}
	return nil
}

// follow takes what is next of a partition.
func (r *copyReader) follow(f *following, p im.Partition, entries []im.Entry) ([]im.Entry, error) {
	taken := entries[:0]
	for i := range entries {
		e := &entries[i]
		f.local = e.Offset + 1
		h := wire.DecodeShipHead(e)
		verdict := f.See(h.OriginOffset, h.Generation, h.Marker())
		if f.Generation > 0 { // whatever is shipped past the marker, no reader of the receiver's copy may count
			return nil, errRelayEnds{r.log.c.errLost()}
		}
		switch verdict {
		case im.Take:
			if err := r.log.compared(p, e, h.OriginOffset); err != nil {
				return nil, err
			}
			f.missing = nil
			e.Offset = h.OriginOffset
			taken = append(taken, *e)
		case im.Gap:
			if f.missing == nil {
				f.missing = r.log.missing(p, f.Next)
			}
		}
		if m := f.missing; m != nil && f.local >= m.until {
			return nil, errRelayEnds{im.Errorf(im.CodeUnavailable, "%v: record %d does not stand where it should in the copy in %s", p, m.next, r.log.r.cfg.Region)}
		}
	}
	return taken, nil
}

// missing is what to think of a gap before next: nothing, if the read-back waits for that record too.
func (s *copyLog) missing(p im.Partition, next int64) *missing {
	part := s.c.index[p]
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.follower.Next <= next {
		return nil
	}
	return &missing{next: next, until: part.local}
}

// compared compares the record that the receiver had already when the copy had not.
func (s *copyLog) compared(p im.Partition, e *im.Entry, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	check, ok := s.checks[p]
	if !ok || offset != check.offset {
		return nil
	}
	if sum := wire.Checksum(e); check.checksum != 0 && sum != check.checksum {
		return errRelayEnds{im.Errorf(im.CodeUnavailable, "%v: record %d has checksum %016x at the receiver and %016x in the copy in %s: the logs have parted",
			p, offset, check.checksum, sum, s.r.cfg.Region)}
	}
	delete(s.checks, p)
	s.held[p] = max(s.held[p], offset+1)
	return nil
}

// relays are the open links over which regions take a log from the copy of it.
type relays struct {
	mu   sync.Mutex // taken before that of a copyLog
	open map[*copyLog]im.Region
}

func (r *relays) link(s *copyLog, peer im.Region, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !open {
		delete(r.open, s)
		return
	}
	if r.open == nil {
		r.open = map[*copyLog]im.Region{}
	}
	r.open[s] = peer
}

// holds is what each region holds, by all of its links.
func (r *relays) holds() map[im.Region]map[im.Partition]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[im.Region]map[im.Partition]int64{}
	for s, peer := range r.open {
		if all[peer] == nil {
			all[peer] = map[im.Partition]int64{}
		}
		s.mu.Lock()
		for p, offset := range s.held {
			all[peer][p] = max(all[peer][p], offset)
		}
		s.mu.Unlock()
	}
	return all
}

// tellRelayed says who takes the log from the copy now. What they hold counts no further than the copy does: it is the read-back of
// that which the origin may believe.
func (c *receiving) tellRelayed() []*wire.LinkRelayed {
	var all []*wire.LinkRelayed
	holds := c.relays.holds()
	for _, peer := range slices.Sorted(maps.Keys(holds)) {
		m := &wire.LinkRelayed{Region: string(peer)}
		for _, p := range c.parts {
			p.mu.Lock()
			own, refused := p.sentHeld, p.refused != ""
			p.mu.Unlock()
			if next := min(holds[peer][p.p], own); next > 0 && !refused {
				m.Offsets = append(m.Offsets, &wire.LinkOffset{Partition: uint32(p.i), Offset: next})
			}
		}
		all = append(all, m)
	}
	return all
}

// hearRefusals takes what a region in between is refused of the log. The caller holds c.mu.
func (c *receiving) hearRefusals(sender im.Region, told *wire.LinkRefusals) {
	all := make([]*Refusal, len(c.parts))
	for _, m := range told.Partitions {
		if int(m.Partition) >= len(all) {
			continue
		}
		all[m.Partition] = &Refusal{Partition: c.parts[m.Partition].p, At: sender, Reason: m.Reason}
	}
	for i, p := range c.parts {
		p.mu.Lock()
		before := p.between
		p.between = all[i]
		p.mu.Unlock()
		if now := all[i]; now != nil && (before == nil || *before != *now) {
			c.r.log.Error("partition refused", "direction", "in", "peer", string(c.peer.Region), "via", string(sender), "partition", p.p.String(),
				"reason", now.passedOn(c.peer.Region).Reason)
		}
	}
}

// passedOn is what a region in between is refused of a peer's log, for who looks at the region behind it.
func (r *Refusal) passedOn(peer im.Region) Refusal {
	return Refusal{Partition: r.Partition, At: r.At, Reason: fmt.Sprintf(
		"refused in %[1]s, which passes it on: %[2]s; antipode link repair --from %[3]s --to %[1]s --dry-run says what to do", r.At, r.Reason, peer)}
}

// newsOf reads when, by the own clock, the sender of a copy heard of the origin; false: it never did.
func newsOf(n *wire.LinkNews, now time.Time) (heard time.Time, ok bool) {
	if n.GetClockMs() == 0 {
		return time.Time{}, false
	}
	return now.Add(-time.Duration(max(0, n.AgeMs)) * time.Millisecond), true
}
