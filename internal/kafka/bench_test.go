package kafka_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
)

func benchCluster(b *testing.B, partitions int) (*kafka.Cluster, []im.Partition) {
	return paced(b, partitions, 0)
}

// paced is a cluster whose readers' fetches begin so far apart.
func paced(b *testing.B, partitions int, pace time.Duration) (*kafka.Cluster, []im.Partition) {
	f := startFake(b)
	cfg := f.Config()
	cfg.FetchPace = pace
	c, err := kafka.Open(b.Context(), cfg, kafka.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	spec := kafka.TopicSpec{Name: "bench", Partitions: partitions, Replication: 1, MinISR: 1}
	if err := c.CreateTopics(b.Context(), []kafka.TopicSpec{spec}); err != nil {
		b.Fatal(err)
	}
	ps := make([]im.Partition, partitions)
	for n := range ps {
		ps[n] = im.Partition{Topic: "bench", Number: n}
	}
	return c, ps
}

// record300 is about what a text message is in the log: 300 bytes with its headers.
func record300() []im.Entry {
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

// BenchmarkAppend: so many callers, each waiting for its ack, over 16 partitions.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 256, 2048} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c, ps := benchCluster(b, 16)
			for _, p := range ps { // producers
				if _, err := c.Append(b.Context(), p, record300()); err != nil {
					b.Fatal(err)
				}
			}
			const each = 20
			var took []time.Duration
			var mu sync.Mutex
			b.ReportAllocs()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() {
						mine := make([]time.Duration, 0, each)
						for range each {
							began := time.Now()
							if _, err := c.Append(context.Background(), ps[i%len(ps)], record300()); err != nil {
								b.Error(err)
								return
							}
							mine = append(mine, time.Since(began))
						}
						mu.Lock()
						took = append(took, mine...)
						mu.Unlock()
					})
				}
				wg.Wait()
			}
			slices.Sort(took)
			s := c.AppendStats()
			b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(s.Records)/float64(s.Requests), "records/request")
		})
	}
}

// BenchmarkAppendPaced: 2,000 records/s over 16 partitions, as a busy region does; cpu-ms/s is what kfake and the
// adapter take together.
func BenchmarkAppendPaced(b *testing.B) {
	c, ps := benchCluster(b, 16)
	took := make(chan time.Duration, 1<<20)
	before := cpu(b)
	began := time.Now()
	for b.Loop() {
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 2000 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * 500 * time.Microsecond)))
			wg.Go(func() {
				sent := time.Now()
				if _, err := c.Append(context.Background(), ps[i%len(ps)], record300()); err != nil {
					b.Error(err)
				}
				took <- time.Since(sent)
			})
		}
		wg.Wait()
	}
	close(took)
	var all []time.Duration
	for d := range took {
		all = append(all, d)
	}
	slices.Sort(all)
	s := c.AppendStats()
	b.ReportMetric(float64((cpu(b)-before).Milliseconds())/time.Since(began).Seconds(), "cpu-ms/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(s.Records)/float64(s.Requests), "records/request")
}

// BenchmarkPoll: 16 partitions with records that stand there already.
func BenchmarkPoll(b *testing.B) {
	c, ps := benchCluster(b, 16)
	const each = 2000
	for _, p := range ps {
		for range each / 200 {
			if _, err := c.Append(b.Context(), p, slices.Repeat(record300(), 200)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	records := 0
	for b.Loop() {
		from := make(map[im.Partition]int64)
		for _, p := range ps {
			from[p] = 0
		}
		r := c.NewReader(from)
		for got := 0; got < each*len(ps); {
			batches, err := r.Poll(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			for _, batch := range batches {
				got += len(batch.Entries)
			}
		}
		records += each * len(ps)
		r.Close()
	}
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkFetch: one record at a time into one of so many partitions that a reader follows; cpu-us/op is what append,
// fetch and the embedded broker take together.
func BenchmarkFetch(b *testing.B) {
	for _, partitions := range []int{1, 16, 48, 192} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			c, ps := paced(b, partitions, 1) // as fast as it goes
			from := make(map[im.Partition]int64)
			for _, p := range ps {
				from[p] = 0
			}
			r := c.NewReader(from)
			defer r.Close()
			b.ReportAllocs()
			var before time.Duration
			warm := 2 * partitions
			for n := 0; b.Loop(); n++ {
				if n == warm { // the session is open, and so are conns and files
					before = cpu(b)
				}
				if _, err := c.Append(b.Context(), ps[n%len(ps)], record300()); err != nil {
					b.Fatal(err)
				}
				for got := 0; got == 0; {
					batches, err := r.Poll(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					for _, batch := range batches {
						got += len(batch.Entries)
					}
				}
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(max(1, b.N-warm)), "cpu-us/op")
		})
	}
}
