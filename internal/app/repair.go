package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
)

// RepairOrder repairs a region's copies of another's log.
type RepairOrder struct {
	From, To im.Region // whose log, whose copies
	Source   im.Region // the region to take from what the log has no more; empty: of those that have it all the one that reaches furthest
	Rate     int       // bytes a second that come from it; 0: as fast as it goes
	DryRun   bool
	Progress func(string) // told one line at a time
}

// Repair brings the copies what they lack: see regions.Repair.
func (o *Operator) Repair(ctx context.Context, order RepairOrder) (regions.Repaired, error) {
	named := []im.Region{order.From, order.To}
	if order.Source != "" {
		if slices.Contains(named, order.Source) {
			return regions.Repaired{}, &ConfigError{fmt.Errorf("--source %s: name a third region", order.Source)}
		}
		named = append(named, order.Source)
	}
	if err := o.known(named...); err != nil {
		return regions.Repaired{}, err
	}
	if i := slices.IndexFunc(named, func(r im.Region) bool { return !slices.Contains(o.site.Regions, r) }); i >= 0 {
		return regions.Repaired{}, fmt.Errorf("region %s was removed: links neither go there nor come from it", named[i])
	}
	origin, _ := o.site.newest(order.From)
	copies, done, err := o.peers(o.site.Regions)
	if err != nil {
		return regions.Repaired{}, err
	}
	defer done()
	repair := regions.Repair{
		Origin: origin, Region: order.To, Copies: copies[order.To], Log: copies[order.From], Others: map[im.Region]regions.Keeper{},
		Source: order.Source, Rate: order.Rate, DryRun: order.DryRun, Progress: order.Progress,
	}
	for r, c := range copies {
		if r != order.From && r != order.To {
			repair.Others[r] = c
		}
	}
	return repair.Run(ctx)
}

// DescribeRepaired is what an operator reads after a repair.
func DescribeRepaired(r regions.Repaired) string {
	if len(r.Plans) == 0 {
		return "nothing is to be repaired: the link ships every partition, and the copies have what the views need"
	}
	refused := 0
	for i := range r.Plans {
		if r.Plans[i].Bring == nil {
			refused++
		}
	}
	return fmt.Sprintf("%d partitions were not as they should be: %d were repaired, %d cannot be. %d records came from other regions, %d over the link; %d were compared and are equal",
		len(r.Plans), r.Repaired, refused, r.Fetched, r.Linked, r.Compared)
}
