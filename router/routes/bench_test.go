package routes_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

func filled(b *testing.B, users int) (*routes.Table, []im.UID) {
	b.Helper()
	table, err := routes.New("eu", []im.Origin{"eu", "us", "ap"}, 16, 0)
	if err != nil {
		b.Fatal(err)
	}
	names := make([]im.UID, users)
	batches := make(map[im.Partition][]routes.Entry)
	for i := range names {
		names[i] = im.UID(fmt.Sprintf("user%07d", i))
		o := origins[i%len(origins)]
		p := im.Partition{Topic: im.RouteTopic(o), Number: table.Number(names[i])}
		batches[p] = append(batches[p], entry(names[i], o.Region(), int64(len(batches[p])), 1))
	}
	for _, o := range origins {
		for _, p := range table.Partitions(o) {
			table.Expect(p, 0)
			table.Apply(p, batches[p], im.StampAt(noon))
		}
	}
	return table, names
}

func entry(uid im.UID, region im.Region, offset int64, login uint64) routes.Entry {
	e := routes.Entry{Local: offset}
	e.Kind = im.KindClaim
	e.Route = im.Route{
		UID: uid, Device: im.DeviceID(uid[1:]), Platform: "ios", Region: region, Gateway: im.Gateway{ID: "g1", Epoch: 1},
		Conn: uint64(offset), Login: login, Offset: offset, Claimed: im.StampAt(noon.Add(time.Duration(offset) * time.Millisecond)),
	}
	return e
}

func BenchmarkLookup(b *testing.B) {
	for _, users := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			table, names := filled(b, users)
			b.ReportAllocs()
			var found []im.Route
			i := 0
			for b.Loop() {
				found = table.Lookup(found[:0], names[i*7919%users], im.StampAt(noon))
				if len(found) != 1 {
					b.Fatalf("found %d routes", len(found))
				}
				i++
			}
		})
	}
}

func BenchmarkApplyClaims(b *testing.B) {
	for _, users := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			table, names := filled(b, users)
			next := make(map[im.Partition]int64)
			for _, p := range table.Partitions("eu") {
				pos, _ := table.Position(p)
				next[p] = pos.Next
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				uid := names[i*7919%users]
				p := im.Partition{Topic: im.RouteTopic("eu"), Number: table.Number(uid)}
				table.Apply(p, []routes.Entry{entry(uid, "eu", next[p], uint64(i)+2)}, im.StampAt(noon))
				next[p]++
				i++
			}
		})
	}
}
