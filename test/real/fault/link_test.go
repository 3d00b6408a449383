//go:build real && linux

package fault

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/checker"
	"github.com/antipode-im/antipode/internal/demo"
)

func (f *fault) cut(context.Context, string) error {
	return errors.Join(f.Cut(f.Context(), eu, us), f.Cut(f.Context(), us, eu))
}

func (f *fault) joins(ctx context.Context) error {
	return errors.Join(f.Heal(ctx, eu, us), f.Heal(ctx, us, eu))
}

func TestCutLinks(t *testing.T) {
	f := begin(t, "both links cut")
	f.breaks(f.cut, "")
	f.lasts(6 * time.Second) // a silent link is given up after 5
	since := time.Now()
	f.accepts(since, 30*time.Second)
	f.flows(since, 30*time.Second, []im.Region{eu}, []im.Region{eu})
	f.flows(since, 30*time.Second, []im.Region{us}, []im.Region{us})
	f.unnoticed()
	f.heals(f.joins)
	f.ends()
}

// A long way keeps what a sender sent under way for a while: then each end is killed.
func TestKillReplicatorDuringTransfer(t *testing.T) {
	f := begin(t, "kill -9 of both ends of a link during a transfer")
	f.breaks(f.cut, "")
	burst := f.more(demo.TrafficConfig{Pairs: 2, Every: time.Millisecond})
	f.await(30*time.Second, func() (bool, string) { return burst.Seen(f.broke).Sent > 1500, "a backlog grows" })
	burst.Stop()
	if err := f.Delay(t.Context(), eu, us, 400*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	f.do(func(ctx context.Context, _ string) error { return f.joins(ctx) }, "")
	f.ships()
	f.do(f.Kill, "us/replicator-1") // what is under way to it is lost
	f.do(f.Start, "us/replicator-1")
	f.ships()
	f.do(f.Kill, "eu/replicator-1")
	f.heals(
		func(ctx context.Context) error { return f.Delay(ctx, eu, us, f.Plan().File.LinkDelay) },
		f.starts("eu/replicator-1"),
	)
	f.ends()
}

// ships waits until eu's replicator sends more than heartbeats to us.
func (f *fault) ships() {
	f.Helper()
	shipped := func() float64 {
		return f.metric("eu/replicator-1", "antipode_replicator_shipped_size_bytes_total", `direction="out"`)
	}
	before := shipped()
	f.await(30*time.Second, func() (bool, string) {
		return shipped() > before+100_000, "eu ships nothing to us"
	})
}

// metric reads a metric of a member, summed over the series that have the label; 0 if it does not answer.
func (f *fault) metric(member, name, label string) (sum float64) {
	f.Helper()
	for _, m := range f.Plan().Members() {
		if m.Name != member {
			continue
		}
		resp, err := http.Get("http://" + m.Admin + "/metrics")
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, name) && strings.Contains(line, label) {
				fields := strings.Fields(line)
				if n, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
					sum += n
				}
			}
		}
	}
	return sum
}

func TestDemo(t *testing.T) {
	c := shared.healthy(t)
	began := time.Now()
	h, err := demo.Run(t.Context(), demo.Config{
		PerPair: 200, Users: 3, Group: 60, Length: 6 * time.Second, Settle: settleLimit, Gateway: "gateway-1",
		Log: func(line string) { t.Log(line) },
	}, c, c, c)
	if err != nil {
		t.Error(err)
	}
	if h == nil {
		return
	}
	violations := checker.Check(h)
	t.Log(demo.Line(h, violations, time.Since(began)))
	for _, v := range violations {
		t.Error(v)
	}
	if s := checker.Summarize(h); s.ReceivedOnce != s.Sent || s.Sent < 200 || s.Digests != 2 {
		t.Errorf("%+v", s)
	}
}
