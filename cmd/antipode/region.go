package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
)

func newRegionCommand() *cobra.Command {
	return group(&cobra.Command{Use: "region", Short: "Add, seed, drain and remove regions, declare them lost, and bring them back"},
		newRegionAddCommand(), newRegionDrainCommand(), newRegionUndrainCommand(), newRegionRemoveCommand(),
		newRegionLoseCommand(), newRegionSeedCommand(), newRegionReturnCommand(), newRegionActivateCommand())
}

func newRegionAddCommand() *cobra.Command {
	var (
		addr string
		via  map[string]string
		wait time.Duration
	)
	cmd := newRegionStateCommand(&cobra.Command{
		Use:   "add REGION",
		Short: "Let the running regions follow a new one",
		Long: `Let the running regions follow a new one.

The new region's configuration names all regions and itself in origins, and the others' replicators in replicator.peers;
antipode migrate has been run in it. Its services may run already or be started later. In the other regions nothing is
configured or restarted: they make topics for its log, link to it at the given address, apply what comes, and hand its
gateways out once it is active, which it is by itself when it has caught up (replicator.join_lag). Where single regions reach it
at another address, say so: --via us=10.0.0.9:7401.

The command returns when all others follow the new region. Run again with other addresses, it corrects them. It takes the
configuration of a replicator of any region that runs.`,
	}, func(ctx context.Context, o *app.Operator, r im.Region, progress func(string)) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		m := im.Member{Region: r, Origins: []im.Origin{im.NewOrigin(r, 1)}, Replicator: addr, Via: map[im.Region]string{}}
		for from, other := range via {
			m.Via[im.Region(from)] = other
		}
		return fmt.Sprintf("region %s is added: all others follow it", r), o.Add(ctx, m, progress)
	})
	cmd.Flags().StringVar(&addr, "replicator", "", "host:port at which the others reach its replicator")
	cmd.Flags().StringToStringVar(&via, "via", nil, "region=host:port from where another address leads to it; may be repeated")
	cmd.Flags().DurationVar(&wait, "wait", 5*time.Minute, "how long to wait until all others follow it")
	_ = cmd.MarkFlagRequired("replicator") // fails only for a flag that there is not
	return cmd
}

func newRegionRemoveCommand() *cobra.Command {
	var wait time.Duration
	cmd := newRegionStateCommand(&cobra.Command{
		Use:   "remove REGION",
		Short: "Take out a region for good that is drained or was lost",
		Long: `Take out a region for good that is drained or was lost.

The log of a drained region is sealed first, where it ends: its services stop by that. Then the others end their links to
it, drop its routes, and do not wait for it any more. Their copies of its log stay, and what its users wrote. What a drained
region alone has of the others' logs is waited for until a third region has it too: it may have been acknowledged as global.

It takes the configuration of a replicator of a region that stays.`,
	}, func(ctx context.Context, o *app.Operator, r im.Region, progress func(string)) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		return fmt.Sprintf("region %s is removed", r), o.Remove(ctx, r, progress)
	})
	cmd.Flags().DurationVar(&wait, "wait", 15*time.Minute, "how long it may take until all is sealed")
	return cmd
}

func newRegionDrainCommand() *cobra.Command {
	var wait time.Duration
	cmd := newRegionStateCommand(&cobra.Command{
		Use:   "drain REGION",
		Short: "Move a region's clients to the others",
		Long: `Move a region's clients to the others.

The region is marked draining: ipconfs hand out less and less of it, to nobody after ipconf.drain_over, and then its
gateways tell their clients to go, within half of that time. The command waits until they have none, as its ipconfs hear
it, and until every other region that is not dead holds the region's log as far as it then was; then the region is drained.
It goes on following the logs and shipping its own.

When the wait ends before, the region stays draining: run it again to wait on, or antipode region undrain.

It takes the configuration of a replicator of any region.`,
	}, func(ctx context.Context, o *app.Operator, r im.Region, progress func(string)) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		return fmt.Sprintf("region %s is drained: it has no clients, and the others hold its log", r), o.Drain(ctx, r, progress)
	})
	cmd.Flags().DurationVar(&wait, "wait", 15*time.Minute, "how long to wait until it is drained")
	return cmd
}

func newRegionUndrainCommand() *cobra.Command {
	var wait time.Duration
	cmd := newRegionStateCommand(&cobra.Command{
		Use:   "undrain REGION",
		Short: "Take a drain back: let a region take clients again",
		Long: `Take a drain back: let a region take clients again.

A region that is draining is active at once. One that is drained is active when it has caught up, as after antipode region
activate, and the command is to be run in it.

It takes the configuration of a replicator of any region, of a drained region that of its own.`,
	}, func(ctx context.Context, o *app.Operator, r im.Region, progress func(string)) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		return fmt.Sprintf("region %s is active", r), o.Undrain(ctx, r, progress)
	})
	cmd.Flags().DurationVar(&wait, "wait", time.Hour, "how long to wait until a drained region has caught up")
	return cmd
}

// newRegionStateCommand completes a command about one region. Give says what was reached.
func newRegionStateCommand(
	cmd *cobra.Command, give func(context.Context, *app.Operator, im.Region, func(string)) (string, error),
) *cobra.Command {
	var flags configFlags
	cmd.Args = exactly(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := im.ParseRegion(args[0])
		if err != nil {
			return misused(err)
		}
		operator, err := flags.operator(cmd)
		if err != nil {
			return err
		}
		defer operator.Close()
		reached, err := give(cmd.Context(), operator, r, func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) })
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), reached)
		return nil
	}
	flags.register(cmd)
	return cmd
}

func newRegionLoseCommand() *cobra.Command {
	var (
		flags  configFlags
		accept []string
		order  app.LoseOrder
	)
	cmd := &cobra.Command{
		Use:   "lose REGION",
		Short: "Declare a region lost for good: seal its log at the most that any other region holds",
		Long: `Declare a region lost for good, from a region that goes on.

Every other region's copies of its log are held, brought to the same end, and sealed there. What the lost region
acknowledged as global is among it. What it took and nobody received is lost for now: if the region comes back with its
disks, antipode region return sends it again.

All other regions must answer; nothing is changed before they do. One that is lost as well is given up by name with
--accept-loss-of: it is sealed and marked dead in the same run. After a failure run the same command again: copies stay
held meanwhile, and it goes on from what they hold.

It takes the configuration of a replicator of the region it runs in.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if order.Region, err = im.ParseRegion(args[0]); err != nil {
				return misused(err)
			}
			for _, name := range accept {
				r, err := im.ParseRegion(name)
				if err != nil {
					return misused(fmt.Errorf("--accept-loss-of: %w", err))
				}
				order.Accept = append(order.Accept, r)
			}
			order.Progress = func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) }
			operator, err := flags.operator(cmd)
			if err != nil {
				return err
			}
			defer operator.Close()
			settled, err := operator.Lose(cmd.Context(), order)
			for _, s := range settled {
				fmt.Fprintln(cmd.OutOrStdout(), app.DescribeSettled(s))
			}
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringSliceVar(&accept, "accept-loss-of", nil, "a region that cannot be reached and is given up as well; may be repeated")
	cmd.Flags().BoolVar(&order.Reachable, "reachable", false, "do it though the region's replicator answers: it then stops by itself")
	return cmd
}

func newRegionReturnCommand() *cobra.Command {
	var (
		flags  configFlags
		seeded bool
	)
	cmd := &cobra.Command{
		Use:   "return",
		Short: "Bring the own region back after it was declared lost, under the next epoch of its origin",
		Long: `Bring the own region back after it was declared lost, under the next epoch of its origin.

Set origin_epoch to the next one and list both epochs in origins, and stop the region's services. What the region took and nobody received is then sent again under the new epoch, with the same client_ids and
stamps; the log of the former epoch is replaced by a copy that ends where it was sealed; the views are emptied, and the
services derive them again from the logs when they start. The other regions are told of the next epoch and follow it: nothing
of them is configured or started again. The region is left joining: it takes no clients until antipode region activate finds that it
has caught up.

Deriving the views anew takes all logs from their start. Where retention has cut them, say --seeded: nothing of the former
epoch's log is fetched, and antipode region seed fills the views from another region before the services start.

It takes the configuration of a replicator of the region, with timelines.urls and routes.addrs set as well. After a
failure run the same command again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			operator, err := flags.operator(cmd)
			if err != nil {
				return err
			}
			defer operator.Close()
			r, err := operator.Return(cmd.Context(), seeded, func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) })
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s goes on as %s: %d records that nobody had received were sent again (%d in this run), "+
				"%d of routes, cursors and heartbeats were not, %d were gone by retention; %d records of the former epoch came from another region\n",
				r.Former, r.Origin, r.Resent.Records, r.Resent.Here, r.Resent.Dropped, r.Resent.Gone, r.Copied)
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&seeded, "seeded", false, "the views are to be seeded from another region (antipode region seed), not derived from the logs")
	return cmd
}

func newRegionActivateCommand() *cobra.Command {
	var (
		flags configFlags
		wait  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "activate",
		Short: "Let the own region take clients once it has caught up with the others",
		Long: `Let the own region take clients once it has caught up with the others.

It waits until the region's timelines have applied everything that any other region's copies held when the command began,
and then marks the region active. It takes the configuration of a replicator of the region.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			operator, err := flags.operator(cmd)
			if err != nil {
				return err
			}
			defer operator.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			if err := operator.Activate(ctx, func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) }); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the region is active")
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().DurationVar(&wait, "wait", time.Hour, "how long to wait until it has caught up")
	return cmd
}

// operator opens what the configuration names.
func (f *configFlags) operator(cmd *cobra.Command) (*app.Operator, error) {
	c, err := f.load()
	if err != nil {
		return nil, err
	}
	return app.OperatorOf(cmd.Context(), c, f.file, cmd.ErrOrStderr())
}
