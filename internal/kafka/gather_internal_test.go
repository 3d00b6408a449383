package kafka

import (
	"context"
	"errors"
	"strings"
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
		c.app.enqueue([]*call{{
			partition: p, entries: []im.Entry{{Value: []byte("x")}}, size: 100, count: 1, deadline: came.Add(time.Hour), then: func(int64, error) {},
		}})
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

// A caller that leaves before its append was sent leaves nothing behind, whether it was formed to a batch or not: what it was to append may
// be changed from then on. Later it is told that it may have landed. Either way it is told once.
func TestLeave(t *testing.T) {
	p := im.Partition{Topic: "msg.eu.direct"}
	for _, c := range []struct {
		name    string
		until   func(a *appender) // how far the append gets
		sent    bool
		waiting int
	}{
		{"queued", func(*appender) {}, false, 2},
		{"formed", func(a *appender) { a.form(a.queues[p]) }, false, 2},
		{"sent", func(a *appender) { a.form(a.queues[p]); a.queues[p].head.encode() }, true, 3},
	} {
		a, _ := gathering(t, Config{})
		told := 0
		var err error
		w := &call{partition: p, entries: []im.Entry{{Value: []byte("mine")}}, size: 50, count: 1, then: func(_ int64, why error) { told++; err = why }}
		a.enqueue([]*call{w, {partition: p, entries: []im.Entry{{Value: []byte("of another")}}, size: 70, count: 1, then: func(int64, error) {}}})
		c.until(a)
		a.leave(w, context.Canceled)
		a.leave(w, context.Canceled)
		if told != 1 || im.CodeOf(err) != im.CodeUnavailable || !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "may have landed") != c.sent {
			t.Errorf("%s: told %d times: %v", c.name, told, err)
		}
		q := a.queues[p]
		if q.head == nil {
			a.form(q)
		}
		left := a.bytes - 100 // of the other partition
		if n := len(q.head.calls); n != c.waiting || q.head.count != n || left != q.head.size-batchHead {
			t.Errorf("%s: %d calls of %d records, %d bytes are left, and %d are counted", c.name, n, q.head.count, q.head.size-batchHead, left)
		}
	}
}
