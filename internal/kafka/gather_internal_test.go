package kafka

import (
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// gathering is an appender of a cluster that sends nothing, with appends to two partitions of one leader that came at the same time.
func gathering(t *testing.T, cfg Config) (a *appender, came time.Time) {
	t.Helper()
	cfg.Brokers = []string{"127.0.0.1:9092"}
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	ps := []im.Partition{{Topic: "msg.eu.direct"}, {Topic: "msg.eu.direct", Number: 1}}
	c := &Cluster{cfg: cfg, closed: true}
	c.lay.now = &layout{leaders: map[im.Partition]int32{ps[0]: 1, ps[1]: 1}}
	c.app.init(c)
	came = time.Now()
	for _, p := range ps {
		w := &call{entries: []im.Entry{{Value: []byte("x")}}, size: 100, count: 1, deadline: came.Add(time.Hour), done: make(chan struct{})}
		if err := c.app.enqueue(p, w); err != nil {
			t.Fatal(err)
		}
		c.app.queues[p].since = came
	}
	return &c.app, came
}

// Where appends are gathered, those that come together go with one request when the time of the first has passed.
func TestGather(t *testing.T) {
	const gather = 3 * time.Millisecond
	a, came := gathering(t, Config{Gather: gather})
	if next := a.dispatch(came); !next.Equal(came.Add(gather)) || a.stats.Requests != 0 {
		t.Fatalf("at once: %d requests, and the next look after %v", a.stats.Requests, next.Sub(came))
	}
	if a.dispatch(came.Add(gather)); a.stats.Requests != 1 {
		t.Errorf("after %v: %d requests", gather, a.stats.Requests)
	}
}

// Without, an append waits only while a request is under way.
func TestLinger(t *testing.T) {
	const linger = 2 * time.Millisecond
	a, came := gathering(t, Config{Linger: linger})
	a.flights[1] = &flight{requests: 1}
	if next := a.dispatch(came); !next.Equal(came.Add(linger)) || a.stats.Requests != 0 {
		t.Fatalf("beside a request: %d requests, and the next look after %v", a.stats.Requests, next.Sub(came))
	}
	a.flights[1].requests = 0
	if a.dispatch(came); a.stats.Requests != 1 {
		t.Errorf("with none under way: %d requests", a.stats.Requests)
	}
}
