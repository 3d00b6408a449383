package replicator

import (
	"context"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// source is what one link ships: the own log, or the copy of another region's.
type source interface {
	origin() im.Origin
	partitions() []im.Partition
	// look reads anew where the log begins and ends, and what continues looks at of the partitions that a receiver asks for.
	look(ctx context.Context, wants []*wire.LinkPartition) (continues, error)
	// state is what the receiver is told of a partition.
	state() (names map[im.Partition]im.LogName, bounds map[im.Partition]im.Bounds)
	// news is told of a log that is another's, about the partitions of a link; nil: it is the own.
	news(of []sendPart) *wire.LinkNews
	// reader reads on from offsets of the origin's log, and its entries have these.
	reader(from map[im.Partition]int64, packed bool) Reader
	// readable tells whether partitions that stand at next can be read on after an error.
	readable(ctx context.Context, next map[im.Partition]int64, cause error) error
	// asks takes from where on a receiver takes partitions, those that it is refused among them; holds, up to where it holds
	// partitions; linked, that its link opened (+1) or closed (-1).
	asks(peer im.Region, next map[im.Partition]int64)
	holds(peer im.Region, offsets map[im.Partition]int64)
	linked(peer im.Region, by int)
}

// continues compares what the receiver has of a partition with the log. The text says why it is refused; the error, that the log could
// not be read.
type continues func(ctx context.Context, p im.Partition, want *wire.LinkPartition) (refused string, err error)

// ownLog is the log that the region writes.
type ownLog struct{ r *Replicator }

func (s ownLog) origin() im.Origin              { return s.r.cfg.Origin }
func (s ownLog) partitions() []im.Partition     { return s.r.own }
func (s ownLog) news([]sendPart) *wire.LinkNews { return nil }

func (s ownLog) state() (map[im.Partition]im.LogName, map[im.Partition]im.Bounds) {
	return s.r.ends.snapshot()
}

func (s ownLog) reader(from map[im.Partition]int64, packed bool) Reader {
	if packed {
		return s.r.deps.Packing.NewPacker(from)
	}
	return s.r.deps.NewReader(from)
}

// readable is false where retention or a truncation passed a partition. Then the link ends; when it opens again, that partition
// is refused with its reason.
func (s ownLog) readable(ctx context.Context, next map[im.Partition]int64, cause error) error {
	bounds, err := s.r.bounds(ctx, s.r.own)
	if err != nil {
		return nil // Kafka is away: try again
	}
	for p, at := range next {
		if b, ok := bounds[p]; ok && at >= 0 && (at < b.Start || at > b.End) {
			return im.Errorf(im.CodeUnavailable, "%v: offset %d is outside of the log, %d to %d: %v", p, at, b.Start, b.End, cause)
		}
	}
	return nil
}

func (s ownLog) asks(peer im.Region, next map[im.Partition]int64)     { s.r.held.asks(peer, next) }
func (s ownLog) holds(peer im.Region, offsets map[im.Partition]int64) { s.r.held.report(peer, offsets) }
func (s ownLog) linked(peer im.Region, by int)                        { s.r.held.link(peer, by) }

// sourceOf finds what a link is to ship that asks for an origin's log.
func (r *Replicator) sourceOf(o im.Origin, to im.Region) (source, error) {
	if o == r.cfg.Origin {
		return ownLog{r}, nil
	}
	if o.Region() == to {
		return nil, im.Errorf(im.CodeWrongRegion, "the log asked for is %q, the receiver's own", o)
	}
	peers := r.all()
	i := slices.IndexFunc(peers, func(p *peer) bool { return p.Origin == o })
	if i < 0 {
		return nil, im.Errorf(im.CodeWrongRegion, "the log asked for is %q; this replicator sends %s, and has copies of its peers'", o, r.cfg.Origin)
	}
	c := peers[i].in
	if c.isLost() {
		return nil, c.errLost()
	}
	if via := c.via(); via != "" { // one hop: so no circle of regions can wait for each other
		return nil, im.Errorf(im.CodeUnavailable, "region %s takes the log of %s from %s itself", r.cfg.Region, o, via)
	}
	return newCopyLog(r, c), nil
}
