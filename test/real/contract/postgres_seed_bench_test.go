//go:build real

package contract_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/internal/postgres"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/wire"
)

// A region's timelines are seeded from another's, as antipode region seed does it, without a limit to its rate: 300-byte texts in
// 10,000 direct conversations whose sizes follow Zipf's law with exponent 1.1. Both databases are of one real server, with durable
// commits, and the snapshot passes a gRPC connection. One operation is one record.
//
//	go test -tags real -run '^$' -bench Seed -benchtime 200000x ./test/real/contract
func BenchmarkSeed(b *testing.B) {
	const partitions = 4
	source := seedSource(b, partitions)
	target := postgres.Config{URLs: []string{database(b)}, Partitions: partitions}
	if err := postgres.Migrate(b.Context(), target); err != nil {
		b.Fatal(err)
	}
	seedings, done, err := postgres.OpenSeedings(b.Context(), target, "us")
	if err != nil {
		b.Fatal(err)
	}
	defer done()
	conn, err := rpc.Dial(serveTimelines(b, source), rpc.DialConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	seed := regions.Seed{
		From: "eu", Snapshots: rpc.NewView(conn), Databases: []regions.Seedling{seedings[0]},
		Check:    func(context.Context, []*wire.SnapshotPosition) error { return nil },
		Progress: func(line string) { b.Log(line) },
	}
	b.ResetTimer()
	began := time.Now()
	planted, err := seed.Run(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	took := time.Since(began).Seconds()
	b.StopTimer()
	if planted.Records != int64(b.N) {
		b.Fatalf("%d of %d records came", planted.Records, b.N)
	}
	b.ReportMetric(float64(planted.Records)/took, "records/s")
	b.ReportMetric(float64(planted.Bytes)/took/1e6, "MB/s")
}

// seedSource has applied b.N messages.
func seedSource(b *testing.B, partitions int) *postgres.Timelines {
	b.Helper()
	cfg := postgres.Config{URLs: []string{database(b)}, Partitions: partitions}
	if err := postgres.Migrate(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	timelines, err := postgres.Open(b.Context(), cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(timelines.Close)
	const conversations, batch = 10_000, 2000
	rng := rand.New(rand.NewPCG(1, 1))
	zipf := rand.NewZipf(rng, 1.1, 1, conversations-1)
	text := make([]byte, 300)
	for i := range text {
		text[i] = 'a' + byte(rng.IntN(26))
	}
	body, err := wire.Marshal(&wire.Text{Text: string(text)})
	if err != nil {
		b.Fatal(err)
	}
	tails := make([]*view.Tail, partitions)
	ends := make([]int64, partitions)
	for n := range tails {
		at := view.Position{Position: im.Position{Partition: im.Partition{Topic: "msg.eu.direct", Number: n}}}
		if tails[n], err = view.NewTail(at, partitions); err != nil {
			b.Fatal(err)
		}
	}
	heads := map[view.HeadKey]uint64{}
	start := time.Now().Add(-time.Hour)
	for i := range b.N {
		c := im.Direct(im.UID(fmt.Sprintf("user-%d", zipf.Uint64())), "somebody-else")
		n := wire.Partition(string(c), partitions)
		e := wire.EncodeRecord(&im.Record{
			ID:   im.ID{Conversation: c, Sender: "somebody-else", ClientID: im.NewUUID(start.Add(time.Duration(i) * time.Millisecond))},
			Kind: im.KindMessage, Version: 1, Body: body,
			Place: im.Place{Stamp: im.StampAt(start) + im.Stamp(i), Origin: "eu"},
		})
		e.Partition, e.Offset = im.Partition{Topic: "msg.eu.direct", Number: n}, ends[n]
		ends[n]++
		if _, err := tails[n].Take(&e); err != nil {
			b.Fatal(err)
		}
		if (i+1)%batch != 0 && i+1 < b.N {
			continue
		}
		var parts []view.Part
		for _, t := range tails {
			if !t.Moved() {
				continue
			}
			p := t.Cut()
			view.Number(p.Records, func(k view.HeadKey) uint64 { return heads[k] })
			for i := range p.Records {
				heads[p.Records[i].Stream()] = p.Records[i].Place.Seq
			}
			parts = append(parts, p)
		}
		if err := timelines.Apply(b.Context(), parts); err != nil {
			b.Fatal(err)
		}
	}
	return timelines
}

// snapshots serves those of timelines as an imserver does.
type snapshots struct{ *postgres.Timelines }

func (snapshots) Positions(context.Context, im.Origin) ([]im.Position, error) { return nil, nil }

func serveTimelines(b *testing.B, timelines *postgres.Timelines) (addr string) {
	b.Helper()
	s, err := rpc.NewServer(rpc.ServerConfig{Addr: "127.0.0.1:0", Drain: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	rpc.RegisterView(s, snapshots{timelines})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return s.Addr()
}
