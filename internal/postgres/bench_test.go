package postgres

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

var benchServer = flag.String("postgres", "", "URL of a PostgreSQL server to measure, instead of an embedded one")

// measured makes timelines on the server that the flag names, or else on an embedded one.
func measured(b *testing.B) *Timelines {
	if *benchServer != "" {
		return scratch(b)
	}
	return open(b, startServer(b), 1)
}

// Apply alone: entries of one origin's log, 300-byte texts in 10,000 direct conversations whose sizes follow Zipf's law
// with exponent 1.1, are read, numbered and committed in batches, the next being made while one is under way. One
// operation is one record. The embedded server does not wait for the disk (synchronous_commit = off); a server of one's
// own does what it is set to.
//
//	go test -run '^$' -bench Apply -benchtime 200000x ./internal/postgres
//	go test -run '^$' -bench Apply -benchtime 200000x ./internal/postgres -postgres postgres://user:password@host/postgres
func BenchmarkApply(b *testing.B) {
	for _, rows := range []int{100, 500, 2000} {
		b.Run(fmt.Sprintf("batch=%d", rows), func(b *testing.B) { benchmarkApply(b, measured(b), rows) })
	}
}

func benchmarkApply(b *testing.B, timelines *Timelines, rows int) {
	const partitions, conversations = 4, 10_000
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
	var tails [partitions]*view.Tail
	for n := range tails {
		at := view.Position{Position: im.Position{Partition: im.Partition{Topic: "msg.eu.direct", Number: n}}}
		if tails[n], err = view.NewTail(at, partitions); err != nil {
			b.Fatal(err)
		}
	}
	entries := make([]im.Entry, b.N)
	var ends [partitions]int64
	start := time.Now()
	for i := range entries {
		c := im.Direct(im.UID(fmt.Sprintf("user-%d", zipf.Uint64())), "somebody-else")
		n := wire.Partition(string(c), partitions)
		e := wire.EncodeRecord(&im.Record{
			ID:   im.ID{Conversation: c, Sender: "somebody-else", ClientID: im.NewUUID(start.Add(time.Duration(i) * time.Millisecond))},
			Kind: im.KindMessage, Version: 1, Body: body,
			Place: im.Place{Stamp: im.StampAt(start) + im.Stamp(i), Origin: "eu"},
		})
		e.Partition, e.Offset = im.Partition{Topic: "msg.eu.direct", Number: n}, ends[n]
		ends[n]++
		entries[i] = e
	}
	heads := map[view.HeadKey]uint64{}
	committed := make(chan error, 1)
	committed <- nil
	b.ResetTimer()
	begun := time.Now()
	for len(entries) > 0 {
		batch := entries[:min(rows, len(entries))]
		entries = entries[len(batch):]
		for i := range batch {
			if _, err := tails[batch[i].Partition.Number].Take(&batch[i]); err != nil {
				b.Fatal(err)
			}
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
		if err := <-committed; err != nil {
			b.Fatal(err)
		}
		go func() { committed <- timelines.Apply(b.Context(), parts) }()
	}
	if err := <-committed; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(begun).Seconds(), "records/s")
}

// scratch is a database of its own on the server that the flag names.
func scratch(b *testing.B) *Timelines {
	b.Helper()
	name := "bench" + strings.ReplaceAll(im.NewUUID(time.Now()).String(), "-", "")
	administer := func(ctx context.Context, sql string) {
		conn, err := pgx.Connect(ctx, *benchServer)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	administer(b.Context(), "CREATE DATABASE "+name)
	b.Cleanup(func() { administer(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)") })
	u, err := url.Parse(*benchServer)
	if err != nil {
		b.Fatal(err)
	}
	u.Path = "/" + name
	cfg := Config{URLs: []string{u.String()}}
	if err := Migrate(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	timelines, err := Open(b.Context(), cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(timelines.Close)
	return timelines
}
