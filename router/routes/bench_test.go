package routes_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// uidAt and deviceAt are names as they are in production: a uid of 11 characters, a device that is a random UUID.
func uidAt(i int) im.UID { return im.UID(fmt.Sprintf("user%07d", i)) }

func deviceAt(rng *rand.Rand) im.DeviceID {
	a, b := rng.Uint64(), rng.Uint64()
	return im.DeviceID(fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48&0xfff, b&(1<<48-1)))
}

func entry(uid im.UID, device im.DeviceID, region im.Region, offset int64, login uint64) routes.Entry {
	e := routes.Entry{Local: offset}
	e.Kind = im.KindClaim
	e.Route = im.Route{
		UID: uid, Device: device, Platform: "ios", Region: region,
		Gateway: im.Gateway{ID: fmt.Sprintf("gateway-%d", offset%20), Epoch: 1_764_000_000_000},
		Conn:    uint64(offset), Login: login, Offset: offset, Claimed: im.StampAt(noon.Add(time.Duration(offset) * time.Millisecond)),
	}
	e.Checksum = uint64(offset) + 1
	return e
}

// empty is a table of three regions whose logs count from their first record on.
func empty(b *testing.B) *routes.Table {
	b.Helper()
	table, err := routes.New("eu", []im.Origin{"eu", "us", "ap"}, 16, 0)
	if err != nil {
		b.Fatal(err)
	}
	for _, o := range table.Origins() {
		for _, p := range table.Partitions(o) {
			table.Expect(p, 0)
		}
	}
	return table
}

// fill claims one route for each of some users, in batches as a reader brings them.
func fill(table *routes.Table, users int) {
	rng := rand.New(rand.NewPCG(1, 1))
	pending, next := make(map[im.Partition][]routes.Entry), make(map[im.Partition]int64)
	for i := range users {
		uid, o := uidAt(i), origins[i%len(origins)]
		p := im.Partition{Topic: im.RouteTopic(o), Number: table.Number(uid)}
		pending[p] = append(pending[p], entry(uid, deviceAt(rng), o.Region(), next[p], 1))
		if next[p]++; len(pending[p]) == 64 {
			table.Apply(p, pending[p], im.StampAt(noon))
			pending[p] = pending[p][:0]
		}
	}
	for p, entries := range pending {
		table.Apply(p, entries, im.StampAt(noon))
	}
}

// heap is the memory in use, after what is not was taken away.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkResident tells how much memory a route takes, everything included, and how long a collection of a heap that is
// little but routes lasts.
func BenchmarkResident(b *testing.B) {
	for _, users := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				table := empty(b)
				fill(table, users)
				b.ReportMetric((float64(heap())-float64(before))/float64(users), "B/route")
				began := time.Now()
				runtime.GC()
				b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms/GC")
				runtime.KeepAlive(table)
			}
		})
	}
}

// cpu is the processor time that this process took so far: what a machine that others use does not stretch.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// shuffled are users in the order in which they are asked for; their names stand in that order in memory, as those of a
// request do.
func shuffled(users int) []im.UID {
	names := make([]im.UID, users)
	for i, n := range rand.New(rand.NewPCG(2, 2)).Perm(users) {
		names[i] = uidAt(n)
	}
	return names
}

// BenchmarkTargets is the lookup of a delivery.
func BenchmarkTargets(b *testing.B) {
	for _, users := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			table, names := empty(b), shuffled(users)
			fill(table, users)
			now := im.StampAt(noon)
			b.ReportAllocs()
			var found []routes.Target
			i := 0
			began := cpu(b)
			for b.Loop() {
				found = table.Targets(found[:0], names[i], now)
				if len(found) != 1 {
					b.Fatalf("found %d routes", len(found))
				}
				if i++; i == users {
					i = 0
				}
			}
			b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkTargetsOf is the lookups of a batch of deliveries.
func BenchmarkTargetsOf(b *testing.B) {
	const users = 1_000_000
	for _, batch := range []int{32, 256, 1024} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			table, names := empty(b), shuffled(users)
			fill(table, users)
			now := im.StampAt(noon)
			b.ReportAllocs()
			var found routes.Found
			i := 0
			began := cpu(b)
			for b.Loop() {
				table.TargetsOf(&found, names[i:i+batch], now)
				if len(found.Of(batch-1)) != 1 {
					b.Fatal("not found")
				}
				if i += batch; i+batch > users {
					i = 0
				}
			}
			each := float64(b.N) * float64(batch)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/each, "ns/lookup")
			b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/each, "cpu-ns/lookup")
		})
	}
}

// BenchmarkLookup is the lookup of everything that is known of a route.
func BenchmarkLookup(b *testing.B) {
	const users = 1_000_000
	table, names := empty(b), shuffled(users)
	fill(table, users)
	now := im.StampAt(noon)
	b.ReportAllocs()
	var found []im.Route
	i := 0
	for b.Loop() {
		found = table.Lookup(found[:0], names[i], now)
		if len(found) != 1 {
			b.Fatalf("found %d routes", len(found))
		}
		if i++; i == users {
			i = 0
		}
	}
}

// BenchmarkApplyClaims is a claim of a device that has a route already, in another life of its socket.
func BenchmarkApplyClaims(b *testing.B) {
	for _, users := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			table, names := empty(b), shuffled(users)
			fill(table, users)
			next := make(map[im.Partition]int64)
			for _, p := range table.Partitions("eu") {
				pos, _ := table.Position(p)
				next[p] = pos.Next
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				uid := names[i%users]
				p := im.Partition{Topic: im.RouteTopic("eu"), Number: table.Number(uid)}
				table.Apply(p, []routes.Entry{entry(uid, "phone", "eu", next[p], uint64(i)+2)}, im.StampAt(noon))
				next[p]++
				i++
			}
		})
	}
}

// BenchmarkSnapshot writes and loads a million routes.
func BenchmarkSnapshot(b *testing.B) {
	const users = 1_000_000
	table := empty(b)
	fill(table, users)
	for b.Loop() {
		var file bytes.Buffer
		began := time.Now()
		if err := table.Snapshot(&file); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/write")
		b.ReportMetric(float64(file.Len())/users, "B/route")
		fresh := empty(b)
		began = time.Now()
		if _, err := fresh.Load(&file); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/load")
	}
}
