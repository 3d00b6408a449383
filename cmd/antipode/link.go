package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newLinkCommand() *cobra.Command {
	return group(&cobra.Command{Use: "link", Short: "Repair what links cannot ship"}, newLinkRepairCommand())
}

func newLinkRepairCommand() *cobra.Command {
	var (
		flags            configFlags
		from, to, source string
		order            app.RepairOrder
	)
	cmd := &cobra.Command{
		Use:   "repair --from REGION --to REGION",
		Short: "Bring a region's copies of another's log what they lack, from the log or from a third region's copies",
		Long: `Bring a region's copies of another's log what they lack and its views need.

It looks at every partition that the link refuses, and at every copy that does not hold what its views need next. What the
log still has is asked for over the link; what retention removed there comes from another region's copy of the same log.
Names and checksums are compared before and afterwards. Nothing that a copy holds is changed or removed, and views take
each record once: it may be run while traffic flows, and again after any failure. While records come from another region
the link does not append to that partition.

Where the log is not the one that was copied (recreated, restored from an older backup, another Kafka behind an address),
nothing is appended: it says what is wrong and what to do. Exit code 1: something is not as it should be still.

It takes the configuration of a replicator of a region that reaches all others. --dry-run only says what is to be done.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			for _, f := range []struct {
				name, value string
				to          *im.Region
			}{{"from", from, &order.From}, {"to", to, &order.To}, {"source", source, &order.Source}} {
				if f.name == "source" && f.value == "" {
					continue
				}
				if *f.to, err = im.ParseRegion(f.value); err != nil {
					return misused(fmt.Errorf("--%s: %w", f.name, err))
				}
			}
			switch {
			case order.From == order.To:
				return misused(fmt.Errorf("--from and --to are both %s: a region has no copy of its own log", from))
			case order.Rate < 0:
				return misused(fmt.Errorf("--bytes-per-second %d: want 0 (as fast as it goes) or more", order.Rate))
			}
			order.Progress = func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) }
			operator, err := flags.operator(cmd)
			if err != nil {
				return err
			}
			defer operator.Close()
			repaired, err := operator.Repair(cmd.Context(), order)
			if err == nil && (!order.DryRun || len(repaired.Plans) == 0) || repaired.Repaired > 0 {
				fmt.Fprintln(cmd.OutOrStdout(), app.DescribeRepaired(repaired))
			}
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "whose log")
	cmd.Flags().StringVar(&to, "to", "", "whose copies")
	cmd.MarkFlagRequired("from")
	cmd.MarkFlagRequired("to")
	cmd.Flags().StringVar(&source, "source", "", "the region to take from what the log has no more (default: of those that have it all the one that reaches furthest)")
	cmd.Flags().IntVar(&order.Rate, "bytes-per-second", 0, "that come from it at most; 0: as fast as it goes")
	cmd.Flags().BoolVar(&order.DryRun, "dry-run", false, "only say what is to be done")
	return cmd
}
