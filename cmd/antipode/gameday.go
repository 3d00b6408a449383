package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/gameday"
)

func newGamedayCommand() *cobra.Command {
	var list, long bool
	var report, file string
	var set []string
	cmd := &cobra.Command{
		Use:   "gameday [SCENARIO…]",
		Short: "Break a running cluster as scenarios say, under traffic, and check that every invariant holds",
		Long: `Plays scenarios on the cluster that make up (antipode cluster up) started: users of all regions write to each other while
links, servers and clocks fail; afterwards everything has to arrive, and I1 to I12 are judged. A scenario is one of those
that Antipode comes with (--list), or a text file; without any, all of the former are played that the cluster is for, one after the
other. Exits 1 if something did not hold. --report writes a page with a time line of each.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			scenarios, err := gamedayScenarios(names)
			if err != nil {
				return err
			}
			if list {
				for _, s := range scenarios {
					fmt.Printf("%-18s %s\n", s.Name, s.Title)
				}
				return nil
			}
			return playScenarios(cmd.Context(), scenarios, len(names) > 0, &clusterFlags{file: file, set: set}, gameday.Config{Long: long}, report)
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list the scenarios and play none")
	cmd.Flags().BoolVar(&long, "long", false, "play the long form: minutes instead of seconds for each fault")
	cmd.Flags().StringVar(&report, "report", "", "write a page about it, with time lines, to this file")
	cmd.Flags().StringVar(&file, "cluster", "", "cluster.yaml of the running cluster (default: "+clusterFile+" if there is one)")
	cmd.Flags().StringArrayVar(&set, "set", nil, "key=value over that file, such as data=/some/folder")
	return cmd
}

func gamedayScenarios(names []string) ([]*gameday.Scenario, error) {
	if len(names) == 0 {
		return gameday.Scenarios()
	}
	var all []*gameday.Scenario
	for _, n := range names {
		s, err := gameday.Find(n)
		if err != nil {
			return nil, misused(err)
		}
		all = append(all, s)
	}
	return all, nil
}

// playScenarios plays them in turn and prints a line for each. One that the cluster is not for is an error if it was named, and else
// passed over.
func playScenarios(ctx context.Context, scenarios []*gameday.Scenario, named bool, f *clusterFlags, cfg gameday.Config, report string) error {
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
	on := gameday.Cluster{Cluster: view, Truth: view, Links: remote, Members: remote, Watcher: view}
	if on.StandIns, err = view.StandIns(); err != nil {
		return err
	}
	cfg.Heal, cfg.Settle = 3*time.Minute, 3*time.Minute
	cfg.Log = func(line string) { fmt.Fprintln(os.Stderr, "  "+line) }
	var results []*gameday.Result
	held := true
	for i, s := range scenarios {
		if err := s.Fits(on); err != nil && !named {
			fmt.Fprintf(os.Stderr, "passed over: %v\n", err)
			continue
		}
		cfg.Prefix = fmt.Sprintf("day%d-%d", time.Now().Unix(), i)
		r, err := gameday.Play(ctx, cfg, s, on)
		if err != nil {
			return err
		}
		fmt.Println(r.Line())
		for _, v := range r.Violations {
			fmt.Fprintln(os.Stderr, "   ", v)
		}
		held = held && r.Passed()
		results = append(results, r)
	}
	if report != "" {
		if err := writeReport(report, results); err != nil {
			return err
		}
	}
	if !held {
		return errReported
	}
	return nil
}

func writeReport(path string, results []*gameday.Result) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := gameday.WriteReport(file, results); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return file.Close()
}
