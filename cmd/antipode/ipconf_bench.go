package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/ipconf/storm"
)

func newBenchIPConfCommand() *cobra.Command {
	var (
		simulate bool
		cfg      storm.Config
		strategy string
		svg      string
	)
	cmd := &cobra.Command{
		Use:   "ipconf --simulate",
		Short: "Simulate the clients of a dead region looking for another gateway, and its return",
		Long: `Simulates a region's death: all its clients reconnect to the gateways of the other regions, by ipconf's own ranking,
accounting and admission; and its return. Prints the imbalance, the time to settle and more, a line each: name value unit; and draws the
arrivals per gateway and second. docs/ipconf.md describes the model. The same seed gives the same storm.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if !simulate {
				return misused(errors.New("say --simulate: what a running ipconf does is measured by make bench-ipconf"))
			}
			cfg.Strategy = storm.Strategy(strategy)
			switch cfg.Strategy {
			case storm.Weighted, storm.Random, storm.Best:
			default:
				return misused(fmt.Errorf("--strategy: %q is not one of %s, %s and %s", strategy, storm.Weighted, storm.Random, storm.Best))
			}
			r, err := storm.Run(cfg)
			if err != nil {
				return err
			}
			r.Print(cmd.OutOrStdout())
			if svg == "" {
				return nil
			}
			f, err := os.Create(svg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			return r.WriteSVG(f)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&simulate, "simulate", false, "simulate time and clients")
	f.IntVar(&cfg.Clients, "clients", 3_000_000, "of the region that dies")
	f.IntVar(&cfg.Gateways, "gateways", 300, "that survive")
	f.IntVar(&cfg.Regions, "regions", 3, "that survive")
	f.Float64Var(&cfg.Used, "used", 0.55, "part of the gateways' capacity that is taken before")
	f.Float64Var(&cfg.Logins, "logins", 2_500, "that a gateway takes a second")
	f.Float64Var(&cfg.Rate, "rate", 2_000, "newcomers a second and gateway that ipconfs send at most")
	f.IntVar(&cfg.IPConfs, "ipconfs", 8, "in each region")
	f.Float64Var(&cfg.Asks, "asks", 50_000, "that an ipconf answers a second")
	f.Float64Var(&cfg.Silent, "silent", 0, "part of the region's hosts that do not even refuse, 0 to 1")
	f.DurationVar(&cfg.Return, "return", time.Minute, "when the region is back; negative: never")
	f.DurationVar(&cfg.Churn, "churn", 2*time.Minute, "after which a client's network changes, on average")
	f.DurationVar(&cfg.Length, "length", 4*time.Minute, "of the simulation")
	f.Uint64Var(&cfg.Seed, "seed", 0, "of the random numbers")
	f.StringVar(&strategy, "strategy", string(storm.Weighted), "weighted (what ipconf does); random or best, to compare")
	f.StringVar(&svg, "svg", "", "file to draw into")
	return cmd
}
