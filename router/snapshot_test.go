package router_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/router"
	"github.com/antipode-im/antipode/wire"
)

// shelf keeps a snapshot in memory.
type shelf struct {
	mu   sync.Mutex
	file []byte
}

func (s *shelf) Save(write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = b.Bytes()
	return nil
}

func (s *shelf) Load(read func(io.Reader) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return fs.ErrNotExist
	}
	return read(bytes.NewReader(s.file))
}

// TestSnapshot: a router that starts reads no more than its logs hold since its snapshot, knows every route, and goes on
// telling others that its region lives; of a log that is another than the snapshot's it believes nothing.
func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const users = 500
		eu, saved := newRegion(t, "eu"), &shelf{}
		uid := func(i int) im.UID { return im.UID(fmt.Sprint("u", i)) }
		start := func() (*router.Router, func(), map[im.Partition]int64) {
			deps := eu.deps()
			deps.Snapshots = saved
			var first map[im.Partition]int64
			deps.NewReader = func(from map[im.Partition]int64) router.Reader {
				first = maps.Clone(from)
				return eu.kafka.NewReader(from)
			}
			cfg := eu.config()
			cfg.AttachGrace = time.Second
			r, stop := run(t, cfg, deps)
			wait(t, "the log is read", func() bool { return im.CodeOf(r.Ready()) == "" })
			return r, stop, first
		}
		r, stop, _ := start()
		a, _ := attach(t, r, g1)
		for i := range users {
			claim(t, a, im.Claim{UID: uid(i), Device: "phone", Conn: uint64(i), Login: 1})
		}
		before, _ := r.Digest(t.Context())
		stop()

		late := []im.Entry{wire.EncodeRoute(im.KindClaim, im.Route{
			UID: "late", Device: "phone", Gateway: g1, Conn: 9, Login: 1, Claimed: im.StampAt(time.Now()),
		}, "eu")}
		own := func(n int) im.Partition { return im.Partition{Topic: "route.eu", Number: n} }
		if _, err := eu.kafka.Append(t.Context(), own(wire.Partition("late", partitions)), late); err != nil {
			t.Fatal(err)
		}
		r, stop, from := start()
		for n := range partitions {
			want := len(eu.kafka.entries(own(n))) - 1
			if n == wire.Partition("late", partitions) {
				want--
			}
			if got := from[own(n)]; got != int64(want) {
				t.Errorf("partition %d is read from %d, want %d", n, got, want)
			}
		}
		a, _ = attach(t, r, g1)
		for _, u := range []im.UID{uid(0), uid(users - 1), "late"} {
			if live, _ := r.Routes(u); len(live) != 1 {
				t.Fatalf("routes of %s after a start: %+v", u, live)
			}
		}
		for range 6 { // a heartbeat that names the log
			pass(time.Second)
			a.Heartbeat()
		}
		for n := range partitions {
			all := eu.kafka.entries(own(n))
			first, err := wire.DecodeLogName(&all[0])
			if err != nil {
				t.Fatal(err)
			}
			if got, err := wire.DecodeLogName(&all[len(all)-1]); err != nil || got != first {
				t.Fatalf("the heartbeat in partition %d names %v, %v; want %v", n, got, err, first)
			}
		}
		claim(t, a, im.Claim{UID: "late", Device: "phone", Conn: 9, Login: 1, Release: true})
		after, _ := r.Digest(t.Context())
		if after["routes"] != before["routes"] {
			t.Fatal("the digest differs from the one before the start")
		}
		stop()

		// Another log, as long as the one before.
		other := newRegion(t, "eu")
		for n := range partitions {
			for range eu.kafka.entries(own(n))[1:] {
				if _, err := other.kafka.Append(t.Context(), own(n), late); err != nil {
					t.Fatal(err)
				}
			}
		}
		eu = other
		r, stop, _ = start()
		defer stop()
		if live, _ := r.Routes(uid(0)); len(live) != 0 {
			t.Fatalf("routes of a log that is gone: %+v", live)
		}
		if live, _ := r.Routes("late"); len(live) != 1 {
			t.Fatalf("routes of the new log: %+v", live)
		}
		if r.Ready() != nil {
			t.Fatal("not ready")
		}
	})
}
