package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/cluster"
	"github.com/antipode-im/antipode/internal/console"
)

// clusterFile is where a cluster is described unless told otherwise. It need not exist: every key has a default.
const clusterFile = "cluster.yaml"

// clusterFlags say which cluster is meant.
type clusterFlags struct {
	file string
	set  []string
}

func (f *clusterFlags) register(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.file, "file", "", "what runs (default: "+clusterFile+" if there is one, else three regions)")
	cmd.PersistentFlags().StringArrayVar(&f.set, "set", nil, "key=value over the file, such as kafka.brokers=3, or over its set: imserver.rate=50; may be repeated")
}

// args are the flags again, for another process.
func (f *clusterFlags) args() []string {
	var args []string
	if f.file != "" {
		args = append(args, "--file", f.file)
	}
	for _, s := range f.set {
		args = append(args, "--set", s)
	}
	return args
}

// place are those of the flags that commands need to find a cluster that was started: the rest is in its data folder.
func (f *clusterFlags) place() []string {
	p := clusterFlags{file: f.file}
	for _, s := range f.set {
		if strings.HasPrefix(s, "data=") {
			p.set = append(p.set, s)
		}
	}
	return p.args()
}

func (f *clusterFlags) read() (cluster.File, error) {
	path := f.file
	if path == "" {
		if _, err := os.Stat(clusterFile); err == nil {
			path = clusterFile
		}
	}
	return readClusterFile(path, f.set)
}

func readClusterFile(path string, pairs []string) (cluster.File, error) {
	set := map[string]string{}
	for _, s := range pairs {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return cluster.File{}, misused(fmt.Errorf("--set %q: want key=value", s))
		}
		set[key] = value
	}
	file, err := cluster.ReadFile(path, set)
	if err != nil {
		return file, misused(err)
	}
	return file, nil
}

// plan is that of the cluster that was last started on the data folder, or else what would be started.
func (f *clusterFlags) plan() (*cluster.Plan, error) {
	file, err := f.read()
	if err != nil {
		return nil, err
	}
	p, err := cluster.NewPlan(file)
	if err != nil {
		return nil, err
	}
	switch recorded, err := cluster.Recorded(p.Data); {
	case err == nil:
		return recorded, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	return p, nil
}

// remote finds the running cluster.
func (f *clusterFlags) remote() (*cluster.Remote, error) {
	plan, err := f.plan()
	if err != nil {
		return nil, err
	}
	return cluster.Find(plan.Data, console.Header)
}

func newClusterCommand() *cobra.Command {
	var f clusterFlags
	cmd := group(&cobra.Command{
		Use:   "cluster",
		Short: "Run whole regions of real servers on this machine, each a process of its own",
		Long: `Runs whole regions on this machine: Apache Kafka, PostgreSQL, Redis and Consul, and every service of Antipode as a
process of its own, with its own configuration file and admin port. Links between regions pass a network that delays, and
that can be cut. Any part can be stopped, killed, paused and started again by name: eu/kafka is one part, eu/imserver all
imservers of eu, eu the region, all everything.`,
		Example: `  antipode cluster up --detach
  antipode cluster ps
  antipode cluster kill eu/kafka
  antipode cluster logs -f eu/imserver-1
  antipode cluster cut eu us
  antipode cluster add-region sa
  antipode cluster down`,
	})
	f.register(cmd)
	cmd.AddCommand(newClusterUp(&f), newClusterDown(&f), newClusterPS(&f), newClusterLogs(&f))
	for _, o := range []struct{ name, short string }{
		{"kill", "End parts as kill -9 does; they stay down until they are started"},
		{"stop", "Ask parts to stop; they stay down until they are started"},
		{"start", "Start parts that are down, and wait until they are ready"},
		{"restart", "Stop parts and start them again"},
		{"pause", "Stop parts from running, as a machine that hangs"},
		{"resume", "Let paused parts run on"},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: o.name + " PART…", Short: o.short, Args: some,
			RunE: func(cmd *cobra.Command, targets []string) error {
				r, err := f.remote()
				if err != nil {
					return err
				}
				for _, t := range targets {
					if err := r.Order(cmd.Context(), o.name, t); err != nil {
						return err
					}
				}
				return nil
			},
		})
	}
	cmd.AddCommand(
		newClusterLink(&f, "cut", "Lose everything on a link until it is healed", (*cluster.Remote).Cut),
		newClusterLink(&f, "heal", "Let a link carry again", (*cluster.Remote).Heal),
		newClusterDelay(&f), newClusterClock(&f), newClusterAddRegion(&f), newClusterForgetRegion(&f),
	)
	return cmd
}

func newClusterLink(f *clusterFlags, name, short string, do func(*cluster.Remote, context.Context, im.Region, im.Region) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " FROM TO", Short: short, Args: exactly(2),
		Long: short + ". A link carries the log of region FROM to region TO; there is another one back.",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.remote()
			if err != nil {
				return err
			}
			return do(r, cmd.Context(), im.Region(args[0]), im.Region(args[1]))
		},
	}
}

func newClusterDelay(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delay FROM TO DURATION", Short: "Set the one-way delay of a link", Args: exactly(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := time.ParseDuration(args[2])
			if err != nil {
				return misused(fmt.Errorf("delay %q: want a duration, such as 80ms", args[2]))
			}
			r, err := f.remote()
			if err != nil {
				return err
			}
			return r.Delay(cmd.Context(), im.Region(args[0]), im.Region(args[1]), d)
		},
	}
}

func newClusterClock(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "clock NAME OFFSET", Short: "Put the clocks of imservers off (eu/imserver 4s); 0s sets them right", Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := time.ParseDuration(args[1])
			if err != nil {
				return misused(fmt.Errorf("offset %q: want a duration, such as 4s or -4s", args[1]))
			}
			r, err := f.remote()
			if err != nil {
				return err
			}
			return r.Clock(cmd.Context(), args[0], d)
		},
	}
}

func newClusterForgetRegion(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "forget-region NAME", Short: "Have later starts go without a region that was added, and delete what it holds", Args: exactly(1),
		Long: `Has later starts go without a region that was added by antipode cluster add-region, and deletes what it holds.

Take it out first, so that nobody waits for it: antipode region remove, or antipode region lose. Its services do not run any more
then, and the cluster would not start with them. It is for a cluster that does not run: antipode cluster down.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := im.ParseRegion(args[0])
			if err != nil {
				return misused(err)
			}
			plan, err := f.plan()
			if err != nil {
				return err
			}
			if err := cluster.Forget(plan.Data, name); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "region %s is forgotten: antipode cluster up starts without it\n", name)
			return nil
		},
	}
}

func newClusterAddRegion(f *clusterFlags) *cobra.Command {
	var r cluster.Region
	cmd := &cobra.Command{
		Use: "add-region NAME", Short: "Add a region to those that run, and return when it serves", Args: exactly(1),
		Long: `Adds a region to those that run, and returns when it serves.

It starts Kafka, PostgreSQL, Redis and Consul of the region and, when these are ready, its services, with as many of each as the
other regions have. Then the others are told of it as by antipode region add: nothing of them is started again. The region takes
clients once it has what they have.

The file of the cluster stays what it is. The data folder remembers the region, so that later starts have it as well, until
antipode cluster forget-region, or --fresh. After a failure run the same command again: a region that could not be started was withdrawn, one that does not serve yet is
waited for.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Name, err = im.ParseRegion(args[0]); err != nil {
				return misused(err)
			}
			remote, err := f.remote()
			if err != nil {
				return err
			}
			return remote.AddRegion(cmd.Context(), r, func(line string) { fmt.Fprintln(cmd.OutOrStdout(), line) })
		},
	}
	cmd.Flags().StringVar(&r.Host, "host", "", "loopback address of everything in it (default: the next one)")
	cmd.Flags().IntVar(&r.PortOffset, "port-offset", 0, "added to every port, for regions that share an address")
	return cmd
}

func newClusterUp(f *clusterFlags) *cobra.Command {
	var u clusterUp
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start everything, in the order in which the parts need each other",
		Long: `Starts everything and watches over it: a service that ends by itself is started again. In the foreground, Ctrl-C stops
all that was started, in reverse order. What the regions hold stays in the data folder; the next start goes on with it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if u.detach {
				return u.runDetached(cmd.Context(), f)
			}
			return u.run(cmd.Context(), f)
		},
	}
	cmd.Flags().BoolVar(&u.fresh, "fresh", false, "forget what the data folder holds")
	cmd.Flags().BoolVar(&u.detach, "detach", false, "return when everything is ready; antipode cluster down stops it")
	cmd.Flags().StringVar(&u.logs, "logs", "warnings", "what to show of what the parts say: all, services, warnings (of services) or none")
	cmd.Flags().IntVar(&u.readyFD, "ready-fd", 0, "file descriptor to write to when everything is ready")
	cmd.Flags().MarkHidden("ready-fd")
	return cmd
}

type clusterUp struct {
	fresh, detach bool
	logs          string
	readyFD       int
}

func (u *clusterUp) run(ctx context.Context, f *clusterFlags) (err error) {
	began := time.Now()
	ready := readyPipe(u.readyFD)
	defer ready.Close()
	file, err := f.read()
	if err != nil {
		return err
	}
	printer, err := newLogPrinter(os.Stderr, u.logs)
	if err != nil {
		return misused(err)
	}
	c, err := app.NewCluster(app.ClusterConfig{File: file, Fresh: u.fresh, Progress: printer.progress, Show: printer.show})
	if err != nil {
		return err
	}
	defer func() {
		printer.progress("stopping …")
		stopping := time.Now()
		if closing := c.Close(); closing != nil {
			printer.progress(oneLine(closing))
		}
		printer.progress(fmt.Sprintf("stopped (%.1f s)", time.Since(stopping).Seconds()))
		if ctx.Err() != nil || isDown(c) {
			err = nil
		}
	}()
	printer.align(c.Plan())
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.Down():
			cancel()
		case <-running.Done():
		}
	}()
	printer.progress(fmt.Sprintf("starting %d parts of %s; their output is kept in %s", len(c.Plan().Members()), listRegions(c.Regions()), c.Plan().LogsDir()))
	if err := c.Up(running); err != nil {
		return err
	}
	printer.banner(clusterBanner(c, f, file, time.Since(began)))
	ready.tell()
	<-running.Done()
	return nil
}

func isDown(c *app.Cluster) bool {
	select {
	case <-c.Down():
		return true
	default:
		return false
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func listRegions(regions []im.Region) string {
	var names []string
	for _, r := range regions {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

func clusterBanner(c *app.Cluster, f *clusterFlags, file cluster.File, took time.Duration) string {
	flags := strings.Join(append([]string{""}, f.place()...), " ")
	return fmt.Sprintf(`Antipode is up (%.1f s): %s, %v apart one way.

  chat      %s/?as=ann&region=%s&to=bob
  console   %s/console

Next:
  %[7]s chat --as bob --to ann%[8]s
  %[7]s cluster ps%[9]s
  %[7]s cluster kill%[9]s %[5]s/kafka
  %[7]s cluster down%[9]s
`,
		took.Seconds(), listRegions(c.Regions()), file.LinkDelay,
		c.URL(), c.Regions()[0], c.URL(), os.Args[0], devFlag(c.URL()), flags)
}

func newClusterDown(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Stop everything that was started", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := f.plan()
			if err != nil {
				return err
			}
			pid, held := cluster.Locked(plan.Data)
			if !held {
				fmt.Fprintf(cmd.ErrOrStderr(), "no cluster runs on %s\n", plan.Data)
				return nil
			}
			began := time.Now()
			if r, err := cluster.Find(plan.Data, console.Header); err != nil {
				return err
			} else if err := r.Down(cmd.Context()); err != nil {
				return fmt.Errorf("%w (process %d)", err, pid)
			}
			return awaitUnlocked(cmd.Context(), plan, pid, began)
		},
	}
}

// downTimeout is longer than stopping the slowest parts of every stage.
const downTimeout = 90 * time.Second

func awaitUnlocked(ctx context.Context, plan *cluster.Plan, pid int, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, held := cluster.Locked(plan.Data); !held {
			fmt.Fprintf(os.Stderr, "stopped (%.1f s)\n", time.Since(began).Seconds())
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d has not stopped everything after %v", pid, time.Since(began).Round(time.Second))
		case <-tick.C:
		}
	}
}

func newClusterPS(f *clusterFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ps", Short: "List the parts and how they are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := f.remote()
			if err != nil {
				if errors.Is(err, cluster.ErrNotRunning) {
					fmt.Fprintln(cmd.ErrOrStderr(), err)
					return errReported
				}
				return err
			}
			ps, err := r.PS(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(ps)
			}
			return printPS(cmd, ps)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printPS(cmd *cobra.Command, ps cluster.PS) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tPID\tADDRESS\tADMIN\tSINCE\tRESTARTS\tREADY")
	for _, s := range ps.Members {
		ready := "yes"
		if !s.Ready {
			ready = strings.TrimSuffix("no: "+s.Why, ": ")
		}
		pid := "-"
		if s.PID != 0 {
			pid = fmt.Sprint(s.PID)
		}
		admin := s.Admin
		if admin == "" {
			admin = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.Name, s.State, pid, s.Address, admin, since(s.Since), s.Restarts, ready)
	}
	if len(ps.Links) > 0 {
		fmt.Fprintln(w, "\nLINK\tSTATE\tDELAY")
		for _, l := range ps.Links {
			state := "passes"
			if l.Cut {
				state = "cut"
			}
			fmt.Fprintf(w, "%s → %s\t%s\t%v\n", l.From, l.To, state, l.Delay)
		}
	}
	return w.Flush()
}

// since tells a time as the two largest units of how long ago it was.
func since(t time.Time) string {
	d := time.Since(t).Round(time.Second)
	switch {
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// matchLogs lists the parts whose logs are meant: all for no names.
func matchLogs(plan *cluster.Plan, names []string) ([]string, error) {
	all := []string{cluster.LauncherLog}
	for _, r := range plan.Regions {
		all = append(all, string(r.Name)+"/migrate")
	}
	for _, m := range plan.Members() {
		all = append(all, m.Name)
	}
	if len(names) == 0 {
		return all, nil
	}
	var matched []string
	for _, n := range names {
		found := plan.Match(n)
		if slices.Contains(all, n) && found == nil {
			found = []string{n}
		}
		if found == nil {
			return nil, misused(fmt.Errorf("no part is called %q: want %s", n, strings.Join(all, ", ")))
		}
		matched = append(matched, found...)
	}
	return matched, nil
}
