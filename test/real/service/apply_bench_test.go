//go:build real

package service_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/wire"
)

// BenchmarkApplyInRegion is apply with everything running: a region's imserver, router, gateway, replicator and ipconf as
// processes, with Kafka, PostgreSQL, Redis and Consul beside them on one machine. A log of 300-byte texts in 10,000 direct
// conversations, whose sizes follow Zipf's law with exponent 1.1, comes faster than it can be applied; it is read,
// committed, and handed to the router for delivery. The first tenth is not counted: processes and brokers are new then.
// One operation is one record.
func BenchmarkApplyInRegion(b *testing.B) {
	over := settings{"timelines.urls": database(b)}
	migrate(b, over)
	log, err := kafka.Open(b.Context(), kafka.Config{Brokers: []string{world.kafka.Addr()}}, kafka.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	share(b, start(b, "router", "router-1", over))
	server := start(b, "imserver", "imserver-1", over)
	share(b, server)
	for _, kind := range []string{"gateway", "replicator", "ipconf"} {
		s := start(b, kind, kind+"-1", over)
		eventually(b, kind+" is ready", func() error {
			if r, err := s.ready(); err != nil || !r.OK {
				return fmt.Errorf("%+v: %w", r, err)
			}
			return nil
		})
	}

	const conversations = 10_000
	rng := rand.New(rand.NewPCG(1, 1))
	zipf := rand.NewZipf(rng, 1.1, 1, conversations-1)
	body, err := wire.Marshal(&wire.Text{Text: strings.Repeat("x", 300)})
	if err != nil {
		b.Fatal(err)
	}
	chat := func(int) im.Conversation { return im.Direct(im.UID(fmt.Sprintf("user-%d", zipf.Uint64())), "erin") }
	done := func() error { return applied(b, log, over["timelines.urls"]) }
	preload(b, log, b.N/10+partitions*100, body, chat)
	eventually(b, "the first records are applied", done)
	b.ResetTimer()
	begun := time.Now()
	for left := b.N; left > 0; left -= 10_000 {
		preload(b, log, min(left, 10_000), body, chat)
	}
	eventually(b, "all is applied", done)
	b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "records/s")
}
