package routes

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
)

// TestFencesArePruned: gateways that come and go for ever leave the fences of some hours, and whoever has forgotten the older
// ones takes records as others do.
func TestFencesArePruned(t *testing.T) {
	const (
		gateways = 2000
		every    = 5 * time.Minute // one dies
	)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rng := rand.New(rand.NewPCG(1, 5))
	var pruned, whole *Table
	for _, table := range []**Table{&pruned, &whole} {
		made, err := New("eu", []im.Origin{"eu"}, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		*table = made
	}
	p := im.Partition{Topic: "route.eu"}
	var offset int64
	take := func(kind im.Kind, r im.Route) {
		r.Region, r.Offset = "eu", offset
		e := Entry{RouteRecord: im.RouteRecord{Kind: kind, Route: r}, Local: offset}
		for _, table := range []*Table{pruned, whole} {
			table.Apply(p, []Entry{e}, r.Claimed)
		}
		offset++
	}
	most, again := 0, 0
	for n := range gateways {
		now := noon.Add(time.Duration(n) * every)
		take(im.KindGatewayDown, im.Route{Gateway: im.Gateway{ID: fmt.Sprint("g", n), Epoch: 5}, Claimed: im.StampAt(now)})
		// One that is gone claims under an epoch of then, by a clock that is off by as much as clocks may be.
		old := im.Gateway{ID: fmt.Sprint("g", max(n-rng.IntN(60), 0)), Epoch: uint64(4 + rng.IntN(3))}
		skewed := im.StampAt(now.Add(time.Duration(rng.IntN(10)-5) * time.Second))
		if rng.IntN(3) == 0 {
			take(im.KindGatewayDown, im.Route{Gateway: old, Claimed: skewed})
		} else {
			take(im.KindClaim, im.Route{UID: im.UID(fmt.Sprint("u", n)), Device: "d", Gateway: old, Claimed: skewed})
		}
		pruned.Prune()
		fences := len(pruned.shards[0].logs[0].fences)
		most = max(most, fences)
		if got, want := pruned.FencedAnywhere(old, im.StampAt(now)), whole.FencedAnywhere(old, im.StampAt(now)); got != want {
			t.Fatalf("after %d: %+v is fenced: %v where fences are pruned, %v where they are not", n, old, got, want)
		}
		if got, want := pruned.Digest(im.StampAt(now)), whole.Digest(im.StampAt(now)); got != want {
			t.Fatalf("after %d: the rows differ from those of a table that forgets no fence", n)
		}
		if rows := pruned.Rows(im.UID(fmt.Sprint("u", n)), im.StampAt(now)); len(rows) > 0 && rows[0].Gateway.Epoch <= 5 {
			again++
		}
	}
	if limit := int(keep/every) + 2; most > 2*limit {
		t.Errorf("up to %d fences were held of gateways of which one dies every %v: want those of %v", most, every, keep)
	}
	if again < gateways/10 {
		t.Errorf("only %d gateways came back under an epoch that was declared down long ago: the test shows nothing", again)
	}
}
