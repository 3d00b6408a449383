package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/loadgen"
)

func newBenchCommand() *cobra.Command {
	return group(&cobra.Command{Use: "bench", Short: "Measure a running cluster, or a simulated one"},
		newBenchSendCommand(), newBenchIPConfCommand())
}

func newBenchSendCommand() *cobra.Command {
	var (
		s       loadgen.Send
		regions []string
		dev     string
		cluster string
		hops    bool
	)
	cmd := &cobra.Command{
		Use:   "send",
		Short: "Send messages at a fixed rate, and print how long ack and receipt take within and across regions",
		Long: "send is open-loop: a message is due at its time whether or not earlier ones were answered, and latency counts\n" +
			"from when it was due. So a stall shows in every message that it delayed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := devAPIOf(dev, cluster)
			if err != nil {
				return err
			}
			ipconfs := map[im.Region][]string{}
			for _, name := range regions {
				r := im.Region(name)
				s.Regions = append(s.Regions, r)
				if ipconfs[r], err = api.ipconfs(cmd.Context(), r); err != nil {
					return err
				}
			}
			s.Prefix = fmt.Sprintf("bench-%d", time.Now().Unix())
			if hops {
				s.Hops = loadgen.NewHops()
			}
			s.Connect = func(ctx context.Context, uid im.UID, region im.Region) (loadgen.Talker, error) {
				cfg := client.Config{UID: uid, Region: region, IPConf: ipconfs[region], Agent: "antipode-bench", Token: api.tokens(uid)}
				if hops {
					cfg.Tracer, cfg.SampleRatio = s.Hops.Tracer(uid), min(1, hopSamples/(s.Rate*s.Duration.Seconds()))
				}
				return client.Dial(ctx, cfg)
			}
			result, err := s.Run(cmd.Context())
			if err != nil {
				return err
			}
			if err := printSend(cmd.OutOrStdout(), &s, result); err != nil || !hops {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), hopPatience)
			defer cancel()
			table, err := s.Hops.Table(ctx, api.spans)
			if err != nil {
				return err
			}
			printHops(cmd.OutOrStdout(), table)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&regions, "regions", []string{"eu", "us"}, "regions of the users")
	cmd.Flags().Float64Var(&s.Rate, "rate", 500, "messages a second, in total")
	cmd.Flags().DurationVar(&s.Duration, "duration", 10*time.Second, "how long to send")
	cmd.Flags().DurationVar(&s.Warmup, "warmup", 2*time.Second, "how long to send before counting")
	cmd.Flags().IntVar(&s.Pairs, "pairs", 16, "pairs of users for each way from region to region")
	cmd.Flags().IntVar(&s.Size, "size", 300, "bytes of text")
	cmd.Flags().DurationVar(&s.Drain, "drain", 10*time.Second, "how long to wait for what is under way at the end")
	cmd.Flags().StringVar(&dev, "dev", "http://"+devListen, "URL of antipode dev or cluster")
	cmd.Flags().BoolVar(&hops, "hops", false, "trace some hundred of the messages, and print where their time goes")
	cmd.Flags().StringVar(&cluster, "cluster", "", "cluster.yaml of the antipode cluster to measure, instead of --dev")
	return cmd
}

const (
	hopSamples  = 400 // messages traced: what keeps the traces keeps 1,000, and tracing all would be what is measured
	hopPatience = 20 * time.Second
)

func printHops(w io.Writer, t *loadgen.HopTable) {
	fmt.Fprintf(w, "\nwhere the time goes, of %d messages (of %d more not all is known)\n", t.Complete, t.Partial)
	for _, way := range []struct {
		name string
		hops []loadgen.Hop
	}{{"in region", t.Within}, {"across", t.Across}} {
		if way.hops[0].Took.TotalCount() == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%-28s %8s %9s %9s %9s\n", way.name+", milliseconds", "count", "p50", "mean", "p99")
		for _, h := range way.hops {
			fmt.Fprintf(w, "%-28s %8d %9.2f %9.2f %9.2f\n", h.Name, h.Took.TotalCount(),
				float64(h.Took.ValueAtQuantile(50))/1000, h.Took.Mean()/1000, float64(h.Took.ValueAtQuantile(99))/1000)
		}
	}
}

func printSend(w io.Writer, s *loadgen.Send, r *loadgen.Result) error {
	fmt.Fprintf(w, "%v messages/s for %v between %v: sent %d, acked %d, received %d, failed %d\n",
		s.Rate, s.Duration, s.Regions, r.Sent, r.Acked, r.Received, r.Failed)
	if r.FirstError != nil {
		fmt.Fprintf(w, "the first failure: %v\n", r.FirstError)
	}
	fmt.Fprintf(w, "\n%-28s %8s %9s %9s %9s %9s\n", "milliseconds", "count", "p50", "p99", "p99.9", "max")
	row := func(name string, h *hdrhistogram.Histogram) {
		if h.TotalCount() == 0 {
			return
		}
		ms := func(us int64) float64 { return float64(us) / 1000 }
		fmt.Fprintf(w, "%-28s %8d %9.1f %9.1f %9.1f %9.1f\n", name, h.TotalCount(),
			ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99)), ms(h.ValueAtQuantile(99.9)), ms(h.Max()))
	}
	row("submit→ack, in region", r.Within.Ack)
	row("submit→receive, in region", r.Within.Receive)
	row("submit→ack, across", r.Across.Ack)
	row("submit→receive, across", r.Across.Receive)
	fmt.Fprintf(w, "\nthe sender was at most %v behind its schedule\n", r.Late.Round(100*time.Microsecond))
	if r.Received < r.Acked || r.Failed > 0 {
		return fmt.Errorf("%d acked messages were not received and %d failed", r.Acked-r.Received, r.Failed)
	}
	return nil
}
