package routes_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// TestOriginsComeAndGo: a table that follows an origin only later ends where one does that followed it always; one that lets
// it go, where one does that never followed it; and it may come back.
func TestOriginsComeAndGo(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 9))
		always := newTable(t, "eu")
		few := []im.Origin{"eu", "us"}
		empty := func() *routes.Table {
			table, err := routes.New("eu", few, partitions, 0)
			if err != nil {
				t.Fatal(err)
			}
			return table
		}
		never, table := empty(), empty()
		w := grow(always.Number, rng.IntN, 10+rng.IntN(60))
		feed := func(table *routes.Table, from, to func(n int) int, origins ...im.Origin) {
			for _, o := range origins {
				for n, log := range w[o] {
					p := im.Partition{Topic: im.RouteTopic(o), Number: n}
					table.Expect(p, int64(len(log)))
					table.Apply(p, entries(log)[from(len(log)):to(len(log))], 0)
				}
			}
		}
		none, half, whole := func(int) int { return 0 }, func(n int) int { return n / 2 }, func(n int) int { return n }
		all := []im.Origin{"eu", "us", "ap"}
		feed(always, none, whole, all...)
		feed(never, none, whole, few...)

		feed(table, none, half, few...)
		begin := func() {
			t.Helper()
			fresh, err := table.Follow(all)
			if err != nil || !slices.Equal(fresh, []im.Origin{"ap"}) {
				t.Fatalf("seed %d: new are %v, %v", seed, fresh, err)
			}
			if unknown := table.Unknown(0, 0); !slices.Contains(unknown, "ap") {
				t.Fatalf("seed %d: ap is not read, and unknown are %v", seed, unknown)
			}
			for _, p := range table.Partitions("ap") {
				table.Jump(p, 0)
				table.Expect(p, 0)
			}
			feed(table, none, whole, "ap")
		}
		begin()
		feed(table, half, whole, few...)
		if table.Digest(0) != always.Digest(0) {
			t.Fatalf("seed %d: following ap later makes a difference", seed)
		}
		if again, err := table.Follow(all); err != nil || len(again) > 0 {
			t.Fatalf("seed %d: nothing is new, and %v is, %v", seed, again, err)
		}
		if _, err := table.Follow(few); err != nil {
			t.Fatal(err)
		}
		feed(table, none, whole, "ap") // what was being read when it was let go
		if table.Digest(0) != never.Digest(0) || slices.Contains(table.Unknown(0, 0), "ap") || slices.Contains(table.Origins(), "ap") {
			t.Fatalf("seed %d: something of ap is left", seed)
		}
		begin()
		if table.Digest(0) != always.Digest(0) {
			t.Fatalf("seed %d: ap came back, and that makes a difference", seed)
		}
	}
}

// TestNextEpochTakesThePlace: a region that starts over is followed under its next epoch alone.
func TestNextEpochTakesThePlace(t *testing.T) {
	table := newTable(t, "eu")
	p := im.Partition{Topic: im.RouteTopic("us"), Number: table.Number("ann")}
	claim := im.RouteRecord{Kind: im.KindClaim, Route: im.Route{
		UID: "ann", Device: devices[0], Region: "us", Gateway: im.Gateway{ID: "g", Epoch: 1}, Login: 9, Claimed: im.StampAt(noon),
	}}
	table.Apply(p, entries([]im.RouteRecord{claim}), 0)
	if len(table.Lookup(nil, "ann", im.StampAt(noon))) != 1 {
		t.Fatal("ann is not found")
	}
	fresh, err := table.Follow([]im.Origin{"eu", "us", "us.2", "ap"})
	if err != nil || !slices.Equal(fresh, []im.Origin{"us.2"}) {
		t.Fatalf("new are %v, %v", fresh, err)
	}
	if table.Holds("ann") || slices.Contains(table.Origins(), "us") {
		t.Error("a route of the former epoch is left")
	}
}

// lastByte calls fn before it gives the last byte away.
type lastByte struct {
	*bytes.Reader
	fn func()
}

func (r lastByte) Read(b []byte) (int, error) {
	switch r.Len() {
	case 0:
		return 0, io.EOF
	case 1:
		r.fn()
		return r.Reader.Read(b)
	}
	return r.Reader.Read(b[:min(len(b), r.Len()-1)])
}

// TestRegionsChangeWhileASnapshotIsRead: discovery says which regions there are at any time of a start. A region that came
// meanwhile is followed, and one that went stays away.
func TestRegionsChangeWhileASnapshotIsRead(t *testing.T) {
	for _, c := range []struct {
		name  string
		after []im.Origin
	}{
		{"one comes", []im.Origin{"ap", "eu", "us"}},
		{"one goes", []im.Origin{"eu"}},
	} {
		fresh := func() *routes.Table {
			table, err := routes.New("eu", []im.Origin{"eu", "us"}, partitions, 0)
			if err != nil {
				t.Fatal(err)
			}
			return table
		}
		before := fresh()
		w := grow(before.Number, rand.New(rand.NewPCG(1, 2)).IntN, 40)
		for _, o := range before.Origins() {
			for n, log := range w[o] {
				before.Apply(im.Partition{Topic: im.RouteTopic(o), Number: n}, entries(log), 0)
			}
		}
		var file bytes.Buffer
		if err := before.Snapshot(&file); err != nil {
			t.Fatal(err)
		}
		table := fresh()
		followed := make(chan error, 1)
		marks, loadErr := table.Load(lastByte{bytes.NewReader(file.Bytes()), func() {
			go func() {
				_, err := table.Follow(c.after)
				followed <- err
			}()
			for range 1000 {
				runtime.Gosched()
			}
		}})
		if err := <-followed; err != nil {
			t.Fatal(err)
		}
		if loadErr != nil {
			t.Errorf("%s: %v", c.name, loadErr)
		}
		if got := table.Origins(); !slices.Equal(slices.Sorted(slices.Values(got)), c.after) {
			t.Errorf("%s: followed are %v, want %v", c.name, got, c.after)
		}
		for _, o := range c.after {
			for n, log := range w[o] {
				p := im.Partition{Topic: im.RouteTopic(o), Number: n}
				table.Expect(p, int64(len(log)))
				table.Apply(p, entries(log)[min(int(marks[p].Local), len(log)):], 0)
				if pos, _ := table.Position(p); pos.Next != int64(len(log)) {
					t.Errorf("%s: %v stands at %d, want %d", c.name, p, pos.Next, len(log))
				}
			}
		}
	}
}
