//go:build real

package contract_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/testenv"
)

// quorum is three brokers.
type quorum struct {
	brokers []string
	members []*testenv.Member
}

func startQuorum(t testing.TB) *quorum {
	t.Helper()
	env := testenv.ForTest(t)
	var peers []backend.KafkaPeer
	for n := range 3 {
		peers = append(peers, backend.KafkaPeer{Node: n + 1, Host: env.Host(n + 1)})
	}
	q := &quorum{}
	var all []backend.Server
	for n := range 3 {
		b := backend.NewKafka(backend.KafkaConfig{
			Name: fmt.Sprintf("kafka-%d", n+1), Dir: env.Dir(fmt.Sprintf("kafka-%d", n+1)), Host: env.Host(n + 1),
			Node: n + 1, Cluster: "quorum", Peers: peers, Quick: true,
		})
		q.brokers, all = append(q.brokers, b.Addr()), append(all, b)
	}
	var err error
	if q.members, err = env.Start(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	return q
}

// inSync waits until all three brokers hold all of a topic, and returns who leads its partitions. All of them must say
// so: one that hung says for a while what was so before.
func (q *quorum) inSync(t testing.TB, topic string) (leaders map[int]int) {
	t.Helper()
	eventually(t, "the brokers are in sync", func() error {
		leaders = make(map[int]int)
		for _, broker := range q.brokers {
			transport := &kafkago.Transport{}
			client := kafkago.Client{Addr: kafkago.TCP(broker), Timeout: 5 * time.Second, Transport: transport}
			m, err := client.Metadata(t.Context(), &kafkago.MetadataRequest{Topics: []string{topic}})
			transport.CloseIdleConnections()
			if err != nil {
				return err
			}
			for _, p := range m.Topics[0].Partitions {
				if len(p.Isr) < 3 {
					return fmt.Errorf("%s: of partition %d: %d", broker, p.ID, len(p.Isr))
				}
				if known, ok := leaders[p.ID]; ok && known != p.Leader.ID {
					return fmt.Errorf("%s: %d leads partition %d, others say %d", broker, p.Leader.ID, p.ID, known)
				}
				leaders[p.ID] = p.Leader.ID
			}
		}
		return nil
	})
	return leaders
}

func TestKafkaQuorum(t *testing.T) {
	q := startQuorum(t)
	t.Run("leaders die", func(t *testing.T) { leadersDie(t, q) })
	t.Run("too few replicas", func(t *testing.T) { tooFewReplicas(t, q) })
}

// While brokers in turn are killed, or hang, appends to all partitions go on within their deadline: each stands once, in
// order, and a reader that follows sees the same.
func leadersDie(t *testing.T, q *quorum) {
	// A busy machine elects slowly: the times are told, and the order is what must hold.
	c := openKafka(t, kafka.Config{Brokers: q.brokers, AppendTimeout: patience / 2})
	for _, fault := range []struct {
		name        string
		members     []*testenv.Member
		begin, heal func(m *testenv.Member) error
	}{
		{"killed", q.members[:2], (*testenv.Member).Kill, func(m *testenv.Member) error { return m.Start(t.Context()) }},
		{"hanging", q.members[1:], (*testenv.Member).Pause, (*testenv.Member).Resume},
	} {
		t.Run(fault.name, func(t *testing.T) {
			ps := kafkaTopic(t, c, 6, 3, 2)
			w := &writers{c: c, next: make([]atomic.Int64, len(ps))}
			ctx, stop := context.WithCancel(t.Context())
			var all, read sync.WaitGroup
			defer read.Wait()
			defer all.Wait()
			defer stop()
			for _, p := range ps {
				all.Go(func() { w.write(ctx, t, p) })
			}
			from := make(map[im.Partition]int64)
			for _, p := range ps {
				from[p] = 0
			}
			reader := c.NewReader(from)
			defer reader.Close()
			read.Go(func() { w.read(t, reader, from) })
			for _, member := range fault.members {
				q.inSync(t, ps[0].Topic)
				w.goOn(t)
				began := time.Now()
				if err := fault.begin(member); err != nil {
					t.Fatal(err)
				}
				w.goOn(t)
				t.Logf("%s %s: appends to all partitions after %v", member.Server.Name(), fault.name, time.Since(began).Round(10*time.Millisecond))
				if err := fault.heal(member); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			all.Wait()
			w.ends.Store(true)
			read.Wait()
			t.Logf("the longest append took %v; %+v", time.Duration(w.longest.Load()).Round(time.Millisecond), c.AppendStats())
		})
	}
}

// writers write 0, 1, 2… into each partition.
type writers struct {
	c       *kafka.Cluster
	next    []atomic.Int64 // by partition: how many are acked
	longest atomic.Int64
	ends    atomic.Bool
}

func (w *writers) acked() []int64 {
	n := make([]int64, len(w.next))
	for i := range n {
		n[i] = w.next[i].Load()
	}
	return n
}

// goOn waits until 20 more are acked in each partition.
func (w *writers) goOn(t *testing.T) {
	t.Helper()
	before := w.acked()
	eventually(t, "appends go on everywhere", func() error {
		for p, now := range w.acked() {
			if now < before[p]+20 {
				return fmt.Errorf("partition %d: %d acked since", p, now-before[p])
			}
		}
		return nil
	})
}

func (w *writers) write(ctx context.Context, t *testing.T, p im.Partition) {
	for ctx.Err() == nil && !t.Failed() {
		n := w.next[p.Number].Load()
		began := time.Now()
		first, err := w.c.Append(t.Context(), p, []im.Entry{{Value: strconv.AppendInt(nil, n, 10)}})
		if t.Context().Err() != nil {
			return
		}
		if err != nil || first != n {
			t.Errorf("%v: %d stands at %d after %v: %v", p, n, first, time.Since(began), err)
			return
		}
		for took := int64(time.Since(began)); ; {
			if old := w.longest.Load(); took <= old || w.longest.CompareAndSwap(old, took) {
				break
			}
		}
		w.next[p.Number].Add(1)
	}
}

// read checks what a reader sees until it has seen all.
func (w *writers) read(t *testing.T, r *kafka.Reader, next map[im.Partition]int64) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for ctx.Err() == nil && !t.Failed() {
		if w.ends.Load() {
			behind := false
			for p, n := range next {
				behind = behind || n < w.next[p.Number].Load()
			}
			if !behind {
				return
			}
		}
		poll, done := context.WithTimeout(ctx, 200*time.Millisecond)
		batches, err := r.Poll(poll)
		done()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
			return
		}
		for _, b := range batches {
			for _, e := range b.Entries {
				if e.Offset != next[e.Partition] || string(e.Value) != strconv.FormatInt(e.Offset, 10) {
					t.Errorf("%v: the reader got %s at %d, want %d", e.Partition, e.Value, e.Offset, next[e.Partition])
					return
				}
				next[e.Partition]++
			}
		}
	}
}

// With too few replicas nothing is acked, and it is said so; when they are back, all goes on.
func tooFewReplicas(t *testing.T, q *quorum) {
	c := openKafka(t, kafka.Config{Brokers: q.brokers, AppendTimeout: 8 * time.Second})
	p := kafkaTopic(t, c, 1, 3, 2)[0]
	put := func(s string) error {
		_, err := c.Append(t.Context(), p, []im.Entry{{Value: []byte(s)}})
		return err
	}
	if err := put("a"); err != nil {
		t.Fatal(err)
	}
	leader := q.inSync(t, p.Topic)[0]
	for n, m := range q.members {
		if n+1 != leader {
			if err := m.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	if err := put("b"); im.CodeOf(err) != im.CodeUnavailable || servers.env.Since(began) > 9*time.Second || strings.Contains(err.Error(), "\n") {
		t.Errorf("with one of three brokers: %v after %v", err, time.Since(began))
	} else {
		t.Log(err)
	}
	for _, m := range q.members {
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "append", func() error { return put("c") })
	entries, err := c.Read(t.Context(), p, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, string(e.Value))
	}
	// b may have landed, and each c that was not acked; never b behind c.
	text := strings.Join(got, "")
	if strings.TrimRight(text, "c") != "a" && strings.TrimRight(text, "c") != "ab" || !strings.HasSuffix(text, "c") {
		t.Errorf("the log is %v", got)
	}
}
