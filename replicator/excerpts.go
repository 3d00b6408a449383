package replicator

import (
	"context"

	"github.com/antipode-im/antipode/im"
)

// excerpts are what stands in many partitions from some offsets on, read together: to open a link a few records of each are looked
// at, and a request for each takes longer than all else about it. They are an aid: whoever looks for what is not there reads it.
type excerpts struct {
	from    map[im.Partition]int64
	entries map[im.Partition][]im.Entry
}

// excerptBytes are read of each partition together with others: nearly always more than a batch of records, and hundreds of
// partitions in a few answers.
const excerptBytes = 64 << 10

// excerpt reads about maxBytes of each partition.
func (r *Replicator) excerpt(ctx context.Context, from map[im.Partition]int64, maxBytes int) excerpts {
	if len(from) == 0 {
		return excerpts{}
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	return excerpts{from, r.deps.Log.ReadEach(ctx, from, maxBytes)}
}

// at returns what stands in a partition from an offset on; nothing unless it was read from there.
func (e excerpts) at(p im.Partition, from int64) []im.Entry {
	if at, ok := e.from[p]; !ok || at != from {
		return nil
	}
	return e.entries[p]
}
