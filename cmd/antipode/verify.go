package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newVerifyCommand() *cobra.Command {
	var (
		flags    configFlags
		from, to string
	)
	cmd := &cobra.Command{
		Use:   "verify --from REGION --to REGION",
		Short: "Prove that a region's copies of another's log equal the log, or name the first record that differs",
		Long: `Prove that a region's copies of another's log equal the log, or name the first record that differs.

Both regions read what they hold from their Kafka, and only checksums cross between them. It takes the configuration of a
replicator of a region that reaches both. Exit code 1: they differ, or could not be compared.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			order := app.VerifyOrder{Told: func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) }}
			if order.From, err = im.ParseRegion(from); err != nil {
				return misused(fmt.Errorf("--from: %w", err))
			}
			if order.To, err = im.ParseRegion(to); err != nil {
				return misused(fmt.Errorf("--to: %w", err))
			}
			if order.From == order.To {
				return misused(fmt.Errorf("--from and --to are both %s: a region has no copy of its own log", from))
			}
			operator, err := flags.operator(cmd)
			if err != nil {
				return err
			}
			defer operator.Close()
			return operator.Verify(cmd.Context(), order)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "whose log")
	cmd.Flags().StringVar(&to, "to", "", "whose copies")
	cmd.MarkFlagRequired("from")
	cmd.MarkFlagRequired("to")
	return cmd
}
