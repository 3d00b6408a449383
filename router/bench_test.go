package router_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// BenchmarkClaimStorm is a region's gateways claiming all at once, as after a restart: each op is one claim, in the log
// and in the view.
func BenchmarkClaimStorm(b *testing.B) {
	eu := newRegion(b, "eu")
	r, stop := run(b, eu.config(), eu.deps())
	defer stop()
	ready(b, r)
	const gateways, at = 4, 1000
	var attached [gateways]interface {
		Submit([]im.Claim, func(int, error))
	}
	for g := range attached {
		a, _ := attach(b, r, im.Gateway{ID: fmt.Sprint("g", g), Epoch: 1})
		attached[g] = a
	}
	b.ReportAllocs()
	b.ResetTimer()
	var storm sync.WaitGroup
	for g := range attached {
		storm.Go(func() {
			for first := 0; first < b.N/gateways+1; first += at {
				claims := make([]im.Claim, min(at, b.N/gateways+1-first))
				for i := range claims {
					n := first + i
					claims[i] = im.Claim{UID: im.UID(fmt.Sprintf("u%d-%d", g, n)), Device: "phone", Conn: uint64(n), Login: 1}
				}
				var answered sync.WaitGroup
				answered.Add(len(claims))
				attached[g].Submit(claims, func(_ int, err error) {
					if err != nil {
						b.Error(err)
					}
					answered.Done()
				})
				answered.Wait()
			}
		})
	}
	storm.Wait()
}

// BenchmarkDeliver is one op a delivery of two recipients, in batches of 100.
func BenchmarkDeliver(b *testing.B) {
	eu := newRegion(b, "eu")
	r, stop := run(b, eu.config(), eu.deps())
	defer stop()
	ready(b, r)
	a, out := attach(b, r, g1)
	var claims []im.Claim
	for i := range 10_000 {
		claims = append(claims, im.Claim{UID: im.UID(fmt.Sprint("u", i)), Device: "phone", Conn: uint64(i), Login: 1})
	}
	claim(b, a, claims...)
	body := make([]byte, 200)
	b.ReportAllocs()
	b.ResetTimer()
	for first := 0; first < b.N; first += 100 {
		ds := make([]im.Delivery, 100)
		for i := range ds {
			ds[i] = im.Delivery{
				Service: "im", Method: "event", Key: "d:a:b", Body: body,
				Recipients: []im.UID{claims[(first+i)%10_000].UID, claims[(first+7*i)%10_000].UID},
			}
		}
		if _, err := r.Deliver(b.Context(), ds); err != nil {
			b.Fatal(err)
		}
		out.mu.Lock()
		out.pushes = out.pushes[:0]
		out.mu.Unlock()
	}
}
