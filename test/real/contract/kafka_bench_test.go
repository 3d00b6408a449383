//go:build real

package contract_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/backend"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/testenv"
)

// benchKafka is a broker with the compiler that production has, warm, with a topic of 16 partitions.
func benchKafka(b *testing.B) (*kafka.Cluster, []im.Partition) {
	env := testenv.ForTest(b)
	broker := backend.NewKafka(backend.KafkaConfig{Name: "kafka-bench", Dir: env.Dir("kafka-bench"), Host: env.Host(0), Heap: 512})
	if _, err := env.Start(b.Context(), broker); err != nil {
		b.Fatal(err)
	}
	c := openKafka(b, kafka.Config{Brokers: []string{broker.Addr()}})
	ps := kafkaTopic(b, c, 16, 1, 1)
	load(b, c, ps, 256, 5*time.Second) // the JVM compiles what it runs often
	return c, ps
}

// message is about what a text message is in the log: 300 bytes with its headers.
func message() []im.Entry {
	return []im.Entry{{
		Key: []byte("d:ann:bob"), Value: bytes.Repeat([]byte("v"), 200),
		Headers: []im.Header{
			{Key: "c", Value: []byte("d:ann:bob")},
			{Key: "k", Value: []byte("message")},
			{Key: "v", Value: []byte("1")},
			{Key: "o", Value: []byte("eu")},
			{Key: "s", Value: make([]byte, 8)},
			{Key: "t", Value: bytes.Repeat([]byte("t"), 55)},
		},
	}}
}

// load appends from so many callers, each of which waits for its ack, and returns how long each append took.
func load(b *testing.B, c *kafka.Cluster, ps []im.Partition, callers int, span time.Duration) []time.Duration {
	var (
		mu   sync.Mutex
		took []time.Duration
		all  sync.WaitGroup
	)
	end := time.Now().Add(span)
	for i := range callers {
		all.Go(func() {
			var mine []time.Duration
			for began := time.Now(); began.Before(end); began = time.Now() {
				if _, err := c.Append(context.Background(), ps[i%len(ps)], message()); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	all.Wait()
	return took
}

func report(b *testing.B, took []time.Duration, span, used time.Duration) {
	slices.Sort(took)
	at := func(of float64) float64 { return float64(took[int(of*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(float64(len(took))/span.Seconds(), "records/s")
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(float64(used.Microseconds())/float64(len(took)), "client-cpu-us/record")
	b.ReportMetric(0, "ns/op")
}

// used is the CPU that this process took: the adapter and the load, not the broker.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkKafkaAppend: 2,048 callers append 300 B records, acks=all, as fast as they are acked.
func BenchmarkKafkaAppend(b *testing.B) {
	c, ps := benchKafka(b)
	var took []time.Duration
	var span time.Duration
	before := used(b)
	for b.Loop() {
		took = append(took, load(b, c, ps, 2048, time.Second)...)
		span += time.Second
	}
	report(b, took, span, used(b)-before)
}

// BenchmarkKafkaAppendPaced: single appends at 500/s, evenly over time and partitions.
func BenchmarkKafkaAppendPaced(b *testing.B) {
	c, ps := benchKafka(b)
	var (
		mu   sync.Mutex
		took []time.Duration
		all  sync.WaitGroup
		span time.Duration
	)
	const rate = 500
	before := used(b)
	for b.Loop() {
		began := time.Now()
		for i := range rate {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / rate)))
			all.Go(func() {
				sent := time.Now()
				if _, err := c.Append(context.Background(), ps[i%len(ps)], message()); err != nil {
					b.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(sent))
			})
		}
		all.Wait()
		span += time.Since(began)
	}
	report(b, took, span, used(b)-before)
}
