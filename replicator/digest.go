package replicator

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// digestRecords is the most that one digest reads.
const digestRecords = 1 << 16

// CopyDigest reads the origin offsets [from, to) of a partition of the own log or a copy, and returns the chain after each
// piece of so many records: xxhash64 of the chain so far and the record's checksum. With to 0 it tells only what is held. Where
// a copy lacks records that no view needs of it, the answer has no chain and begins behind them.
func (r *Replicator) CopyDigest(ctx context.Context, p im.Partition, from, to int64, piece int) (d im.CopyDigest, err error) {
	if !r.enter() {
		return d, im.Errorf(im.CodeUnready, "the replicator of %s is not running", r.cfg.Region)
	}
	defer r.leave()
	all, err := r.bounds(ctx, []im.Partition{p})
	if err != nil {
		return d, im.Errorf(im.CodeUnavailable, "%v", err)
	}
	b, ok := all[p]
	if !ok {
		return d, im.Errorf(im.CodeBadRequest, "%v does not exist in %s", p, r.cfg.Region)
	}
	if d.First, d.Next, err = r.holds(ctx, p, b); err != nil || to <= 0 {
		return d, err
	}
	if from < d.First || to > d.Next || from >= to || piece < 1 {
		return d, im.Errorf(im.CodeBadRequest, "%v: %d to %d in pieces of %d: held is %d to %d", p, from, to, piece, d.First, d.Next)
	}
	to = min(to, from+digestRecords)
	local, err := r.find(ctx, p, b, d.First, from, sightings{})
	if err != nil {
		return d, err
	}
	f, chain, ahead := im.Follower{Next: from}, uint64(0), int64(-1)
	for f.Next < to {
		entries, err := r.read(ctx, p, local, appendBytes)
		if err != nil {
			return d, im.Errorf(im.CodeUnavailable, "%v", err)
		}
		if len(entries) == 0 {
			if ahead >= 0 && r.unneeded(ctx, p, ahead) {
				d.First, d.Sums = ahead, nil
				return d, nil
			}
			return d, im.Errorf(im.CodeUnavailable, "%v: record %d is not in the copy of %s: it has a gap", p, f.Next, r.cfg.Region)
		}
		for i := range entries {
			e := &entries[i]
			local = e.Offset + 1
			h := wire.DecodeShipHead(e)
			verdict := f.See(h.OriginOffset, h.Generation, h.Marker())
			if verdict == im.Gap && ahead < 0 {
				ahead = h.OriginOffset
			}
			if verdict != im.Take {
				continue
			}
			ahead = -1
			chain = link(chain, wire.Checksum(e))
			if (f.Next-from)%int64(piece) == 0 || f.Next == to {
				d.Sums = append(d.Sums, chain)
			}
			if f.Next == to {
				break
			}
		}
	}
	return d, nil
}

// unneeded tells whether the views of this region have everything below an offset, so that they need none of it of a copy: they
// were seeded behind what retention passed, or are those of routes, which begin anywhere.
func (r *Replicator) unneeded(ctx context.Context, p im.Partition, below int64) bool {
	if family, _, _ := im.ParseTopic(p.Topic); family == im.FamilyRoute {
		return true
	}
	c, err := r.following(p.Origin())
	if err != nil {
		return false
	}
	views, err := c.views(ctx)
	return err == nil && views[p].Next >= below
}

func link(chain, sum uint64) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], chain)
	binary.BigEndian.PutUint64(b[8:], sum)
	return xxhash.Sum64(b[:])
}

// holds tells the origin offsets that a partition holds.
func (r *Replicator) holds(ctx context.Context, p im.Partition, b im.Bounds) (first, next int64, err error) {
	if slices.Contains(r.own, p) {
		return b.Start, b.End, nil
	}
	c, err := r.following(p.Origin())
	if err != nil {
		return 0, 0, err
	}
	part := c.index[p]
	if part == nil {
		return 0, 0, im.Errorf(im.CodeBadRequest, "%v is no partition of a log that %s follows", p, r.cfg.Region)
	}
	part.mu.Lock()
	next = part.follower.Next
	part.mu.Unlock()
	if first, err = r.originAt(ctx, p, b.Start, b.End, sightings{}); err != nil {
		return 0, 0, err
	}
	if first < 0 { // empty
		first = next
	}
	return first, next, nil
}

// sightings is what was read, together, to find origin offsets in many copies.
type sightings struct {
	starts  excerpts // what stands first
	guesses excerpts // where the offsets should stand
}

// sight reads what is looked at first to find an origin offset in each of some copies.
func (r *Replicator) sight(ctx context.Context, bounds map[im.Partition]im.Bounds, wanted map[im.Partition]int64) (s sightings) {
	starts, guesses := map[im.Partition]int64{}, map[im.Partition]int64{}
	for p := range wanted {
		if b, ok := bounds[p]; ok && b.Start < b.End {
			starts[p] = b.Start
		}
	}
	s.starts = r.excerpt(ctx, starts, excerptBytes)
	for p, start := range starts {
		if first := originOf(s.starts.at(p, start)); first >= 0 && first < wanted[p] {
			guesses[p] = guess(bounds[p], first, wanted[p])
		}
	}
	s.guesses = r.excerpt(ctx, guesses, excerptBytes)
	return s
}

// at returns what stands in a copy from a local offset on; nothing unless it was read from there.
func (s *sightings) at(p im.Partition, local int64) []im.Entry {
	if entries := s.guesses.at(p, local); len(entries) > 0 {
		return entries
	}
	return s.starts.at(p, local)
}

// originOf is the origin offset of the first of some entries of a copy that is no marker; -1 if there is none.
func originOf(entries []im.Entry) int64 {
	for i := range entries {
		if h := wire.DecodeShipHead(&entries[i]); !h.Marker() {
			return h.OriginOffset
		}
	}
	return -1
}

// originAt is the origin offset of the first record at a local offset or after; -1 if there is none.
func (r *Replicator) originAt(ctx context.Context, p im.Partition, local, end int64, seen sightings) (int64, error) {
	for local < end {
		entries := seen.at(p, local)
		if len(entries) == 0 {
			var err error
			if entries, err = r.read(ctx, p, local, 1); err != nil {
				return 0, im.Errorf(im.CodeUnavailable, "%v", err)
			}
		}
		if len(entries) == 0 {
			break
		}
		if at := originOf(entries); at >= 0 {
			return at, nil
		}
		local = entries[len(entries)-1].Offset + 1
	}
	return -1, nil
}

// guess is where an origin offset should stand: a copy grows by one origin offset a record at most, so it stands there or behind.
func guess(b im.Bounds, first, wanted int64) int64 { return min(b.Start+wanted-first, b.End-1) }

// find returns a local offset at which, or a little after which, an origin offset stands. A copy grows by one origin offset
// a record at most, so it stands at least so far behind the first; where the copy repeats records, before what is there.
func (r *Replicator) find(ctx context.Context, p im.Partition, b im.Bounds, first, wanted int64, seen sightings) (int64, error) {
	local := guess(b, first, wanted)
	for back := int64(1024); local > b.Start; back *= 2 {
		at, err := r.originAt(ctx, p, local, b.End, seen)
		if err != nil {
			return 0, err
		}
		if at >= 0 && at <= wanted {
			break
		}
		local = max(b.Start, local-back)
	}
	return local, nil
}
