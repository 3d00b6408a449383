package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/internal/app"
)

// devListen is where dev serves its pages unless told otherwise, and where tools look for it.
const devListen = "127.0.0.1:7400"

type devFlags struct {
	regions []string
	delay   time.Duration
	listen  string
	data    string
	fresh   bool
	verbose bool
	sample  float64
	quic    bool
}

func (f *devFlags) config() app.DevConfig {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	return app.DevConfig{
		Regions: f.regions, Delay: f.delay, Listen: f.listen, Data: f.data, Fresh: f.fresh,
		LogLevel: level, Sample: f.sample, Progress: func(line string) { fmt.Fprintln(os.Stderr, "  "+line) }, Pages: true, WebTransport: f.quic,
	}
}

func newDevCommand() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run whole regions in this process, with pages to chat and to break things",
		Long: "dev runs complete regions in one process: per region one ipconf, two gateways, a router, an imserver and a\n" +
			"replicator over an embedded Kafka, PostgreSQL and Redis. Regions are linked over loopback through a network\n" +
			"that delays, and that can be cut. What they hold stays in the data folder.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDev(cmd.Context(), f) },
	}
	cmd.Flags().StringSliceVar(&f.regions, "regions", []string{"eu", "us", "ap"}, "names of the regions, 1 to 8")
	cmd.Flags().DurationVar(&f.delay, "delay", 40*time.Millisecond, "one-way delay between any two regions")
	cmd.Flags().StringVar(&f.listen, "listen", devListen, "host:port of the pages; all other ports are counted from it, 0 finds free ones")
	cmd.Flags().StringVar(&f.data, "data", ".antipode/dev", "folder of everything that lasts")
	cmd.Flags().BoolVar(&f.fresh, "fresh", false, "forget what the data folder holds")
	cmd.Flags().BoolVar(&f.quic, "webtransport", false, "have gateways serve WebTransport too, and the chat page use it where the browser can")
	cmd.Flags().BoolVar(&f.verbose, "verbose", false, "log at debug level (to antipode.log in the data folder)")
	cmd.Flags().Float64Var(&f.sample, "sample", 0, "part of the traces begun by servers that is kept, 0 to 1; the chat page traces its own")
	return cmd
}

func runDev(ctx context.Context, f devFlags) error {
	began := time.Now()
	relaxCollector()
	d, err := app.NewDev(f.config())
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "starting %s …\n", strings.Join(f.regions, ", "))
	err = d.Start(ctx)
	if err == nil {
		fmt.Printf(`Antipode is up (%.1f s): %s, %v apart one way.

  chat      %s/?as=ann&region=%s&to=bob
  console   %s/console
  logs      %s

Next, in another terminal:
  %s chat --as bob --to ann%s

Ctrl-C drains and stops; the same command again goes on with the same data.
`,
			time.Since(began).Seconds(), strings.Join(f.regions, ", "), f.delay,
			d.URL(), f.regions[0], d.URL(), d.LogFile(), os.Args[0], devFlag(d.URL()))
		<-ctx.Done()
		fmt.Fprintln(os.Stderr, "\ndraining …")
	}
	d.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// devFlag names dev to another command, where it is not at its usual place.
func devFlag(url string) string {
	if url == "http://"+devListen {
		return ""
	}
	return " --dev " + url
}

// relaxCollector lets the heap of three regions in one process grow further between collections: it is small, and each
// collection interrupts all of them. GOGC overrides it.
func relaxCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}
