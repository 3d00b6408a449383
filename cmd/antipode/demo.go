package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/demo"
)

func newDemoCommand() *cobra.Command {
	var quiet bool
	cfg := demo.Config{}
	f := devFlags{listen: "127.0.0.1:0"}
	var running clusterFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start regions in a scratch folder, send messages while links and a gateway fail, and check the invariants",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			say := func(line string) {
				if !quiet {
					fmt.Fprintln(os.Stderr, "  "+line)
				}
			}
			cfg.Log, cfg.Gateway = say, "gateway-1"
			if running.file != "" {
				return demoOnCluster(cmd.Context(), cfg, &running)
			}
			if err := cfg.Check(len(f.regions)); err != nil {
				return misused(err)
			}
			if f.data == "" {
				if f.data, err = os.MkdirTemp("", "antipode-demo-"); err != nil {
					return err
				}
				defer func() {
					if err == nil {
						err = os.RemoveAll(f.data)
					} else {
						fmt.Fprintln(os.Stderr, "what happened is kept in", f.data)
					}
				}()
			}
			relaxCollector()
			dev := f.config()
			dev.Progress, dev.Pages = say, false
			d, err := app.NewDev(dev)
			if err != nil {
				return err
			}
			defer d.Close()
			if err := d.Start(cmd.Context()); err != nil {
				return err
			}
			return playDemo(cmd.Context(), cfg, d, d, d)
		},
	}
	cmd.Flags().StringVar(&running.file, "cluster", "", "play on the running antipode cluster of this cluster.yaml instead")
	cmd.Flags().StringSliceVar(&f.regions, "regions", []string{"eu", "us", "ap"}, "names of the regions, 2 to 8")
	cmd.Flags().DurationVar(&f.delay, "delay", 40*time.Millisecond, "one-way delay between any two regions")
	cmd.Flags().StringVar(&f.data, "data", "", "folder to work in, kept; by default a scratch folder that is deleted")
	cmd.Flags().IntVar(&cfg.PerPair, "messages", 1000, "messages between every pair of regions")
	cmd.Flags().IntVar(&cfg.Users, "users", 5, "pairs of users for every pair of regions")
	cmd.Flags().IntVar(&cfg.Group, "group", 300, "messages to one group with a member in every region")
	cmd.Flags().DurationVar(&cfg.Length, "length", 12*time.Second, "over which they are sent, and each link is cut in turn")
	cmd.Flags().DurationVar(&cfg.Settle, "settle", time.Minute, "how long everything may take to arrive afterwards")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print the verdict only")
	return cmd
}

// playDemo plays the scenario, has it judged, and prints the verdict.
func playDemo(ctx context.Context, cfg demo.Config, on demo.Cluster, faults demo.Faults, truth demo.Truth) error {
	began := time.Now()
	h, err := demo.Run(ctx, cfg, on, faults, truth)
	if h == nil {
		return err
	}
	violations := checker.Check(h)
	fmt.Println(demo.Line(h, violations, time.Since(began)))
	if len(violations) > 0 {
		fmt.Fprint(os.Stderr, demo.Explain(violations))
		return errors.Join(err, errReported)
	}
	return err
}

// demoOnCluster plays it on a cluster that runs in processes of its own, as users that no earlier demo had.
func demoOnCluster(ctx context.Context, cfg demo.Config, f *clusterFlags) error {
	plan, err := f.plan()
	if err != nil {
		return err
	}
	remote, err := f.remote()
	if err != nil {
		return err
	}
	view := app.NewClusterView(plan)
	defer view.Close()
	cfg.Prefix = fmt.Sprintf("demo%d-", time.Now().Unix())
	return playDemo(ctx, cfg, view, remoteFaults{remote}, view)
}

// remoteFaults breaks and mends a running cluster.
type remoteFaults struct{ *cluster.Remote }

// KillGateway ends a gateway as kill -9 does.
func (r remoteFaults) KillGateway(ctx context.Context, region im.Region, id string) error {
	return r.Order(ctx, "kill", string(region)+"/"+id)
}

// RestartGateway starts it again.
func (r remoteFaults) RestartGateway(ctx context.Context, region im.Region, id string) error {
	return r.Order(ctx, "start", string(region)+"/"+id)
}
