package kafka

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/antipode-im/antipode/im"
)

// ReadEach returns what stands in partitions from offsets on, at most about maxBytes of each, with a request to each of their
// leaders, or a few where one answer does not hold it. It is for a little of many partitions, which Read would ask for one by one.
//
// A partition that has nothing there is named without entries. One that is not named is to be read with Read, which tells why:
// its first batch is larger than maxBytes, it does not hold the offset, its leader changes or does not answer.
func (c *Cluster) ReadEach(ctx context.Context, from map[im.Partition]int64, maxBytes int) map[im.Partition][]im.Entry {
	maxBytes = min(max(maxBytes, 1), c.cfg.FetchBytes)
	lay := c.lay.layout()
	groups, _ := lay.byLeader(slices.Collect(maps.Keys(from)))
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		all = make(map[im.Partition][]im.Entry, len(from))
	)
	for leader, ps := range groups {
		wants := make([]want, len(ps))
		for i, p := range ps {
			wants[i] = want{partition: p, from: from[p], leader: lay.epochs[p], read: -1}
		}
		wg.Go(func() {
			for len(wants) > 0 {
				found, err := c.fetch(ctx, leader, newSession(-1), wants, 0, maxBytes, asEntries)
				if err != nil {
					return
				}
				var left []want
				mu.Lock()
				for i, w := range wants {
					switch g := found[i]; {
					case g == nil: // the answer was full
						left = append(left, w)
					case g.err != nil:
					case len(g.batch.Entries) > 0 || g.batch.End <= w.from:
						all[w.partition] = g.batch.Entries
					default: // it was full, or so small a share holds no batch
						left = append(left, w)
					}
				}
				mu.Unlock()
				if len(left) == len(wants) {
					return
				}
				wants = left
			}
		})
	}
	wg.Wait()
	return all
}
