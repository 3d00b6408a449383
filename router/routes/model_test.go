package routes_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// model is the dumb second version: it keeps every record and answers by going through all of them.
type model struct {
	records map[im.Origin][]im.RouteRecord // as far as they were taken, in log order
}

// maxAge is how long a claim lives, and what a gateway_down says.
const maxAge = 2 * time.Hour

// row replays one device of one origin.
func (m *model) row(o im.Origin, uid im.UID, d im.DeviceID) (row im.Route, ok bool) {
	all := m.records[o]
	for i := range all {
		r := all[i].Route
		switch all[i].Kind {
		case im.KindGatewayDown:
			if ok && row.Gateway.ID == r.Gateway.ID && row.Gateway.Epoch <= r.Gateway.Epoch && !downBefore(all[:i], r) {
				ok = false
			}
		case im.KindClaim:
			if r.UID != uid || r.Device != d || downBefore(all[:i], r) {
				continue
			}
			old := r.Claimed.Millis()-row.Claimed.Millis() > maxAge.Milliseconds()
			if !ok || old || r.Login >= row.Login {
				row, ok = r, true
			}
		case im.KindRelease:
			if ok && r.UID == uid && r.Device == d && r.Gateway == row.Gateway && r.Conn == row.Conn && r.Login == row.Login {
				ok = false
			}
		}
	}
	return row, ok
}

// downBefore tells whether the gateway of a record was declared down by the last of the records before it that was news.
func downBefore(all []im.RouteRecord, r im.Route) bool {
	for i := len(all) - 1; i >= 0; i-- {
		down := all[i].Route
		if all[i].Kind == im.KindGatewayDown && down.Gateway.ID == r.Gateway.ID && !downBefore(all[:i], down) {
			return down.Gateway.Epoch >= r.Gateway.Epoch && r.Claimed.Millis()-down.Claimed.Millis() <= maxAge.Milliseconds()
		}
	}
	return false
}

// lookup returns the winner of each device, sorted by device.
func (m *model) lookup(uid im.UID, now im.Stamp) []im.Route {
	var out []im.Route
	for _, d := range devices {
		var best im.Route
		found := false
		for o := range m.records {
			r, ok := m.row(o, uid, d)
			if !ok || now.Millis()-r.Claimed.Millis() > maxAge.Milliseconds() {
				continue
			}
			if !found || r.Compare(best) > 0 {
				best, found = r, true
			}
		}
		if found {
			out = append(out, best)
		}
	}
	return out
}

var (
	uids    = []im.UID{"ann", "bob", "eve"}
	devices = []im.DeviceID{"0199a2c4-7f3e-7d11-8a52-3b6f0c9d1e24", "phone"} // one is kept in 16 bytes, one as text; sorted
	origins = []im.Origin{"ap", "eu", "us"}
	noon    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

const partitions = 2

// world is random logs of every origin: [origin][partition][]records, in offset order from 0.
type world map[im.Origin][partitions][]im.RouteRecord

// platform is one of two, or now and then one that a client made up.
func platform(pick numbers) im.Platform {
	if pick(10) == 0 {
		return im.Platform(fmt.Sprint("made up ", pick(1000)))
	}
	return []im.Platform{"web", "ios"}[pick(2)]
}

// numbers come from a seed or from rapid.
type numbers func(n int) int

// grow makes a world. Gateways and logins are few, so that everything meets.
func grow(number func(uid im.UID) int, pick numbers, size int) world {
	w := make(world)
	clock := noon
	for range size {
		o := origins[pick(len(origins))]
		clock = clock.Add(time.Duration(pick(600)) * time.Second)
		r := im.RouteRecord{Kind: im.KindClaim, Route: im.Route{
			UID: uids[pick(len(uids))], Device: devices[pick(len(devices))], Platform: platform(pick), Region: o.Region(),
			Gateway: im.Gateway{ID: fmt.Sprint("g", pick(3)), Epoch: uint64(1 + pick(3))}, Conn: uint64(pick(3)), Login: uint64(pick(6)),
			Claimed: im.StampAt(clock), Offline: pick(5) == 0,
		}}
		n := number(r.Route.UID)
		logs := w[o]
		switch pick(8) {
		case 0, 1: // release something that is there, now and then
			r.Kind = im.KindRelease
			if claims := slices.Clone(logs[n]); len(claims) > 0 && pick(2) == 0 {
				prior := claims[pick(len(claims))].Route
				prior.Claimed = r.Route.Claimed
				switch pick(8) { // or nearly
				case 0:
					prior.Conn++
				case 1:
					prior.Login++
				case 2:
					prior.Gateway.Epoch++
				}
				r.Route = prior
			}
			if r.Route.UID == "" {
				r.Kind = im.KindHeartbeat
			}
		case 2:
			r.Kind = im.KindGatewayDown
			r.Route.UID, r.Route.Device, r.Route.Platform, r.Route.Conn, r.Route.Login, r.Route.Offline = "", "", "", 0, 0, false
			n = pick(partitions)
		}
		r.Route.Offset = int64(len(logs[n]))
		logs[n] = append(logs[n], r)
		w[o] = logs
	}
	return w
}

// TestLimitsConverge applies random claims in random interleavings with limits of one device a platform: in the end each
// region has kicked those of its own that a dumb reading of the rows, which are the same everywhere, says are too many.
func TestLimitsConverge(t *testing.T) {
	limits := map[im.Platform]int{"web": 1, "ios": 1}
	over := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 3))
		regions := make([]*routes.Table, len(origins))
		for i := range regions {
			regions[i] = newTable(t, origins[i].Region())
			regions[i].Limit(limits)
		}
		w := grow(regions[0].Number, rng.IntN, 10+rng.IntN(50))
		for o, logs := range w { // claims within two hours only: what a release or age uncovers was kicked when it was covered
			for n := range logs {
				logs[n] = slices.DeleteFunc(logs[n], func(r im.RouteRecord) bool { return r.Kind != im.KindClaim })
				for i := range logs[n] {
					logs[n][i].Route.Offset = int64(i)
					logs[n][i].Route.Claimed = im.StampAt(noon.Add(time.Duration(i) * time.Second))
					logs[n][i].Since = logs[n][i].Route.Claimed - im.Stamp(rng.IntN(3))
				}
			}
			w[o] = logs
		}
		began := func(r im.Route) im.Stamp {
			for _, rec := range w[im.Origin(r.Region)][regions[0].Number(r.UID)] {
				if rec.Route == r {
					return rec.Since
				}
			}
			t.Fatalf("seed %d: nobody claimed %+v", seed, r)
			return 0
		}
		for i, table := range regions {
			kicked := play(table, w, rng)
			for _, uid := range uids {
				of := make(map[im.Platform][]im.Route)
				for _, r := range table.Lookup(nil, uid, 0) {
					of[r.Platform] = append(of[r.Platform], r)
				}
				for p, all := range of {
					slices.SortFunc(all, func(a, b im.Route) int {
						return cmp.Or(cmp.Compare(began(b), began(a)), cmp.Compare(b.Region, a.Region), cmp.Compare(b.Device, a.Device))
					})
					if limits[p] == 0 {
						continue
					}
					for _, r := range all[limits[p]:] {
						over++
						k := routes.Kick{Gateway: r.Gateway, Kick: im.Kick{Conn: r.Conn, Login: r.Login, Code: im.CodeDeviceLimit}}
						if own := r.Region == origins[i].Region(); own && !kicked[k] {
							t.Fatalf("seed %d: %s did not kick %+v, one too many", seed, origins[i], r)
						} else if own && !slices.Contains(table.Lost(table.Number(uid), 0), k) {
							t.Fatalf("seed %d: the next owner in %s does not find %+v, one too many", seed, origins[i], r)
						}
					}
				}
			}
		}
		for i := range regions {
			if regions[i].Digest(0) != regions[0].Digest(0) {
				t.Fatalf("seed %d: digests differ", seed)
			}
		}
	}
	if over < 100 {
		t.Fatalf("only %d routes were too many", over)
	}
}

func newTable(t interface{ Fatal(...any) }, self im.Region) *routes.Table {
	table, err := routes.New(self, origins, partitions, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range origins {
		for _, p := range table.Partitions(o) {
			table.Expect(p, 0)
		}
	}
	return table
}

// TestModel holds the table to the dumb version, at every step of an interleaving.
func TestModel(t *testing.T) { rapid.Check(t, holdToModel) }

func holdToModel(t *rapid.T) {
	pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") }
	table := newTable(t, "eu")
	w := grow(table.Number, pick, rapid.IntRange(1, 40).Draw(t, "size"))
	var next [3][partitions]int
	for {
		var open [][2]int
		for i, o := range origins {
			for n := range partitions {
				if next[i][n] < len(w[o][n]) {
					open = append(open, [2]int{i, n})
				}
			}
		}
		if len(open) == 0 {
			return
		}
		which := open[pick(len(open))]
		o, n := origins[which[0]], which[1]
		r := w[o][n][next[which[0]][n]]
		next[which[0]][n]++
		table.Apply(im.Partition{Topic: im.RouteTopic(o), Number: n},
			[]routes.Entry{{RouteRecord: r, Local: r.Route.Offset}}, r.Route.Claimed)
		now := im.StampAt(noon.Add(time.Duration(pick(12*3600)) * time.Second))
		var batch routes.Found
		table.TargetsOf(&batch, uids, now)
		for i, uid := range uids {
			if got, want := batch.Of(i), table.Targets(nil, uid, now); !slices.Equal(got, want) {
				t.Fatalf("targets of %s in a batch: %+v, alone %+v", uid, got, want)
			}
			want := taken(w, table.Number(uid), next).lookup(uid, now)
			got := table.Lookup(nil, uid, now)
			if targets := batch.Of(i); len(targets) != len(got) {
				t.Fatalf("%d targets of %s, %d routes", len(targets), uid, len(got))
			}
			slices.SortFunc(got, func(a, b im.Route) int { return strings.Compare(string(a.Device), string(b.Device)) })
			if !slices.Equal(got, want) {
				t.Fatalf("lookup of %s after %v/%d:\n got %+v\nwant %+v", uid, o, n, got, want)
			}
		}
	}
}

// taken is a model of what was taken of one partition number: a gateway_down concerns its own.
func taken(w world, number int, next [3][partitions]int) *model {
	m := &model{records: make(map[im.Origin][]im.RouteRecord)}
	for i, o := range origins {
		m.records[o] = w[o][number][:next[i][number]]
	}
	return m
}

// TestConvergence applies thousands of random worlds in random interleavings, as regions read them: copies hold
// repeats, batches differ, some records come ahead of their time. Digests and rows must be equal, and whoever lost at
// the end must have been kicked by its own region.
func TestConvergence(t *testing.T) {
	seeds := 2000
	if testing.Short() {
		seeds = 300
	}
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 1))
		regions := make([]*routes.Table, len(origins))
		for i := range regions {
			regions[i] = newTable(t, origins[i].Region())
		}
		w := grow(regions[0].Number, rng.IntN, 10+rng.IntN(50))
		end := im.StampAt(noon.Add(time.Duration(rng.IntN(8*3600)) * time.Second))
		kicked := make([]map[routes.Kick]bool, len(regions))
		for i, table := range regions {
			kicked[i] = play(table, w, rng)
			if got, want := table.Digest(end), regions[0].Digest(end); got != want {
				t.Fatalf("seed %d: the digest of %s is %s, of %s %s", seed, origins[i], got, origins[0], want)
			}
		}
		if regions[0].Digest(end) == newTable(t, "eu").Digest(end) && len(regions[0].Rows("ann", end)) > 0 {
			t.Fatalf("seed %d: routes do not show in the digest", seed)
		}
		losers := 0
		for _, uid := range uids {
			winners := regions[0].Lookup(nil, uid, 0)
			for _, r := range regions[0].Rows(uid, 0) {
				home := slices.Index(origins, im.Origin(r.Region))
				won := slices.Contains(winners, r)
				conn := routes.Kick{Gateway: r.Gateway, Kick: im.Kick{Conn: r.Conn, Login: r.Login}}
				tie, replaced := conn, conn
				tie.Code, replaced.Code = im.CodeLoginTie, im.CodeReplaced
				if !won && !kicked[home][tie] && !kicked[home][replaced] {
					t.Fatalf("seed %d: %+v lost and was not kicked", seed, r)
				}
				lost := regions[home].Lost(regions[home].Number(uid), 0)
				if !won && !slices.Contains(lost, tie) && !slices.Contains(lost, replaced) {
					t.Fatalf("seed %d: the next owner does not find %+v, which lost", seed, r)
				}
				if !won {
					losers++
				}
			}
		}
		for _, table := range regions {
			for n := range partitions {
				losers -= len(table.Lost(n, 0))
			}
		}
		if losers != 0 {
			t.Fatalf("seed %d: the next owners would kick %d more than lost", seed, -losers)
		}
	}
}

// play applies a world to one region's table in an order of its own.
func play(table *routes.Table, w world, rng *rand.Rand) map[routes.Kick]bool {
	kicks := make(map[routes.Kick]bool)
	type reader struct {
		p          im.Partition
		log        []im.RouteRecord
		next, held int
	}
	var open []*reader
	for _, o := range origins {
		for n := range partitions {
			if log := w[o][n]; len(log) > 0 {
				open = append(open, &reader{p: im.Partition{Topic: im.RouteTopic(o), Number: n}, log: log})
			}
		}
	}
	for len(open) > 0 {
		i := rng.IntN(len(open))
		r := open[i]
		from := r.next
		if from > 0 && rng.IntN(3) == 0 {
			from -= rng.IntN(from) // another writer to the copy: what was taken comes again
		} else if from > 0 && rng.IntN(5) == 0 && r.held < 5 {
			from, r.held = from+rng.IntN(3), r.held+1 // past a gap: must not be taken
		}
		to := min(from+1+rng.IntN(4), len(r.log))
		var batch []routes.Entry
		for _, rec := range r.log[min(from, to):to] {
			batch = append(batch, routes.Entry{RouteRecord: rec, Local: rec.Route.Offset})
		}
		// Kicks are judged at time 0, when no route is dead of age: a kick that age spares is no loss.
		res := table.Apply(r.p, batch, 0)
		for _, k := range res.Kicks {
			kicks[k] = true
		}
		r.next += res.Taken
		if r.next == len(r.log) {
			open = slices.Delete(open, i, i+1)
		}
	}
	return kicks
}
