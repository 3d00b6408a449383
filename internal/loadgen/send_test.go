package loadgen_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/loadgen"
)

// server takes one submit at a time, as quickly as it says, but for a stall in which it takes none.
type server struct {
	began         time.Time
	from, to      time.Duration // the stall, after began
	ack, delivery time.Duration // what a submit takes, and after its ack its delivery
	refuse        error

	turn chan struct{}

	mu      sync.Mutex
	offered []time.Duration // when submits were called, after began
	talkers map[im.UID]*talker
}

func newServer() *server {
	return &server{
		began: time.Now(), ack: 100 * time.Microsecond, delivery: 3 * time.Millisecond,
		turn: make(chan struct{}, 1), talkers: map[im.UID]*talker{},
	}
}

func (s *server) connect(_ context.Context, uid im.UID, _ im.Region) (loadgen.Talker, error) {
	t := &talker{server: s, uid: uid, events: make(chan client.Event, 10_000)}
	s.talkers[uid] = t
	return t, nil
}

type talker struct {
	server *server
	uid    im.UID
	events chan client.Event
}

func (t *talker) Submit(_ context.Context, c im.Conversation, text string, _ ...client.SubmitOption) (im.Ack, error) {
	s := t.server
	s.mu.Lock()
	s.offered = append(s.offered, time.Since(s.began))
	s.mu.Unlock()
	s.turn <- struct{}{}
	if at := time.Since(s.began); at >= s.from && at < s.to {
		time.Sleep(s.to - at)
	}
	time.Sleep(s.ack)
	<-s.turn
	if s.refuse != nil {
		return im.Ack{}, s.refuse
	}
	for _, uid := range c.Members() {
		if uid != t.uid {
			time.AfterFunc(s.delivery, func() { s.talkers[uid].events <- client.Inserted{Message: client.Message{Text: text}} })
		}
	}
	return im.Ack{}, nil
}

func (t *talker) Events() <-chan client.Event { return t.events }

func (t *talker) Close() error {
	close(t.events)
	return nil
}

// above counts what took longer.
func above(h *hdrhistogram.Histogram, d time.Duration) (n int64) {
	for _, bar := range h.Distribution() {
		if bar.From > d.Microseconds() {
			n += bar.Count
		}
	}
	return n
}

// A server that stalls for a second delays all that falls due meanwhile. A generator that waits for answers would see one slow
// message; this one goes on to send as it was to, and counts each from when it was due.
func TestAStallIsSeenByAllThatItDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.from, s.to = 1500*time.Millisecond, 2500*time.Millisecond
		const rate, warmup, duration = 200, time.Second, 3 * time.Second
		result, err := loadgen.Send{
			Regions: []im.Region{"eu"}, Rate: rate, Warmup: warmup, Duration: duration, Pairs: 3, Drain: time.Second, Connect: s.connect,
		}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(rate * duration.Seconds()); result.Sent != want || result.Acked != want || result.Received != want || result.Failed != 0 {
			t.Errorf("want %d sent, acked and received, got %+v", want, result)
		}
		for i, at := range s.offered {
			if due := time.Duration(i) * time.Second / rate; at != due {
				t.Fatalf("message %d was due after %v and was sent after %v", i, due, at)
			}
		}
		if result.Late != 0 {
			t.Errorf("the generator says that it was %v late", result.Late)
		}
		// One falls due every 5 ms of the stall, so that they wait for 1 s, 995 ms, 990 ms…
		for what, h := range map[string]*hdrhistogram.Histogram{"ack": result.Within.Ack, "receive": result.Within.Receive} {
			for _, c := range []struct {
				over time.Duration
				want int64
			}{{900 * time.Millisecond, 20}, {500 * time.Millisecond, 100}, {100 * time.Millisecond, 180}} {
				if n := above(h, c.over); n < c.want || n > c.want+8 { // the queue behind the stall takes 20 ms
					t.Errorf("%s: %d took over %v, want some %d", what, n, c.over, c.want)
				}
			}
			if p99 := time.Duration(h.ValueAtQuantile(99)) * time.Microsecond; p99 < 950*time.Millisecond {
				t.Errorf("%s: p99 is %v: of 600 messages 200 waited for up to a second", what, p99)
			}
			if p50 := time.Duration(h.ValueAtQuantile(50)) * time.Microsecond; p50 > 10*time.Millisecond {
				t.Errorf("%s: p50 is %v, though two of three came outside the stall", what, p50)
			}
		}
		if n := result.Across.Ack.TotalCount(); n != 0 {
			t.Errorf("%d were counted as across regions, of which there is one", n)
		}
	})
}

// What the warm-up meets is not counted, and what fails is, with the first reason.
func TestWarmupAndFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.from, s.to = 100*time.Millisecond, 500*time.Millisecond
		send := loadgen.Send{
			Regions: []im.Region{"eu", "us"}, Rate: 100, Warmup: time.Second, Duration: time.Second, Pairs: 1, Drain: time.Second, Connect: s.connect,
		}
		result, err := send.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		within, across := result.Within.Ack, result.Across.Ack
		if within.TotalCount() != 50 || across.TotalCount() != 50 || max(within.Max(), across.Max()) > 10_000 {
			t.Errorf("want 50 each within and across, all fast: %d, %d, at most %d µs", within.TotalCount(), across.TotalCount(), max(within.Max(), across.Max()))
		}
		s = newServer()
		s.refuse = errors.New("no")
		send.Connect = s.connect
		if result, err = send.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if result.Failed != 100 || result.Acked != 0 || !errors.Is(result.FirstError, s.refuse) {
			t.Errorf("want 100 failures, got %+v", result)
		}
	})
}
