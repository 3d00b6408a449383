package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newRegionSeedCommand() *cobra.Command {
	var (
		order app.SeedOrder
		from  string
	)
	cmd := newRegionStateCommand(&cobra.Command{
		Use:   "seed REGION",
		Short: "Fill the empty databases of a region from another region's timelines",
		Long: `Fill the empty databases of a region from another region's timelines.

Logs are kept for 7 days; what is older is in the timelines of the other regions alone. A new region, or one whose databases
are lost, gets it from one of them while that goes on serving: this command loads a snapshot that is cut at some place of
each log, and the region's links and imservers go on from there when they start.

Run it in the region that is seeded, with the configuration of its replicator and timelines.urls set as well, after antipode
migrate and, for a new region, antipode region add; and before an imserver of it starts. It refuses databases that hold
timelines already. After a failure run the same command again: it goes on behind what is loaded. With --anew what was begun
and not completed is given up, and another snapshot is cut.

A new region takes clients by itself once it has caught up. One that took clients before is joining from now on: start its
services, and run antipode region activate.`,
	}, func(ctx context.Context, o *app.Operator, r im.Region, progress func(string)) (string, error) {
		var err error
		if order.From, err = im.ParseRegion(from); err != nil {
			return "", misused(fmt.Errorf("--from: %w", err))
		}
		if order.Rate < 0 {
			return "", misused(fmt.Errorf("--bytes-per-second %d: want 0 (as fast as it goes) or more", order.Rate))
		}
		if own := o.Region(); own != r {
			return "", misused(fmt.Errorf("the configuration is of region %s: seed region %s with the configuration of its own replicator", own, r))
		}
		order.Progress = progress
		planted, err := o.Seed(ctx, order)
		return app.DescribePlanted(r, order.From, planted), err
	})
	cmd.Flags().StringVar(&from, "from", "", "the region whose timelines are taken")
	cmd.Flags().IntVar(&order.Rate, "bytes-per-second", 20_000_000, "that come from it at most; 0: as fast as it goes")
	cmd.Flags().BoolVar(&order.Anew, "anew", false, "give up a seeding that was begun and not completed, and begin with another snapshot")
	_ = cmd.MarkFlagRequired("from") // fails only for a flag that there is not
	return cmd
}
