package replicator_test

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/faultnet"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// net is some regions, linked in pairs through proxies: real gRPC, mTLS and sockets over fake logs.
type mesh struct {
	t       testing.TB
	ca      *certs.Authority
	regions []im.Region
	nodes   map[im.Region]*node
	proxies map[[2]im.Region]*faultnet.Proxy // from the receiver to the sender
	tune    func(*replicator.Config)
	tracer  trace.Tracer
}

// node is one region: its log stays while its replicator comes and goes.
type node struct {
	m        *mesh
	region   im.Region
	log      *fakeLog
	name     im.LogName
	identity *certs.Identity
	plain    bool // ships entry by entry, as builds did before they could pack
	says     *lines

	mute atomic.Bool // no imserver answers where views are

	mu      sync.Mutex
	r       *replicator.Replicator
	addr    string
	stop    context.CancelCauseFunc
	done    chan struct{}
	notices []im.Delivery
	applied map[im.Partition]int64
	views   map[im.Partition]im.Position
}

const partitions = 2

func newMesh(t testing.TB, tune func(*replicator.Config), regions ...im.Region) *mesh {
	t.Helper()
	ca, err := certs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, ca: ca, regions: regions, nodes: map[im.Region]*node{}, proxies: map[[2]im.Region]*faultnet.Proxy{}, tune: tune}
	var origins []im.Origin
	for _, r := range regions {
		origins = append(origins, im.Origin(r))
	}
	for _, r := range regions {
		identity, err := ca.Identity("replicator", r)
		if err != nil {
			t.Fatal(err)
		}
		n := &node{m: m, region: r, log: newFakeLog(origins, partitions), identity: identity}
		n.name = im.LogName{Origin: im.Origin(r), ID: im.NewUUID(time.Now())}
		n.log.name(n.name)
		m.nodes[r] = n
		for _, to := range regions {
			if to != r {
				p, err := faultnet.Listen("127.0.0.1:0", "127.0.0.1:1")
				if err != nil {
					t.Fatal(err)
				}
				m.proxies[[2]im.Region{r, to}] = p
			}
		}
	}
	t.Cleanup(func() {
		for _, p := range m.proxies {
			p.Kill()
		}
		for _, n := range m.nodes {
			n.kill(context.Canceled)
			n.log.wg.Wait()
		}
		for _, p := range m.proxies {
			p.Close()
		}
	})
	return m
}

func (m *mesh) start() *mesh {
	for _, n := range m.nodes {
		n.start()
	}
	return m
}

func (m *mesh) proxy(from, to im.Region) *faultnet.Proxy { return m.proxies[[2]im.Region{from, to}] }

// Link-side dependencies of a node.
func (n *node) Notify(_ context.Context, _ im.Region, ds []im.Delivery) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notices = append(n.notices, ds...)
	return nil
}

func (n *node) Positions(_ context.Context, o im.Origin) ([]im.Position, error) {
	if n.mute.Load() {
		return nil, im.Errorf(im.CodeUnavailable, "no imserver runs")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []im.Position
	for p, next := range n.applied {
		if p.Origin() == o {
			all = append(all, im.Position{Partition: p, Next: next})
		}
	}
	for p, at := range n.views {
		if p.Origin() == o {
			all = append(all, at)
		}
	}
	return all, nil
}

func (n *node) config() replicator.Config {
	cfg := replicator.Config{
		Region: n.region, Origin: im.Origin(n.region), Partitions: partitions,
		StatusInterval: 50 * time.Millisecond, LinkTimeout: 20 * time.Second, // nothing is silent that was not cut
		BackoffBase: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond, NotifyAge: time.Minute,
		AppendTimeout: 20 * time.Second, ReadTimeout: 20 * time.Second, ScanRecords: 64,
	}
	for _, r := range n.m.regions {
		if r != n.region {
			cfg.Peers = append(cfg.Peers, replicator.Peer{Region: r, Origin: im.Origin(r)})
		}
	}
	if n.m.tune != nil {
		n.m.tune(&cfg)
	}
	return cfg
}

// hasty is for tests in which a silent link is to be noticed.
func hasty(c *replicator.Config) { c.LinkTimeout = 500 * time.Millisecond }

// lines is what a replicator logs.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(line))
	return len(line), nil
}

// after are the lines that follow the first n.
func (l *lines) after(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all[n:])
}

// build returns a replicator of the region that is not started.
func (n *node) build() *replicator.Replicator {
	links := rpc.NewLinks(func(peer im.Region) (rpc.LinkTarget, error) {
		return rpc.LinkTarget{Addr: n.m.proxy(n.region, peer).Addr(), TLS: n.identity.Client("replicator", peer)}, nil
	})
	deps := replicator.Deps{
		Log: n.log, NewReader: n.log.NewReader, Notifier: n, Applied: []replicator.Applied{n}, Dialer: links, Copies: links, Keeper: n.log,
	}
	if !n.plain {
		deps.Packing = fakePacking{n.log}
	}
	deps.Tracer = n.m.tracer
	if os.Getenv("REPLICATOR_LOG") != "" {
		deps.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("region", n.region)
	}
	if n.says != nil {
		deps.Logger = slog.New(slog.NewTextHandler(n.says, nil))
	}
	r, err := replicator.New(n.config(), deps)
	if err != nil {
		n.m.t.Fatal(err)
	}
	return r
}

func (n *node) start() {
	r := n.build()
	srv, err := rpc.NewServer(rpc.ServerConfig{Addr: "127.0.0.1:0", TLS: n.identity.Server(n.m.regions...), Drain: 100 * time.Millisecond})
	if err != nil {
		n.m.t.Fatal(err)
	}
	rpc.RegisterReplicator(srv, r, rpc.ReplicatorAccess{Region: n.region, Identify: certs.Identify})
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	wg.Go(func() { srv.Run(ctx) })
	go func() { wg.Wait(); close(done) }()
	for _, other := range n.m.regions {
		if other != n.region {
			n.m.proxy(other, n.region).SetTarget(srv.Addr())
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.r, n.addr, n.stop, n.done = r, srv.Addr(), cancel, done
}

// kill stops the region's replicator and waits until nothing of it runs.
func (n *node) kill(cause error) {
	n.mu.Lock()
	stop, done := n.stop, n.done
	n.stop = nil
	n.mu.Unlock()
	if stop == nil {
		return
	}
	stop(cause)
	select {
	case <-done:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		n.m.t.Errorf("the replicator of %s does not stop:\n%s", n.region, buf[:runtime.Stack(buf, true)])
	}
}

func (n *node) replicator() *replicator.Replicator {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r
}

func (n *node) own() []im.Partition { return n.log.partitions(im.Origin(n.region)) }

// copied tells whether to's copy of from's log has as many records as the log.
func (m *mesh) copied(from, to im.Region) bool {
	a, b := m.nodes[from].log, m.nodes[to].log
	for _, p := range m.nodes[from].own() {
		t := b.taken(p)
		if len(t) == 0 || wire.DecodeHead(&t[len(t)-1]).OriginOffset+1 != a.end(p) {
			return false
		}
	}
	return true
}

// same checks I2 and I8 on every copy: what a follower takes is the origin's log, record by record.
func (m *mesh) same(t testing.TB) {
	t.Helper()
	for _, from := range m.regions {
		for _, to := range m.regions {
			if from == to {
				continue
			}
			for _, p := range m.nodes[from].own() {
				want, got := m.nodes[from].log.taken(p), m.nodes[to].log.taken(p)
				if len(want) != len(got) {
					t.Errorf("%s's copy of %v has %d records, the log %d", to, p, len(got), len(want))
					continue
				}
				for i := range want {
					w, g := wire.DecodeHead(&want[i]), wire.DecodeHead(&got[i])
					if w.OriginOffset != g.OriginOffset || wire.Checksum(&want[i]) != wire.Checksum(&got[i]) {
						t.Fatalf("%s's copy of %v differs at record %d: offset %d for %d", to, p, i, g.OriginOffset, w.OriginOffset)
					}
				}
			}
		}
	}
}

func (m *mesh) caughtUp(t testing.TB) {
	t.Helper()
	for _, from := range m.regions {
		for _, to := range m.regions {
			if from != to {
				eventually(t, string(to)+" has all of "+string(from)+"'s log", func() bool { return m.copied(from, to) })
			}
		}
	}
	m.same(t)
}
