// Command replicator measures Antipode's replicator beside MirrorMaker 2: the same log, the same two brokers, one run.
//
//	broker of eu ──▶ replicator of eu ══ faultnet ══▶ replicator of us ──▶ broker of us     (both processes counted)
//	broker of eu ══ faultnet ══▶ MirrorMaker 2 ─────────────────────────▶ broker of us     (its process counted)
//
// Each figure is a line: name value unit (peer's value). Brokers, load and readers share the machine with what is measured,
// so that ratios count, not figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options say what is measured, and how long.
type options struct {
	records int
	size    int           // bytes of a message's text
	trip    time.Duration // round trip of the distant runs
	rate    int           // records per second of the steady runs
	steady  time.Duration // how long they take
	warm    time.Duration // how long a steady flow goes before it counts
	starts  int           // after the first
	kills   int           // of ours; MirrorMaker is killed once
	only    string
	mirror  bool
	profile string
	verbose bool
}

func main() {
	o := options{}
	flag.IntVar(&o.records, "records", 200_000, "records of each catch-up (the goals are set for 1000000)")
	flag.IntVar(&o.size, "size", 300, "bytes of text in a record")
	flag.DurationVar(&o.trip, "trip", 80*time.Millisecond, "round trip of the distant runs; 0: none")
	flag.IntVar(&o.rate, "rate", 2000, "records per second of the steady runs")
	flag.DurationVar(&o.steady, "steady", 10*time.Second, "length of a steady run")
	flag.DurationVar(&o.warm, "warm", 30*time.Second, "how long a steady flow goes before it counts: brokers' and MirrorMaker's Java compiler need it")
	flag.IntVar(&o.starts, "starts", 5, "how often each starts again, for the time to its first record")
	flag.IntVar(&o.kills, "kills", 10, "how often the replicators are killed in the middle (the goal is set for 100)")
	flag.StringVar(&o.only, "only", "catchup,steady,kill", "parts to run")
	flag.BoolVar(&o.mirror, "mirror", true, "measure MirrorMaker 2 as well")
	flag.StringVar(&o.profile, "profile", "", "folder for CPU profiles of ours, one per run")
	flag.BoolVar(&o.verbose, "v", false, "show what our replicators log")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-replicator:", err)
		os.Exit(1)
	}
}

// distance is a round trip between the regions.
type distance struct {
	name string
	trip time.Duration
}

func run(ctx context.Context, o *options) (err error) {
	w, err := build(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	parts := strings.Split(o.only, ",")
	distances := []distance{{"near", 0}}
	if o.trip > 0 {
		distances = append(distances, distance{"far", o.trip})
	}
	for _, d := range distances {
		if err == nil && slices.Contains(parts, "catchup") {
			err = w.catchUps(ctx, d)
		}
	}
	for _, d := range distances {
		if err == nil && slices.Contains(parts, "steady") {
			err = w.steadies(ctx, d)
		}
	}
	if err == nil && slices.Contains(parts, "kill") {
		err = w.kills(ctx)
	}
	return err
}

// figure prints a line; a peer's value below 0 was not measured.
func figure(name string, value, peer float64, unit string) {
	if peer < 0 {
		fmt.Printf("%-34s %12.4g %s\n", name, value, unit)
		return
	}
	fmt.Printf("%-34s %12.4g %-20s (MirrorMaker 2: %.4g)\n", name, value, unit, peer)
}
