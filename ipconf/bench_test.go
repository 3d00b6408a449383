package ipconf

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// crowd makes an ipconf that knows so many gateways, in three regions, none of which ever fills up.
func crowd(t testing.TB, n int) *IPConf {
	t.Helper()
	s := newSite()
	p, err := New(Config{
		Region: "eu", Regions: []im.Region{"ap", "eu", "us"}, Listen: "127.0.0.1:0", GatewayRate: 1e9,
		Location: Location{Regions: map[im.Region]im.Location{"eu": {Lat: 50, Lon: 8, Placed: true}, "us": {Lat: 39, Lon: -77, Placed: true}}},
	}, Deps{Discovery: s, Gateways: s, Peers: s, Geo: everywhere{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.listener.Close() })
	now := time.Now()
	for k, r := range p.cfg.Regions {
		var list []im.Instance
		for i := k * n / 3; i < (k+1)*n/3; i++ {
			id := fmt.Sprintf("gw-%05d", i)
			list = append(list, im.Instance{Service: "gateway", ID: id, Region: r, URL: "https://" + id + "." + string(r) + ".example.com", Epoch: 1})
		}
		p.fleet.catalogue(r, list, false, now)
		for i, g := range list {
			p.fleet.measure(r, im.Load{Gateway: im.Gateway{ID: g.ID, Epoch: 1}, Conns: i % 500 * 1_000_000, Capacity: 1_000_000_000, CPU: 0.3}, now)
		}
	}
	p.current.Store(p.view(now))
	return p
}

// everywhere is a Geo that knows one place.
type everywhere struct{}

func (everywhere) Find(netip.Addr) im.Location {
	return im.Location{Country: "DE", Lat: 48, Lon: 11, Placed: true, ASN: 64500}
}

var sizes = []int{30, 300, 3_000, 10_000}

const query = "uid=ann&device=phone-1&platform=ios&network=wifi&last=eu/gw-00012&rtt=eu:23,us:110"

// BenchmarkAnswer ranks and encodes one answer of about 32 gateways, in process, on all cores.
func BenchmarkAnswer(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("gateways=%d", n), func(b *testing.B) {
			p := crowd(b, n)
			v, ip, now := p.current.Load(), netip.MustParseAddr("192.0.2.1"), time.Now()
			b.ReportAllocs()
			before := cpu(b)
			b.RunParallel(func(pb *testing.PB) {
				w := p.work.Get().(*work)
				for pb.Next() {
					q := parseQuery(query)
					w.body = w.body[:0]
					if o := p.answer(w, v, &q, ip, 0, now); o.code != "" {
						b.Errorf("%+v", o)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is what this process has used, user and system: what an answer costs on a machine that is busy with other things.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHTTP asks over HTTP on loopback, client and server on the same cores.
func BenchmarkHTTP(b *testing.B) {
	p := crowd(b, 300)
	server := httptest.NewServer(p.Handler())
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var failed atomic.Int64
	b.SetParallelism(16)
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 64<<10)
		for pb.Next() {
			resp, err := client.Get(server.URL + "/v1/endpoints?" + query)
			if err != nil {
				failed.Add(1)
				return
			}
			for err == nil {
				_, err = resp.Body.Read(buf)
			}
			resp.Body.Close()
		}
	})
	if n := failed.Load(); n > 0 {
		b.Errorf("%d requests failed", n)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkHandler is BenchmarkHTTP without sockets and client: what the server's side of one request costs.
func BenchmarkHandler(b *testing.B) {
	p := crowd(b, 300)
	h := p.Handler()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := httptest.NewRequest(http.MethodGet, "/v1/endpoints?"+query, nil)
		w := &discard{head: http.Header{}}
		for pb.Next() {
			clear(w.head)
			h.ServeHTTP(w, r)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}

type discard struct{ head http.Header }

func (d *discard) Header() http.Header         { return d.head }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkView prepares what answers are made of: ten times a second.
func BenchmarkView(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("gateways=%d", n), func(b *testing.B) {
			p := crowd(b, n)
			for b.Loop() {
				p.view(time.Now())
			}
		})
	}
}

// An answer allocates nothing.
func TestAnswerAllocatesNothing(t *testing.T) {
	p := crowd(t, 300)
	v, ip, now := p.current.Load(), netip.MustParseAddr("192.0.2.1"), time.Now()
	w := p.work.Get().(*work)
	if n := testing.AllocsPerRun(1000, func() {
		q := parseQuery(query)
		w.body = w.body[:0]
		p.answer(w, v, &q, ip, 0, now)
	}); n != 0 {
		t.Errorf("an answer allocates %v times", n)
	}
}
