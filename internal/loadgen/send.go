// Package loadgen sends messages through the Go client at a fixed rate and measures how long they take.
//
// It is open-loop: message i is due at start + i/rate whether or not earlier ones were answered, and every latency counts from the
// time it was due. So a stall of the system shows in all messages that it delayed, not in one (the error known as
// coordinated omission).
package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/antipode-im/antipode/client"
	"github.com/antipode-im/antipode/im"
)

// Talker is a connected client: client.Client is one.
type Talker interface {
	Submit(ctx context.Context, c im.Conversation, text string, opts ...client.SubmitOption) (im.Ack, error)
	Events() <-chan client.Event // closed by Close
	Close() error
}

// Connect returns a connected client of a user whose home is a region.
type Connect func(ctx context.Context, uid im.UID, region im.Region) (Talker, error)

// Send says what to send.
type Send struct {
	Regions  []im.Region   // senders are spread over them; the first two give the pairs across
	Rate     float64       // messages a second, in total
	Duration time.Duration // of sending
	Pairs    int           // pairs of users for each way (within each region, across each ordered pair of regions)
	Size     int           // bytes of text
	Drain    time.Duration // how long to wait at the end for what is still under way
	Warmup   time.Duration // at the beginning: sent and received, not counted
	Prefix   string        // of the uids, so that runs do not meet
	Connect  Connect
	Hops     *Hops // told when the warm-up ends; nil: nobody asks where the time goes
}

// receiver ends the uids of those who receive.
const receiver = "-b"

// Latencies of one class of messages, in microseconds.
type Latencies struct {
	Ack, Receive *hdrhistogram.Histogram
}

// Result is what a run measured. Within counts messages whose users have one home region, Across the others.
type Result struct {
	Within, Across Latencies
	Sent           int64 // due and handed to a client, warm-up excluded
	Acked          int64
	Received       int64
	Failed         int64
	FirstError     error
	Late           time.Duration // the furthest that the sender itself fell behind its schedule
}

type pair struct {
	from, to Talker
	conv     im.Conversation
	across   bool
}

type run struct {
	cfg   Send
	start time.Time
	pad   string

	mu     sync.Mutex // guards the histograms and FirstError
	result Result

	sent, acked, received, failed atomic.Int64
}

func newLatencies() Latencies {
	return Latencies{Ack: hdrhistogram.New(1, 60_000_000, 3), Receive: hdrhistogram.New(1, 60_000_000, 3)}
}

// Run connects the users, sends for the duration, and waits for what is under way.
func (s Send) Run(ctx context.Context) (*Result, error) {
	if s.Rate <= 0 || s.Duration <= 0 || s.Pairs < 1 || len(s.Regions) == 0 {
		return nil, errors.New("send: want a rate, a duration, at least one pair and one region")
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &run{cfg: s, result: Result{Within: newLatencies(), Across: newLatencies()}}
	var drains sync.WaitGroup
	var clients []Talker
	defer func() {
		cancel()
		for _, c := range clients {
			c.Close()
		}
		drains.Wait()
	}()
	connect := func(uid im.UID, region im.Region) (Talker, error) {
		c, err := s.Connect(ctx, uid, region)
		if err != nil {
			return nil, fmt.Errorf("connect %s in %s: %w", uid, region, err)
		}
		clients = append(clients, c)
		return c, nil
	}

	var pairs []pair
	for _, from := range s.Regions {
		for _, to := range s.Regions {
			for n := range s.Pairs {
				a := im.UID(fmt.Sprintf("%s-%s-%s-%d-a", s.Prefix, from, to, n))
				b := im.UID(fmt.Sprintf("%s-%s-%s-%d%s", s.Prefix, from, to, n, receiver))
				ca, err := connect(a, from)
				if err != nil {
					return nil, err
				}
				cb, err := connect(b, to)
				if err != nil {
					return nil, err
				}
				p := pair{from: ca, to: cb, conv: im.Direct(a, b), across: from != to}
				drains.Go(func() { discard(ca) })
				drains.Go(func() { r.receive(cb, p.across) })
				pairs = append(pairs, p)
			}
		}
	}
	rand.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	r.pad = strings.Repeat("x", max(0, s.Size-24))
	r.send(ctx, pairs)
	r.result.Sent, r.result.Acked = r.sent.Load(), r.acked.Load()
	r.result.Received, r.result.Failed = r.received.Load(), r.failed.Load()
	return &r.result, ctx.Err()
}

func (r *run) send(ctx context.Context, pairs []pair) {
	r.start = time.Now()
	if r.cfg.Hops != nil {
		r.cfg.Hops.from(r.start.Add(r.cfg.Warmup))
	}
	total := int((r.cfg.Warmup + r.cfg.Duration).Seconds() * r.cfg.Rate)
	var wg sync.WaitGroup
	for i := range total {
		due := time.Duration(math.Round(float64(i) / r.cfg.Rate * float64(time.Second)))
		if wait := due - time.Since(r.start); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		} else {
			r.result.Late = max(r.result.Late, -wait)
		}
		p := pairs[i%len(pairs)]
		counted := due >= r.cfg.Warmup
		if counted {
			r.sent.Add(1)
		}
		wg.Go(func() { r.one(ctx, p, due, counted) })
	}
	wg.Wait()
	deadline := time.Now().Add(r.cfg.Drain)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for r.received.Load() < r.acked.Load() && time.Now().Before(deadline) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *run) one(ctx context.Context, p pair, due time.Duration, counted bool) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := p.from.Submit(ctx, p.conv, strconv.FormatInt(int64(due), 10)+" "+r.pad)
	took := time.Since(r.start) - due
	if !counted {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed.Add(1)
		if r.result.FirstError == nil {
			r.result.FirstError = err
		}
		return
	}
	r.acked.Add(1)
	_ = r.class(p.across).Ack.RecordValue(took.Microseconds()) // 60 s and more are over the submit's deadline
}

func (r *run) class(across bool) *Latencies {
	if across {
		return &r.result.Across
	}
	return &r.result.Within
}

func (r *run) receive(c Talker, across bool) {
	for e := range c.Events() {
		m, ok := e.(client.Inserted)
		if !ok {
			continue
		}
		now := time.Since(r.start)
		text, _, _ := strings.Cut(m.Message.Text, " ")
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue // not one of this run
		}
		due := time.Duration(n)
		if due < r.cfg.Warmup {
			continue
		}
		r.mu.Lock()
		_ = r.class(across).Receive.RecordValue((now - due).Microseconds())
		r.mu.Unlock()
		r.received.Add(1)
	}
}

func discard(c Talker) {
	for range c.Events() {
	}
}
