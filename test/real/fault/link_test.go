//go:build real && linux

package fault

import (
	"context"
	"errors"
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
	f.accepts(since, 10*time.Second)
	f.flows(since, 10*time.Second, []im.Region{eu}, []im.Region{eu})
	f.flows(since, 10*time.Second, []im.Region{us}, []im.Region{us})
	f.unnoticed()
	f.heals(f.joins)
	f.ends()
}

func TestKillReplicatorDuringTransfer(t *testing.T) {
	f := begin(t, "kill -9 of both ends of a link during a transfer")
	f.breaks(f.cut, "")
	burst := f.more(demo.TrafficConfig{Pairs: 2, Every: time.Millisecond})
	f.await(30*time.Second, func() (bool, string) { return burst.Seen(f.broke).Sent > 1500, "a backlog grows" })
	burst.Stop()
	f.do(func(ctx context.Context, _ string) error { return f.joins(ctx) }, "")
	f.await(20*time.Second, func() (bool, string) { return f.behind(us) < 1500, "the backlog is shipped" })
	f.do(f.Kill, "eu/replicator-1")
	f.do(f.Start, "eu/replicator-1")
	f.do(f.Kill, "us/replicator-1")
	f.heals(f.starts("us/replicator-1"))
	f.ends()
}

func TestDemo(t *testing.T) {
	c := shared.healthy(t)
	began := time.Now()
	h, err := demo.Run(t.Context(), demo.Config{
		PerPair: 400, Users: 3, Group: 60, Length: 12 * time.Second, Settle: settleLimit, Gateway: "gateway-1",
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
	if s := checker.Summarize(h); s.ReceivedOnce != s.Sent || s.Sent < 400 || s.Digests != 2 {
		t.Errorf("%+v", s)
	}
}
