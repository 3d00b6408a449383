// Package routes measures routes between regions and through a start: `make bench-routes`.
package routes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/antipode-im/antipode/internal/await"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/embedded"
	"github.com/antipode-im/antipode/internal/faultnet"
	"github.com/antipode-im/antipode/internal/kafka"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/router"
	"github.com/antipode-im/antipode/wire"
)

const partitions = 16

var origins = []im.Origin{"eu", "us"}

// region is an embedded Kafka with its topics.
type region struct {
	name im.Region
	log  *kafka.Cluster
}

func newRegion(b *testing.B, name im.Region) *region {
	b.Helper()
	server, err := embedded.StartKafka(b.Context(), embedded.KafkaConfig{
		Addr: "127.0.0.1:0", Dir: filepath.Join(b.TempDir(), string(name)),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Close() })
	cfg := kafka.Config{Brokers: []string{server.Addr()}, Embedded: true}
	log, err := kafka.Open(b.Context(), cfg, kafka.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(log.Close)
	site := app.Site{
		Region: name, Origin: im.Origin(name), Origins: origins, Partitions: partitions, Kafka: cfg,
		Topic: kafka.TopicSpec{Replication: 1, MinISR: 1},
	}
	if err := app.MigrateLog(b.Context(), log, site); err != nil {
		b.Fatal(err)
	}
	return &region{name, log}
}

// run runs a service until the benchmark ends or stop is called.
func run(b *testing.B, service func(context.Context) error) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := service(ctx); err != nil {
			b.Error(err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	b.Cleanup(stop)
	return stop
}

func (r *region) router(b *testing.B) (built *router.Router, stop func()) {
	b.Helper()
	built, err := router.New(
		router.Config{Region: r.name, Origin: im.Origin(r.name), Origins: origins, Partitions: partitions, AttachGrace: time.Millisecond},
		router.Deps{
			Log:       r.log,
			NewReader: func(from map[im.Partition]int64) router.Reader { return r.log.NewReader(from) },
			OutOfRange: func(err error) (im.Partition, im.Bounds, bool) {
				if e, ok := errors.AsType[*kafka.RangeError](err); ok {
					return e.Partition, e.Bounds, true
				}
				return im.Partition{}, im.Bounds{}, false
			},
		})
	if err != nil {
		b.Fatal(err)
	}
	return built, run(b, built.Run)
}

// link runs the replicators of both regions, with a delay each way between them.
func link(b *testing.B, delay time.Duration, regions ...*region) {
	b.Helper()
	ca, err := certs.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	proxies := make(map[im.Region]*faultnet.Proxy) // in front of a region
	for _, r := range regions {
		p, err := faultnet.Listen("127.0.0.1:0", "127.0.0.1:1")
		if err != nil {
			b.Fatal(err)
		}
		p.Delay(delay)
		proxies[r.name] = p
		b.Cleanup(func() { _ = p.Close() })
	}
	for _, r := range regions {
		identity, err := ca.Identity("replicator", r.name)
		if err != nil {
			b.Fatal(err)
		}
		cfg := replicator.Config{Region: r.name, Origin: im.Origin(r.name), Partitions: partitions}
		var names []im.Region
		for _, peer := range regions {
			names = append(names, peer.name)
			if peer != r {
				cfg.Peers = append(cfg.Peers, replicator.Peer{Region: peer.name, Origin: im.Origin(peer.name)})
			}
		}
		built, err := replicator.New(cfg, replicator.Deps{
			Log:       r.log,
			NewReader: func(from map[im.Partition]int64) replicator.Reader { return r.log.NewReader(from) },
			Dialer: rpc.NewLinks(func(peer im.Region) (rpc.LinkTarget, error) {
				return rpc.LinkTarget{Addr: proxies[peer].Addr(), TLS: identity.Client("replicator", peer)}, nil
			}),
		})
		if err != nil {
			b.Fatal(err)
		}
		server, err := rpc.NewServer(rpc.ServerConfig{
			Addr: "127.0.0.1:0", TLS: identity.Server(names...), Drain: 100 * time.Millisecond,
		})
		if err != nil {
			b.Fatal(err)
		}
		rpc.RegisterReplicator(server, built, rpc.ReplicatorAccess{Region: r.name, Identify: certs.Identify})
		proxies[r.name].SetTarget(server.Addr())
		run(b, server.Run)
		run(b, built.Run)
	}
}

// until polls for a state.
func until(b *testing.B, what string, limit time.Duration, ok func() bool) {
	b.Helper()
	if err := await.Within(b.Context(), limit, time.Millisecond, func() (bool, string) { return ok(), what }); err != nil {
		b.Fatal(err)
	}
}

type quiet struct{}

func (quiet) Push([]im.Push) error { return nil }
func (quiet) Kick(im.Kick) error   { return nil }
func (quiet) Fenced(uint64) error  { return nil }

// BenchmarkBroadcast claims routes in eu at a rate, open-loop, and sees when a router of us has them: latency counts from
// when a claim was due. Kafka is embedded; the link is 40 ms long each way.
func BenchmarkBroadcast(b *testing.B) {
	const oneWay = 40 * time.Millisecond
	for _, rate := range []int{2_000, 10_000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			eu, us := newRegion(b, "eu"), newRegion(b, "us")
			here, _ := eu.router(b)
			there, _ := us.router(b)
			link(b, oneWay, eu, us)
			until(b, "the routers are ready", 30*time.Second, func() bool { return here.Ready() == nil && there.Ready() == nil })
			a, err := here.Attach(im.Gateway{ID: "gateway-1", Epoch: 1}, quiet{})
			if err != nil {
				b.Fatal(err)
			}
			run(b, func(ctx context.Context) error {
				for ctx.Err() == nil {
					a.Heartbeat()
					_ = await.Moment(ctx, time.Now().Add(500*time.Millisecond)) // the loop asks ctx
				}
				return nil
			})
			round := 0
			for b.Loop() {
				_, _ = broadcast(b, a, there, fmt.Sprint("warm", round), rate/10)
				took, perSecond := broadcast(b, a, there, fmt.Sprint("user", round), rate)
				slices.Sort(took)
				at := func(q float64) float64 {
					return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000
				}
				b.ReportMetric(at(0.5), "p50-ms")
				b.ReportMetric(at(0.99), "p99-ms")
				b.ReportMetric(at(0.99)-float64(oneWay.Milliseconds()), "p99-over-one-way-ms")
				b.ReportMetric(perSecond, "claims/s")
				round++
			}
		})
	}
}

// broadcast claims five seconds' worth of routes at a rate. It returns how long each took to be seen, and how many were seen a second,
// from the first to the last: what was not kept up with is seen later, and makes that less than the rate.
func broadcast(b *testing.B, a *router.Attachment, there *router.Router, prefix string, rate int) (took []time.Duration, perSecond float64) {
	b.Helper()
	total := 5 * rate
	type claim struct {
		uid im.UID
		due time.Time
	}
	sent := make(chan claim, total)
	began := time.Now()
	var sending sync.WaitGroup
	sending.Go(func() {
		defer close(sent)
		for n := 0; n < total; {
			due := int(time.Since(began).Seconds() * float64(rate))
			for ; n < min(due, total); n++ {
				c := claim{im.UID(fmt.Sprintf("%s-%07d", prefix, n)), began.Add(time.Duration(n) * time.Second / time.Duration(rate))}
				a.Submit([]im.Claim{{UID: c.uid, Device: "phone", Platform: "ios", Conn: uint64(n), Login: 1}}, func(_ int, err error) {
					if err != nil {
						b.Errorf("claim of %s: %v", c.uid, err)
					}
				})
				sent <- c
			}
			if await.Moment(b.Context(), time.Now().Add(time.Millisecond)) != nil {
				return
			}
		}
	})
	var (
		open        []claim
		first, last time.Time
	)
	for len(took) < total {
		for more := true; more; {
			select {
			case c, ok := <-sent:
				if more = ok; ok {
					open = append(open, c)
				}
			default:
				more = false
			}
		}
		now := time.Now()
		open = slices.DeleteFunc(open, func(c claim) bool {
			if !there.Holds(c.uid) {
				return false
			}
			if took = append(took, now.Sub(c.due)); len(took) == 1 {
				first = now
			}
			last = now
			return true
		})
		if now.Sub(began) > 2*time.Minute {
			b.Fatalf("%d of %d claims were seen", len(took), total)
		}
		if err := await.Moment(b.Context(), now.Add(time.Millisecond)); err != nil {
			b.Fatal(err)
		}
	}
	sending.Wait()
	return took, float64(total-1) / last.Sub(first).Seconds()
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

// BenchmarkRebuild starts a router whose log holds a million claims, and waits until it knows them all.
func BenchmarkRebuild(b *testing.B) {
	const users = 1_000_000
	eu := newRegion(b, "eu")
	rng := rand.New(rand.NewPCG(1, 1))
	batches := make([][]im.Entry, partitions)
	flush := func(n int) {
		if _, err := eu.log.Append(b.Context(), im.Partition{Topic: "route.eu", Number: n}, batches[n]); err != nil {
			b.Fatal(err)
		}
		batches[n] = batches[n][:0]
	}
	for i := range users {
		uid := im.UID(fmt.Sprintf("user%07d", i))
		n := wire.Partition(string(uid), partitions)
		device := im.NewUUID(time.UnixMilli(rng.Int64N(1 << 40))).String()
		batches[n] = append(batches[n], wire.EncodeRoute(im.KindClaim, im.Route{
			UID: uid, Device: im.DeviceID(device), Platform: "ios", Gateway: im.Gateway{ID: fmt.Sprint("gateway-", i%20), Epoch: 1},
			Conn: uint64(i), Login: 1, Claimed: im.StampAt(time.Now()),
		}, "eu"))
		if len(batches[n]) == 1000 {
			flush(n)
		}
	}
	for n := range batches {
		if len(batches[n]) > 0 {
			flush(n)
		}
	}
	for b.Loop() {
		began, used := time.Now(), cpu(b)
		r, stop := eu.router(b)
		until(b, "the log is read", 2*time.Minute, func() bool { return r.Ready() == nil })
		b.ReportMetric((cpu(b) - used).Seconds(), "cpu-s/start") // the embedded Kafka's among them
		b.ReportMetric(time.Since(began).Seconds(), "s/start")
		b.ReportMetric(users/time.Since(began).Seconds(), "routes/s")
		stop()
	}
}
