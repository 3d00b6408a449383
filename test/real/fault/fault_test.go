//go:build real && linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/demo"
)

const (
	eu = im.Region("eu")
	us = im.Region("us")
	ap = im.Region("ap")
)

// fault is one part broken and healed under traffic.
type fault struct {
	*testing.T
	*app.Cluster
	what    string
	where   demo.Cluster // as users know it
	truth   demo.Truth
	traffic *demo.Traffic
	extra   []*demo.Traffic
	users   int // traffics that were started
	broke   time.Time
	seen    demo.Seen // of all users, while it was broken
	healed  time.Time
	took    string // to recover
	marks   map[string]int64
}

// begin has users write to each other in a healthy cluster until everybody was shown something of everybody else.
func begin(t *testing.T, what string) *fault {
	t.Helper()
	return beginIn(t, shared.healthy(t), what)
}

func beginIn(t *testing.T, c *app.Cluster, what string) *fault {
	t.Helper()
	f := &fault{T: t, Cluster: c, what: what, where: c, truth: c}
	t.Cleanup(func() {
		if t.Failed() {
			f.show()
		}
	})
	f.traffic = f.more(demo.TrafficConfig{Pairs: 1, Group: true, Super: true, Churn: true, Every: 250 * time.Millisecond})
	f.flows(time.Now(), 30*time.Second, nil, nil)
	return f
}

// more starts users beside those that there are.
func (f *fault) more(cfg demo.TrafficConfig) *demo.Traffic {
	f.Helper()
	name := strings.NewReplacer("Test", "", "/", "-", "_", "-").Replace(f.Name())
	f.users++
	cfg.Name = fmt.Sprintf("%s-%d", strings.ToLower(name), f.users)
	cfg.Log, cfg.Took = func(line string) { f.Log(line) }, shared.env.Between
	began := time.Now()
	traffic, err := demo.StartTraffic(f.Context(), cfg, f.where)
	if err != nil {
		f.Fatalf("users cannot connect: %v", err)
	}
	f.Logf("users of %s are connected (%s)", cfg.Name, seconds(time.Since(began)))
	f.extra = append(f.extra, traffic)
	f.Cleanup(traffic.Close)
	return traffic
}

// do gives the cluster an order.
func (f *fault) do(order func(context.Context, string) error, target string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), healLimit)
	defer cancel()
	if err := order(ctx, target); err != nil {
		f.Fatal(err)
	}
}

// breaks notes when the fault began, and begins it.
func (f *fault) breaks(order func(context.Context, string) error, target string) {
	f.Helper()
	f.broke = time.Now()
	f.do(order, target)
}

// await polls for a state.
func (f *fault) await(limit time.Duration, state func() (ok bool, why string)) {
	f.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		ok, why := state()
		if ok {
			return
		}
		if shared.env.Since(began) > limit {
			f.Fatalf("not within %v: %s; users: %v", limit, why, f.traffic.Seen(f.broke))
		}
		select {
		case <-tick.C:
		case <-f.Context().Done():
			f.Fatal(f.Context().Err())
		}
	}
}

// flows waits until what users of some regions send after a time reaches those of others.
func (f *fault) flows(since time.Time, limit time.Duration, from, to []im.Region) {
	f.Helper()
	f.await(limit, func() (bool, string) { return f.traffic.Flows(since, from, to) })
}

// accepts waits until what users of a region send after a time is acked.
func (f *fault) accepts(since time.Time, limit time.Duration, from ...im.Region) {
	f.Helper()
	f.await(limit, func() (bool, string) { return f.traffic.Accepts(since, from...) })
}

// lasts keeps the fault up until it is so old.
func (f *fault) lasts(d time.Duration) {
	f.Helper()
	f.await(d+time.Minute, func() (bool, string) { return time.Since(f.broke) >= d, "time passes" })
}

// notices waits until users of a region were told to send again.
func (f *fault) notices(limit time.Duration, region im.Region) {
	f.Helper()
	f.await(limit, func() (bool, string) {
		return len(f.traffic.Seen(f.broke, region).Retried) > 0, "nobody in " + string(region) + " was told to send again"
	})
}

// heals repairs what was broken and waits until the whole cluster is ready and everybody is shown what everybody else sends
// from then on.
func (f *fault) heals(orders ...func(context.Context) error) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), healLimit)
	defer cancel()
	f.seen = f.traffic.Seen(f.broke)
	f.healed = time.Now()
	for _, order := range orders {
		if err := order(ctx); err != nil {
			f.Fatal(err)
		}
	}
	f.flows(f.healed, healLimit, nil, nil)
	f.took = seconds(time.Since(f.healed))
	if err := f.WaitReady(ctx); err != nil {
		f.Fatal(err)
	}
}

func (f *fault) starts(target string) func(context.Context) error {
	return func(ctx context.Context) error { return f.Start(ctx, target) }
}

func (f *fault) resumes(target string) func(context.Context) error {
	return func(ctx context.Context) error { return f.Resume(ctx, target) }
}

// ends stops the writing and has everything judged.
func (f *fault) ends() {
	f.Helper()
	all := f.traffic.Seen(f.broke)
	f.seen.LongestAck, f.seen.LongestShow = all.LongestAck, all.LongestShow
	f.seen.Retried, f.seen.Lost = all.Retried, all.Lost
	f.judge()
}

// judge has everything judged that was written, and adds the line of the table.
func (f *fault) judge() {
	f.Helper()
	began := time.Now()
	for _, traffic := range f.extra {
		traffic.Stop()
	}
	var errs []error
	for _, traffic := range f.extra {
		ctx, cancel := context.WithTimeout(f.Context(), 2*settleLimit)
		h, err := traffic.Settle(ctx, settleLimit, f.truth)
		cancel()
		errs = append(errs, err)
		for _, v := range checker.Check(h) {
			f.Errorf("%v", v)
		}
		if s := checker.Summarize(h); err == nil && (s.ReceivedOnce != s.Sent || s.Sent == 0 || s.Regions != len(f.Regions()) || s.Digests != len(f.Regions())) {
			f.Errorf("what was judged: %+v", s)
		}
	}
	if err := errors.Join(errs...); err != nil {
		f.Error(err)
	}
	shared.add(row{f.what, f.seen.String(), f.took, seconds(time.Since(began))})
}

// unnoticed asserts that users of some regions (none: all) saw nothing of the fault.
func (f *fault) unnoticed(regions ...im.Region) {
	f.Helper()
	seen := f.traffic.Seen(f.broke, regions...)
	if seen.Troubles() > 0 || seen.LongestAck > blink {
		f.Errorf("users of %v noticed: %v", regions, seen)
	}
}

// blink is what a user does not notice, on a machine that is busy with servers that start and die.
const blink = 3 * time.Second

// within asserts that nobody waited for longer than promised.
func (f *fault) within(ack, show time.Duration) {
	f.Helper()
	if seen := f.traffic.Seen(f.broke); seen.LongestAck > ack || seen.LongestShow > show {
		f.Errorf("promised: an ack within %v, shown within %v; users: %v", ack, show, seen)
	}
}

// show shows what the members said last.
func (f *fault) show() {
	const shown = 2 << 10
	files, err := filepath.Glob(filepath.Join(f.Plan().LogsDir(), "*", "*"))
	if err != nil {
		f.Log(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Log(err)
			continue
		}
		fmt.Fprintf(f.Output(), "--- %s\n%s\n", strings.TrimPrefix(name, f.Plan().LogsDir()), text[max(0, len(text)-shown):])
	}
}
