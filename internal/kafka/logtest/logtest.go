// Package logtest is the contract of a log, as tests: internal/kafka's behaviour against any broker, embedded or real.
package logtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

// Broker is what the suite runs against.
type Broker interface {
	Config() kafka.Config // how to reach it
	Replication() (replication, minISR int)
	Kill(t testing.TB)  // ends it suddenly
	Start(t testing.TB) // after Kill: at the same address, with what had been acknowledged
}

// Suite runs the contract. The broker is shared by its tests; each has topics of its own.
func Suite(t *testing.T, b Broker) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"bytes come back exactly", exactBytes},
		{"appends keep call order under concurrency", callOrder},
		{"an append stands in one piece", onePiece},
		{"packed records become a copy", packed},
		{"bounds tell start and end", bounds},
		{"a read stops at its size and at the end", readOnce},
		{"many partitions are read together", readEach},
		{"a held poll wakes promptly", wakePromptly},
		{"seek adds and moves while polling", seekWhilePolling},
		{"drop stops a partition", dropStops},
		{"a range error leaves the others running", rangeError},
		{"cancel and close end a poll at once", endPoll},
		{"a queue has a bound", overload},
		{"a cancelled append returns at once", cancelAppend},
		{"an unknown topic is named", unknownTopic},
		{"topics are verified", verifyTopics},
		{"topics are kept", keepTopics},
		{"a killed broker loses nothing acked and keeps order", killed},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "_"), func(t *testing.T) {
			test.run(t, &fixture{Broker: b})
		})
	}
}

type fixture struct{ Broker }

// open returns a cluster with the configuration changed, closed with the test.
func (f *fixture) open(t testing.TB, change func(*kafka.Config)) *kafka.Cluster {
	t.Helper()
	cfg := f.Config()
	if change != nil {
		change(&cfg)
	}
	c, err := kafka.Open(t.Context(), cfg, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// topic creates a topic of its own for the test and returns its partitions.
func (f *fixture) topic(t testing.TB, c *kafka.Cluster, partitions int) []im.Partition {
	t.Helper()
	name := "t-" + strings.ToLower(im.NewUUID(time.Now()).String())
	if err := c.CreateTopics(t.Context(), []kafka.TopicSpec{f.spec(name, partitions)}); err != nil {
		t.Fatal(err)
	}
	ps := make([]im.Partition, partitions)
	for n := range ps {
		ps[n] = im.Partition{Topic: name, Number: n}
	}
	return ps
}

func (f *fixture) spec(name string, partitions int) kafka.TopicSpec {
	replication, minISR := f.Replication()
	return kafka.TopicSpec{Name: name, Partitions: partitions, Replication: replication, MinISR: minISR, Retention: 72 * time.Hour}
}

func text(s string) []im.Entry { return []im.Entry{{Value: []byte(s)}} }

// must returns a result, or fails the test that it is then given.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// all reads a partition from start to end.
func all(t testing.TB, c *kafka.Cluster, p im.Partition) []im.Entry {
	t.Helper()
	var out []im.Entry
	next := int64(0)
	for {
		entries, err := c.Read(t.Context(), p, next, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return out
		}
		out = append(out, entries...)
		next = entries[len(entries)-1].Offset + 1
	}
}

func exactBytes(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	p := f.topic(t, c, 1)[0]
	long := bytes.Repeat([]byte("0123456789"), 20_000) // more than one of kafka-go's 64 KiB pages
	in := []im.Entry{
		{Key: []byte("k"), Value: []byte("v"), Headers: []im.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}}},
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: nil, Value: long, Headers: []im.Header{{Key: "", Value: nil}, {Key: "e", Value: []byte{}}}},
		{Key: long[:70_000], Value: []byte{0, 255}},
	}
	first := must(c.Append(t.Context(), p, in))(t)
	if first != 0 {
		t.Fatalf("first offset %d, want 0", first)
	}
	out := all(t, c, p)
	if len(out) != len(in) {
		t.Fatalf("%d entries, want %d", len(out), len(in))
	}
	for i, e := range out {
		if e.Partition != p || e.Offset != int64(i) {
			t.Errorf("entry %d stands at %v %d", i, e.Partition, e.Offset)
		}
		same(t, fmt.Sprintf("key of %d", i), e.Key, in[i].Key)
		same(t, fmt.Sprintf("value of %d", i), e.Value, in[i].Value)
		if len(e.Headers) != len(in[i].Headers) {
			t.Fatalf("entry %d has %d headers, want %d", i, len(e.Headers), len(in[i].Headers))
		}
		for j, h := range e.Headers {
			if h.Key != in[i].Headers[j].Key {
				t.Errorf("header %d of %d is %q", j, i, h.Key)
			}
			same(t, fmt.Sprintf("header %d of %d", j, i), h.Value, in[i].Headers[j].Value)
		}
	}
	// What was returned must not change when the pages it was decoded from are used again.
	kept := slices.Clone(out[3].Value)
	for range 10 {
		must(c.Append(t.Context(), p, []im.Entry{{Value: bytes.Repeat([]byte("x"), 150_000)}}))(t)
		all(t, c, p)
	}
	if !bytes.Equal(kept, out[3].Value) {
		t.Error("an entry changed after later reads")
	}
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: %d bytes (nil %v), want %d (nil %v)", what, len(got), got == nil, len(want), want == nil)
	}
}

// callOrder: every writer's calls stand in its order, at the offsets it was told, with several partitions a request.
func callOrder(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 4)
	const writers, calls = 16, 60
	told := make([]map[string]int64, writers)
	var wg sync.WaitGroup
	for w := range writers {
		told[w] = make(map[string]int64)
		wg.Go(func() {
			for i := range calls {
				v := fmt.Sprintf("%d/%d", w, i)
				first, err := c.Append(t.Context(), ps[w%len(ps)], text(v))
				if err != nil {
					t.Error(err)
					return
				}
				told[w][v] = first
			}
		})
	}
	wg.Wait()
	last := make(map[string]int)
	for _, p := range ps {
		for _, e := range all(t, c, p) {
			w, i, _ := strings.Cut(string(e.Value), "/")
			n, _ := strconv.Atoi(i)
			writer, _ := strconv.Atoi(w)
			if n != last[w] {
				t.Fatalf("%v at %d: writer %s wrote %d before %d", p, e.Offset, w, n, last[w])
			}
			last[w]++
			if told[writer][string(e.Value)] != e.Offset {
				t.Fatalf("%s stands at %d, Append said %d", e.Value, e.Offset, told[writer][string(e.Value)])
			}
		}
	}
	for w, n := range last {
		if n != calls {
			t.Errorf("writer %s: %d of %d", w, n, calls)
		}
	}
	if s := c.AppendStats(); s.Requests >= s.Records {
		t.Errorf("%d requests for %d records: nothing was batched", s.Requests, s.Records)
	}
}

func onePiece(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	p := f.topic(t, c, 1)[0]
	var wg sync.WaitGroup
	var told [8][20]int64
	for w := range told {
		wg.Go(func() {
			for i := range told[w] {
				var entries []im.Entry
				for j := range 5 {
					entries = append(entries, im.Entry{Value: fmt.Appendf(nil, "%d/%d/%d", w, i, j)})
				}
				first, err := c.Append(t.Context(), p, entries)
				if err != nil {
					t.Error(err)
					return
				}
				for j := range entries { // the caller may use its memory again
					copy(entries[j].Value, "########")
				}
				told[w][i] = first
			}
		})
	}
	wg.Wait()
	out := all(t, c, p)
	if len(out) != 8*20*5 {
		t.Fatalf("%d entries, want %d", len(out), 8*20*5)
	}
	for w := range told {
		for i, first := range told[w] {
			for j := range int64(5) {
				if want := fmt.Sprintf("%d/%d/%d", w, i, j); string(out[first+j].Value) != want {
					t.Fatalf("at %d stands %s, want %s of the append that was told %d", first+j, out[first+j].Value, want, first)
				}
			}
		}
	}
}

func bounds(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 3)
	must(c.Append(t.Context(), ps[1], text("a")))(t)
	must(c.Append(t.Context(), ps[1], text("b")))(t)
	got := must(c.Bounds(t.Context(), append(ps, ps[0])))(t)
	want := map[im.Partition]im.Bounds{ps[0]: {}, ps[1]: {Start: 0, End: 2}, ps[2]: {}}
	for p, b := range want {
		if got[p] != b {
			t.Errorf("%v: %+v, want %+v", p, got[p], b)
		}
	}
}

func readOnce(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	p := f.topic(t, c, 1)[0]
	for i := range 10 {
		must(c.Append(t.Context(), p, []im.Entry{{Value: bytes.Repeat([]byte{byte(i)}, 10_000)}}))(t)
	}
	got := must(c.Read(t.Context(), p, 3, 25_000))(t)
	if len(got) == 0 || len(got) > 3 || got[0].Offset != 3 {
		t.Errorf("read %d entries of 10,000 bytes from 3 within 25,000 bytes", len(got))
	}
	if got := must(c.Read(t.Context(), p, 5, 1))(t); len(got) != 1 || got[0].Offset != 5 {
		t.Errorf("read %d entries within 1 byte, want the first whole", len(got))
	}
	if got := must(c.Read(t.Context(), p, 10, 1000))(t); len(got) != 0 {
		t.Errorf("read %d entries at the end", len(got))
	}
	_, err := c.Read(t.Context(), p, 11, 1000)
	if ranged, ok := errors.AsType[*kafka.RangeError](err); !ok || ranged.Bounds != (im.Bounds{Start: 0, End: 10}) || ranged.Wanted != 11 {
		t.Errorf("read past the end: %v", err)
	}
	// A read from the middle of a batch leaves out what was before.
	must(c.Append(t.Context(), p, slices.Concat(text("x"), text("y"), text("z"))))(t)
	if got := must(c.Read(t.Context(), p, 11, 1000))(t); len(got) != 2 || string(got[0].Value) != "y" {
		t.Errorf("read from the middle of a batch: %d entries", len(got))
	}
}

// poll polls until n entries came.
func poll(t testing.TB, r *kafka.Reader, n int) []im.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var out []im.Entry
	for len(out) < n {
		batches, err := r.Poll(ctx)
		if err != nil {
			t.Fatalf("poll: %v (after %d of %d entries)", err, len(out), n)
		}
		for _, b := range batches {
			out = append(out, b.Entries...)
		}
	}
	return out
}

func wakePromptly(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 8)
	from := make(map[im.Partition]int64)
	for _, p := range ps {
		from[p] = 0
	}
	r := c.NewReader(from)
	defer r.Close()
	var took []time.Duration
	for i := range 20 {
		polled := make(chan []im.Entry)
		go func() { polled <- poll(t, r, 1) }()
		p := ps[i%len(ps)]
		must(c.Append(t.Context(), p, text(strconv.Itoa(i))))(t)
		acked := time.Now()
		got := <-polled
		took = append(took, time.Since(acked))
		if string(got[0].Value) != strconv.Itoa(i) || got[0].Partition != p {
			t.Fatalf("got %s of %v, want %d of %v", got[0].Value, got[0].Partition, i, p)
		}
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("from the ack to the poller: %v at the median: the broker held the fetch for its whole wait", median)
	}
}

func seekWhilePolling(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 3)
	for _, p := range ps {
		must(c.Append(t.Context(), p, slices.Concat(text("0"), text("1"), text("2"))))(t)
	}
	r := c.NewReader(map[im.Partition]int64{ps[0]: 3})
	defer r.Close()
	var took []time.Duration
	for i := range 10 {
		polled := make(chan []im.Entry)
		go func() { polled <- poll(t, r, 2) }()
		p := ps[i%3]
		began := time.Now()
		r.Seek(p, 1)
		got := <-polled
		took = append(took, time.Since(began))
		if len(got) != 2 || got[0].Offset != 1 || got[0].Partition != p {
			t.Fatalf("after seek to 1: %d entries from %d", len(got), got[0].Offset)
		}
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("from seek to the poller: %v at the median", median)
	}

	// Two fetches of one partition are held now; what comes is returned once.
	idle, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if batches, err := r.Poll(idle); len(batches) != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("an idle poll: %d batches, %v", len(batches), err)
	}
	r.Seek(ps[0], 3)
	idle, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if batches, err := r.Poll(idle); len(batches) != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("an idle poll: %d batches, %v", len(batches), err)
	}
	must(c.Append(t.Context(), ps[0], text("3")))(t)
	if got := poll(t, r, 1); len(got) != 1 {
		t.Errorf("%d entries came, of one appended", len(got))
	}
	idle, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if batches, err := r.Poll(idle); len(batches) != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an entry came twice: %d batches, %v", len(batches), err)
	}
}

func dropStops(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 2)
	r := c.NewReader(map[im.Partition]int64{ps[0]: 0, ps[1]: 0})
	defer r.Close()
	must(c.Append(t.Context(), ps[0], text("a")))(t)
	poll(t, r, 1)
	r.Drop(ps[0])
	must(c.Append(t.Context(), ps[0], text("b")))(t)
	must(c.Append(t.Context(), ps[1], text("c")))(t)
	if got := poll(t, r, 1); len(got) != 1 || string(got[0].Value) != "c" {
		t.Errorf("got %s after dropping its partition", got[0].Value)
	}
}

func rangeError(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 2)
	must(c.Append(t.Context(), ps[0], text("a")))(t)
	r := c.NewReader(map[im.Partition]int64{ps[0]: 0, ps[1]: 7})
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	seen, ranged := 0, (*kafka.RangeError)(nil)
	for seen == 0 || ranged == nil {
		batches, err := r.Poll(ctx)
		if err != nil {
			var ok bool
			if ranged, ok = errors.AsType[*kafka.RangeError](err); !ok {
				t.Fatal(err)
			}
		}
		for _, b := range batches {
			seen += len(b.Entries)
		}
	}
	if ranged.Partition != ps[1] || ranged.Wanted != 7 || ranged.Bounds != (im.Bounds{}) {
		t.Errorf("range error: %v", ranged)
	}
	must(c.Append(t.Context(), ps[0], text("b")))(t)
	poll(t, r, 1)
	r.Seek(ps[1], 0)
	must(c.Append(t.Context(), ps[1], text("c")))(t)
	if got := poll(t, r, 1); string(got[0].Value) != "c" {
		t.Errorf("got %s from the partition that was sought again", got[0].Value)
	}
}

func endPoll(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	p := f.topic(t, c, 1)[0]
	r := c.NewReader(map[im.Partition]int64{p: 0})
	for _, end := range []struct {
		name string
		do   func(cancel context.CancelFunc)
		want error
	}{
		{"cancel", func(cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"close", func(context.CancelFunc) { r.Close() }, kafka.ErrClosed},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		started := make(chan struct{})
		go func() {
			close(started)
			_, err := r.Poll(ctx)
			result <- err
		}()
		<-started
		began := time.Now()
		end.do(cancel)
		err := <-result
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("%s: took %v", end.name, took)
		}
		if !errors.Is(err, end.want) {
			t.Errorf("%s: %v, want %v", end.name, err, end.want)
		}
		cancel()
	}
}

func overload(t *testing.T, f *fixture) {
	c := f.open(t, func(cfg *kafka.Config) { cfg.QueueBytes, cfg.BatchBytes = 40_000, 20_000 })
	p := f.topic(t, c, 1)[0]
	var refused, landed atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 10 {
				_, err := c.Append(t.Context(), p, []im.Entry{{Value: make([]byte, 10_000)}})
				switch {
				case err == nil:
					landed.Add(1)
				case im.CodeOf(err) == im.CodeOverloaded:
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 || landed.Load() == 0 {
		t.Errorf("%d landed, %d refused: want some of both", landed.Load(), refused.Load())
	}
	if got := must(c.Bounds(t.Context(), []im.Partition{p}))(t)[p].End; got != landed.Load() {
		t.Errorf("%d stand in the log, %d were acked", got, landed.Load())
	}
	if queued := c.AppendStats().Queued; queued != 0 {
		t.Errorf("%d bytes are still counted as queued", queued)
	}
	if _, err := c.Append(t.Context(), p, []im.Entry{{Value: make([]byte, 30_000)}}); im.CodeOf(err) != im.CodeBadRequest {
		t.Errorf("an append larger than a batch: %v", err)
	}
}

func cancelAppend(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	p := f.topic(t, c, 1)[0]
	must(c.Append(t.Context(), p, text("a")))(t)
	f.Kill(t)
	restart := sync.OnceFunc(func() { f.Start(t) })
	defer restart()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := c.Append(ctx, p, text("b"))
		result <- err
	}()
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	err := <-result
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	if im.CodeOf(err) != im.CodeUnavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled append: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Append(ctx, p, text("c")); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("append past its deadline: %v", err)
	}
	restart()
	must(c.Append(t.Context(), p, text("d")))(t)
	out := all(t, c, p)
	if string(out[0].Value) != "a" || string(out[len(out)-1].Value) != "d" {
		t.Errorf("the log is %s … %s", out[0].Value, out[len(out)-1].Value)
	}
}

func unknownTopic(t *testing.T, f *fixture) {
	c := f.open(t, func(cfg *kafka.Config) {
		cfg.AppendTimeout = 300 * time.Millisecond
		cfg.RequestTimeout = 300 * time.Millisecond
	})
	p := im.Partition{Topic: "t-nowhere", Number: 3}
	for what, err := range map[string]error{
		"append": func() error { _, err := c.Append(t.Context(), p, text("a")); return err }(),
		"read":   func() error { _, err := c.Read(t.Context(), p, 0, 100); return err }(),
		"bounds": func() error { _, err := c.Bounds(t.Context(), []im.Partition{p}); return err }(),
		"poll":   func() error { _, err := c.NewReader(map[im.Partition]int64{p: 0}).Poll(t.Context()); return err }(),
	} {
		if im.CodeOf(err) != im.CodeUnavailable || !strings.Contains(err.Error(), "t-nowhere/3") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func verifyTopics(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	p := f.topic(t, c, 2)[0]
	good := f.spec(p.Topic, 2)
	if err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{good}); err != nil {
		t.Errorf("a topic as created: %v", err)
	}
	if err := c.CreateTopics(t.Context(), []kafka.TopicSpec{good}); err != nil {
		t.Errorf("creating again: %v", err)
	}
	bad := good
	bad.Partitions, bad.MinISR, bad.Replication, bad.Retention = 4, good.MinISR+1, good.Replication+1, 96*time.Hour
	err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{bad, f.spec("t-missing", 1)})
	if err == nil {
		t.Fatal("nothing found")
	}
	for _, want := range []string{
		p.Topic + ": partitions is 2, want 4", p.Topic + ": min.insync.replicas is", p.Topic + ": replication is",
		p.Topic + ": retention.ms is 259200000, want 345600000 or more", "t-missing: the topic is missing",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	if _, ok := errors.AsType[*kafka.SettingError](err); !ok {
		t.Errorf("%T holds no *SettingError", err)
	}
}

// keepTopics: what is told to keep all its records does, and others do not.
func keepTopics(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	kept, other := f.topic(t, c, 2)[0].Topic, f.topic(t, c, 1)[0].Topic
	for range 2 { // the second time there is nothing to change
		if err := c.KeepTopics(t.Context(), []string{kept}); err != nil {
			t.Fatal(err)
		}
	}
	forever := func(name string, partitions int) kafka.TopicSpec {
		spec := f.spec(name, partitions)
		spec.Retention = 0
		return spec
	}
	err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{forever(kept, 2), forever(other, 1)})
	if err == nil || strings.Contains(err.Error(), kept) || !strings.Contains(err.Error(), other+": retention.ms is 259200000") {
		t.Errorf("of one that is kept and one that is not: %v", err)
	}
	if err := c.VerifyTopics(t.Context(), []kafka.TopicSpec{f.spec(kept, 2)}); err != nil {
		t.Errorf("a topic that keeps all is refused: %v", err)
	}
}

// killed: the broker dies and comes back in the middle of appends. Each writer goes on only when it was acked, and
// repeats what was not; a repeat may stand twice, but what was acked stands, and never behind a later one's first.
func killed(t *testing.T, f *fixture) {
	c := f.open(t, nil)
	ps := f.topic(t, c, 2)
	const writers, calls = 8, 150
	var acked atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range calls {
				for {
					_, err := c.Append(t.Context(), ps[w%2], text(fmt.Sprintf("%d/%d", w, i)))
					if err == nil {
						break
					}
					if im.CodeOf(err) != im.CodeUnavailable {
						t.Error(err)
						return
					}
				}
				acked.Add(1)
			}
		})
	}
	for n := range int64(2) {
		for acked.Load() < (n+1)*writers*calls/3 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		f.Kill(t)
		f.Start(t)
	}
	wg.Wait()
	if s := c.AppendStats(); s.Repeats == 0 {
		t.Log("no batch was sent again")
	}
	last := make(map[string]int)
	for _, p := range ps {
		for _, e := range all(t, c, p) {
			w, i, _ := strings.Cut(string(e.Value), "/")
			n, _ := strconv.Atoi(i)
			switch want := last[w]; {
			case n == want:
				last[w]++
			case n > want:
				t.Fatalf("%v at %d: writer %s wrote %d, and %d is missing before it", p, e.Offset, w, n, want)
			case n < want-1:
				t.Fatalf("%v at %d: writer %s's %d came again after %d", p, e.Offset, w, n, want-1)
			}
		}
	}
	for w, n := range last {
		if n != calls {
			t.Errorf("writer %s: %d of %d", w, n, calls)
		}
	}
}
