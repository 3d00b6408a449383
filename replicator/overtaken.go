package replicator

import (
	"context"

	"github.com/antipode-im/antipode/im"
)

// overtaken looks whether views are ahead of copies of which a link was refused: the region was seeded, and this replicator
// began before an imserver could tell it how far. Such copies go on where the views are, in a session that is to be opened
// for it. silent says that partitions are refused and no view answers, so that it is worth asking again soon.
func (c *receiving) overtaken(ctx context.Context) (silent bool, err error) {
	var refused []*part
	var ps []im.Partition
	for _, p := range c.parts {
		family, _, _ := im.ParseTopic(p.p.Topic)
		p.mu.Lock()
		if p.refused != "" && family != im.FamilyRoute {
			refused, ps = append(refused, p), append(ps, p.p)
		}
		p.mu.Unlock()
	}
	if len(refused) == 0 {
		return false, nil
	}
	applied := c.applied(ctx)
	if applied == nil {
		return true, nil
	}
	var ahead []*part
	for _, p := range refused {
		p.mu.Lock()
		if applied[p.p].Next > p.follower.Next && p.follower.Generation == 0 {
			ahead = append(ahead, p)
		}
		p.mu.Unlock()
	}
	if len(ahead) == 0 {
		return false, nil
	}
	bounds, err := c.r.bounds(ctx, ps)
	if err != nil {
		return false, err
	}
	for _, p := range ahead {
		if err := c.move(ctx, p, bounds[p.p]); err != nil {
			return false, err
		}
	}
	return false, im.Errorf(im.CodeUnavailable, "opening the link to %s anew: the views are ahead of %d copies", c.peer.Region, len(ahead))
}
