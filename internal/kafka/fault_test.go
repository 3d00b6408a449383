package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

// faulty starts a cluster in memory whose answers a test can falsify, and a topic of so many partitions.
func faulty(t *testing.T, partitions int, change func(*kafka.Config), opts ...kfake.Opt) (*kfake.Cluster, *kafka.Cluster, []im.Partition) {
	t.Helper()
	fake, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	cfg := kafka.Config{Brokers: fake.ListenAddrs(), Embedded: true}
	if change != nil {
		change(&cfg)
	}
	c, err := kafka.Open(t.Context(), cfg, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.CreateTopics(t.Context(), []kafka.TopicSpec{{Name: "t", Partitions: partitions, Replication: 1, MinISR: 1, Retention: time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	ps := make([]im.Partition, partitions)
	for n := range ps {
		ps[n] = im.Partition{Topic: "t", Number: n}
	}
	return fake, c, ps
}

func values(t *testing.T, c *kafka.Cluster, p im.Partition) string {
	t.Helper()
	var out []string
	for next := int64(0); ; {
		entries, err := c.Read(t.Context(), p, next, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return strings.Join(out, " ")
		}
		for _, e := range entries {
			out = append(out, string(e.Value))
			next = e.Offset + 1
		}
	}
}

func appendText(ctx context.Context, c *kafka.Cluster, p im.Partition, s string) (int64, error) {
	return c.Append(ctx, p, []im.Entry{{Value: []byte(s)}})
}

var produceOnly = []kmsg.Key{kmsg.Produce}

// A batch that landed though the answer said otherwise is sent again, and stands once.
func TestLostAnswerStandsOnce(t *testing.T) {
	fake, c, ps := faulty(t, 1, nil)
	for i, answer := range []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		hit := fake.Fault(kfake.Fault{Keys: produceOnly, Err: answer, Count: 3})
		first, err := appendText(t.Context(), c, ps[0], fmt.Sprint(i))
		if err != nil || first != int64(i) {
			t.Errorf("%v: first %d, %v", answer, first, err)
		}
		if hit.Hits() != 3 {
			t.Errorf("%v: the fault was hit %d times", answer, hit.Hits())
		}
	}
	if got := values(t, c, ps[0]); got != "0 1" {
		t.Errorf("the log is %q", got)
	}
}

// What is queued behind a batch that fails does not overtake it.
func TestFailedBatchIsNotOvertaken(t *testing.T) {
	fake, c, ps := faulty(t, 1, nil)
	fake.Fault(kfake.Fault{Keys: produceOnly, Err: kerr.NotEnoughReplicas, Count: 5})
	var wg sync.WaitGroup
	var want []string
	queued := 0
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		wg.Go(func() {
			if _, err := appendText(t.Context(), c, ps[0], fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
		// Calls must begin one after another to have an order: each is in the queue before the next begins.
		for before := queued; queued == before; queued = c.AppendStats().Queued {
			if c.AppendStats().Records > 0 {
				t.Fatal("the faults ended too soon")
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	wg.Wait()
	if got := values(t, c, ps[0]); got != strings.Join(want, " ") {
		t.Errorf("the log is %q", got)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

// A batch that is given up, whether it landed or not, does not stop those after it.
func TestGivenUpBatch(t *testing.T) {
	for answer, want := range map[*kerr.Error]string{kerr.RequestTimedOut: "a b c d", kerr.NotEnoughReplicas: "a c d"} {
		fake, c, ps := faulty(t, 1, nil)
		if _, err := appendText(t.Context(), c, ps[0], "a"); err != nil {
			t.Fatal(err)
		}
		hit := fake.Fault(kfake.Fault{Keys: produceOnly, Err: answer, Count: -1})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := appendText(ctx, c, ps[0], "b")
			done <- err
		}()
		eventually(t, "the broker is asked again", func() bool { return hit.Hits() > 1 })
		cancel()
		err := <-done
		if im.CodeOf(err) != im.CodeUnavailable || !strings.Contains(err.Error(), "may have landed") {
			t.Errorf("%v: %v", answer, err)
		}
		eventually(t, "the batch is given up", func() bool { return c.AppendStats().GivenUp == 1 }) // else it would land now
		hit.Remove()
		for _, s := range []string{"c", "d"} {
			if _, err := appendText(t.Context(), c, ps[0], s); err != nil {
				t.Error(err)
			}
		}
		if got := values(t, c, ps[0]); got != want {
			t.Errorf("%v: the log is %q, want %q", answer, got, want)
		}
	}
}

// A refusal for good is returned at once and says what to do; a producer that the broker forgot is replaced.
func TestRefusals(t *testing.T) {
	fake, c, ps := faulty(t, 2, nil)
	fake.Fault(kfake.Fault{Keys: produceOnly, Err: kerr.MessageTooLarge, Partitions: []int32{1}})
	_, err := appendText(t.Context(), c, ps[1], "a")
	if err == nil || im.CodeOf(err) == im.CodeUnavailable || !strings.Contains(err.Error(), "t/1") || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Errorf("too large: %v", err)
	}
	for _, answer := range []*kerr.Error{kerr.UnknownProducerID, kerr.InvalidProducerEpoch, kerr.OutOfOrderSequenceNumber} {
		if _, err := appendText(t.Context(), c, ps[1], "b"); err != nil {
			t.Error(err)
		}
		fake.Fault(kfake.Fault{Keys: produceOnly, Err: answer})
		if _, err := appendText(t.Context(), c, ps[1], "c"); err != nil {
			t.Errorf("%v: %v", answer, err)
		}
	}
	if got := values(t, c, ps[1]); got != "b c b c b c" {
		t.Errorf("the log is %q", got)
	}
}

// Leaders move among three brokers while writers append and a reader follows.
func TestLeadersMove(t *testing.T) {
	fake, c, ps := faulty(t, 6, nil, kfake.NumBrokers(3))
	from := make(map[im.Partition]int64)
	for _, p := range ps {
		from[p] = 0
	}
	r := c.NewReader(from)
	const each = 100
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			for i := range each {
				if first, err := appendText(t.Context(), c, p, fmt.Sprint(i)); err != nil || first != int64(i) {
					t.Errorf("%v: %d stands at %d: %v", p, i, first, err)
					return
				}
				if i%25 == 10 {
					if err := fake.MoveTopicPartition("t", int32(p.Number), int32((p.Number+i)%3)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for got := 0; got < each*len(ps); {
		batches, err := r.Poll(ctx)
		if err != nil {
			t.Fatalf("after %d: %v", got, err)
		}
		for _, b := range batches {
			for _, e := range b.Entries {
				if e.Offset != from[e.Partition] || string(e.Value) != fmt.Sprint(e.Offset) {
					t.Fatalf("%v: got %s at %d, want %d", e.Partition, e.Value, e.Offset, from[e.Partition])
				}
				from[e.Partition]++
				got++
			}
		}
	}
	wg.Wait()
}

// A reader that retention overtook is told so, and goes on from the start that it is told of.
func TestRetentionOvertakes(t *testing.T) {
	fake, c, ps := faulty(t, 1, nil)
	for range 3 {
		if _, err := appendText(t.Context(), c, ps[0], "old"); err != nil {
			t.Fatal(err)
		}
	}
	var start int64
	for start == 0 {
		time.Sleep(2 * time.Millisecond) // records must be older than the retention of 1 ms
		fake.ApplyRetention()
		b, err := c.Bounds(t.Context(), ps)
		if err != nil {
			t.Fatal(err)
		}
		start = b[ps[0]].Start
	}
	r := c.NewReader(map[im.Partition]int64{ps[0]: 0})
	_, err := r.Poll(t.Context())
	ranged, ok := errors.AsType[*kafka.RangeError](err)
	if !ok || ranged.Bounds.Start != start || !strings.Contains(err.Error(), "retention removed") {
		t.Fatalf("poll: %v", err)
	}
	r.Seek(ps[0], ranged.Bounds.Start)
	if _, err := appendText(t.Context(), c, ps[0], "new"); err != nil {
		t.Fatal(err)
	}
	for last := ""; last != "new"; {
		batches, err := r.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		entries := batches[0].Entries
		last = string(entries[len(entries)-1].Value)
	}
}

func TestAuthentication(t *testing.T) {
	for mechanism, of := range map[string]string{"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"} {
		secret := func(cfg *kafka.Config) { cfg.SASL = kafka.SASL{Mechanism: mechanism, User: "u", Password: "pencil"} }
		fake, c, ps := faulty(t, 1, secret, kfake.EnableSASL(), kfake.Superuser(of, "u", "pencil"))
		if _, err := appendText(t.Context(), c, ps[0], "a"); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
		began := time.Now()
		_, err := kafka.Open(t.Context(), kafka.Config{Brokers: fake.ListenAddrs(), SASL: kafka.SASL{Mechanism: mechanism, User: "u", Password: "pen"}, RequestTimeout: 200 * time.Millisecond}, kafka.Deps{})
		if err == nil || !strings.Contains(err.Error(), "SASL") || strings.Contains(err.Error(), "pencil") || time.Since(began) > 3*time.Second {
			t.Errorf("%s: wrong password: %v after %v", mechanism, err, time.Since(began))
		}

	}
	if _, err := kafka.Open(t.Context(), kafka.Config{Brokers: []string{"127.0.0.1:1"}, SASL: kafka.SASL{Mechanism: "magic"}}, kafka.Deps{}); err == nil {
		t.Error("an unknown mechanism was taken")
	}
}

// A broker that does not tell a setting is refused unless it is said to be embedded.
func TestVerifyIsStrict(t *testing.T) {
	fake, c, _ := faulty(t, 1, nil)
	spec := []kafka.TopicSpec{{Name: "t", Partitions: 1, Replication: 1, MinISR: 1, Retention: time.Millisecond}}
	if err := c.VerifyTopics(t.Context(), spec); err != nil {
		t.Errorf("embedded: %v", err)
	}
	strict, err := kafka.Open(t.Context(), kafka.Config{Brokers: fake.ListenAddrs()}, kafka.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer strict.Close()
	if err := strict.VerifyTopics(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "auto.create.topics.enable") {
		t.Errorf("strict: %v", err)
	}
}

// Close ends what waits, with an error that a caller may retry elsewhere.
func TestCloseFailsWhatWaits(t *testing.T) {
	fake, c, ps := faulty(t, 1, nil)
	hit := fake.Fault(kfake.Fault{Keys: produceOnly, Err: kerr.NotEnoughReplicas, Count: -1})
	results := make(chan error, 10)
	for range cap(results) {
		go func() {
			_, err := appendText(context.Background(), c, ps[0], "a")
			results <- err
		}()
	}
	if err := hit.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.Close()
	for range cap(results) {
		if err := <-results; im.CodeOf(err) != im.CodeUnavailable {
			t.Errorf("append across close: %v", err)
		}
	}
	if took := time.Since(began); took > 5*time.Second { // an append is tried for longer
		t.Errorf("close took %v", took)
	}
	if _, err := appendText(t.Context(), c, ps[0], "b"); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, err := c.NewReader(map[im.Partition]int64{ps[0]: 0}).Poll(t.Context()); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("poll after close: %v", err)
	}
}
