package routes_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router/routes"
)

// TestSnapshot stops random worlds at any moment, goes on from a snapshot, and must end where a table that never stopped
// does, fences and positions included.
func TestSnapshot(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 4))
		through, first := newTable(t, "eu"), newTable(t, "eu")
		w := grow(through.Number, rng.IntN, 10+rng.IntN(60))
		stopped := make(map[im.Partition]int)
		for o, logs := range w {
			for n, log := range logs {
				p := im.Partition{Topic: im.RouteTopic(o), Number: n}
				stopped[p] = rng.IntN(len(log) + 1)
				through.Apply(p, entries(log), 0)
				first.Apply(p, entries(log[:stopped[p]]), 0)
			}
		}
		var file bytes.Buffer
		if err := first.Snapshot(&file); err != nil {
			t.Fatal(err)
		}
		again := newTable(t, "eu")
		marks, err := again.Load(bytes.NewReader(file.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if again.Digest(0) != first.Digest(0) {
			t.Fatalf("seed %d: the digest after loading differs", seed)
		}
		for o, logs := range w {
			for n, log := range logs {
				p := im.Partition{Topic: im.RouteTopic(o), Number: n}
				mark, ok := marks[p]
				if ok != (stopped[p] > 0) || ok && (mark.Offset != int64(stopped[p]-1) || mark.Checksum != uint64(stopped[p])) {
					t.Fatalf("seed %d: %v stopped at %d, marked %+v, %v", seed, p, stopped[p], mark, ok)
				}
				again.Expect(p, int64(len(log)))
				again.Apply(p, entries(log[mark.Local:]), 0)
				got, _ := again.Position(p)
				if want, _ := through.Position(p); got != want {
					t.Fatalf("seed %d: position of %v: %+v, want %+v", seed, p, got, want)
				}
			}
		}
		for n := range partitions {
			if !slices.Equal(again.Lives(n), through.Lives(n)) {
				t.Fatalf("seed %d: gateways of partition %d: %v, want %v", seed, n, again.Lives(n), through.Lives(n))
			}
			for i := range 9 {
				gw, now := im.Gateway{ID: fmt.Sprint("g", i%3), Epoch: uint64(1 + i/3)}, im.StampAt(noon.Add(time.Duration(rng.IntN(10*3600))*time.Second))
				if got, want := again.Fenced(n, gw, now), through.Fenced(n, gw, now); got != want {
					t.Fatalf("seed %d: %+v is fenced: %v, want %v", seed, gw, got, want)
				}
			}
		}
		if again.Digest(0) != through.Digest(0) {
			t.Fatalf("seed %d: the digest after going on differs", seed)
		}
		for region, n := range through.Count() {
			if again.Count()[region] != n {
				t.Fatalf("seed %d: %d rows of %s, want %d", seed, again.Count()[region], region, n)
			}
		}
	}
}

func entries(log []im.RouteRecord) []routes.Entry {
	all := make([]routes.Entry, len(log))
	for i, r := range log {
		all[i] = routes.Entry{RouteRecord: r, Local: r.Route.Offset, Checksum: uint64(r.Route.Offset) + 1}
	}
	return all
}

// TestDamagedSnapshot changes and cuts each byte of a small snapshot: an error and an empty table, or no difference.
func TestDamagedSnapshot(t *testing.T) {
	table := newTable(t, "eu")
	rng := rand.New(rand.NewPCG(1, 4))
	for o, logs := range grow(table.Number, rng.IntN, 12) {
		for n, log := range logs {
			table.Apply(im.Partition{Topic: im.RouteTopic(o), Number: n}, entries(log), 0)
		}
	}
	var file bytes.Buffer
	if err := table.Snapshot(&file); err != nil {
		t.Fatal(err)
	}
	none := newTable(t, "eu").Digest(0)
	whole := file.Bytes()
	check := func(b []byte, what string, at int) {
		t.Helper()
		again := newTable(t, "eu")
		if _, err := again.Load(bytes.NewReader(b)); err == nil {
			t.Fatalf("%s at %d of %d was not noticed", what, at, len(whole))
		}
		if again.Digest(0) != none {
			t.Fatalf("%s at %d left rows in the table", what, at)
		}
	}
	for i := range whole {
		b := slices.Clone(whole)
		b[i] ^= 1 << (i % 8)
		check(b, "a changed bit", i)
		check(whole[:i], "the end", i)
	}
	other, err := routes.New("eu", []im.Origin{"eu", "us", "ap.2"}, partitions, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Load(bytes.NewReader(whole)); err == nil {
		t.Fatal("a snapshot of another origin was loaded")
	}
}
