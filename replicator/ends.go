package replicator

import (
	"context"

	"github.com/antipode-im/antipode/im"
)

// Ends is, of each peer whose link is open, where the peer said last that its log of messages and read cursors ends. Peers
// whose link is not open, or of which the region in between has not heard, are there without any; those that were lost are not
// there (see Sealed).
func (r *Replicator) Ends() map[im.Region]map[im.Partition]int64 {
	all := map[im.Region]map[im.Partition]int64{}
	for _, p := range r.all() {
		c := p.in
		if r.inherited.has(c.peer.Origin) || c.isLost() {
			continue
		}
		all[c.peer.Region] = nil
		c.mu.Lock()
		open := c.open && (c.told.via == "" || r.now().Sub(c.told.at) <= r.cfg.LinkTimeout)
		c.mu.Unlock()
		if !open {
			continue
		}
		ends := make(map[im.Partition]int64, len(c.parts))
		for _, p := range c.parts {
			if family, _, _ := im.ParseTopic(p.p.Topic); family == im.FamilyRoute {
				continue
			}
			p.mu.Lock()
			ends[p.p] = p.end
			p.mu.Unlock()
		}
		all[c.peer.Region] = ends
	}
	return all
}

// Empty tells whether the region's copies hold nothing of any peer: it is new, or its Kafka is.
func (r *Replicator) Empty(ctx context.Context) (bool, error) {
	var copies []im.Partition
	for _, peer := range r.all() {
		for _, p := range peer.in.parts {
			copies = append(copies, p.p)
		}
	}
	if len(copies) == 0 {
		return false, nil
	}
	bounds, err := r.bounds(ctx, copies)
	if err != nil {
		return false, err
	}
	for _, b := range bounds {
		if b.End > 0 {
			return false, nil
		}
	}
	return true, nil
}
